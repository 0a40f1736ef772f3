"""The measured rivals do the same work: equal maps, equal batches, a published version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.bench import speed
from backend.demo.digits import generate, write_folder


def test_it_compares_what_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_REPEATS", 2)
    folder = tmp_path / "pack"
    write_folder(folder, {"train": generate("train", 80, 0), "test": generate("test", 20, 0)})
    said: list[str] = []
    figures = json.loads(speed.bench(str(folder), "small", None, tmp_path, said.append).read_text())
    assert figures["maps_difference"] < 1e-4
    for ratio in ("maps_ratio", "step_ratio", "first_training_s", "retraining_s"):
        assert figures[ratio] > 0
    assert len(said) == 3
