"""The simulated annotator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.demo.annotator import SimulatedAnnotator, result_json
from backend.demo.digits import CLASSES, DigitImage, generate
from backend.domain import Click, ClickRole, Origin
from backend.labelstudio.annotations import annotation_from_json
from backend.labelstudio.labelconfig import read_roles

SIZE = 100
LABEL_CONFIG = f"""<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="click" toName="image"><Label value="Look here"/><Label value="Ignore"/></KeyPointLabels>
  <Choices name="class" toName="image">{"".join(f'<Choice value="{name}"/>' for name in CLASSES)}</Choices>
</View>"""


@pytest.fixture
def ring() -> NDArray[np.bool_]:
    """A hollow 0 around (0.3, 0.6)."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    distance = np.hypot(rows - 60, columns - 30)
    mask: NDArray[np.bool_] = (distance > 8) & (distance < 14)
    return mask


@pytest.fixture
def corner() -> NDArray[np.bool_]:
    """An L, whose centre of mass lies outside it."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[20:80, 20:26] = True
    mask[74:80, 20:80] = True
    return mask


@pytest.fixture
def image() -> DigitImage:
    return generate("train", 4, seed=0)[3]


def test_the_click_goes_to_the_middle_of_what_the_object_encloses(ring: NDArray[np.bool_]) -> None:
    assert SimulatedAnnotator(0).look_here(ring) == pytest.approx((0.305, 0.605), abs=0.01)


def test_the_click_is_on_the_object_where_its_centre_is_not(corner: NDArray[np.bool_]) -> None:
    x, y = SimulatedAnnotator(0).look_here(corner)
    assert corner[int(y * SIZE), int(x * SIZE)]


def test_noise_moves_the_hand_by_its_share_of_the_side(ring: NDArray[np.bool_]) -> None:
    annotator = SimulatedAnnotator(0, noise=0.05)
    places = np.array([annotator.look_here(ring) for _ in range(2000)])
    assert places.std(axis=0) == pytest.approx([0.05, 0.05], rel=0.1)
    assert places.mean(axis=0) == pytest.approx([0.305, 0.605], abs=0.01)


def test_noise_stays_on_the_image(ring: NDArray[np.bool_]) -> None:
    annotator = SimulatedAnnotator(0, noise=2.0)
    places = np.array([annotator.look_here(ring) for _ in range(200)])
    assert places.min() >= 0
    assert places.max() <= 1


def test_mistakes_go_anywhere(ring: NDArray[np.bool_]) -> None:
    annotator = SimulatedAnnotator(0, mistakes=0.25)
    places = np.array([annotator.look_here(ring) for _ in range(2000)])
    wrong = np.hypot(*(places - [0.305, 0.605]).T) > 0.01
    assert wrong.mean() == pytest.approx(0.25, abs=0.03)
    assert np.ptp(places[wrong], axis=0).min() > 0.9


def test_a_seed_always_gives_the_same_clicks(ring: NDArray[np.bool_]) -> None:
    first, second = (SimulatedAnnotator(7, noise=0.1, mistakes=0.5) for _ in range(2))
    assert [first.clicks(ring) for _ in range(20)] == [second.clicks(ring) for _ in range(20)]


def test_without_a_screen_there_is_one_manual_look_here(ring: NDArray[np.bool_]) -> None:
    (click,) = SimulatedAnnotator(0).clicks(ring)
    assert (click.role, click.origin) == (ClickRole.LOOK, Origin.MANUAL)


@pytest.mark.parametrize("predicted", [(0.305, 0.605), (0.305, 0.5)], ids=["in the hollow", "on the stroke"])
def test_a_predicted_point_on_the_object_is_confirmed(ring: NDArray[np.bool_], predicted: tuple[float, float]) -> None:
    assert SimulatedAnnotator(0).clicks(ring, ~ring, predicted) == (
        Click(*predicted, ClickRole.LOOK, Origin.CONFIRMED),
    )


def test_a_predicted_point_beside_the_object_is_moved(ring: NDArray[np.bool_]) -> None:
    (click,) = SimulatedAnnotator(0).clicks(ring, np.zeros_like(ring), (0.9, 0.9))
    assert (click.role, click.origin) == (ClickRole.LOOK, Origin.CORRECTED)
    assert (click.x, click.y) == pytest.approx((0.305, 0.605), abs=0.01)


def test_a_predicted_point_on_the_distractor_is_moved_and_ignored(ring: NDArray[np.bool_]) -> None:
    look, ignore = SimulatedAnnotator(0).clicks(ring, ~ring, (1.0, 1.0))
    assert (look.role, look.origin) == (ClickRole.LOOK, Origin.CORRECTED)
    assert ignore == Click(1.0, 1.0, ClickRole.IGNORE, Origin.MANUAL)


def test_what_is_right_is_submitted_as_it_came(image: DigitImage) -> None:
    prediction = _prediction(SimulatedAnnotator(0).look_here(image.mask), image.label)
    result = result_json(SimulatedAnnotator(1), {"id": 5}, prediction, image)
    assert result == [region | {"origin": "prediction"} for region in prediction["result"]]


def test_what_is_wrong_is_submitted_as_the_screen_does(image: DigitImage) -> None:
    rows, columns = np.nonzero(image.sticker_mask)
    on_sticker = (columns.mean() / 128, rows.mean() / 128)
    prediction = _prediction(on_sticker, "9")
    before = repr(prediction)
    point, choice, ignore = result_json(SimulatedAnnotator(1), {"id": 5}, prediction, image)
    assert repr(prediction) == before, "what Label Studio stored is not touched"

    x, y = SimulatedAnnotator(1).look_here(image.mask)
    assert point == prediction["result"][0] | {
        "value": {"x": 100 * x, "y": 100 * y, "width": 3.0, "keypointlabels": ["Look here"]},
        "origin": "prediction-changed",
    }
    assert choice == prediction["result"][1] | {"value": {"choices": [image.label]}, "origin": "prediction-changed"}
    assert ignore == {
        "id": "ignore5",
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "original_width": 128,
        "original_height": 128,
        "image_rotation": 0,
        "value": {
            "x": pytest.approx(100 * on_sticker[0]),
            "y": pytest.approx(100 * on_sticker[1]),
            "width": 0.26,
            "keypointlabels": ["Ignore"],
        },
        "origin": "manual",
    }


def test_what_is_submitted_means_the_clicks_that_were_made(image: DigitImage) -> None:
    rows, columns = np.nonzero(image.sticker_mask)
    on_sticker = (columns.mean() / 128, rows.mean() / 128)
    prediction = _prediction(on_sticker, "9")
    submitted = {
        "id": 1,
        "task": 5,
        "updated_at": "2026-11-23T12:00:00Z",
        "prediction": prediction,
        "result": result_json(SimulatedAnnotator(1), {"id": 5}, prediction, image),
    }
    annotation = annotation_from_json(submitted, read_roles(LABEL_CONFIG))
    meant = SimulatedAnnotator(1).clicks(image.mask, image.sticker_mask, on_sticker)
    for click, expected in zip(annotation.clicks, meant, strict=True):
        assert (click.role, click.origin) == (expected.role, expected.origin)
        assert (click.x, click.y) == pytest.approx((expected.x, expected.y))
    assert (annotation.label, annotation.label_origin) == (image.label, Origin.CORRECTED)
    assert annotation.rejected == ()


def _prediction(place: tuple[float, float], label: str) -> dict[str, Any]:
    x, y = place
    keypoint = {
        "id": "kp",
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "original_width": 128,
        "original_height": 128,
        "image_rotation": 0,
        "value": {"x": 100 * x, "y": 100 * y, "width": 3.0, "keypointlabels": ["Look here"]},
        "score": 0.4,
    }
    choice = {
        "id": "ch",
        "type": "choices",
        "from_name": "class",
        "to_name": "image",
        "value": {"choices": [label]},
        "score": 0.9,
    }
    return {"id": 1, "result": [keypoint, choice], "score": 0.2, "model_version": "v1"}
