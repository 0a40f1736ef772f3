"""Where a classifier's first weights come from, and what is refused."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from backend.domain import LookhereError
from backend.guidance import classifier as classifiers
from backend.guidance.classifier import SMALL, create, save

CLASSES = ("cat", "dog", "owl")


def test_a_silent_network_ends_in_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that accepts and never answers is what a captive network looks like."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        weights = torchvision.models.ResNet18_Weights.DEFAULT.value
        monkeypatch.setattr(weights, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/resnet18-00000000.pth")
        monkeypatch.setattr(classifiers, "_DOWNLOAD_TIMEOUT_S", 0.2)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with caplog.at_level(logging.WARNING):
            classifier = create("resnet18", CLASSES)
    assert classifier.spec.backbone == SMALL
    assert classifier.spec.image_size == create(SMALL, CLASSES).spec.image_size
    assert "LOOKHERE_WEIGHTS" in caplog.text
    assert socket.getdefaulttimeout() is None


def test_safetensors_are_read(tmp_path: Path) -> None:
    model = torchvision.models.mobilenet_v2(weights=None, num_classes=len(CLASSES))
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    assert torch.equal(create("mobilenet_v2", CLASSES, weights=path).head.weight, model.classifier[-1].weight)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(LookhereError, match="resnet34"):
        create("resnet34", CLASSES, weights=path)


def test_a_version_folder_is_a_start_for_other_classes(tmp_path: Path) -> None:
    first = create(SMALL, CLASSES, seed=3)
    nn.init.normal_(first.head.weight)
    save(first, tmp_path)
    same = create(SMALL, CLASSES, weights=tmp_path)
    assert torch.equal(same.head.weight, first.head.weight)
    other = create(SMALL, ("cat", "dog"), weights=tmp_path)
    assert other.spec.classes == ("cat", "dog")
    assert other.head.weight.shape[0] == 2
    assert torch.equal(next(other.last_stage.parameters()), next(first.last_stage.parameters()))


def test_creating_leaves_the_global_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    create(SMALL, CLASSES, seed=9)
    assert torch.equal(torch.rand(3), expected)
