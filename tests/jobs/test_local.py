"""What becomes of a job whose worker is killed, or whose engine is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from backend.domain import Job, JobKind, JobState, Project
from backend.jobs.context import Context
from backend.jobs.local import LocalEngine


def killed_when(engine: LocalEngine, ready: Callable[[], bool]) -> Job | None:
    """Run the next job, and kill -9 its worker once something holds."""
    ended: list[Job | None] = []
    thread = threading.Thread(target=lambda: ended.append(engine.run_next()))
    thread.start()
    while thread.is_alive() and not (multiprocessing.active_children() and ready()):
        time.sleep(0.02)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    thread.join()
    return ended[0]


def test_a_killed_training_is_taken_up_again(context: Context, project: Project) -> None:
    engine = LocalEngine(context.settings, context.store)
    asked = context.store.jobs.request(project.key, JobKind.TRAIN)
    killed = killed_when(engine, lambda: context.store.jobs.get(asked.id).progress > 0)
    assert killed is not None
    assert killed.state is JobState.INTERRUPTED
    assert context.store.versions.active(project.key) is None
    again = engine.run_next()
    assert again is not None
    assert (again.id, again.state, again.attempts) == (asked.id, JobState.SUCCEEDED, 2)
    assert context.store.versions.active(project.key) is not None


def test_a_job_that_kills_its_worker_three_times_is_parked(context: Context, project: Project) -> None:
    engine = LocalEngine(context.settings, context.store)
    asked = context.store.jobs.request(project.key, JobKind.TRAIN)
    states = []
    for _ in range(3):
        killed = killed_when(engine, lambda: True)
        assert killed is not None
        states.append(killed.state)
    assert states == [JobState.INTERRUPTED, JobState.INTERRUPTED, JobState.FAILED]
    assert "died 3 times" in context.store.jobs.get(asked.id).error
    assert engine.run_next() is None, "it is not retried for ever"


def test_who_stops_waiting_for_a_job_gives_it_back(
    context: Context, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "_follow", interrupted)
    engine = LocalEngine(context.settings, context.store)
    asked = context.store.jobs.request(project.key, JobKind.TRAIN)
    for attempt in range(1, 5):
        with pytest.raises(KeyboardInterrupt):
            engine.run_next()
        job = context.store.jobs.get(asked.id)
        assert (job.state, job.attempts) == (JobState.INTERRUPTED, attempt), "no crash, however often"
        assert not multiprocessing.active_children()


def test_a_cancelled_job_stops_and_the_version_serves_on(context: Context, project: Project) -> None:
    engine = LocalEngine(context.settings, context.store)
    asked = context.store.jobs.request(project.key, JobKind.TRAIN)
    ended: list[Job | None] = []
    thread = threading.Thread(target=lambda: ended.append(engine.run_next()))
    thread.start()
    while context.store.jobs.get(asked.id).state is not JobState.RUNNING:
        time.sleep(0.02)
    context.store.jobs.cancel(asked.id)
    thread.join()
    (job,) = ended
    assert job is not None
    assert job.state is JobState.CANCELLED
    assert not multiprocessing.active_children()
    assert engine.run_next() is None
