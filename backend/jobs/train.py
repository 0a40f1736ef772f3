"""Fits a new version to the clicks, evaluates it, publishes it and, if it is no worse, serves it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain import REGION_SIDE, Example, Guidance, JobKind, LookhereError, ModelVersion, Project, Region
from backend.guidance.classifier import Classifier, create, device_of, load, save
from backend.guidance.metrics import Metrics, evaluate
from backend.guidance.training import FitSettings, fit
from backend.jobs.context import Context, Report
from backend.jobs.reconcile import reconcile
from backend.labelstudio.client import LabelStudioError
from backend.labelstudio.labelconfig import read_roles
from backend.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_HELD_OUT = 10
"""One labelled task in this many is kept for evaluation."""
_FEWEST_CLICKED_TO_HOLD_OUT = 20
"""Below this, every clicked task teaches: a few clicks measure little and mean much."""
_TOLERANCE = 0.05
"""What a version may lose on the held-out tasks, beside what chance explains, and still be served."""
_LIBRARIES = ("lookhere", "torch", "torchvision", "numpy", "scikit-image")


@dataclass(frozen=True)
class Split:
    """The examples of a project, and which of them only evaluate."""

    training: Sequence[Example]
    held_out: Sequence[Example]


def train(context: Context, project: Project, report: Report) -> ModelVersion:
    """Fit, evaluate and publish a version from everything the project knows.

    Args:
        context: what the job works with.
        project: whose classifier is trained.
        report: told the progress.

    Returns:
        The new version, active unless it is worse than the one served, in accuracy or attention.

    Raises:
        LookhereError: if Label Studio refuses, fewer than two classes have a labelled task, or the label config cannot
            work.
    """
    begun = time.monotonic()
    if context.client is not None:
        report(0.0, "reading the project from Label Studio")
        project = _reconciled(context, project, report)
    store, settings = context.store, context.settings
    classes = read_roles(project.label_config).classes
    revision = store.annotations.latest_revision(project.key)
    guidance = store.annotations.guidance(project.key, confirmed=context.client is not None)
    split = examples(context, project, guidance, classes)
    _need_two_classes(split, classes, project)

    active = store.versions.active(project.key)
    parent = starting_point(context, active, classes)
    fit_settings = FitSettings(seed=settings.seed, time_budget_s=settings.time_budget_s)
    classifier = fit(
        parent,
        split.training,
        fit_settings,
        workdir=settings.data_dir / "work" / str(project.key),
        on_progress=lambda progress, message: report(0.1 + 0.7 * progress, message),
    )
    report(0.8, "evaluating")
    metrics = evaluate(classifier, split.held_out)
    # Where the classes have changed there is nothing to compare: `parent` is new.
    comparable = active is not None and bool(parent.head.weight.any())
    served = evaluate(parent, split.held_out) if comparable else None
    refused = worse(metrics, served) if served else None
    card = {
        "backbone": classifier.spec.backbone,
        "wanted": _wanted(settings),
        "classes": list(classes),
        "parent": active.name if active else None,
        "revision": revision,
        "data": _data_hash(guidance),
        "images": len(split.training),
        "clicked": sum(example.guides for example in split.training),
        "fit": asdict(fit_settings),
        "metrics": metrics.to_json(),
        "parent_metrics": served.to_json() if served else None,
        "refused": refused,
        "seconds": round(time.monotonic() - begun, 1),
        "libraries": {name: installed(name) for name in _LIBRARIES},
    }
    version = store.versions.publish(project.key, lambda folder: save(classifier, folder), card)
    store.versions.prune(project.key, settings.keep_versions)
    if active is not None and refused is not None:
        log.warning("Version %s is not activated: on the held-out tasks its %s.", version.name, refused)
        report(1.0, f"{version.name} is published, but {active.name} stays active: {refused}")
        return version
    store.versions.activate(project.key, version.name)
    store.jobs.request(project.key, JobKind.SCORE)
    report(1.0, f"{version.name} is active")
    return store.versions.get(project.key, version.name) or version


def examples(context: Context, project: Project, guidance: Sequence[Guidance], classes: Sequence[str]) -> Split:
    """What the tasks of a project teach, with their images on this machine.

    Tasks without a class of the config are left out, and so are images that cannot be had.

    Args:
        context: what the job works with.
        project: whose tasks they are.
        guidance: what each task teaches.
        classes: of the label config, in order.
    """
    index = {name: place for place, name in enumerate(classes)}
    taught = [item for item in guidance if item.label in index]
    paths = context.fetch_all(project, [item.task for item in taught])
    hold_clicks = sum(bool(item.clicks) or item.region is not None for item in taught) >= _FEWEST_CLICKED_TO_HOLD_OUT
    training: list[Example] = []
    held_out: list[Example] = []
    for item, path in zip(taught, paths, strict=True):
        if path is None or item.label is None:
            continue
        # What contradiction has left nothing of says nothing, not even that somebody looked.
        clicks = tuple(click for click in item.clicks if click.agreement > 0)
        example = Example(path, index[item.label], clicks, _mask(item.region))
        keep = _is_held_out(item.task.id) and (hold_clicks or not example.guides)
        (held_out if keep else training).append(example)
    return Split(training, held_out)


def starting_point(context: Context, active: ModelVersion | None, classes: Sequence[str]) -> Classifier:
    """The classifier that a training starts from: the active version, or a new one where another kind is wanted."""
    if active is not None and active.card.get("wanted", _wanted(context.settings)) != _wanted(context.settings):
        log.warning("Another classifier than version %s is wanted; it starts anew.", active.name)
    elif active is not None:
        classifier = load(active.folder, device_of(context.settings.device))
        if classifier.spec.classes == tuple(classes):
            return classifier
        log.warning("The classes have changed since version %s; the classifier starts anew.", active.name)
    settings = context.settings
    start = create(settings.backbone, tuple(classes), settings.image_size, settings.weights, settings.seed)
    return start.to(device_of(settings.device))


def _mask(region: Region | None) -> NDArray[np.bool_] | None:
    """(S, S), the cells of a region."""
    if region is None:
        return None
    return np.unpackbits(np.frombuffer(region, np.uint8)).reshape(REGION_SIDE, REGION_SIDE).astype(np.bool_)


def _wanted(settings: Settings) -> list[Any]:
    """What of a classifier is set: one that has it already is taken further, another one starts anew."""
    return [settings.backbone, settings.image_size]


def _reconciled(context: Context, project: Project, report: Report) -> Project:
    options, annotations = context.store.projects, context.store.annotations
    begun_at = annotations.latest_revision(project.key)
    try:
        project = reconcile(context, project.number, report)
    except LabelStudioError as error:
        if not error.passing:
            raise
        # What events claim counts when it has been read from Label Studio: the next one asks for a training anew.
        options.set_options(project.key, {"asked_revision": None})
        waiting = len(annotations.unconfirmed(project.key))
        log.warning("Project %s is trained without %s tasks that changed: %s", project.number, waiting, error)
        report(0.0, f"Label Studio does not answer; {waiting} tasks that changed wait for the next training")
    else:
        # What came while this read is not confirmed yet, and must count as new.
        came_meanwhile = annotations.unconfirmed(project.key)
        known = begun_at if came_meanwhile else annotations.latest_revision(project.key)
        options.set_options(project.key, {"asked_revision": known})
    return project


def _need_two_classes(split: Split, classes: Sequence[str], project: Project) -> None:
    found = {example.label for example in split.training}
    if len(found) < 2:
        names = ", ".join(classes[label] for label in found if label is not None) or "none"
        raise LookhereError(
            f"Expected labelled images of at least two classes in project {project.number}, got {names}; choose the "
            "class of a few images of each, then train again."
        )


def _is_held_out(task: int) -> bool:
    # By hash, so that a task never moves between training and evaluation from one version to the next.
    return hashlib.sha256(str(task).encode()).digest()[0] % _HELD_OUT == 0


def worse(new: Metrics, served: Metrics) -> str | None:
    """What is worse about a version on the held-out tasks, beyond a tolerance and chance; None if nothing is.

    Args:
        new: of the version that may be activated.
        served: of the active version, on the same tasks.
    """
    gates = (
        ("accuracy", new.accuracy, served.accuracy, new.images, +1),
        ("share of “Look here” clicks under the attention's peak", new.look_accuracy, served.look_accuracy,
         new.look_clicks, +1),
        ("share of the attention on what is to be ignored", new.ignored_energy, served.ignored_energy,
         new.ignore_clicks, -1),
    )  # fmt: skip
    for name, found, before, count, better in gates:
        if count and better * (before - found) > max(_TOLERANCE, _chance(before, found, count)):
            return f"{name} is {found:.0%}, of the active version {before:.0%}"
    return None


def _chance(one: float, other: float, count: int) -> float:
    """Two standard deviations of the difference between two shares among so many, with Laplace's rule for few."""
    share = (count * (one + other) + 1) / (2 * count + 2)
    return 2 * math.sqrt(2 * share * (1 - share) / count)


def _data_hash(guidance: Sequence[Guidance]) -> str:
    facts = sorted((item.task.id, item.task.image, item.label, repr((item.clicks, item.region))) for item in guidance)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
