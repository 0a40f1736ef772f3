"""Boxes, polygons, ellipses and masks of Label Studio to what they outline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import mask2rle
from matplotlib.path import Path as Outline

from backend.domain import REGION_SIDE
from backend.labelstudio.annotations import annotation_from_json
from backend.labelstudio.labelconfig import read_roles
from backend.labelstudio.predictions import _brush
from backend.labelstudio.regions import read_region

ROLES = read_roles("""<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="click" toName="image"><Label value="Look here"/><Label value="Ignore"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image"><Label value="cat"/><Label value="background"/></RectangleLabels>
  <Choices name="class" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices>
</View>""")
WIDTH, HEIGHT = 200, 100
CENTRES = (np.arange(REGION_SIDE) + 0.5) / REGION_SIDE


def region(kind: str, label: str = "cat", **value: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "from_name": "box",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {kind: [label], **value},
    }


def box(label: str = "cat", **value: Any) -> dict[str, Any]:
    return region("rectanglelabels", label, **{"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, **value})


def grid(*regions: dict[str, Any]) -> np.ndarray:
    found = read_region(regions, ROLES)
    assert found is not None
    return np.unpackbits(np.frombuffer(found, np.uint8)).reshape(REGION_SIDE, REGION_SIDE).astype(bool)


def differing(one: np.ndarray, other: np.ndarray) -> float:
    return float((one != other).mean())


def test_a_box_is_its_cells() -> None:
    expected = ((CENTRES >= 0.2) & (CENTRES < 0.6))[:, None] & ((CENTRES >= 0.1) & (CENTRES < 0.4))
    assert differing(grid(box()), expected) < 0.01


@given(
    x=st.floats(20, 60), y=st.floats(20, 60), width=st.floats(5, 40), height=st.floats(5, 40), turn=st.floats(-180, 180)
)
def test_a_turned_box_is_turned_in_pixels(x: float, y: float, width: float, height: float, turn: float) -> None:
    """Independently: corners turned as pixels, and matplotlib says what lies within."""
    angle = np.deg2rad(turn)
    corner = np.array([x * WIDTH / 100, y * HEIGHT / 100])
    right = np.array([np.cos(angle), np.sin(angle)]) * width * WIDTH / 100
    down = np.array([-np.sin(angle), np.cos(angle)]) * height * HEIGHT / 100
    outline = Outline([corner, corner + right, corner + right + down, corner + down])
    places = np.stack(np.meshgrid(CENTRES * WIDTH, CENTRES * HEIGHT), -1).reshape(-1, 2)
    expected = outline.contains_points(places).reshape(REGION_SIDE, REGION_SIDE)
    found = read_region([box(x=x, y=y, width=width, height=height, rotation=turn)], ROLES)
    assert found is not None
    assert differing(grid(box(x=x, y=y, width=width, height=height, rotation=turn)), expected) < 0.02


def test_a_polygon_and_an_ellipse() -> None:
    triangle = grid(region("polygonlabels", points=[[0, 0], [100, 0], [0, 100]]))
    assert triangle.mean() == pytest.approx(0.5, abs=0.01)
    assert triangle[5, 5]
    round_ = grid(region("ellipselabels", x=50, y=50, radiusX=20, radiusY=10, rotation=0))
    assert round_.mean() == pytest.approx(np.pi * 0.2 * 0.1, rel=0.03)
    assert round_[64, 64]


def test_a_brush_mask_is_what_was_painted() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:70, 50:150] = 255
    found = grid(region("brushlabels", format="rle", rle=mask2rle(mask)))
    expected = ((CENTRES >= 0.3) & (CENTRES < 0.7))[:, None] & ((CENTRES >= 0.25) & (CENTRES < 0.75))
    assert differing(found, expected) < 0.015


def test_a_map_of_ours_that_came_back_as_somebodys_own_outlines_nothing() -> None:
    segment = np.zeros((7, 7), np.float32)
    segment[2:4, 1:5] = 1
    shown = _brush(ROLES, "cat", segment, (WIDTH, HEIGHT))
    assert read_region([{**shown, "origin": "manual"}], ROLES) is None


def test_several_are_one_and_what_is_to_be_ignored_is_taken_out() -> None:
    both = grid(box(), box(x=60))
    assert both.mean() == pytest.approx(2 * 0.3 * 0.4, rel=0.05)
    rest = grid(box(), box("background", x=25, width=50))
    assert rest.mean() == pytest.approx(0.15 * 0.4, rel=0.1)


@pytest.mark.parametrize(
    "bad",
    [
        box(x="left"),
        box(width=float("nan")),
        region("polygonlabels", points=[[0, 0], [1, 1]]),
        region("polygonlabels", points="none"),
        region("brushlabels", rle=[255, 255, 255, 255, 0]),
        region("brushlabels", rle="x" * 40),
        {**region("brushlabels", rle=[0] * 8), "original_width": 10**9},
        region("ellipselabels", x=1),
    ],
)
def test_what_cannot_be_read_is_passed_over(bad: dict[str, Any]) -> None:
    assert read_region([bad], ROLES) is None
    assert read_region([bad, box()], ROLES) == read_region([box()], ROLES)


def annotation(**facts: Any) -> dict[str, Any]:
    return {"id": 1, "task": 2, "updated_at": "2026-01-01T00:00:00Z", "result": [box()], **facts}


def test_an_annotation_brings_its_outline_but_not_our_own_prediction() -> None:
    assert annotation_from_json(annotation(), ROLES).region == read_region([box()], ROLES)
    assert annotation_from_json(annotation(result=[{**box(), "origin": "prediction"}]), ROLES).region is None
    assert annotation_from_json(annotation(was_cancelled=True), ROLES).region is None


def test_where_no_class_is_chosen_the_outlines_name_it() -> None:
    assert annotation_from_json(annotation(), ROLES).label == "cat"
    assert annotation_from_json(annotation(result=[box("cat"), box("dog")]), ROLES).label is None
    assert annotation_from_json(annotation(result=[box("background")]), ROLES).label is None
    assert annotation_from_json(annotation(result=[{**box(), "origin": "prediction"}]), ROLES).label is None
    chosen = {"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": ["dog"]}}
    assert annotation_from_json(annotation(result=[box("cat"), chosen]), ROLES).label == "dog"
