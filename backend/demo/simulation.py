"""A simulated annotator clicks, in rounds, through Label Studio's own API; everything else is the real thing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from PIL import Image

from backend.demo.annotator import SimulatedAnnotator, result_json
from backend.demo.demonstration import Demonstration, stage
from backend.demo.digits import DigitImage, generate
from backend.domain import JobState, LookhereError, ModelVersion, Project
from backend.guidance.classifier import Classifier, load
from backend.guidance.metrics import energy_pointing_game, worst_group_accuracy
from backend.guidance.predicting import predict
from backend.guidance.training import FitSettings, fit
from backend.jobs.context import Context
from backend.jobs.train import examples
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.labelconfig import read_roles

ROUNDS = 3
TEST_IMAGES = 1000
TEST_SEED = 1
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Measured:
    """A classifier on the balanced test set.

    Attributes:
        accuracy: share of images whose class is right.
        worst_group: the lowest accuracy over the groups.
        energy_pointing_game: mean share of the attention's energy inside the digit.
    """

    accuracy: float
    worst_group: float
    energy_pointing_game: float


@dataclass(frozen=True)
class Round:
    """A row of the table: after so many clicked images, with guidance and without."""

    clicked: int
    version: str
    guided: Measured
    control: Measured


def simulate(running: Demonstration, report: Path) -> None:
    """Click through the rounds, print the table and write it as JSON.

    Args:
        running: the demonstration.
        report: the JSON file that is written.

    Raises:
        LookhereError: if a stage failed, Label Studio did not serve our order, or the worst group did not improve.
    """
    context = Context.open(running.settings)
    client = LabelStudioClient(running.settings.label_studio_url, running.token)
    annotator = SimulatedAnnotator(seed=TEST_SEED)
    test = generate("test", TEST_IMAGES, TEST_SEED)
    version = _active(context, running)
    control = load(version.folder)
    measured = measure(control, test)
    rounds = [Round(0, version.name, measured, measured)]
    for number in range(1, ROUNDS + 1):
        with stage(f"Round {number}: {running.settings.train_after} clicks"):
            scores = _open_scores(client, running.project)
            for _ in range(running.settings.train_after):
                _annotate_next(running, client, annotator, scores)
        with stage(f"Round {number}: training, scoring and the new order"):
            version = _await_new_version(context, client, running, version.name)
        with stage(f"Round {number}: the same without guidance, and measuring both"):
            control = _without_clicks(context, running, control)
            clicked = number * running.settings.train_after
            rounds.append(Round(clicked, version.name, measure(load(version.folder), test), measure(control, test)))
    _print_table(rounds)
    report.write_text(json.dumps([asdict(one) for one in rounds], indent=1))
    if rounds[-1].guided.worst_group <= rounds[0].guided.worst_group:
        raise LookhereError("The worst group did not improve over the biased classifier.")
    if rounds[-1].guided.worst_group <= rounds[-1].control.worst_group:
        raise LookhereError("The worst group did not improve over the same rounds without guidance.")


def measure(classifier: Classifier, test: Sequence[DigitImage]) -> Measured:
    """Measure a classifier on images whose masks are known."""
    predictions = predict(classifier, [Image.fromarray(image.image) for image in test])
    correct = np.array([said.label == image.label for said, image in zip(predictions, test, strict=True)])
    inside = [energy_pointing_game(said.attention, image.mask) for said, image in zip(predictions, test, strict=True)]
    return Measured(
        accuracy=float(correct.mean()),
        worst_group=worst_group_accuracy(correct, [image.group for image in test]),
        energy_pointing_game=float(np.mean(inside)),
    )


def _annotate_next(
    running: Demonstration, client: LabelStudioClient, annotator: SimulatedAnnotator, scores: dict[int, float]
) -> None:
    """Answer the task that Label Studio serves next, and take it out of the open ones' scores."""
    with httpx.Client(base_url=client.url, headers=client.authorization(), timeout=60.0) as label_studio:
        task = _answer(label_studio.get(f"/api/projects/{running.project}/next"))
        lowest = min(scores, key=scores.__getitem__)
        if task["id"] != lowest:
            raise LookhereError(
                f"Expected Label Studio to serve the open task with our lowest score, {lowest}, got {task['id']}."
            )
        del scores[lowest]
        (prediction,) = task["predictions"]
        image = running.images[Path(task["data"]["image"]).name]
        answer = {
            "result": result_json(annotator, task, prediction, image),
            "parent_prediction": prediction["id"],
            "lead_time": 3.0,
        }
        _answer(label_studio.post(f"/api/tasks/{task['id']}/annotations/", json=answer))


def _open_scores(client: LabelStudioClient, project: int) -> dict[int, float]:
    """Task id to the score of its prediction, of the tasks that nobody labelled."""
    return {
        task["id"]: float(prediction["score"])
        for task in client.tasks(project)
        if not task["is_labeled"]
        for prediction in task["predictions"]
    }


def _answer(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise LookhereError(f"Label Studio answered {response.status_code} to {response.request.url}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def _active(context: Context, running: Demonstration) -> ModelVersion:
    version = context.store.versions.active(_project(context, running).key)
    if version is None:
        raise LookhereError("Expected the project to have an active version, found none.")
    return version


def _project(context: Context, running: Demonstration) -> Project:
    return context.store.projects.ensure(running.settings.label_studio_url, running.project)


def _await_new_version(context: Context, client: LabelStudioClient, running: Demonstration, old: str) -> ModelVersion:
    """Wait until another version is active and its order stands in Label Studio."""
    project = _project(context, running)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        version = _active(context, running)
        jobs = context.store.jobs.list(project.key)
        for job in jobs:
            if job.state is JobState.FAILED:
                raise LookhereError(f"The {job.kind} job {job.id} failed: {job.error}")
        idle = all(job.state is JobState.SUCCEEDED for job in jobs)
        if idle and version.name != old and client.project(running.project).model_version == version.name:
            return version
        time.sleep(0.5)
    raise LookhereError(f"Expected a new version within {_PATIENCE_S:.0f} s of the round's last click, found none.")


def _without_clicks(context: Context, running: Demonstration, parent: Classifier) -> Classifier:
    """The control: the same images, classes and fine-tuning, without the clicks."""
    project = _project(context, running)
    classes = read_roles(project.label_config).classes
    split = examples(context, project, context.store.annotations.guidance(project.key), classes)
    blind = [replace(example, clicks=()) for example in split.training]
    return fit(parent, blind, FitSettings(seed=running.settings.seed))


def _print_table(rounds: Sequence[Round]) -> None:
    click.echo("\n          |        guided by clicks         |     same rounds, no guidance")
    click.echo("  clicked | accuracy  worst group    energy | accuracy  worst group    energy")
    for one in rounds:
        click.echo(f"  {one.clicked:7} | {_figures(one.guided)} | {_figures(one.control)}")


def _figures(measured: Measured) -> str:
    return f"{measured.accuracy:8.1%}  {measured.worst_group:11.1%}  {measured.energy_pointing_game:8.2f}"
