"""Maps in closed form, and classifiers that come and go by files."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from backend.domain import LookhereError
from backend.guidance.classifier import SMALL, Classifier, create, load, save

CLASSES = ("cat", "dog", "bird")
BACKBONES = ["resnet18", "resnet50", "densenet121", "efficientnet_b0", "mobilenet_v2", "regnet_y_400mf"]


def weights_file(backbone: str, folder: Path, classes: int = len(CLASSES)) -> Path:
    torch.manual_seed(0)
    model = torchvision.models.get_model(backbone, weights=None, num_classes=classes)
    path = folder / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


class LogitsAlone(nn.Module):
    """What pytorch-grad-cam wants: a model whose output is the logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(images).logits
        return logits


@pytest.mark.parametrize("backbone", [*BACKBONES, SMALL])
def test_the_maps_are_grad_cams(backbone: str, tmp_path: Path) -> None:
    weights = None if backbone == SMALL else weights_file(backbone, tmp_path)
    classifier = create(backbone, CLASSES, 64, weights)
    torch.manual_seed(1)
    # Random weights leave little of the signal, and the reference adds 1e-7 to what it divides by.
    nn.init.normal_(classifier.head.weight, std=1e6)
    # Large enough that the map has several cells.
    images = torch.randn(2, 3, 128, 128)
    # Its map is the mean gradient's, which is ours over the number of cells.
    maps = torch.relu(classifier(images).maps / classifier(images).maps[0, 0].numel()).detach().numpy()
    with GradCAM(LogitsAlone(classifier), [classifier.last_stage]) as reference:
        for label in range(len(CLASSES)):
            expected = reference(images, [ClassifierOutputTarget(label)] * len(images))
            # It scales to [0, 1] and enlarges to the image, and scales again over its layers.
            found = scale_cam_image(scale_cam_image(maps[:, label], (128, 128)))
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backbone", [*BACKBONES, SMALL])
def test_the_maps_equal_gradient_weighted_activations(backbone: str, tmp_path: Path) -> None:
    """Grad-CAM by its own definition: the gradient's mean over the cells weighs each channel."""
    weights = None if backbone == SMALL else weights_file(backbone, tmp_path)
    classifier = create(backbone, CLASSES, 64, weights)
    torch.manual_seed(1)
    nn.init.normal_(classifier.head.weight)
    images = torch.randn(2, 3, 64, 64)
    kept: list[torch.Tensor] = []
    hook = classifier.last_stage.register_forward_hook(lambda _module, _inputs, cells: kept.append(cells))
    output = classifier(images)
    hook.remove()
    for label in range(len(CLASSES)):
        (gradient,) = torch.autograd.grad(output.logits[:, label].sum(), kept[0], retain_graph=True)
        cells = kept[0].shape[2] * kept[0].shape[3]
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1))
        assert torch.allclose(torch.relu(output.maps[:, label]) / cells, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_logits_are_torchvisions(backbone: str, tmp_path: Path) -> None:
    weights = weights_file(backbone, tmp_path)
    model = torchvision.models.get_model(backbone, weights=None, num_classes=len(CLASSES))
    model.load_state_dict(torch.load(weights, weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    classifier = create(backbone, CLASSES, 64, weights)
    output = classifier(images)
    assert torch.allclose(output.logits, model.eval()(images), rtol=1e-4, atol=1e-4)
    assert torch.allclose(output.maps.mean((2, 3)) + classifier.head.bias, output.logits, atol=1e-5)


def test_half_precision_and_1000_classes_are_taken(tmp_path: Path) -> None:
    weights = weights_file("resnet18", tmp_path, classes=1000)
    state = {name: value.half() for name, value in torch.load(weights, weights_only=True).items()}
    torch.save(state, weights)
    classifier = create("resnet18", CLASSES, 64, weights)
    assert classifier.head.weight.dtype is torch.float32
    assert not classifier.head.weight.any(), "a new head starts flat"
    assert classifier(torch.randn(1, 3, 64, 64)).logits.shape == (1, 3)


@pytest.mark.parametrize("backbone", ["vgg11", "mobilenet_v3_small", "convnext_tiny", "vit_b_16", "no_such_net"])
def test_heads_without_closed_form_are_refused(backbone: str) -> None:
    with pytest.raises(LookhereError, match="pooled into one linear layer"):
        create(backbone, CLASSES)


def test_one_class_is_refused() -> None:
    with pytest.raises(LookhereError, match="two classes"):
        create(SMALL, ("cat",))


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


@pytest.mark.parametrize("kind", ["pickle", "text", "missing", "other layers", "list"])
def test_a_file_that_is_no_state_dict_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Exploding()))
    elif kind == "text":
        path.write_text("hello")
    elif kind == "other layers":
        torch.save({"fc.weight": torch.zeros(3, 512)}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    with pytest.raises(LookhereError, match=r"weights\.pth|file of weights"):
        create("resnet18", CLASSES, weights=path)
    assert "unpickled" not in capsys.readouterr().out


def test_without_network_and_file_the_built_in_network_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    classifier = create("resnet18", CLASSES)
    assert classifier.spec.backbone == SMALL
    assert "LOOKHERE_WEIGHTS" in caplog.text


def test_a_saved_classifier_comes_back(tmp_path: Path) -> None:
    classifier = create(SMALL, CLASSES, seed=3)
    nn.init.normal_(classifier.head.weight)
    save(classifier, tmp_path)
    images = torch.randn(2, 3, 64, 64)
    again = load(tmp_path)
    assert again.spec == classifier.spec
    assert torch.equal(again(images).maps, classifier(images).maps)
    started = create("resnet18", CLASSES, weights=tmp_path)
    assert torch.equal(started(images).logits, classifier(images).logits)
    assert not create("resnet18", ("a", "b"), weights=tmp_path).head.weight.any()


@pytest.mark.parametrize("damage", ["weights", "spec", "backbone"])
def test_a_damaged_folder_is_refused(damage: str, tmp_path: Path) -> None:
    save(create(SMALL, CLASSES), tmp_path)
    if damage == "weights":
        (tmp_path / "weights.safetensors").write_bytes(b"short")
    elif damage == "spec":
        (tmp_path / "classifier.json").write_text("{")
    else:
        (tmp_path / "classifier.json").write_text(
            json.dumps({"backbone": "resnet18", "classes": CLASSES, "image_size": 64})
        )
    with pytest.raises(LookhereError, match="saved classifier"):
        load(tmp_path)


def test_the_seed_makes_the_weights() -> None:
    one, same, other = (create(SMALL, CLASSES, seed=seed).last_stage[0].weight for seed in (1, 1, 2))  # type: ignore[index, union-attr]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_weights_of_another_network_are_not_silently_ignored(tmp_path: Path) -> None:
    with pytest.raises(LookhereError, match="LOOKHERE_BACKBONE"):
        create(SMALL, CLASSES, weights=weights_file("resnet18", tmp_path))
