"""The domain's predictions to Label Studio's JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray

from backend.domain import Click, ClickRole, Prediction, ScoredTask
from backend.labelstudio.annotations import SmartClick, smart_clicks
from backend.labelstudio.labelconfig import EXAMPLE, read_roles
from backend.labelstudio.predictions import KEYPOINT_WIDTH, declined, interactive_reply, prediction_to_json

PLAIN = read_roles(EXAMPLE)
BRUSHES = '<BrushLabels name="map" toName="image"><Label value="Attention"/><Label value="Ignored" {}/></BrushLabels>'
BRUSHED = read_roles(EXAMPLE.replace("</View>", BRUSHES.format('lookhere="ignore"') + "</View>"))
SIZE = (64, 48)
ATTENTION = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)


def scored(**changed: Any) -> ScoredTask:
    prediction = Prediction("cat", 0.75, {"cat": 0.75, "dog": 0.25}, (0.25, 0.5), ATTENTION, 0.4)
    return replace(ScoredTask(7, prediction, 0.3, SIZE), **changed)


def alpha(region: dict[str, Any]) -> NDArray[np.uint8]:
    """The (h, w) mask of a brush region, read with Label Studio's own decoder."""
    pixels = np.asarray(decode_rle(region["value"]["rle"]), np.uint8)
    return pixels.reshape(region["original_height"], region["original_width"], 4)[:, :, 3]


def test_a_prediction() -> None:
    answer = prediction_to_json(scored(), PLAIN, "v1-abc")
    assert answer["score"] == 0.3
    assert answer["model_version"] == "v1-abc"
    point, choice = answer["result"]
    assert {key: point[key] for key in ("type", "from_name", "to_name", "score")} == {
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "score": 0.4,
    }
    assert point["value"] == {"x": 25.0, "y": 50.0, "width": KEYPOINT_WIDTH, "keypointlabels": ["Look here"]}
    assert (point["original_width"], point["original_height"], point["image_rotation"]) == (64, 48, 0)
    assert (choice["type"], choice["from_name"], choice["score"]) == ("choices", "class", 0.75)
    assert choice["value"] == {"choices": ["cat"]}


def test_region_ids_are_stable_and_tell_tasks_and_versions_apart() -> None:
    def ids(task: int, version: str) -> list[str]:
        return [region["id"] for region in prediction_to_json(scored(task=task), BRUSHED, version)["result"]]

    assert ids(1, "v1") == ids(1, "v1")
    everything = ids(1, "v1") + ids(2, "v1") + ids(1, "v2")
    assert len(set(everything)) == len(everything) == 9


def test_the_map_of_a_brush_survives_label_studios_decoder() -> None:
    region = prediction_to_json(scored(), BRUSHED, "v1")["result"][2]
    assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "map", "image")
    assert region["value"]["brushlabels"] == ["Attention"]
    mask = alpha(region)
    assert mask.shape == (48, 64)
    assert 2 < len(np.unique(mask)) <= 8
    assert (mask[0, 0], mask[-1, -1]) == (0, 255)
    cells = mask.reshape(3, 16, 4, 16).mean((1, 3)) / 255
    assert cells == pytest.approx(ATTENTION, abs=0.12)


def test_a_map_that_is_nowhere_is_not_drawn() -> None:
    dark = replace(scored().prediction, attention=np.zeros((3, 4), np.float32))
    kinds = [region["type"] for region in prediction_to_json(scored(prediction=dark), BRUSHED, "v1")["result"]]
    assert kinds == ["keypointlabels", "choices"]


def test_declined() -> None:
    """An object, never null: null for one task loses the whole batch."""
    assert declined() == {}


@given(st.floats(), st.floats(), st.floats())
def test_every_score_is_a_number_that_label_studio_can_sort_by(score: float, confidence: float, share: float) -> None:
    prediction = replace(scored().prediction, confidence=confidence, attention_share=share)
    answer = prediction_to_json(scored(score=score, prediction=prediction), PLAIN, "v1")
    text = json.dumps(answer, allow_nan=False)
    found = [answer["score"], *(region["score"] for region in answer["result"])]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in found), text
    if 0 <= score <= 1:
        assert answer["score"] == score


