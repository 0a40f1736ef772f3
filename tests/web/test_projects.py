"""What people and scripts ask of projects, and that projects and servers keep to themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from backend.domain import Annotation, JobKind, Task
from backend.labelstudio import access
from backend.labelstudio.labelconfig import EXAMPLE
from backend.selection.strategies import STRATEGIES
from backend.settings import Server, Settings, Strategy
from tests.web.conftest import SECRET, Running

HERE, THERE = "http://labels.example", "http://other.example"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"label_studio_servers": (Server(url=THERE, api_key="theirs"),)})  # type: ignore[arg-type]


def test_each_project_has_its_own_settings(running: Running, settings: Settings) -> None:
    one, other = (running.store.projects.ensure(HERE, number, EXAMPLE) for number in (1, 2))
    changes = {"train_after": 5, "strategy": "entropy", "time_budget_s": 30, "backbone": "small", "image_size": 64}
    answer = running.client.patch("/projects/1/settings", json=changes)
    assert answer.json == {"settings": changes, "own": sorted(changes)}
    assert running.client.get("/projects/1/settings").json == answer.json
    assert running.client.get("/projects/2/settings").json["own"] == []
    assert running.store.settings_of(one, settings).train_after == 5
    assert running.store.settings_of(other, settings).train_after == settings.train_after
    running.client.patch("/projects/1/settings", json={"train_after": None})
    assert running.store.settings_of(one, settings).train_after == settings.train_after
    assert running.store.settings_of(one, settings).strategy == "entropy"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_after": 0}, "train_after: Input should be greater than or equal to 1"),
        ({"train_after": "5"}, "train_after: Input should be a valid integer"),
        ({"train_after": True}, "train_after: Input should be a valid integer"),
        ({"strategy": "guess"}, "strategy: Input should be 'representative'"),
        ({"backbone": "../../etc"}, "backbone: String should match pattern"),
        ({"time_budget_s": -1.0}, "time_budget_s: Input should be greater than 0"),
        ({"image_size": 8}, "image_size: Input should be greater than or equal to 32"),
        ({"label_studio_api_key": "stolen"}, "label_studio_api_key: Extra inputs are not permitted"),
        ({"train_after": 5, "colour": "red"}, "Expected any of the settings backbone, image_size, train_after"),
    ],
)
def test_an_impossible_setting_is_refused_and_changes_nothing(running: Running, changes: Any, said: str) -> None:
    project = running.store.projects.ensure(HERE, 1, EXAMPLE)
    answer = running.client.patch("/projects/1/settings", json=changes)
    assert answer.status_code == 400
    assert said in answer.json["error"]
    assert running.store.own_settings(project) == {}


def test_projects_that_nobody_connected_are_not_found_nor_made(running: Running) -> None:
    for path in ("settings", "annotators", "review"):
        assert running.client.get(f"/projects/7/{path}").status_code == 404
    assert running.client.get("/projects/7/settings?server=http://evil.example").status_code == 400
    assert running.client.get("/projects").json == {"projects": []}


def test_only_the_owner_asks_about_projects(running: Running) -> None:
    key = running.store.projects.ensure(HERE, 1, EXAMPLE).key
    basic = access.basic_auth(SECRET, key)
    for headers in ({}, access.webhook_headers(SECRET, key)):
        for path in ("/projects", "/projects/1/settings", "/projects/1/annotators", "/projects/1/review"):
            assert running.client.get(path, headers=headers).status_code == (403 if headers else 401)
    login = (basic.user, basic.password.get_secret_value())
    assert running.client.patch("/projects/1/settings", json={}, headers={}, auth=login).status_code == 403


def test_agreement_and_what_is_to_be_looked_at_again_are_told(running: Running) -> None:
    key = running.store.projects.ensure(HERE, 1, EXAMPLE).key
    running.store.annotations.put_tasks(key, [Task(5, "a.png")])
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for person, label in ((1, "cat"), (2, "dog")):
        running.store.annotations.put(key, [Annotation(person, 5, person, moment, label=label)])
    told = running.client.get("/projects/1/annotators").json["annotators"]
    assert [(one["annotator"], one["tasks"], one["label"], one["kappa"]) for one in told] == [
        (1, 1, 0.0, 0.0),
        (2, 1, 0.0, 0.0),
    ]
    review = running.client.get("/projects/1/review").json
    assert review == {"tasks": [{"task": 5, "why": "annotators chose different classes"}]}


def event(number: int, task: int) -> dict[str, Any]:
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": number, "label_config": EXAMPLE},
        "task": {"id": task, "data": {"image": f"/data/{task}.png"}},
        "annotation": {"id": task, "task": task, "updated_at": "2026-01-01T00:00:00Z", "result": []},
    }


def test_projects_of_one_number_on_two_servers_keep_to_themselves(running: Running) -> None:
    here, there = (running.store.projects.ensure(host, 1, EXAMPLE) for host in (HERE, THERE))
    for project, task in ((here, 10), (there, 20)):
        forged = {**event(1, task), "lookhere_host": HERE}
        headers = access.webhook_headers(SECRET, project.key)
        assert running.client.post("/webhook", json=forged, headers=headers).status_code == 201
    assert [task.id for task in running.store.annotations.tasks(here.key)] == [10]
    assert [task.id for task in running.store.annotations.tasks(there.key)] == [20]
    running.client.patch("/projects/1/settings", query_string={"server": THERE}, json={"train_after": 1})
    assert running.store.own_settings(here) == {}
    running.client.post("/webhook", json=event(1, 21), headers=access.webhook_headers(SECRET, there.key))
    assert [job.kind for job in running.store.jobs.list(there.key)] == [JobKind.TRAIN]
    assert running.store.jobs.list(here.key) == []


def test_a_heat_map_opens_to_the_label_studio_of_its_project_alone(running: Running) -> None:
    for host in (HERE, THERE):
        key = running.store.projects.ensure(host, 1, EXAMPLE).key
        answer = running.client.get(f"/heat/{key}/wrong", headers={})
        assert answer.headers["Access-Control-Allow-Origin"] == host


def test_the_credential_of_one_server_is_not_known_at_another(settings: Settings) -> None:
    def key(host: str) -> str | None:
        found = settings.at(host).label_studio_api_key
        return found.get_secret_value() if found else None

    assert [key(host) for host in (HERE, THERE, "http://gone.example")] == ["a token of the tests", "theirs", None]
    assert settings.at(THERE).label_studio_servers == ()
    assert "theirs" not in repr(settings)


def test_every_strategy_that_needs_no_views_can_be_set() -> None:
    assert set(get_args(Strategy)) == {name for name, one in STRATEGIES.items() if not one.needs_views}
