"""What it costs to order a large pool from stored features."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np

from backend.selection.strategies import DEFAULT, STRATEGIES, Pool

_CHANNELS = 512
_HEAD = 256
_ANNOTATED = 64
_ROWS_AT_ONCE = 50_000


def bench(tasks: Sequence[int], out: Path, say: Callable[[str], None] = click.echo) -> Path:
    """Time the default strategy on made-up pools whose features lie on disk; each in a process of its own.

    Args:
        tasks: how many each pool has.
        out: folder of the result.
        say: told each result.

    Returns:
        The JSON file: ``tasks``, ``seconds``, and ``memory_mb``, the most that the process held.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts = []
    for count in tasks:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            path = Path(folder) / "features.npy"
            _write(path, count)
            with get_context("spawn").Pool(1) as pool:
                seconds, memory_mb = pool.apply(_ordered, (path, count))
        facts.append({"tasks": count, "seconds": round(seconds, 2), "memory_mb": round(memory_mb)})
        say(f"{count} tasks: {seconds:.2f} s, {memory_mb:.0f} MB")
    path = out / "ordering.json"
    path.write_text(json.dumps({"strategy": DEFAULT, "channels": _CHANNELS, "head": _HEAD, "pools": facts}, indent=1))
    return path


def _write(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    shape = (count, _CHANNELS)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, shape)  # type: ignore[no-untyped-call] # NumPy does not type it
    for start in range(0, count, _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        part[:] = rng.random(part.shape, dtype=np.float32)


def _ordered(path: Path, count: int) -> tuple[float, float]:
    features = np.load(path, mmap_mode="r")
    annotated = np.arange(count) < _ANNOTATED
    pool = Pool(
        probabilities=np.full((count, 2), 0.5, np.float32),
        features=features,
        attention=np.ones((count, 7, 7), np.float32),
        corrected=np.full(count, np.nan, np.float32),
        annotated=annotated,
    )
    begun = time.perf_counter()
    STRATEGIES[DEFAULT].choose(pool, _HEAD, 0)
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
