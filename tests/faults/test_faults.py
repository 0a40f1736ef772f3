"""The measurements of `python -m tests.faults`, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kill

pytestmark = pytest.mark.xdist_group("faults")


def test_killed_in_every_phase_nothing_is_lost(tmp_path: Path) -> None:
    found = kill.measure(tmp_path, times=len(kill.PHASES), seed=1, say=lambda _: None)
    assert sum(found.kills.values()) == len(kill.PHASES)
    assert (found.lost, found.torn, found.stuck) == (0, 0, 0)
