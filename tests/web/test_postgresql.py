"""The backend on PostgreSQL: what Label Studio sent leads to the same as on SQLite, at once and by many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.labelstudio.recorded import all_requests
from tests.web.conftest import Running, backend_with

HOST = "http://labels.example"


@pytest.fixture
def on_postgresql(settings: Settings, postgresql: Callable[[], str], tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / "postgresql"
    folder.mkdir()
    there = backend_with(settings.model_copy(update={"database_url": postgresql(), "data_dir": folder}), folder)
    yield there
    there.store.database.close()


def state(running: Running) -> object:
    projects = {project.number: project.key for project in running.store.projects.all()}
    return {
        number: (
            running.store.annotations.tasks(key),
            sorted(running.store.annotations.annotations(key), key=lambda one: one.id),
            [(job.kind, job.state) for job in running.store.jobs.list(key)],
        )
        for number, key in projects.items()
    }, running.store.events.counts()


def test_what_label_studio_sent_leads_to_the_same(running: Running, on_postgresql: Running) -> None:
    for one in all_requests():
        if one.method == "POST":
            answers = [to.client.post(one.path, json=one.body).status_code for to in (running, on_postgresql)]
            assert answers[0] == answers[1], one.scenario
    assert state(running) == state(on_postgresql)


def test_events_that_come_together_are_all_kept(on_postgresql: Running) -> None:
    events = [one for one in all_requests() if one.path == "/webhook"] * 3
    app = on_postgresql.client.application

    def send(body: object) -> int:
        return app.test_client().post("/webhook", json=body).status_code

    with ThreadPoolExecutor(16) as senders:
        assert set(senders.map(send, [one.body for one in events])) == {201}
    assert sum(on_postgresql.store.events.counts().values()) == len(events)
