"""What is kept of a scored pool."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import pytest

from backend.domain import Prediction, ScoredTask
from backend.state.pools import Pools


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    return Pools(tmp_path / "pools")


def scored(task: int) -> ScoredTask:
    rng = np.random.default_rng(task)
    sure = float(rng.uniform(0.5, 1))
    prediction = Prediction(
        label="b",
        confidence=sure,
        probabilities={"a": 1 - sure, "b": sure},
        peak=(0.25, 0.75),
        attention=rng.random((3, 4), np.float32),
        attention_share=0.3,
        features=rng.random(5, np.float32),
    )
    return ScoredTask(task, prediction, task / 10, (640, 480))


def test_what_was_kept_comes_back_the_same(pools: Pools) -> None:
    pool = [scored(task) for task in (3, 5)]
    pools.save(1, "v1", ["/data/ä.png", "s3://b/c.png"], pool)
    kept = pools.load(1, "v1")
    assert list(kept) == [(3, "/data/ä.png"), (5, "s3://b/c.png")]
    for before, after in zip(pool, kept.values(), strict=True):
        assert (before.task, before.score, before.image_size) == (after.task, after.score, after.image_size)
        for name in ("label", "confidence", "probabilities", "peak", "attention_share"):
            assert getattr(before.prediction, name) == getattr(after.prediction, name)
        assert np.array_equal(before.prediction.attention, after.prediction.attention)
        assert after.prediction.features is not None
        assert np.array_equal(before.prediction.features, after.prediction.features)  # type: ignore[arg-type]


def test_an_empty_pool_and_a_task_without_a_score_are_kept(pools: Pools) -> None:
    pools.save(1, "v1", [], [])
    assert pools.load(1, "v1") == {}
    pools.save(1, "v1", ["x"], [ScoredTask(1, scored(1).prediction, math.nan, (1, 1))])
    assert math.isnan(pools.load(1, "v1")[1, "x"].score)


def test_neither_another_version_nor_another_project_is_taken_for_it(pools: Pools) -> None:
    pools.save(1, "v1", ["x"], [scored(1)])
    assert pools.load(1, "v2") == {}
    assert pools.load(2, "v1") == {}


@pytest.mark.parametrize("left", [0, 10, 400])
def test_a_damaged_file_is_made_anew(pools: Pools, left: int) -> None:
    pools.save(1, "v1", ["x"], [scored(1)])
    (path,) = pools.folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:left])
    assert pools.load(1, "v1") == {}


def test_on_a_full_disk_nothing_is_kept_and_nothing_old_is_taken_for_new(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pools.save(1, "v1", ["x"], [scored(1)])

    def full(path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backend.state.pools.np.savez", full)
    pools.save(1, "v1", ["x"], [scored(2)])
    assert pools.load(1, "v1") == {}
    assert list((tmp_path / "pools").iterdir()) == []


def test_a_truncated_pool_is_made_anew(pools: Pools, tmp_path: Path) -> None:
    pools.save(1, "v1", ["x"], [scored(1)])
    (path,) = (tmp_path / "pools").iterdir()
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert pools.load(1, "v1") == {}
