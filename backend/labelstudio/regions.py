"""Boxes, polygons, ellipses and brush masks of Label Studio to the region that they outline together.

A box, polygon or ellipse is in percent of the upright image, a box and an ellipse turned by ``rotation`` degrees about
the box's upper left corner or the ellipse's centre; a mask is run-length encoded RGBA of ``original_width`` ×
``original_height`` pixels, of which the alpha counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image, ImageDraw

from backend.domain import REGION_SIDE, Region
from backend.labelstudio.labelconfig import Roles

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_KINDS = {
    "rectanglelabels": "rectangle",
    "polygonlabels": "polygon",
    "ellipselabels": "ellipse",
    "brushlabels": "brush",
}
_MOST_PIXELS = 50_000_000
_LEVELS_OF_PAINT = 2
"""What a brush paints is there or not; what we show of the attention is graded."""
_SIDES_OF_AN_ELLIPSE = 64
# Outlines are drawn so many times finer than the grid.
_FINE = 4


def read_region(regions: Iterable[Mapping[str, Any]], roles: Roles) -> Region | None:
    """What the regions of one annotation outline together, those that are to be ignored taken out.

    Args:
        regions: of the annotation's result, each with a ``value``; others than outlines on the image are passed over,
            and so are those that cannot be read, with a warning.
        roles: of the label config.

    Returns:
        None where nothing is outlined to be looked at.
    """
    inside = np.zeros((REGION_SIDE, REGION_SIDE), np.bool_)
    outside = inside.copy()
    for region in regions:
        kind = region.get("type")
        kind = _KINDS.get(kind, kind) if isinstance(kind, str) else ""
        if kind not in _KINDS.values() or region.get("to_name") != roles.image_tag:
            continue
        try:
            cells = _cells(kind, region)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            log.warning("A region that cannot be read is passed over: %s: %.80s", type(error).__name__, error)
            continue
        names = region["value"].get(f"{kind}labels")
        ignored = isinstance(names, Sequence) and any(name in roles.ignored_regions for name in names)
        target = outside if ignored else inside
        target |= cells
    inside &= ~outside
    return np.packbits(inside).tobytes() if inside.any() else None


def class_of_outlines(regions: Iterable[Mapping[str, Any]], roles: Roles) -> str | None:
    """The class that outlines of an object detection's annotation name: the only one of them, or None.

    Args:
        regions: of the annotation's result, each with a ``value``.
        roles: of the label config.
    """
    named: set[str] = set()
    for region in regions:
        kind = region.get("type")
        names = region["value"].get(kind) if isinstance(kind, str) and kind in _KINDS else None
        named |= {name for name in roles.classes if isinstance(names, list) and name in names}
    return named.pop() if len(named) == 1 else None


def _cells(kind: str, region: Mapping[str, Any]) -> NDArray[np.bool_]:
    value = region["value"]
    if kind == "brush":
        return _of_mask(value["rle"], int(region["original_width"]), int(region["original_height"]))
    if kind == "polygon":
        return _of_outline([(float(x), float(y)) for x, y in value["points"]])
    x, y = float(value["x"]), float(value["y"])
    # Turned in pixels, not in percent: percents of a wide image are not as wide as they are high.
    aspect = float(region.get("original_width") or 1) / float(region.get("original_height") or 1)
    if kind == "rectangle":
        width, height = float(value["width"]), float(value["height"])
        corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    else:
        angles = np.linspace(0, 2 * math.pi, _SIDES_OF_AN_ELLIPSE, endpoint=False)
        corners = [(float(value["radiusX"]) * math.cos(at), float(value["radiusY"]) * math.sin(at)) for at in angles]
    turn = math.radians(float(value.get("rotation") or 0))
    cos, sin = math.cos(turn), math.sin(turn)
    return _of_outline(
        [(x + (right * cos - down / aspect * sin), y + (right * aspect * sin + down * cos)) for right, down in corners]
    )


def _of_outline(points: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """The cells within a polygon whose corners are in percent."""
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f"an outline of {len(points)} points, or with one that is nowhere")
    side = _FINE * REGION_SIDE
    # Pillow takes a pixel's centre for a whole number.
    places = np.clip(np.array(points) / 100, -1, 2) * side - 0.5
    drawn = Image.new("L", (side, side))
    ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in places], fill=255)
    return _half_covered(drawn)


def _of_mask(rle: Sequence[int], width: int, height: int) -> NDArray[np.bool_]:
    """The cells of which a mask covers at least half."""
    if not 0 < width * height <= _MOST_PIXELS:
        raise ValueError(f"a mask of {width} × {height} pixels")
    told = int.from_bytes(bytes(rle[:4]), "big")
    if told != 4 * width * height:
        raise ValueError(f"a mask of {told} values for {width} × {height} pixels")
    alpha = np.asarray(decode_rle(list(rle)), np.uint8).reshape(height, width, 4)[:, :, 3]
    if len(np.unique(alpha)) > _LEVELS_OF_PAINT:
        # Ours, that came back as somebody's own when a smart click was accepted.
        return np.zeros((REGION_SIDE, REGION_SIDE), np.bool_)
    return _half_covered(Image.fromarray(alpha))


def _half_covered(drawn: Image.Image) -> NDArray[np.bool_]:
    cells: NDArray[np.bool_] = np.asarray(drawn.resize((REGION_SIDE, REGION_SIDE), Image.Resampling.BOX)) >= 128
    return cells
