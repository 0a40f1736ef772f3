"""From annotations to a served version, without Label Studio."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from backend.domain import REGION_SIDE, Annotation, JobKind, JobState, LookhereError, Project
from backend.guidance.classifier import load
from backend.guidance.metrics import Metrics
from backend.jobs.context import Context
from backend.jobs.local import LocalEngine
from backend.jobs.score import score
from backend.jobs.train import examples, train, worse


def quiet(_progress: float, _message: str) -> None:
    pass


def test_a_training_publishes_and_activates_a_version_and_asks_for_its_scores(
    context: Context, project: Project
) -> None:
    version = train(context, project, quiet)
    assert version.active
    assert version.card["clicked"] == 2
    assert version.card["parent"] is None
    assert load(version.folder).spec.classes == ("light", "dark")
    assert [job.kind for job in context.store.jobs.list(project.key)] == [JobKind.SCORE]
    score(context, project, quiet)
    again = train(context, project, quiet)
    assert again.name != version.name
    assert again.card["parent"] == version.name


def test_outlines_that_a_project_has_already_guide_like_clicks(context: Context, project: Project) -> None:
    cells = np.zeros((REGION_SIDE, REGION_SIDE), bool)
    cells[: REGION_SIDE * 3 // 8, : REGION_SIDE * 3 // 8] = True
    for number in (6, 7, 8):
        label = "light" if number % 2 else "dark"
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        outlined = Annotation(number, number, 1, moment, label=label, region=np.packbits(cells).tobytes())
        context.store.annotations.put(project.key, [outlined])
    guidance = context.store.annotations.guidance(project.key)
    taught = examples(context, project, guidance, ("light", "dark")).training
    masks = {example.image.name: example.region for example in taught if example.region is not None}
    assert masks.keys() == {"6.png", "7.png", "8.png"}
    assert all(np.array_equal(mask, cells) for mask in masks.values())
    assert train(context, project, quiet).card["clicked"] == 5


def test_an_image_that_is_gone_costs_itself_alone(context: Context, project: Project, tmp_path: Path) -> None:
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no image")
    before = len(context.store.annotations.tasks(project.key))
    version = train(context, project, quiet)
    assert version.active
    assert version.card["images"] <= before - 2


def test_one_class_alone_is_not_trained(context: Context, project: Project) -> None:
    context.store.annotations.remove_tasks(project.key, range(1, 12, 2))
    with pytest.raises(LookhereError, match="at least two classes"):
        train(context, project, quiet)


def test_other_classes_begin_anew(context: Context, project: Project) -> None:
    train(context, project, quiet)
    wider = context.store.projects.ensure(
        "http://labels", 1, project.label_config.replace("</Choices>", '<Choice value="grey"/></Choices>')
    )
    assert load(train(context, wider, quiet).folder).spec.classes == ("light", "dark", "grey")


def test_a_job_runs_in_a_process_of_its_own_and_reports(context: Context, project: Project) -> None:
    engine = LocalEngine(context.settings, context.store)
    asked = context.store.jobs.request(project.key, JobKind.TRAIN)
    ended = engine.run_next()
    assert ended is not None
    assert (ended.id, ended.state, ended.progress) == (asked.id, JobState.SUCCEEDED, 1.0)
    *_, last = context.store.jobs.log(asked.id)
    assert last.endswith(ended.message)
    active = context.store.versions.active(project.key)
    assert active is not None
    assert ended.message == f"{active.name} is active"


def test_a_failed_job_says_why(context: Context, project: Project) -> None:
    context.store.annotations.remove_tasks(project.key, range(12))
    context.store.jobs.request(project.key, JobKind.TRAIN)
    ended = LocalEngine(context.settings, context.store).run_next()
    assert ended is not None
    assert ended.state is JobState.FAILED
    assert "at least two classes" in ended.error


def test_a_cancelled_job_stops(context: Context, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = context.store.jobs.request(project.key, JobKind.TRAIN)
    heartbeat = context.store.jobs.heartbeat

    def cancel_then_beat(*beat: object) -> bool:
        context.store.jobs.cancel(asked.id)
        return heartbeat(*beat)  # type: ignore[arg-type]

    monkeypatch.setattr(context.store.jobs, "heartbeat", cancel_then_beat)
    ended = LocalEngine(context.settings, context.store).run_next()
    assert ended is not None
    assert ended.state is JobState.CANCELLED
    assert context.store.versions.active(project.key) is None


def metrics(**figures: float) -> Metrics:
    whole = {"images": 100, "look_clicks": 40, "ignore_clicks": 40}
    shares = {"accuracy": 0.9, "calibration_error": 0.1, "look_accuracy": 0.8, "ignored_energy": 0.2}
    return Metrics(**{**whole, **shares, **figures})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, None),
        ({"accuracy": 0.7}, "accuracy is 70%, of the active version 90%"),
        ({"accuracy": 0.86}, None),
        ({"look_accuracy": 0.5}, "Look here"),
        ({"look_accuracy": 0.5, "look_clicks": 4}, None),
        ({"look_accuracy": 0.0, "look_clicks": 2}, None),
        ({"look_accuracy": 0.0, "look_clicks": 0}, None),
        ({"ignored_energy": 0.5}, "to be ignored"),
        ({"ignored_energy": 0.0, "accuracy": 1.0}, None),
    ],
)
def test_what_is_worse_beyond_chance_is_not_served(figures: dict[str, float], said: str | None) -> None:
    found = worse(metrics(**figures), metrics())
    assert (found is None) if said is None else (found is not None and said in found)


def test_a_version_that_lost_its_attention_is_published_and_not_served(
    context: Context, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(context, project, quiet)
    figures = iter([metrics(look_accuracy=0.1), metrics()])
    monkeypatch.setattr("backend.jobs.train.evaluate", lambda _classifier, _examples: next(figures))
    second = train(context, project, quiet)
    assert not second.active
    active = context.store.versions.active(project.key)
    assert active is not None
    assert active.name == first.name
    assert "Look here" in second.card["refused"]
    assert second.card["metrics"]["look_accuracy"] == 0.1
    assert second.card["parent_metrics"]["look_accuracy"] == 0.8
