"""Scores the pool with the active version and puts predictions and order into Label Studio."""

from __future__ import annotations

from pathlib import Path

from backend.domain import Guidance, LookhereError, Origin, Prediction, Project, ScoredTask
from backend.inference import Inference
from backend.jobs.context import Context, Report
from backend.labelstudio.images import upright_size
from backend.labelstudio.labelconfig import read_roles
from backend.labelstudio.predictions import prediction_to_json
from backend.selection.priority import scores
from backend.state.versions import is_version_name

_IMAGES_PER_STEP = 64


def score(context: Context, project: Project, report: Report) -> None:
    """Predict every task, rank them, and make Label Studio serve them in that order.

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
    report(0.0, f"reading {len(guidance)} images")
    fetched = zip(guidance, context.fetch_all(project, [item.task for item in guidance]), strict=True)
    readable = [(item, path) for item, path in fetched if path is not None]
    inference = Inference.shared(context.settings.device)
    predicted: list[tuple[Guidance, Path, Prediction]] = []
    for start in range(0, len(readable), _IMAGES_PER_STEP):
        step = readable[start : start + _IMAGES_PER_STEP]
        answers = inference.predict(str(version.folder), [str(path) for _, path in step])
        predicted += [
            (item, path, answer)
            for (item, path), answer in zip(step, answers, strict=True)
            if answer is not None and answer.label in roles.classes
        ]
        report(0.1 + 0.6 * (start + len(step)) / len(readable), f"scored {start + len(step)} of {len(readable)} images")
    order = scores(
        [prediction for _, _, prediction in predicted],
        [item.annotated for item, _, _ in predicted],
        [_corrected(item) for item, _, _ in predicted],
    )
    scored = [
        ScoredTask(item.task.id, prediction, float(value), upright_size(path))
        for (item, path, prediction), value in zip(predicted, order, strict=True)
    ]
    if context.client is None:
        report(1.0, f"scored {len(scored)} tasks; without a credential they are not put into Label Studio")
        return
    report(0.7, f"putting {len(scored)} predictions into Label Studio")
    results = [{"task": one.task, **prediction_to_json(one, roles, version.name)} for one in scored]
    context.client.publish_predictions(project.number, results, version.name, is_version_name)
    report(1.0, f"{len(scored)} tasks are in the order of {version.name}")


def _corrected(item: Guidance) -> bool | None:
    """Whether the annotators put the attention elsewhere; None where they said nothing of it."""
    if not item.clicks:
        return None
    return any(click.origin is not Origin.CONFIRMED for click in item.clicks)
