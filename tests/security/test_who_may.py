"""The table of who may call what in docs/security.md, against the application."""

from __future__ import annotations

import re

import pytest

from backend.domain import JobKind
from backend.labelstudio.access import WEBHOOK_HEADER, basic_auth, caller, webhook_headers
from backend.labelstudio.links import sign
from tests.labelstudio.recorded import label_config
from tests.security.table import HEAD, OWNER, STUDIO, TABLE, assert_true, headers
from tests.security.test_hostile import HOST
from tests.web.conftest import SECRET, Running


def ask(running: Running, route: str, who: str, shown: int, about: int) -> int:
    """The status of asking about a project with the keys of one."""
    method, _, path = ("GET /nowhere" if route == "anything else" else route).partition(" ")
    path = path.replace("/projects/<number>", f"/projects/{about}")
    job = running.store.jobs.request(about, JobKind.TRAIN) if "<number>" in path else None
    path = path.replace("<number>", str(job.id if job else 0))
    path = path.replace("<key>", str(about)).replace("<signature>", sign(SECRET, shown))
    body = {
        "/setup": {"project": f"{about}.17", "schema": label_config()},
        "/predict": {"project": f"{about}.17", "tasks": [], "label_config": label_config()},
        "/webhook": {"action": "MOON_ROSE", "project": {"id": about}},
    }.get(path, {"train_after": 5} if method == "PATCH" else None)
    return running.client.open(path, method=method, json=body, headers=headers(SECRET, who, shown)).status_code


@pytest.mark.parametrize("route", TABLE)
@pytest.mark.parametrize("who", HEAD[1:])
def test_the_table_is_true(running: Running, route: str, who: str) -> None:
    for number in (1, 2):
        running.store.projects.ensure(HOST, number, label_config())
    own, other = ask(running, route, who, 1, 1), ask(running, route, who, 1, 2)
    assert_true(route, who, own, other)


def test_a_key_is_told_of_its_own_projects_versions(running: Running) -> None:
    names = {
        number: running.publish(running.store.projects.ensure(HOST, number, label_config())).name for number in (1, 2)
    }
    for number, name in names.items():
        answer = running.client.get("/versions", headers=headers(SECRET, STUDIO, number))
        assert answer.get_json() == {"versions": [name]}
    everything = running.client.get("/versions", headers=headers(SECRET, OWNER, 1)).get_json()["versions"]
    assert sorted(everything) == sorted(names.values())


def test_every_route_is_in_the_table(running: Running) -> None:
    rules = {
        f"{method} {re.sub('<(?:int:)?', '<', rule.rule)}"
        for rule in running.client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert rules == TABLE.keys() - {"anything else"}


def test_only_label_studios_pages_may_read_a_heat_map(running: Running) -> None:
    project = running.store.projects.ensure(HOST, 1)
    link = f"/heat/{project.key}/{sign(SECRET, project.key)}?src=a"
    for origin in (HOST, "http://evil.example", "null"):
        answer = running.client.get(link, headers={"Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == HOST
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for path in ("/health", "/versions"):
        answer = running.client.get(path, headers=headers(SECRET, OWNER, 1) | {"Origin": HOST})
        assert "Access-Control-Allow-Origin" not in answer.headers
    preflight = running.client.options("/predict", headers={"Origin": HOST, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 401


def test_keys_open_one_thing_each() -> None:
    keys = (
        {basic_auth(SECRET, project).password.get_secret_value() for project in (1, 2)}
        | {webhook_headers(SECRET, project)[WEBHOOK_HEADER] for project in (1, 2)}
        | {sign(SECRET, 1), sign(SECRET, 2)}
    )
    assert len(keys) == 6
    assert not any(key in other for key in keys for other in keys - {key})


def test_a_secret_that_is_no_ascii_is_accepted_as_it_comes_over_the_wire() -> None:
    secret = "schlüssel-schlüssel".encode()
    assert caller(secret, f"Bearer {secret.decode('latin-1')}", "") is not None
