"""What is read from Label Studio, when, and what is done while it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from backend.domain import Annotation, JobKind, Project, Task
from backend.jobs import reconcile as module
from backend.jobs.context import Context
from backend.jobs.reconcile import reconcile
from backend.jobs.score import score
from backend.jobs.sync import sync
from backend.jobs.train import train
from backend.labelstudio.client import LabelStudioError
from backend.settings import Settings
from tests.faults.label_studio import NUMBER, PlayedLabelStudio
from tests.jobs.conftest import CONFIG

LIGHT = [{"type": "choices", "from_name": "kind", "to_name": "photo", "value": {"choices": ["light"]}}]
DARK = [{"type": "choices", "from_name": "kind", "to_name": "photo", "value": {"choices": ["dark"]}}]


def quiet(_progress: float, _message: str) -> None:
    pass


@pytest.fixture
def played(tmp_path: Path) -> PlayedLabelStudio:
    played = PlayedLabelStudio(CONFIG)
    for number in range(7):
        Image.new("RGB", (32, 32), (255 * (number % 2),) * 3).save(tmp_path / f"{number}.png")
    played.import_tasks([{"picture": (tmp_path / f"{number}.png").as_uri()} for number in range(7)])
    return played


@pytest.fixture
def context(played: PlayedLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setattr(module, "_TASKS_AT_ONCE", 3)
    monkeypatch.setattr("backend.jobs.patience._PAUSES_S", (0.0, 0.0))
    with played.served() as url:
        yield Context.open(
            Settings(
                _env_file=None,
                data_dir=tmp_path / "data",
                label_studio_url=url,
                label_studio_api_key=SecretStr("a token of the tests"),
                image_folders=(tmp_path,),
                backbone="small",
                train_after=3,
            )
        )


def known(context: Context, project: Project) -> dict[int, list[tuple[int, str | None]]]:
    found: dict[int, list[tuple[int, str | None]]] = {
        task.id: [] for task in context.store.annotations.tasks(project.key)
    }
    for one in context.store.annotations.annotations(project.key):
        found[one.task].append((one.id, one.label))
    return found


def true(played: PlayedLabelStudio) -> dict[int, list[tuple[int, str | None]]]:
    found: dict[int, list[tuple[int, str | None]]] = {task: [] for task in played.tasks}
    for one in played.annotations.values():
        label = one["result"][0]["value"]["choices"][0] if one["result"] else None
        found[one["task"]].append((one["id"], label))
    return found


def test_everything_comes(context: Context, played: PlayedLabelStudio) -> None:
    first, second, *_ = played.tasks
    made = played.annotate(first, LIGHT)
    assert known(context, reconcile(context, NUMBER)) == true(played)
    played.update(made["id"], result=DARK)
    played.annotate(second, DARK)
    played.import_tasks([{"picture": "file:///new.png"}])
    assert known(context, reconcile(context, NUMBER)) == true(played)


def test_after_the_overlap_only_what_changed_is_read(context: Context, played: PlayedLabelStudio) -> None:
    reconcile(context, NUMBER)
    for _ in range(100):
        played._now()
    first, *_ = played.tasks
    played.annotate(first, LIGHT)
    reconcile(context, NUMBER)
    for _ in range(100):
        played._now()
    last = list(played.tasks)[-1]
    played.annotate(last, DARK)
    state = context.store.projects.options(context.store.projects.all()[0].key)["reading"]
    assert context.client is not None
    assert [task["id"] for task in context.client.changed_tasks(NUMBER, state["since"], 0, 9)] == [first, last]
    project = reconcile(context, NUMBER)
    assert known(context, project) == true(played)


def test_what_was_deleted_goes_and_what_was_forged_goes(context: Context, played: PlayedLabelStudio) -> None:
    first, second, third, *_ = played.tasks
    kept, gone = played.annotate(first, LIGHT), played.annotate(first, DARK)
    project = reconcile(context, NUMBER)
    played.delete(gone["id"])
    played.delete_task(second)
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    store = context.store.annotations
    store.put(project.key, [Annotation(kept["id"], first, 1, moment, label="dark"), Annotation(999, third, 1, moment)])
    store.put_tasks(project.key, [Task(998, "https://evil.example/x.png")])
    store.remove_tasks(project.key, [third])
    assert store.unconfirmed(project.key) == {first, third, 998}
    project = reconcile(context, NUMBER)
    assert known(context, project) == true(played)
    assert store.unconfirmed(project.key) == set()


def test_a_reading_that_was_killed_goes_on_where_it_was(
    context: Context, played: PlayedLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert context.client is not None
    whole, asked = context.client.changed_tasks, []

    def killed_after_a_page(number: int, since: str, after: int, page_size: int) -> list[dict[str, Any]]:
        asked.append(after)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole(number, since, after, page_size)

    monkeypatch.setattr(context.client, "changed_tasks", killed_after_a_page)
    with pytest.raises(KeyboardInterrupt):
        reconcile(context, NUMBER)
    played.annotate(next(iter(played.tasks)), LIGHT)
    project = reconcile(context, NUMBER)
    assert asked[2] == asked[1] > 0
    project = reconcile(context, NUMBER)
    assert known(context, project) == true(played)


def test_a_changed_config_reads_everything_again(context: Context, played: PlayedLabelStudio) -> None:
    first, *_ = played.tasks
    played.annotate(first, [{**LIGHT[0], "value": {"choices": ["grey"]}}])
    project = reconcile(context, NUMBER)
    played.label_config = CONFIG.replace("</Choices>", '<Choice value="grey"/></Choices>')
    project = reconcile(context, NUMBER)
    assert known(context, project) == true(played)


def test_a_training_goes_on_with_what_was_confirmed(context: Context, played: PlayedLabelStudio) -> None:
    for number, task in enumerate(list(played.tasks)[:4]):
        played.annotate(task, DARK if number % 2 == 0 else LIGHT)
    project = reconcile(context, NUMBER)
    claim = Annotation(999, list(played.tasks)[5], 1, datetime(2030, 1, 1, tzinfo=UTC), label="dark")
    context.store.annotations.put(project.key, [claim])
    played.broken = True
    told: list[str] = []
    version = train(context, project, lambda _progress, message: told.append(message))
    assert version.card["images"] == 4
    assert "Label Studio does not answer; 1 tasks that changed wait for the next training" in told
    played.broken = False
    with pytest.raises(LabelStudioError, match="404"):
        reconcile(context, 77)


def test_a_short_absence_is_waited_out(
    context: Context, played: PlayedLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.broken = True
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        played.broken = len(pauses) < 2

    monkeypatch.setattr("backend.jobs.patience._PAUSES_S", (1.0, 2.0, 4.0))
    monkeypatch.setattr("backend.jobs.patience.time.sleep", pause)
    assert known(context, reconcile(context, NUMBER)) == true(played)
    assert pauses == [1.0, 2.0]


def test_a_sync_asks_for_what_is_due(context: Context, played: PlayedLabelStudio) -> None:
    tasks = list(played.tasks)
    played.annotate(tasks[0], DARK)
    played.annotate(tasks[1], LIGHT)
    project = reconcile(context, NUMBER)
    sync(context, project, lambda _progress, _message: None)
    assert context.store.jobs.list(project.key) == []
    played.annotate(tasks[2], DARK)
    sync(context, project, lambda _progress, _message: None)
    (job,) = context.store.jobs.list(project.key)
    assert job.kind is JobKind.TRAIN
    context.store.jobs.cancel(job.id)
    train(context, project, lambda _progress, _message: None)
    (scoring,) = [job for job in context.store.jobs.list(project.key) if job.kind is JobKind.SCORE]
    context.store.jobs.cancel(scoring.id)
    sync(context, project, lambda _progress, _message: None)
    waiting = [job.kind for job in context.store.jobs.list(project.key) if job.finished_at is None]
    assert waiting == [JobKind.SCORE], "Label Studio does not serve by the new version yet"


def publish(context: Context, played: PlayedLabelStudio) -> Project:
    for number, task in enumerate(list(played.tasks)[:4]):
        played.annotate(task, DARK if number % 2 == 0 else LIGHT)
    project = reconcile(context, NUMBER)
    train(context, project, quiet)
    return project


def assert_served(context: Context, project: Project, played: PlayedLabelStudio) -> None:
    """Exactly one current set of predictions, in the right order."""
    active = context.store.versions.active(project.key)
    assert active is not None
    assert played.model_version == active.name
    assert {one["model_version"] for one in played.predictions.values()} == {active.name}
    assert sorted(one["task"] for one in played.predictions.values()) == sorted(played.tasks)
    assert played.order() == context.store.projects.options(project.key)["front"]


def test_label_studio_stopped_anywhere_while_it_is_put_in_order(
    context: Context, played: PlayedLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.labelstudio.client._PUSH_CHUNK", 2)
    project = publish(context, played)
    played.model_version = "an older one"
    mended: list[float] = []

    def mend(seconds: float) -> None:
        played.broken, played.breaks_in = False, None
        mended.append(seconds)

    monkeypatch.setattr("backend.jobs.patience.time.sleep", mend)
    for requests in range(100):
        before = len(mended)
        played.model_version, played.breaks_in = "", requests
        for number in list(played.predictions)[1::2]:
            del played.predictions[number]
        score(context, project, quiet)
        played.broken, played.breaks_in = False, None
        assert_served(context, project, played)
        if len(mended) == before:
            break
    assert 5 < requests < 99


def test_label_studio_stopped_for_good_gets_the_order_later(context: Context, played: PlayedLabelStudio) -> None:
    project = publish(context, played)
    played.breaks_in = 3
    with pytest.raises(LabelStudioError, match="503"):
        score(context, project, quiet)
    assert context.store.projects.options(project.key)["front"] == [], "whatever is annotated now has it made anew"
    played.broken, played.breaks_in = False, None
    score(context, project, quiet)
    assert_served(context, project, played)
