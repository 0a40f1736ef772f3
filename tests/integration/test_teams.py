"""Two projects with other classes and three annotators each, on one Label Studio and one backend at once."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.demo.demonstration import lookhere, served
from backend.demo.label_studio import free_port
from backend.domain import JobKind, LookhereError, Project
from backend.labelstudio.links import sign
from backend.settings import Settings
from backend.state.store import Store
from tests.integration.harness import Api, wait_for
from tests.security.table import HEAD, OWNER, STUDIO, TABLE, WEBHOOK, assert_true, headers

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("loop")]

SECRET = b"a secret of the two teams"
TASKS = 9


@dataclass
class Team:
    """A project and those who annotate it."""

    classes: tuple[str, ...]
    number: int
    people: list[Api]
    tasks: list[int]
    users: list[int]

    @property
    def config(self) -> str:
        return config(self.classes)

    def annotate(self, place: int) -> None:
        """One of the team answers what Label Studio serves, until nothing is left."""
        person = self.people[place]
        while (served := person.http.get(f"{person.server.url}/api/projects/{self.number}/next")).is_success:
            task = served.json()["id"]
            person.call("POST", f"/api/tasks/{task}/annotations/", json={"result": self.answer(place, task)})

    def answer(self, place: int, task: int) -> list[dict[str, Any]]:
        """All see the first task as something else, the last one ignores what the others look at on the second."""
        number = self.tasks.index(task)
        label = self.classes[(place if number == 0 else number) % len(self.classes)]
        role = "Ignore" if number == 1 and place == 2 else "Look here"
        at = {"x": 16.0 + place, "y": 22.0, "width": 1.0, "keypointlabels": [role]}
        size = {"original_width": 120, "original_height": 90, "image_rotation": 0}
        return [
            {"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": [label]}},
            {"type": "keypointlabels", "from_name": "click", "to_name": "image", "value": at, **size},
        ]


def config(classes: tuple[str, ...]) -> str:
    choices = "".join(f'<Choice value="{name}"/>' for name in classes)
    return f"""<View><Image name="image" value="$image"/>
      <KeyPointLabels name="click" toName="image"><Label value="Look here"/><Label value="Ignore"/></KeyPointLabels>
      <Choices name="class" toName="image" lookhere-known="$said">{choices}</Choices></View>"""


def image(number: int, of: int) -> str:
    """A small file: a heat map's link holds it whole."""
    pixels = np.full((90, 120, 3), 100 + 5 * number, np.uint8)
    pixels[:40, :40] = 255 * (number % of) // (of - 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def make_team(api: Api, classes: tuple[str, ...], people: list[Api]) -> Team:
    made = api.call("POST", "/api/projects/", json={"title": classes[0], "label_config": config(classes)})
    number = made["id"]
    api.call("PATCH", f"/api/projects/{number}/", json={"maximum_annotations": len(people)})
    tasks = [{"image": image(place, len(classes)), "said": classes[place % len(classes)]} for place in range(TASKS)]
    api.call("POST", f"/api/projects/{number}/import", json=tasks)
    listed = api.call("GET", "/api/tasks", params={"project": number, "page_size": TASKS})["tasks"]
    users = [person.call("GET", "/api/current-user/whoami")["id"] for person in people]
    return Team(classes, number, people, sorted(task["id"] for task in listed), users)


@pytest.fixture
def teams(api: Api, sign_up: Callable[[int], list[Api]]) -> tuple[Team, Team]:
    return make_team(api, ("boat", "house", "tree"), sign_up(3)), make_team(api, ("cat", "dog"), sign_up(3))


@pytest.fixture
def settings(api: Api, tmp_path: Path) -> Iterator[Settings]:
    port = free_port()
    settings = Settings(
        _env_file=None,
        label_studio_url=api.server.url,
        label_studio_api_key=api.server.legacy_token,
        public_url=f"http://127.0.0.1:{port}",
        port=port,
        secret=SECRET.decode(),  # type: ignore[arg-type]
        data_dir=tmp_path / "data",
        backbone="small",
        train_after=1000,
    )
    with served(settings, tmp_path / "log"):
        yield settings


