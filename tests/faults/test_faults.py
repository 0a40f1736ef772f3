"""The measurements of `python -m tests.faults`, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import events, fuzz, kill, load

pytestmark = pytest.mark.xdist_group("faults")


def test_killed_in_every_phase_nothing_is_lost(tmp_path: Path) -> None:
    found = kill.measure(tmp_path, times=len(kill.PHASES), seed=1, say=lambda _: None)
    assert sum(found.kills.values()) == len(kill.PHASES)
    assert (found.lost, found.torn, found.stuck) == (0, 0, 0)


def test_events_in_any_order_repeated_lost_and_forged_end_as_label_studio_has_it(tmp_path: Path) -> None:
    found = events.measure(tmp_path, times=50, seed=1, say=lambda _: None)
    assert (found.histories, found.orders) == (25, 3)
    assert (found.different, found.order_mattered) == (0, 0)


def test_malformed_requests_are_refused_and_change_nothing(tmp_path: Path) -> None:
    found = fuzz.measure(tmp_path, times=400, seed=1, say=lambda _: None)
    assert found.broken == []
    assert found.changed == []
    assert sum(found.statuses[status] for status in found.statuses if 400 <= status < 500) > 100


def test_events_that_come_while_it_trains_are_all_kept(tmp_path: Path) -> None:
    found = load.measure_load(tmp_path, rate=20, seconds=5, images=20, say=lambda _: None)
    assert len(found.seconds) == 100
    assert (found.refused, found.lost) == (0, 0)
    assert found.training > 0


def test_every_prediction_of_many_comes(tmp_path: Path) -> None:
    found = load.measure_soak(tmp_path, predictions=100, say=lambda _: None)
    assert (found.predictions, found.failed) == (100, 0)
    assert min(found.megabytes) > 0
