"""What runs inside the serving process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.domain import Prediction
from backend.guidance.classifier import SMALL, Classifier, create, save
from backend.guidance.predicting import predict
from backend.inference import Inference


@pytest.fixture
def version(tmp_path: Path) -> str:
    save(create(SMALL, ("a", "b"), image_size=32), tmp_path)
    return str(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def test_when_the_gpu_is_full_smaller_batches_go_on(
    version: str, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def small_gpu(classifier: Classifier, images: Sequence[Image.Image], batch_size: int) -> list[Prediction]:
        tried.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(classifier, images, batch_size=batch_size)

    expected = Inference().predict(version, images)
    monkeypatch.setattr("backend.inference.predict", small_gpu)
    found = Inference().predict(version, images)
    assert tried == [32, 16, 8, 4]
    for one, other in zip(expected, found, strict=True):
        assert one is not None
        assert other is not None
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_a_gpu_that_is_too_small_for_one_image_says_so(
    version: str, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, batch_size: int) -> list[Prediction]:
        raise torch.OutOfMemoryError(f"CUDA out of memory for {batch_size}.")

    monkeypatch.setattr("backend.inference.predict", full)
    with pytest.raises(torch.OutOfMemoryError, match="for 1"):
        Inference().predict(version, images)


def test_a_broken_image_costs_its_own_prediction_only(version: str, images: list[str], tmp_path: Path) -> None:
    half = tmp_path / "half.png"
    half.write_bytes(Path(images[0]).read_bytes()[:200])
    gone = tmp_path / "gone.png"
    found = Inference().predict(version, [images[0], str(half), images[1], str(gone)])
    assert [one is not None for one in found] == [True, False, True, False]
