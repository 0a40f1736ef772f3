"""What is exported says the same elsewhere."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from backend.domain import LookhereError, Project
from backend.guidance.classifier import create, save
from backend.guidance.exporting import Format, export
from backend.inference import Inference
from backend.jobs.context import Context
from backend.jobs.export import CARD_FILE, CLICKS_FILE, export_project

# Whoever loads it has torch, and not this package.
_STRANGER = """
import sys, json, numpy as np, torch
sys.modules["backend"] = None
probabilities, maps = torch.jit.load(sys.argv[1])(torch.from_numpy(np.load(sys.argv[2])))
print(json.dumps(probabilities.tolist()))
"""


def published(context: Context, project: Project) -> str:
    classifier = create("small", ("light", "dark"), seed=3)
    torch.nn.init.normal_(classifier.head.weight, generator=torch.Generator().manual_seed(0))
    versions = context.store.versions
    version = versions.publish(project.key, lambda folder: save(classifier, folder), {"metrics": {"accuracy": 0.9}})
    return versions.activate(project.key, version.name).name


@pytest.mark.parametrize("form", Format)
def test_the_exported_classifier_says_what_ours_says(
    context: Context, project: Project, tmp_path: Path, form: Format
) -> None:
    name = published(context, project)
    out = tmp_path / "out"
    files = export_project(context, project, form, out)
    assert sorted(files) == sorted(out.iterdir())
    card = json.loads((out / CARD_FILE).read_text())
    assert (card["version"], card["classes"], card["project"]) == (name, ["light", "dark"], 1)
    assert card["trained"]["metrics"] == {"accuracy": 0.9}

    paths = [tmp_path / f"{number}.png" for number in range(5)]
    side = card["input"]["shape"][2]
    # As the card says, with Pillow: the pictures are of that size already.
    images = [
        np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)) for path in paths
    ]
    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    if form is Format.ONNX:
        session = onnxruntime.InferenceSession(out / card["file"])
        found = np.asarray(session.run(["probabilities"], {"images": pixels})[0])
    else:
        np.save(tmp_path / "pixels.npy", pixels)
        command = [sys.executable, "-c", _STRANGER, str(out / card["file"]), str(tmp_path / "pixels.npy")]
        found = np.array(json.loads(subprocess.run(command, check=True, capture_output=True, cwd=tmp_path).stdout))
    active = context.store.versions.active(project.key)
    assert active is not None
    ours = Inference("cpu").predict(str(active.folder), [str(path) for path in paths])
    expected = [[one.probabilities[label] for label in card["classes"]] for one in ours if one is not None]
    assert np.abs(found - np.array(expected)).max() <= 1e-4
    assert np.ptp(found[:, 0]) > 1e-3, "it does not say the same of everything"


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_each_family_of_backbones_can_be_exported(backbone: str, tmp_path: Path) -> None:
    import torchvision

    weights = tmp_path / "weights.pth"
    torch.save(torchvision.models.get_model(backbone, weights=None).state_dict(), weights)
    classifier = create(backbone, ("a", "b"), 64, weights)
    export(classifier, Format.TORCHSCRIPT, tmp_path)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    probabilities, maps = torch.jit.load(tmp_path / Format.TORCHSCRIPT.file)(images)
    normal = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    with torch.inference_mode():
        ours = classifier(normal)
    assert torch.allclose(probabilities, ours.logits.softmax(1), atol=1e-4)
    assert maps.shape == ours.maps.shape


def test_the_clicks_are_a_table_and_need_no_classifier(context: Context, project: Project, tmp_path: Path) -> None:
    with pytest.raises(LookhereError, match=r"clicks\.csv alone is written"):
        export_project(context, project, Format.TORCHSCRIPT, tmp_path / "out")
    with (tmp_path / "out" / CLICKS_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["annotator"], row["class"], row["x"], row["role"], row["weight"]) for row in rows] == [
        ("4", "1", "dark", "0.2", "look", "1.0"),
        ("5", "1", "light", "0.2", "look", "1.0"),
    ]


def test_a_folder_that_cannot_be_written_is_told(context: Context, project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LookhereError, match="Expected a folder that can be written"):
        export_project(context, project, Format.TORCHSCRIPT, tmp_path / "file")
