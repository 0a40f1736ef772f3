"""A simulated annotator, who knows where the object is and answers as a person at Label Studio's screen would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from backend.demo.digits import DigitImage
from backend.domain import Click, ClickRole, Origin

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IGNORE = "Ignore"
_DRAWN_WIDTH = 0.26
"""Width in percent that Label Studio's screen gives to a click; it hangs on the zoom and means nothing."""


class SimulatedAnnotator:
    """Clicks where the classifier should look, from the object's mask.

    Args:
        seed: of noise and mistakes; the same seed and the same questions give the same clicks.
        noise: standard deviation of the hand, as a share of the image's sides.
        mistakes: share in [0, 1] of the "Look here" clicks that go anywhere instead.
    """

    def __init__(self, seed: int, noise: float = 0.0, mistakes: float = 0.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self._mistakes = mistakes

    def look_here(self, mask: NDArray[np.bool_]) -> tuple[float, float]:
        """Choose the place of a "Look here": the point of the object next to its centre of mass, as the hand gets it.

        Args:
            mask: (H, W), the object. What it encloses belongs to it: the hollow of a 0 is the middle of a 0.

        Returns:
            (x, y) in [0, 1].
        """
        if self._rng.random() < self._mistakes:
            x, y = self._rng.random(2)
            return float(x), float(y)
        rows, columns = np.nonzero(ndimage.binary_fill_holes(mask))
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        height, width = mask.shape
        x = (columns[nearest] + 0.5) / width + self._rng.normal(0, self._noise)
        y = (rows[nearest] + 0.5) / height + self._rng.normal(0, self._noise)
        return float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1))

    def clicks(
        self,
        mask: NDArray[np.bool_],
        distractor: NDArray[np.bool_] | None = None,
        predicted: tuple[float, float] | None = None,
    ) -> tuple[Click, ...]:
        """Guide one image.

        Args:
            mask: (H, W), the object.
            distractor: (H, W), what betrays the class and should be ignored; None where the annotator knows of none.
            predicted: (x, y) in [0, 1], the keypoint that the screen shows already; None where it shows none.

        Returns:
            A "Look here": the predicted one, confirmed, where it lies on the object, and else corrected; a manual one
            where none is shown. Then an "Ignore", where the predicted one lay on the distractor.
        """
        if predicted is None:
            return (Click(*self.look_here(mask), ClickRole.LOOK, Origin.MANUAL),)
        if _covers(ndimage.binary_fill_holes(mask), predicted):
            return (Click(*predicted, ClickRole.LOOK, Origin.CONFIRMED),)
        corrected = Click(*self.look_here(mask), ClickRole.LOOK, Origin.CORRECTED)
        if distractor is not None and _covers(distractor, predicted):
            return corrected, Click(*predicted, ClickRole.IGNORE, Origin.MANUAL)
        return (corrected,)


def result_json(
    annotator: SimulatedAnnotator, task: Mapping[str, Any], prediction: Mapping[str, Any], image: DigitImage
) -> list[dict[str, Any]]:
    """The result that Label Studio's screen submits for a task whose prediction was pre-filled.

    The predicted point is left where it lies on the digit, and dragged there where it does not; where it lay on the
    sticker, an "Ignore" is added there. The class is corrected where it is wrong.

    Args:
        annotator: whose hand it is.
        task: the task's JSON.
        prediction: its prediction, as Label Studio stores it: one keypoint, one choice.
        image: what the task shows.

    Returns:
        Regions in the screen's order: predicted ones under their ids with the ``origin`` that Label Studio writes
        (``prediction`` or ``prediction-changed``), then new ones (``manual``).
    """
    answered, drawn = [], []
    for region in prediction["result"]:
        if region["type"] == "keypointlabels":
            predicted = region["value"]["x"] / 100, region["value"]["y"] / 100
            for click in annotator.clicks(image.mask, image.sticker_mask, predicted):
                if click.role is ClickRole.LOOK:
                    answered.append(_submitted(region, click))
                else:
                    drawn.append(_drawn(region, click, f"ignore{task['id']}"))
        elif region["type"] == "choices":
            right = region["value"]["choices"] == [image.label]
            origin = Origin.CONFIRMED if right else Origin.CORRECTED
            answered.append({**region, "value": {"choices": [image.label]}, "origin": origin.value})
    return answered + drawn


def _submitted(region: Mapping[str, Any], click: Click) -> dict[str, Any]:
    value = dict(region["value"])
    if click.origin is not Origin.CONFIRMED:
        value |= {"x": 100 * click.x, "y": 100 * click.y}
    return {**region, "value": value, "origin": click.origin.value}


def _drawn(beside: Mapping[str, Any], click: Click, region_id: str) -> dict[str, Any]:
    tags = ("original_width", "original_height", "image_rotation", "from_name", "to_name", "type")
    place = {"x": 100 * click.x, "y": 100 * click.y, "width": _DRAWN_WIDTH}
    return {
        **{name: beside[name] for name in tags},
        "value": {**place, "keypointlabels": [_IGNORE]},
        "id": region_id,
        "origin": click.origin.value,
    }


def _covers(mask: NDArray[np.bool_], place: tuple[float, float]) -> bool:
    height, width = mask.shape
    x, y = place
    return bool(mask[min(int(y * height), height - 1), min(int(x * width), width - 1)])
