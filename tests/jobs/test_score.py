"""What scoring predicts and sends, and what it leaves as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.domain import Annotation, Project, Task
from backend.inference import Inference
from backend.jobs.context import Context
from backend.jobs.score import score
from backend.jobs.train import train


def quiet(_progress: float, _message: str) -> None:
    pass


class Stored:
    """The predictions of one project, as Label Studio stores them: by task, for one version."""

    def __init__(self) -> None:
        self.version = ""
        self.predictions: dict[int, dict[str, Any]] = {}
        self.said: list[str] = []

    def project(self, _number: int) -> Any:
        return SimpleNamespace(model_version=self.version)

    def predicted_versions(self, _number: int) -> dict[str, int]:
        return {self.version: len(self.predictions)} if self.predictions else {}

    def publish_predictions(
        self, _number: int, predictions: Sequence[Mapping[str, Any]], version: str, _ours: Callable[[str], bool]
    ) -> None:
        self.said.append(f"publish {len(predictions)}")
        self.version = version
        self.predictions = {one["task"]: dict(one) for one in predictions}

    def push_predictions(self, _number: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        if predictions:
            self.said.append(f"push {sorted(one['task'] for one in predictions)}")
        self.predictions |= {one["task"]: dict(one) for one in predictions}
        return len(predictions)

    def amend_prediction(self, task: int, version: str, change: Mapping[str, Any]) -> None:
        assert version == self.version
        self.said.append(f"amend {task}")
        self.predictions[task].update(change)

    def order(self) -> list[int]:
        return sorted(self.predictions, key=lambda task: self.predictions[task]["score"])


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def trained(context: Context, project: Project, stored: Stored) -> Context:
    train(context, project, quiet)
    context.__dict__["client"] = stored
    score(context, project, quiet)
    assert stored.said == ["publish 12"]
    stored.said.clear()
    return context


def annotate(context: Context, project: Project, task: int, annotator: int = 1) -> None:
    answer = Annotation(100 + task, task, annotator, datetime(2026, 1, 2, tzinfo=UTC), label="dark")
    context.store.annotations.put(project.key, [answer])


def test_scoring_again_sends_nothing(trained: Context, project: Project, stored: Stored) -> None:
    score(trained, project, quiet)
    assert stored.said == []


def test_annotating_in_the_order_sends_nothing(trained: Context, project: Project, stored: Stored) -> None:
    first, second, *_ = stored.order()
    annotate(trained, project, first)
    annotate(trained, project, second)
    score(trained, project, quiet)
    assert stored.said == []
    assert trained.store.projects.options(project.key)["front"][0] == stored.order()[2]


def test_annotations_from_elsewhere_change_only_the_front(trained: Context, project: Project, stored: Stored) -> None:
    before = dict(stored.predictions)
    for task in [task for task in stored.order() if task not in (4, 5)][-4:]:
        annotate(trained, project, task)
    score(trained, project, quiet)
    assert all(said.startswith("amend") for said in stored.said)
    done = {item.task.id for item in trained.store.annotations.guidance(project.key) if item.annotated}
    open_order = [task for task in stored.order() if task not in done]
    assert trained.store.projects.options(project.key)["front"] == open_order
    assert {task: one["result"] for task, one in stored.predictions.items()} == {
        task: one["result"] for task, one in before.items()
    }


def test_a_new_task_alone_is_predicted_and_sent(
    trained: Context, project: Project, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    inference = Inference.shared(trained.settings.device)
    predict = inference.predict
    monkeypatch.setattr(inference, "predict", lambda folder, paths: (asked.extend(paths), predict(folder, paths))[1])
    (tmp_path / "new.png").write_bytes((tmp_path / "3.png").read_bytes())
    trained.store.annotations.put_tasks(project.key, [Task(77, (tmp_path / "new.png").as_uri())])
    score(trained, project, quiet)
    assert [Path(path).name for path in asked] == ["new.png"]
    assert "push [77]" in stored.said
    assert len(stored.predictions) == 13


def test_what_went_missing_in_label_studio_is_put_back(trained: Context, project: Project, stored: Stored) -> None:
    del stored.predictions[7]
    score(trained, project, quiet)
    assert stored.said == ["publish 12"]
    stored.said.clear()
    stored.version = "another"
    score(trained, project, quiet)
    assert stored.said == ["publish 12"]


def test_a_deleted_task_costs_nothing(trained: Context, project: Project, stored: Stored) -> None:
    trained.store.annotations.remove_tasks(project.key, [7])
    del stored.predictions[7]
    score(trained, project, quiet)
    assert all(said.startswith("amend") for said in stored.said)


def test_a_team_is_led_around_in_groups(trained: Context, project: Project, stored: Stored) -> None:
    assert not any("cluster" in one for one in stored.predictions.values())
    annotate(trained, project, 0, annotator=2)
    stored.version = ""
    score(trained, project, quiet)
    grouped = {task for task, one in stored.predictions.items() if "cluster" in one}
    assert grouped == set(trained.store.projects.options(project.key)["front"])
