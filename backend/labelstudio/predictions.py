"""The domain's predictions to Label Studio's prediction JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from PIL import Image

from backend.domain import ClickRole, ScoredTask
from backend.labelstudio.annotations import SmartClick
from backend.labelstudio.labelconfig import Roles

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYPOINT_WIDTH = 3.0
"""Radius of a predicted keypoint in percent of the image's width: visible, and small enough to aim with."""

# Label Studio stores a brush region run by run: at 256 levels a small image takes 300 kB, at 8 it takes 20 kB.
_LEVELS = 8
_OPAQUE = 255


def prediction_to_json(scored: ScoredTask, roles: Roles, version: str) -> dict[str, Any]:
    """What Label Studio stores and shows of a prediction.

    Args:
        scored: the prediction and its place in the order.
        roles: of the project's label config.
        version: the version's name.

    Returns:
        A keypoint where the attention peaks, the class, and the map where the config has a brush for it.
    """
    prediction = scored.prediction
    x, y = prediction.peak
    result = [
        _keypoint(roles, roles.look[0], x, y, KEYPOINT_WIDTH, scored.image_size)
        | {"id": _region_id(scored.task, version, "click"), "score": _unit(prediction.attention_share)},
        {
            "id": _region_id(scored.task, version, "class"),
            "from_name": roles.class_tag,
            "to_name": roles.image_tag,
            "type": "choices",
            "value": {"choices": [prediction.label]},
            "score": _unit(prediction.confidence),
        },
    ]
    if roles.brush_tag is not None and roles.brush_label is not None and prediction.attention.any():
        brush = _brush(roles, roles.brush_label, prediction.attention, scored.image_size)
        result.append(brush | {"id": _region_id(scored.task, version, "attention")})
    return {"result": result, "score": _unit(scored.score), "model_version": version}


def declined() -> dict[str, Any]:
    """The answer for a task without a prediction: Label Studio skips it and keeps the others of the batch."""
    return {}


def interactive_reply(
    clicks: Sequence[SmartClick],
    affected: Sequence[NDArray[np.bool_]],
    roles: Roles,
    version: str,
    image_size: tuple[int, int],
) -> dict[str, Any]:
    """What smart clicks are answered: themselves, as large as the part of the image that they affect.

    Label Studio 1.23.2 puts what is accepted of the reply in the place of the clicks, by id. So every click comes back
    with its own id, or it would be lost, and the predicted region does not, or it would count as drawn by hand. The
    class is left alone: Label Studio would put it over the annotator's choice.

    Args:
        clicks: the smart clicks of the context, the latest last.
        affected: for each the (h, w) cells that it affects; empty where nothing can be said of that.
        roles: of the project's label config.
        version: the version that was asked, "" where there is none.
        image_size: (width, height) of the upright image in pixels.
    """
    radii = [_radius(cells, image_size) for cells in affected] or [KEYPOINT_WIDTH] * len(clicks)
    result = [
        _keypoint(roles, smart.label, smart.click.x, smart.click.y, radius, image_size) | {"id": smart.id}
        for smart, radius in zip(clicks, radii, strict=True)
    ]
    if affected and clicks[-1].click.role is ClickRole.IGNORE and roles.brush_tag and roles.brush_ignore_label:
        segment = _brush(roles, roles.brush_ignore_label, affected[-1].astype(np.float32), image_size)
        result.append(segment | {"id": _region_id(0, clicks[-1].id, "segment")})
    return {"result": result, "score": 0.0, "model_version": version}


def _keypoint(roles: Roles, label: str, x: float, y: float, radius: float, size: tuple[int, int]) -> dict[str, Any]:
    return _on_image(roles, size) | {
        "from_name": roles.click_tag,
        "type": "keypointlabels",
        # Label Studio 1.23.2 draws a keypoint with its "width" as the radius.
        "value": {"x": 100 * x, "y": 100 * y, "width": radius, "keypointlabels": [label]},
    }


def _brush(roles: Roles, label: str, strength: NDArray[np.float32], size: tuple[int, int]) -> dict[str, Any]:
    smooth = Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    steps = np.clip(np.rint(np.asarray(smooth) * (_LEVELS - 1)), 0, _LEVELS - 1)
    alpha = (steps * _OPAQUE // (_LEVELS - 1)).astype(np.uint8)
    runs = mask2rle(alpha)  # type: ignore[no-untyped-call] # the SDK does not type it
    return _on_image(roles, size) | {
        "from_name": roles.brush_tag,
        "type": "brushlabels",
        "value": {"format": "rle", "rle": [int(byte) for byte in runs], "brushlabels": [label]},
    }


def _on_image(roles: Roles, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    return {"to_name": roles.image_tag, "original_width": width, "original_height": height, "image_rotation": 0}


def _radius(affected: NDArray[np.bool_], size: tuple[int, int]) -> float:
    """Radius, in percent of the width, of the circle with the area of the affected cells."""
    width, height = size
    area = float(affected.mean()) * width * height
    return 100 * math.sqrt(area / math.pi) / width


def _region_id(task: int, version: str, part: str) -> str:
    # The same region of the same version keeps its id, so that pushing it twice is no change.
    return hashlib.sha256(f"{task} {version} {part}".encode()).hexdigest()[:10]


def _unit(value: float) -> float:
    """A number that Label Studio can sort by: one without a value loses the whole batch, or its place in the order."""
    return min(max(float(value), 0.0), 1.0) if math.isfinite(value) else 0.0
