"""Full disks, held databases, too many requests: what the backend says, and that nothing is lost by it."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import pytest

from backend.domain import ModelVersion, Prediction
from backend.serving import Overloaded, Serving
from backend.settings import Settings
from tests.labelstudio.recorded import label_config, requests
from tests.web.conftest import Running

HOST = "http://labels.example"


def told(running: Running, number: int, padding: int = 0) -> int:
    """The status of telling of an annotation."""
    (event,) = [one for one in requests("20_annotation_created") if one.action]
    annotation = {**event.body["annotation"], "id": number}
    answer = running.client.post("/webhook", json={**event.body, "annotation": annotation, "padding": "x" * padding})
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) > 0
        assert "try again" in answer.get_json()["error"]
    return answer.status_code


def kept(running: Running) -> set[int]:
    project = running.store.projects.find(HOST, 1)
    assert project is not None
    return {one.id for one in running.store.annotations.annotations(project.key)}


def most_pages(running: Running, most: int) -> None:
    """Let the database grow no further than this; SQLite then says what it says on a full disk."""
    with running.store.database.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")


def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_lost(running: Running) -> None:
    assert told(running, 1) == 201
    most_pages(running, 1)
    answers = {number: told(running, number, padding=4000) for number in range(2, 20)}
    assert 503 in answers.values()
    assert kept(running) == {1, *(number for number, status in answers.items() if status == 201)}
    assert running.client.get("/health").status_code == 200
    most_pages(running, 2**30)
    for number, status in answers.items():
        assert status == 201 or told(running, number, padding=4000) == 201
    assert kept(running) == set(range(1, 20))


def test_a_database_that_another_program_holds_is_waited_for(running: Running, settings: Settings) -> None:
    assert told(running, 1) == 201
    holder = sqlite3.connect(settings.data_dir / "lookhere.sqlite3", check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    answers: list[int] = []
    teller = Thread(target=lambda: answers.append(told(running, 2)))
    teller.start()
    # Who only reads waits for nobody.
    assert kept(running) == {1}
    teller.join(0.3)
    assert teller.is_alive()
    holder.execute("ROLLBACK")
    teller.join()
    assert answers == [201]
    assert kept(running) == {1, 2}


def test_a_database_that_another_program_keeps_is_503(running: Running, settings: Settings) -> None:
    assert told(running, 1) == 201
    with running.store.database.begin() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    holder = sqlite3.connect(settings.data_dir / "lookhere.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert told(running, 2) == 503
    holder.execute("ROLLBACK")
    assert told(running, 2) == 201
    assert kept(running) == {1, 2}


def test_what_is_too_much_is_refused_with_a_time_to_come_again(running: Running) -> None:
    project = running.store.projects.ensure(HOST, 1, label_config())
    running.publish(project)

    def overloaded(*_: object) -> list[Prediction | None]:
        raise Overloaded("Too many requests wait for predictions; ask again in a few seconds.")

    running.predictor.predict = overloaded  # type: ignore[method-assign]
    (request,) = [one for one in requests("08_retrieve_predictions_batch") if one.path == "/predict"][:1]
    answer = running.client.post("/predict", json=request.body)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_only_so_many_wait_for_predictions() -> None:
    serving, going_on, begun = Serving(waiting=2), Event(), [Event(), Event()]

    class Slow:
        def __init__(self, place: int) -> None:
            self.place = place

        def result(self) -> list[None]:
            begun[self.place].set()
            going_on.wait()
            return []

    places = iter((0, 1))
    serving._submit = lambda *_: Slow(next(places))  # type: ignore[assignment, method-assign, return-value]
    version = ModelVersion(1, "v", Path("v"), datetime.now(UTC), active=True)
    waiting = [Thread(target=serving.predict, args=(version, [Path("a")])) for _ in begun]
    for thread, event in zip(waiting, begun, strict=True):
        thread.start()
        assert event.wait(10)
    with pytest.raises(Overloaded, match="ask again"):
        serving.predict(version, [Path("a")])
    going_on.set()
    for thread in waiting:
        thread.join()