def test_scores_of_numpy_become_plain_numbers() -> None:
    answer = prediction_to_json(scored(score=np.float32(0.5)), PLAIN, "v1")
    assert type(answer["score"]) is float


LOOK = SmartClick("look-1", "Look here", Click(0.25, 0.5, ClickRole.LOOK))
IGNORE = SmartClick("ignore-1", "Ignore", Click(0.25, 0.5, ClickRole.IGNORE))


def disc(radius: float, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A circle in the middle of an image, its radius in percent of the width; a cell for each pixel."""
    width, height = size
    down, right = np.mgrid[:height, :width] + 0.5
    circle: NDArray[np.bool_] = np.hypot(right - width / 2, down - height / 2) <= radius * width / 100
    return circle


@pytest.mark.parametrize("click", [LOOK, IGNORE])
@pytest.mark.parametrize("size", [(400, 300), (300, 400)])
@pytest.mark.parametrize("radius", [5, 20, 35])
def test_a_keypoint_is_as_large_as_what_it_affects(click: SmartClick, size: tuple[int, int], radius: float) -> None:
    reply = interactive_reply([click], [disc(radius, size)], PLAIN, "v1", size)
    (region,) = reply["result"]
    assert region["value"]["width"] == pytest.approx(radius, rel=0.02)
    assert (region["value"]["x"], region["value"]["y"]) == (25, 50)
    assert region["value"]["keypointlabels"] == [click.label]
    assert region["id"] == click.id


def test_a_look_click_draws_no_brush() -> None:
    kinds = [region["type"] for region in interactive_reply([LOOK], [disc(10, SIZE)], BRUSHED, "v1", SIZE)["result"]]
    assert kinds == ["keypointlabels"]


def test_an_ignore_click_draws_its_segment_and_stays() -> None:
    affected = np.zeros((3, 4), bool)
    affected[1:, 2:] = True
    point, segment = interactive_reply([IGNORE], [affected], BRUSHED, "v1", SIZE)["result"]
    assert segment["value"]["brushlabels"] == ["Ignored"]
    drawn = alpha(segment).reshape(3, 16, 4, 16).mean((1, 3)) > 127
    assert (drawn == affected).all()
    assert (point["id"], point["value"]["x"], point["value"]["y"]) == (IGNORE.id, 25, 50)


def test_every_click_of_the_context_comes_back() -> None:
    """Label Studio removes the clicks that the accepted reply does not hold."""
    reply = interactive_reply([LOOK, IGNORE], [disc(10, SIZE), disc(5, SIZE)], PLAIN, "v1", SIZE)
    assert [region["id"] for region in reply["result"]] == [LOOK.id, IGNORE.id]


def test_without_a_version_the_clicks_still_come_back() -> None:
    (region,) = interactive_reply([LOOK], [], BRUSHED, "", SIZE)["result"]
    assert (region["id"], region["value"]["width"]) == (LOOK.id, KEYPOINT_WIDTH)


@pytest.mark.parametrize("roles", [PLAIN, BRUSHED])
def test_without_a_click_there_are_no_regions(roles: Any) -> None:
    assert interactive_reply([], [], roles, "", (1, 1)) == {"result": [], "score": 0.0, "model_version": ""}


places = st.floats(0, 1)


@settings(deadline=None)
@given(places, places, st.sampled_from(ClickRole), st.sampled_from([PLAIN, BRUSHED]), st.integers(0, 2**12 - 1))
def test_an_accepted_reply_is_the_click_again(x: float, y: float, role: ClickRole, roles: Any, cells: int) -> None:
    affected = np.array([cells >> bit & 1 for bit in range(12)], bool).reshape(3, 4)
    label = roles.look[0] if role is ClickRole.LOOK else roles.ignore[0]
    sent = SmartClick("a", label, Click(x, y, role))
    reply = interactive_reply([sent], [affected], roles, "v1", SIZE)
    json.dumps(reply, allow_nan=False)
    assert "choices" not in {region["type"] for region in reply["result"]}
    (back,) = smart_clicks(reply, roles)
    assert (back.id, back.click.role) == ("a", role)
    assert math.dist((back.click.x, back.click.y), (x, y)) < 1e-9
