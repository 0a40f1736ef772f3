"""Scores the pool with the active version and puts predictions and order into Label Studio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain import Guidance, LookhereError, ModelVersion, Origin, Project, ScoredTask
from backend.inference import Inference
from backend.jobs.context import Context, Report
from backend.jobs.patience import patiently
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.images import upright_size
from backend.labelstudio.labelconfig import Roles, read_roles
from backend.labelstudio.predictions import prediction_to_json
from backend.selection.priority import AHEAD, amended, cells, scores
from backend.state.versions import is_version_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES_PER_STEP = 64


def score(context: Context, project: Project, report: Report) -> None:
    """Predict every task, rank them, and make Label Studio serve them in that order.

    What the active version predicted already is not predicted again, and what Label Studio has already is not sent
    again: after an annotation or an import this costs the new tasks and the front of the order.

    Args:
        context: what the job works with.
        project: whose pool is scored.
        report: told the progress.

    Raises:
        LookhereError: if the project has no version, or Label Studio cannot be asked.
    """
    version = context.store.versions.active(project.key)
    if version is None:
        raise LookhereError("Expected an active version to score with, got none; train one first: `lookhere train`.")
    roles = read_roles(project.label_config)
    guidance = context.store.annotations.guidance(project.key)
    pool = _predicted(context, project, version, guidance, report)
    items, said = [item for item, _ in pool], [one for _, one in pool]
    annotated = np.array([item.annotated for item in items], bool)
    predictions = [one.prediction for one in said]
    contested = np.array([item.contested for item in items], bool)
    fresh = scores(
        predictions,
        annotated.tolist(),
        [_corrected(item) for item in items],
        contested.tolist(),
        context.settings.strategy,
    )
    # One more annotator is to decide them: they are served like those that nobody has seen.
    done = annotated & ~contested
    served = np.array([one.score for one in said])
    # Whatever stops this, what is annotated from here on is not in the order, and has it made anew.
    context.store.projects.set_options(project.key, {"front": []})
    order: NDArray[np.floating] = fresh
    if context.client is None:
        report(1.0, f"scored {len(said)} tasks; without a credential they are not put into Label Studio")
    else:
        groups = cells(predictions, fresh, done) if _is_team(context, project) else [None] * len(said)
        putting = _Putting(context.client, project, version, roles, said, groups, report)
        order = patiently(lambda: putting.put(served, fresh, done), report)
    context.store.pools.save(project.key, version.name, [item.task.image for item in items], _rescored(said, order))
    open_ = np.flatnonzero(~done)
    front = open_[np.argsort(order[open_], kind="stable")][:AHEAD]
    context.store.projects.set_options(project.key, {"front": [items[place].task.id for place in front]})
    report(1.0, f"{len(said)} tasks are in the order of {version.name}")


def _predicted(
    context: Context, project: Project, version: ModelVersion, guidance: Sequence[Guidance], report: Report
) -> list[tuple[Guidance, ScoredTask]]:
    """The tasks that can be predicted, with what was predicted; the score is the last one given, NaN where none was."""
    classes = set(read_roles(project.label_config).classes)
    known = dict(context.store.pools.load(project.key, version.name))
    new = [item for item in guidance if (item.task.id, item.task.image) not in known]
    report(0.0, f"reading {len(new)} images")
    fetched = zip(new, context.fetch_all(project, [item.task for item in new]), strict=True)
    readable: list[tuple[Guidance, Path]] = [(item, path) for item, path in fetched if path is not None]
    inference = Inference.shared(context.settings.device)
    for start in range(0, len(readable), _IMAGES_PER_STEP):
        step = readable[start : start + _IMAGES_PER_STEP]
        answers = inference.predict(str(version.folder), [str(path) for _, path in step])
        for (item, path), answer in zip(step, answers, strict=True):
            if answer is not None:
                task = item.task
                known[task.id, task.image] = ScoredTask(task.id, answer, math.nan, upright_size(path))
        report(0.1 + 0.6 * (start + len(step)) / len(readable), f"scored {start + len(step)} of {len(readable)} images")
    pool = ((item, known.get((item.task.id, item.task.image))) for item in guidance)
    return [(item, one) for item, one in pool if one is not None and one.prediction.label in classes]


@dataclass(frozen=True)
class _Putting:
    """Puts a scored pool into Label Studio. Stopped anywhere, it is done by doing it again."""

    client: LabelStudioClient
    project: Project
    version: ModelVersion
    roles: Roles
    said: Sequence[ScoredTask]
    groups: Sequence[int | None]
    report: Report

    def put(
        self, served: NDArray[np.floating], fresh: NDArray[np.floating], done: NDArray[np.bool_]
    ) -> NDArray[np.floating]:
        """Send what Label Studio lacks, or everything if it does not serve by what was put into it last.

        Args:
            served: (N,) the scores that were put last, NaN where there was none.
            fresh: (N,) the scores as they would be now.
            done: (N,) which tasks are not to be served again.

        Returns:
            (N,) the scores that Label Studio has.
        """
        if self._serves(int(np.isfinite(served).sum())):
            order = amended(served, fresh, done)
            self._amend(served, order)
            return order
        self.report(0.7, f"putting {len(self.said)} predictions into Label Studio")
        everything = self._to_json(_rescored(self.said, fresh), self.groups)
        self.client.publish_predictions(self.project.number, everything, self.version.name, is_version_name)
        return fresh

    def _serves(self, count: int) -> bool:
        """Whether Label Studio serves by what was put into it last: so many predictions of this version."""
        return (
            count > 0
            and self.client.project(self.project.number).model_version == self.version.name
            and self.client.predicted_versions(self.project.number).get(self.version.name) == count
        )

    def _amend(self, served: NDArray[np.floating], order: NDArray[np.floating]) -> None:
        rescored = _rescored(self.said, order)
        new = np.flatnonzero(np.isnan(served))
        told = self._to_json([rescored[place] for place in new], [self.groups[place] for place in new])
        self.client.push_predictions(self.project.number, told)
        for place in np.flatnonzero(np.isfinite(served) & (order != served)):
            change = {"score": rescored[place].score, "cluster": self.groups[place]}
            self.client.amend_prediction(rescored[place].task, self.version.name, change)

    def _to_json(self, scored: Sequence[ScoredTask], groups: Sequence[int | None]) -> list[dict[str, Any]]:
        return [
            {"task": one.task, **prediction_to_json(one, self.roles, self.version.name)}
            | ({} if group is None else {"cluster": group})
            for one, group in zip(scored, groups, strict=True)
        ]


def _rescored(said: Sequence[ScoredTask], order: NDArray[np.floating]) -> list[ScoredTask]:
    return [replace(one, score=float(value)) for one, value in zip(said, order, strict=True)]


def _is_team(context: Context, project: Project) -> bool:
    people = {one.annotator for one in context.store.annotations.annotations(project.key)}
    return len(people - {None}) > 1


def _corrected(item: Guidance) -> bool | None:
    """Whether the annotators put the attention elsewhere; None where they said nothing of it."""
    if not item.clicks:
        return None
    return any(click.origin is not Origin.CONFIRMED for click in item.clicks)