def test_two_teams_at_once_keep_to_themselves(api: Api, teams: tuple[Team, Team], settings: Settings) -> None:
    boats, pets = teams
    for team in teams:
        lookhere(settings, "connect", "--project", str(team.number))
    store = Store.open(settings)
    keys = {team.number: store.projects.ensure(api.server.url, team.number) for team in teams}
    first = {team.number: active(store, keys[team.number]) for team in teams}

    assert ask(settings, "PATCH", f"/projects/{boats.number}/settings", {"train_after": 9}).status_code == 200
    lookhere(settings, "settings", "--project", str(pets.number), "time_budget_s=60")
    own = {team.number: ask(settings, "GET", f"/projects/{team.number}/settings").json()["own"] for team in teams}
    assert own == {boats.number: ["train_after"], pets.number: ["time_budget_s"]}

    with ThreadPoolExecutor(6) as annotating:
        for done in [annotating.submit(team.annotate, place) for place in range(3) for team in teams]:
            done.result()
    wait_for(lambda: active(store, keys[boats.number]) != first[boats.number])
    for team in teams:
        lookhere(settings, "train", "--project", str(team.number))
        assert_kept(store, keys[team.number], team)
        assert_served(api, store, keys[team.number], team)
        assert_told(settings, team)

    kinds = [job.kind for job in store.jobs.list(keys[pets.number].key)]
    assert kinds.count(JobKind.TRAIN) == 2, "at first, and by command: the other project's threshold is not its"
    names = {team.number: {one.name for one in store.versions.list(keys[team.number].key)} for team in teams}
    assert len(names[boats.number]) >= 3
    assert not names[boats.number] & names[pets.number]

    assert_who_may(settings, store, teams, keys)
    assert_failures_stay(api, settings, store, teams, keys)


def assert_kept(store: Store, project: Project, team: Team) -> None:
    annotations = store.annotations.annotations(project.key)
    assert {(one.task, one.annotator) for one in annotations} == {(a, b) for a in team.tasks for b in team.users}
    assert {one.label for one in annotations} == set(team.classes)
    assert {task.id for task in store.annotations.tasks(project.key)} == set(team.tasks)


def assert_served(api: Api, store: Store, project: Project, team: Team) -> None:
    """Each task has one prediction, by this project's version, of this project's classes; contested tasks are first."""
    params = {"project": team.number, "page_size": TASKS, "fields": "all"}
    listed = api.call("GET", "/api/tasks", params=params)["tasks"]
    predictions = {task["id"]: prediction for task in listed for prediction in task["predictions"]}
    assert sum(len(task["predictions"]) for task in listed) == TASKS == len(predictions)
    assert {one["model_version"] for one in predictions.values()} == {active(store, project)}
    regions = [region for one in predictions.values() for region in one["result"]]
    said = {choice for region in regions for choice in region["value"].get("choices", ())}
    assert said <= set(team.classes)
    if len(team.classes) == 3:
        assert min(predictions, key=lambda task: predictions[task]["score"]) == team.tasks[0]


def assert_told(settings: Settings, team: Team) -> None:
    told = ask(settings, "GET", f"/projects/{team.number}/annotators").json()["annotators"]
    assert [one["annotator"] for one in told] == sorted(team.users)
    assert all(one["tasks"] == TASKS for one in told)
    agreed = {one["annotator"]: one for one in told}
    # Of three classes nobody agrees on the first task, and no two others do; of two, the one between is alone.
    compared = {one["annotator"]: (one["compared"], round(one["label"] * one["compared"])) for one in told}
    three = dict.fromkeys(team.users, (TASKS - 1, TASKS - 1))
    two = dict(zip(team.users, ((TASKS - 1, TASKS - 1), (TASKS, TASKS - 1), (TASKS - 1, TASKS - 1)), strict=True))
    assert compared == (three if len(team.classes) == 3 else two)
    # For each of the first two the others are one who looks where they do, and one who ignores it.
    assert [agreed[user]["contradicted"] for user in team.users] == [1, 1, 1]
    review = ask(settings, "GET", f"/projects/{team.number}/review").json()["tasks"]
    contested = {team.tasks[0]} if len(team.classes) == 3 else set()
    assert {one["task"] for one in review} == contested | {team.tasks[1]}
    printed = lookhere(settings, "review", "--project", str(team.number))
    assert printed.count("http") == len(review)


