"""The commands that need neither Label Studio nor a training."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backend.cli import main
from backend.domain import Annotation, Click, ClickRole, JobKind, JobState, Task
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


def test_who_agrees_with_whom_and_what_is_to_be_looked_at_again(store: Store) -> None:
    key = store.projects.ensure(HOST, 1).key
    store.annotations.put_tasks(key, [Task(5, "a.png"), Task(6, "b.png")])
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for person, label in ((11, "cat"), (12, "cat"), (13, "dog")):
        for task in (5, 6):
            answer = Annotation(
                person * 10 + task,
                task,
                person,
                moment,
                (Click(0.5, 0.5, ClickRole.LOOK),),
                label=label if task == 5 else str(person),
            )
            store.annotations.put(key, [answer])
    table = {line.split()[0]: line.split()[1:] for line in lookhere("annotators", "--project", "1").output.splitlines()}
    assert table["13"] == ["2", "1", "0%", "0.00", "2", "100%", "0", "0"]
    assert table["11"][1] == "0", "the others are in a tie"
    assert lookhere("review", "--project", "1").output == (
        f"{HOST}/projects/1/data?task=6  annotators chose different classes\n"
    )
    assert lookhere("review", "--project", "2").output == ""


@pytest.mark.usefixtures("store")
def test_a_projects_settings_are_shown_and_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKHERE_LABEL_STUDIO_SERVERS", '[{"url": "http://other.example/"}]')
    other = ("--server", "http://other.example")
    assert "train_after=16\n" in lookhere("settings", "--project", "1").output
    changed = lookhere("settings", "--project", "1", *other, "train_after=3", "strategy=entropy").output
    assert "train_after=3  (its own)\n" in changed
    assert "strategy=entropy  (its own)\n" in changed
    assert "(its own)" not in lookhere("settings", "--project", "1").output
    assert "train_after=16\n" in lookhere("settings", "--project", "1", *other, "train_after=").output
    assert "colour: Extra inputs" in lookhere("settings", "--project", "1", "colour=").output
    refused = lookhere("settings", "--project", "1", "train_after=many")
    assert refused.exit_code == 1
    assert "train_after: Input should be a valid integer" in refused.output
    elsewhere = lookhere("settings", "--project", "1", "--server", "http://evil.example")
    assert f"Expected one of the Label Studio servers {HOST}, http://other.example" in elsewhere.output
