"""The commands that need neither Label Studio nor a training."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backend.cli import main
from backend.domain import JobKind, JobState
from backend.settings import Settings
from backend.state.store import Store

HOST = "http://labels.example"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKHERE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOOKHERE_LABEL_STUDIO_URL", HOST)
    return Store.open(Settings())


def lookhere(*command: str) -> Result:
    return CliRunner().invoke(main, command)


def test_a_waiting_job_is_cancelled(store: Store) -> None:
    job = store.jobs.request(store.projects.ensure(HOST, 1).key, JobKind.TRAIN)
    assert "is cancelled" in lookhere("cancel", str(job.id), "--project", "1").output
    assert store.jobs.get(job.id).state is JobState.CANCELLED
    again = lookhere("cancel", str(job.id), "--project", "1")
    assert again.exit_code == 1
    assert "cancelled" in again.output


def test_a_running_job_is_told_to_stop(store: Store) -> None:
    job = store.jobs.request(store.projects.ensure(HOST, 1).key, JobKind.TRAIN)
    store.jobs.claim("worker", 60)
    assert "told to stop" in lookhere("cancel", str(job.id), "--project", "1").output
    assert not store.jobs.heartbeat(job.id, "worker", 0.5, "fitting", 60)


def test_a_project_cancels_its_own_jobs_alone(store: Store) -> None:
    job = store.jobs.request(store.projects.ensure(HOST, 1).key, JobKind.TRAIN)
    for command in (["cancel", str(job.id)], ["jobs", "--log", str(job.id)]):
        refused = lookhere(*command, "--project", "2")
        assert refused.exit_code == 1
        assert "another one" in refused.output
    assert store.jobs.get(job.id).state is JobState.QUEUED


def test_a_jobs_log_is_told_line_by_line(store: Store) -> None:
    job = store.jobs.request(store.projects.ensure(HOST, 1).key, JobKind.TRAIN)
    store.jobs.claim("worker", 60)
    for message in ("reading", "fitting"):
        store.jobs.heartbeat(job.id, "worker", 0.5, message, 60)
    lines = lookhere("jobs", "--project", "1", "--log", str(job.id)).output.splitlines()
    assert [line.split()[-1] for line in lines] == ["reading", "fitting"]
    assert f"{job.id:5} train" in lookhere("jobs", "--project", "1").output
