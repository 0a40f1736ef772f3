"""Label Studio's tasks and annotation results to the domain.

Label Studio speaks percent of the upright image: the browser applies EXIF orientation, and a click on an image that the
annotator turned is turned back before it is stored (measured with 1.23.2; ``image_rotation`` tells of the view alone).
The domain speaks shares of the same image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from backend.domain import Annotation, Click, ClickRole, LookhereError, Origin, Task
from backend.labelstudio.labelconfig import Roles
from backend.labelstudio.regions import class_of_outlines, read_region

_ID_BOUND = 2**63
"""No database holds a larger one."""


class AnnotationError(LookhereError):
    """A task or annotation that is not as Label Studio sends it."""


def number_of_project(event: Mapping[str, Any]) -> int | None:
    """Label Studio's id of the project that a webhook event is about, None where it names none."""
    project = event.get("project")
    number = project.get("id") if isinstance(project, Mapping) else project
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def task_from_json(task: Any, roles: Roles) -> Task:
    """Read a task.

    Args:
        task: a task's JSON; needs ``id`` and ``data``.
        roles: of the project's label config.

    Raises:
        AnnotationError: if it has no id, or no image where the label config says.
    """
    if not isinstance(task, Mapping):
        raise AnnotationError(f"Expected a task as a JSON object, got {type(task).__name__}.")
    number = _id(task, "task")
    data = task.get("data")
    image = data.get(roles.image_field) if isinstance(data, Mapping) else None
    if not isinstance(image, str) or not image or "\0" in image:
        raise AnnotationError(
            f"Expected task {number} to hold an image reference in the field {roles.image_field!r} of its data, got "
            f"{image!r:.80}; the label config's <Image value> names that field."
        )
    known = data.get(roles.known_field) if isinstance(data, Mapping) else None
    label = str(known) if isinstance(known, str | int) and str(known) in roles.classes else None
    return Task(number, image, label)


def annotation_from_json(annotation: Any, roles: Roles) -> Annotation:
    """Read an annotation.

    Regions of other controls and labels are passed over. Predicted brush regions never come back as guidance.

    Args:
        annotation: an annotation's JSON, from a webhook or the API.
        roles: of the project's label config.

    Raises:
        AnnotationError: if it has no id, no task, no time, or a click without a place.
    """
    if not isinstance(annotation, Mapping):
        raise AnnotationError(f"Expected an annotation as a JSON object, got {type(annotation).__name__}.")
    number = _id(annotation, "annotation")
    task = _id(annotation, f"task of annotation {number}", "task")
    base = Annotation(
        id=number,
        task=task,
        annotator=_user(annotation.get("completed_by")),
        updated_at=_moment(annotation, number),
        skipped=annotation.get("was_cancelled") is True,
        ground_truth=annotation.get("ground_truth") is True,
        editor=_user(annotation.get("updated_by")),
    )
    if base.skipped:
        # From the UI a skipped annotation holds the pre-filled prediction, which nobody meant.
        return base
    from_prediction = annotation.get("parent_prediction") is not None
    regions = list(_regions(annotation.get("result"), number))
    present = [region.get("id") for region in regions]
    # Ours come back as they went: they are no outline of anybody's.
    placed = [region for region in regions if _origin(region, from_prediction) is not Origin.CONFIRMED]
    label, label_origin = _class(regions, roles, from_prediction)
    if label is None and (label := class_of_outlines(placed, roles)) is not None:
        label_origin = Origin.MANUAL
    prediction = annotation.get("prediction")
    predicted = prediction.get("result") if isinstance(prediction, Mapping) else None
    gone = [region for region in _regions(predicted, number) if region.get("id") not in present]
    return replace(
        base,
        clicks=_clicks(regions, roles, from_prediction),
        rejected=_clicks(gone, roles, from_prediction),
        label=label,
        label_origin=label_origin,
        region=read_region(placed, roles),
    )


