"""The queue: leased, coalesced, taken up again."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backend.domain import JobKind, JobState, LookhereError
from backend.settings import Settings
from backend.state.jobs import MOST_CRASHES
from backend.state.store import Store

LEASE_S = 60.0


@pytest.fixture
def key(store: Store) -> int:
    return store.projects.ensure("http://labels", 1).key


def test_requests_while_one_waits_are_one_job_and_while_one_runs_one_more(store: Store, key: int) -> None:
    first = store.jobs.request(key, JobKind.TRAIN)
    assert store.jobs.request(key, JobKind.TRAIN) == first
    store.jobs.claim("worker", LEASE_S)
    later = {store.jobs.request(key, JobKind.TRAIN).id for _ in range(3)}
    assert len(later) == 1
    assert first.id not in later


def test_one_job_of_a_project_runs_at_a_time(store: Store, key: int) -> None:
    other = store.projects.ensure("http://labels", 2).key
    for project in (key, other):
        store.jobs.request(project, JobKind.TRAIN)
        store.jobs.request(project, JobKind.SCORE)
    claimed = [store.jobs.claim(f"worker {number}", LEASE_S) for number in range(4)]
    assert [job.project for job in claimed if job] == [key, other]


def test_a_job_is_followed_to_its_end(store: Store, key: int) -> None:
    store.jobs.request(key, JobKind.TRAIN)
    job = store.jobs.claim("worker", LEASE_S)
    assert job is not None
    assert store.jobs.heartbeat(job.id, "worker", 0.5, "half", LEASE_S)
    assert (store.jobs.get(job.id).progress, store.jobs.get(job.id).message) == (0.5, "half")
    assert not store.jobs.finish(job.id, "somebody else", JobState.FAILED)
    assert store.jobs.finish(job.id, "worker", JobState.SUCCEEDED)
    ended = store.jobs.get(job.id)
    assert (ended.state, ended.progress) == (JobState.SUCCEEDED, 1.0)
    assert [line.split(" ", 2)[2] for line in store.jobs.log(job.id)] == ["half"]


def test_a_lease_that_ran_out_is_taken_over_and_its_worker_told(store: Store, key: int) -> None:
    store.jobs.request(key, JobKind.TRAIN)
    lost = store.jobs.claim("dead", lease_s=-1)
    taken = store.jobs.claim("alive", LEASE_S)
    assert lost is not None
    assert taken is not None
    assert (taken.id, taken.attempts) == (lost.id, 2)
    assert not store.jobs.heartbeat(lost.id, "dead", 0.9, "still here", LEASE_S)
    assert not store.jobs.finish(lost.id, "dead", JobState.SUCCEEDED)


def test_a_job_that_kills_its_workers_is_parked(store: Store, key: int) -> None:
    asked = store.jobs.request(key, JobKind.TRAIN)
    for _ in range(MOST_CRASHES):
        assert store.jobs.claim("worker", LEASE_S) is not None
        store.jobs.interrupt(asked.id, "worker")
    assert store.jobs.claim("worker", LEASE_S) is None
    parked = store.jobs.get(asked.id)
    assert parked.state is JobState.FAILED
    assert "died" in parked.error


def test_an_orderly_stop_is_no_crash(store: Store, key: int) -> None:
    asked = store.jobs.request(key, JobKind.TRAIN)
    for _ in range(MOST_CRASHES + 2):
        assert store.jobs.claim("worker", LEASE_S) is not None
        store.jobs.interrupt(asked.id, "worker", crashed=False)
    assert store.jobs.get(asked.id).state is JobState.INTERRUPTED


def test_cancelling_ends_a_waiting_job_and_tells_a_running_one(store: Store, key: int) -> None:
    waiting = store.jobs.request(key, JobKind.SCORE)
    assert store.jobs.cancel(waiting.id).state is JobState.CANCELLED
    running = store.jobs.request(key, JobKind.TRAIN)
    store.jobs.claim("worker", LEASE_S)
    assert store.jobs.cancel(running.id).state is JobState.RUNNING
    assert not store.jobs.heartbeat(running.id, "worker", 0.5, "", LEASE_S)
    store.jobs.finish(running.id, "worker", JobState.CANCELLED)
    assert store.jobs.get(running.id).state is JobState.CANCELLED


def test_an_unknown_job_is_an_error_for_people(store: Store) -> None:
    with pytest.raises(LookhereError, match="lookhere jobs"):
        store.jobs.get(99)


def claim_all(folder: Path, worker: str, found: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    store = Store.open(Settings(data_dir=folder))
    while job := store.jobs.claim(worker, LEASE_S):
        found.put(job.id)


def test_processes_that_claim_at_once_never_share_a_job(store: Store, tmp_path: Path) -> None:
    wanted = {store.jobs.request(store.projects.ensure("http://l", n).key, JobKind.TRAIN).id for n in range(20)}
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    workers = [spawn.Process(target=claim_all, args=(tmp_path, f"worker {n}", found)) for n in range(3)]
    for worker in workers:
        worker.start()
    claimed = [found.get() for _ in wanted]
    for worker in workers:
        worker.join()
    assert sorted(claimed) == sorted(wanted)


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
def test_a_clock_that_jumps_costs_an_attempt_and_no_job(
    store: Store, key: int, jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.jobs.request(key, JobKind.TRAIN)
    first = store.jobs.claim("worker", LEASE_S)
    assert first is not None
    monkeypatch.setattr("backend.state.jobs._now", lambda: datetime.now(UTC) + jump)
    # Its worker goes on if it renews before anybody else looks.
    assert store.jobs.heartbeat(first.id, "worker", 0.1, "going on", LEASE_S)
    assert store.jobs.claim("other", LEASE_S) is None
    monkeypatch.undo()
    taken = store.jobs.claim("other", LEASE_S)
    assert taken is not None
    assert (taken.id, taken.attempts) == (first.id, 2)
    assert not store.jobs.finish(first.id, "worker", JobState.SUCCEEDED)
    assert store.jobs.finish(taken.id, "other", JobState.SUCCEEDED)