def assert_who_may(settings: Settings, store: Store, teams: tuple[Team, Team], keys: dict[int, Project]) -> None:
    """The table of docs/security.md, of each of the two projects against the other, on the running server."""
    before = state(store, teams, keys)
    for route in TABLE:
        for who in HEAD[1:]:
            for mine, others in (teams, teams[::-1]):
                shown = keys[mine.number].key
                answers = [
                    send(settings, route, headers(SECRET, who, shown), team, keys[team.number], signed=shown)
                    for team in (mine, others)
                ]
                assert_true(route, who, *answers)
    assert state(store, teams, keys) == before
    # With its own key a project's event counts for it alone, whatever project it names.
    for who in (WEBHOOK, STUDIO):
        mine, others = teams
        forged = {"action": "TASKS_DELETED", "project": {"id": others.number}, "tasks": [{"id": others.tasks[0]}]}
        address, keys_of_mine = f"{settings.public_url}/webhook", headers(SECRET, who, keys[mine.number].key)
        assert httpx.post(address, json=forged, headers=keys_of_mine).status_code == 403
        forged["project"] = {"id": mine.number}
        assert httpx.post(address, json=forged, headers=keys_of_mine).status_code == 201
    assert state(store, teams, keys) == before
    for mine, others in (teams, teams[::-1]):
        link = f"{settings.public_url}/heat/{keys[mine.number].key}/{sign(SECRET, keys[mine.number].key)}"
        seen = {team.number: store.annotations.tasks(keys[team.number].key)[2].image for team in teams}
        assert httpx.get(link, params={"src": seen[mine.number]}, timeout=60).status_code == 200
        assert httpx.get(link, params={"src": seen[others.number]}, timeout=60).status_code == 404


def send(settings: Settings, route: str, keys: dict[str, str], about: Team, project: Project, signed: int) -> int:
    method, _, path = ("GET /nowhere" if route == "anything else" else route).partition(" ")
    path = path.replace("/projects/<number>", f"/projects/{about.number}").replace("<number>", "1")
    path = path.replace("<key>", str(project.key)).replace("<signature>", f"{sign(SECRET, signed)}?src=nothing")
    body = {
        "/setup": {"project": f"{about.number}.17", "schema": about.config},
        "/predict": {"project": f"{about.number}.17", "tasks": [], "label_config": about.config},
        "/webhook": {"action": "MOON_ROSE", "project": {"id": about.number}},
    }.get(path, {} if method == "PATCH" else None)
    return httpx.request(method, settings.public_url + path, json=body, headers=keys, timeout=60).status_code


def state(store: Store, teams: tuple[Team, Team], keys: dict[int, Project]) -> list[Any]:
    return [
        (
            store.annotations.tasks(keys[team.number].key),
            store.annotations.annotations(keys[team.number].key),
            store.own_settings(keys[team.number]),
            active(store, keys[team.number]),
        )
        for team in teams
    ]


def assert_failures_stay(
    api: Api, settings: Settings, store: Store, teams: tuple[Team, Team], keys: dict[int, Project]
) -> None:
    """A project whose label config was broken fails with the reason, and the other one is trained."""
    boats, pets = teams
    before = {team.number: active(store, keys[team.number]) for team in teams}
    # Label Studio takes it, as nothing of it is gone; but nowhere may anybody look.
    broken = boats.config.replace('"Look here"', '"Look here" lookhere="ignore"')
    api.call("PATCH", f"/api/projects/{boats.number}/", json={"label_config": broken})
    with ThreadPoolExecutor(2) as at_once:
        failing = at_once.submit(lookhere, settings, "train", "--project", str(boats.number))
        going_on = at_once.submit(lookhere, settings, "train", "--project", str(pets.number))
        assert "train" in going_on.result()
        with pytest.raises(LookhereError, match="label config"):
            failing.result()
    assert active(store, keys[boats.number]) == before[boats.number], "it serves on"
    kept = {team.number: len(store.annotations.annotations(keys[team.number].key)) for team in teams}
    assert set(kept.values()) == {3 * TASKS}


def active(store: Store, project: Project) -> str:
    version = store.versions.active(project.key)
    assert version is not None
    return version.name


def ask(settings: Settings, method: str, path: str, body: Any = None) -> httpx.Response:
    return httpx.request(method, settings.public_url + path, json=body, headers=headers(SECRET, OWNER, 0))