@dataclass(frozen=True)
class SmartClick:
    """A click made with the smart tool.

    Attributes:
        id: Label Studio's id of its region.
        label: its label in the label config.
        click: its place and role.
    """

    id: str
    label: str
    click: Click


def smart_clicks(context: Mapping[str, Any], roles: Roles) -> tuple[SmartClick, ...]:
    """Read the smart clicks of an interactive context, the latest last; none after a submit.

    The context lists every region of the clicked label, our own predicted one too; that one is left out.

    Raises:
        AnnotationError: if a click has no place.
    """
    found = []
    for region in _regions(context.get("result"), 0):
        for click in _clicks([region], roles, from_prediction=False):
            label = next(name for name in _labels(region) if name in (*roles.look, *roles.ignore))
            if click.origin is Origin.MANUAL and isinstance(region.get("id"), str):
                found.append(SmartClick(region["id"], label, click))
    return tuple(found)


def _regions(result: Any, number: int) -> Iterator[Mapping[str, Any]]:
    if result is None:
        return
    if not isinstance(result, Sequence) or isinstance(result, str):
        raise AnnotationError(
            f"Expected the result of annotation {number} to be a list of regions, got {result!r:.80}."
        )
    for region in result:
        if isinstance(region, Mapping) and isinstance(region.get("value"), Mapping):
            yield region


def _clicks(regions: Sequence[Mapping[str, Any]], roles: Roles, from_prediction: bool) -> tuple[Click, ...]:
    clicks = []
    for region in regions:
        if region.get("type") != "keypointlabels" or region.get("from_name") != roles.click_tag:
            continue
        value = region["value"]
        names = set(_labels(region))
        role = ClickRole.LOOK if names & set(roles.look) else ClickRole.IGNORE if names & set(roles.ignore) else None
        if role is not None:
            clicks.append(Click(_share(value, "x"), _share(value, "y"), role, _origin(region, from_prediction)))
    return tuple(clicks)


def _labels(region: Mapping[str, Any]) -> list[str]:
    return _texts(region["value"].get("keypointlabels")) or _texts(region["value"].get("labels"))


def _class(
    regions: Sequence[Mapping[str, Any]], roles: Roles, from_prediction: bool
) -> tuple[str | None, Origin | None]:
    for region in regions:
        if region.get("type") == "choices" and region.get("from_name") == roles.class_tag:
            for name in _texts(region["value"].get("choices")):
                if name in roles.classes:
                    return name, _origin(region, from_prediction)
    return None, None


def _origin(region: Mapping[str, Any], from_prediction: bool) -> Origin:
    said = region.get("origin")
    if said is None:
        # "Create annotations from predictions" copies regions, scores and all, and writes no origin.
        return Origin.CONFIRMED if from_prediction and "score" in region else Origin.MANUAL
    try:
        return Origin(said)
    except ValueError:
        return Origin.MANUAL


def _share(value: Mapping[str, Any], axis: str) -> float:
    percent = value.get(axis)
    # NaN compares with nothing.
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not -math.inf < percent < math.inf:
        raise AnnotationError(f"Expected a click with its {axis} in percent of the image, got {percent!r:.80}.")
    return min(max(percent, 0), 100) / 100


def _moment(annotation: Mapping[str, Any], number: int) -> datetime:
    said = annotation.get("updated_at") or annotation.get("created_at")
    try:
        moment = datetime.fromisoformat(said if isinstance(said, str) else "")
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise AnnotationError(
            f"Expected annotation {number} to say when it was updated, in ISO 8601, got {said!r:.80}."
        ) from error


def _user(value: Any) -> int | None:
    # Exports give the user as an object, the API as a number.
    value = value.get("id") if isinstance(value, Mapping) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _id(item: Mapping[str, Any], what: str, key: str = "id") -> int:
    number = item.get(key)
    if not isinstance(number, int) or isinstance(number, bool) or not -_ID_BOUND < number < _ID_BOUND:
        raise AnnotationError(f"Expected the number of the {what}, got {number!r:.80}.")
    return number


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
