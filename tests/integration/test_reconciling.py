"""Reading a project from a real Label Studio, and from the played one that the fault tests use: both alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backend.demo.label_studio import LabelStudioServer
from backend.jobs import reconcile as module
from backend.jobs.context import Context
from backend.jobs.reconcile import reconcile
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from tests.faults.label_studio import NUMBER, PlayedLabelStudio
from tests.integration.harness import LABEL_CONFIG, Api

pytestmark = pytest.mark.integration


def cat_or_dog(name: str) -> list[dict[str, Any]]:
    return [{"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": [name]}}]


@dataclass
class Real:
    """A project on a real server, and what its users do."""

    api: Api
    url: str
    token: SecretStr
    number: int

    def import_tasks(self, count: int) -> list[int]:
        return self.api.tasks(self.number, count)

    def annotate(self, task: int, result: list[dict[str, Any]]) -> int:
        path = f"/api/tasks/{task}/annotations/"
        made: int = self.api.call("POST", path, json={"result": result, "lead_time": 1.0})["id"]
        return made

    def update(self, number: int, result: list[dict[str, Any]]) -> None:
        self.api.call("PATCH", f"/api/annotations/{number}/", json={"result": result})

    def delete(self, number: int) -> None:
        self.api.call("DELETE", f"/api/annotations/{number}/")

    def delete_task(self, number: int) -> None:
        self.api.call("DELETE", f"/api/tasks/{number}/")


@dataclass
class Played:
    """The same on the played one."""

    studio: PlayedLabelStudio
    url: str
    token: SecretStr
    number: int = NUMBER

    def import_tasks(self, count: int) -> list[int]:
        return self.studio.import_tasks([{"image": f"https://images.example/{index}.png"} for index in range(count)])

    def annotate(self, task: int, result: list[dict[str, Any]]) -> int:
        made: int = self.studio.annotate(task, result)["id"]
        return made

    def update(self, number: int, result: list[dict[str, Any]]) -> None:
        self.studio.update(number, result=result)

    def delete(self, number: int) -> None:
        self.studio.delete(number)

    def delete_task(self, number: int) -> None:
        self.studio.delete_task(number)


@contextmanager
def played() -> Iterator[Played]:
    studio = PlayedLabelStudio(LABEL_CONFIG)
    with studio.served() as url:
        yield Played(studio, url, SecretStr("0123456789abcdef0123456789abcdef01234567"))


@pytest.fixture(params=["real", "played"])
def project(request: pytest.FixtureRequest) -> Iterator[Real | Played]:
    if request.param == "played":
        with played() as one:
            yield one
        return
    api: Api = request.getfixturevalue("api")
    server: LabelStudioServer = request.getfixturevalue("label_studio")
    assert server.legacy_token is not None
    yield Real(api, server.url, server.legacy_token, api.project())


def answers(context: Context, key: int) -> dict[int, str | None]:
    return {one.id: one.label for one in context.store.annotations.annotations(key)}


def test_a_project_is_read_page_by_page_and_then_only_what_changed(
    project: Real | Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TASKS_AT_ONCE", 2)
    settings = Settings(
        _env_file=None, data_dir=tmp_path, label_studio_url=project.url, label_studio_api_key=project.token
    )
    context = Context.open(settings)
    tasks = project.import_tasks(5)
    made = project.annotate(tasks[0], cat_or_dog("cat"))
    key = reconcile(context, project.number).key
    assert [task.id for task in context.store.annotations.tasks(key)] == tasks
    assert answers(context, key) == {made: "cat"}
    before = newest(context, project)

    client = context.client
    assert client is not None
    predictions = [{"task": task, "result": [], "score": 0.5, "model_version": "v1-00000000"} for task in tasks]
    client.publish_predictions(project.number, predictions, "v1-00000000", lambda _: True)
    client.publish_predictions(
        project.number,
        [{**one, "model_version": "v2-00000000"} for one in predictions],
        "v2-00000000",
        lambda _: True,
    )
    assert newest(context, project) == before, "our own predictions are no change of a task"

    project.update(made, cat_or_dog("dog"))
    another = project.annotate(tasks[4], cat_or_dog("cat"))
    changed = client.changed_tasks(project.number, before, 0, 10)
    assert [task["id"] for task in changed] == [tasks[0], tasks[4]]
    assert [task["id"] for task in client.changed_tasks(project.number, before, tasks[0], 10)] == [tasks[4]]
    assert [task["id"] for task in client.some_tasks(project.number, [tasks[1], tasks[3], 987654])] == [
        tasks[1],
        tasks[3],
    ]
    project.delete_task(tasks[1])
    key = reconcile(context, project.number).key
    assert answers(context, key) == {made: "dog", another: "cat"}
    project.delete(another)
    key = reconcile(context, project.number).key
    assert answers(context, key) == {made: "dog"}
    assert [task.id for task in context.store.annotations.tasks(key)] == [tasks[0], *tasks[2:]]


def newest(context: Context, project: Real | Played) -> str:
    client: LabelStudioClient | None = context.client
    assert client is not None
    return client.newest_change(project.number)[0]
