"""How right a classifier is, how sure, and whether it looks where it was told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from backend.domain import ClickRole, Example, LookhereError, Prediction
from backend.guidance.classifier import Classifier
from backend.guidance.data import load_image
from backend.guidance.predicting import predict
from backend.guidance.targets import RADIUS, affected_segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_BINS = 15
_IMAGES_PER_STEP = 64


@dataclass(frozen=True)
class Metrics:
    """A classifier on held-out tasks.

    Attributes:
        images: how many with a class.
        accuracy: share of them whose class is right; 0 without any.
        calibration_error: expected calibration error in [0, 1], 15 bins (Guo et al. 2017).
        look_clicks: how many "Look here" clicks.
        look_accuracy: share of them within a click's radius of the attention's peak.
        ignore_clicks: how many "Ignore" clicks.
        ignored_energy: mean share of the attention's energy in the segments under them; low is good.
    """

    images: int
    accuracy: float
    calibration_error: float
    look_clicks: int
    look_accuracy: float
    ignore_clicks: int
    ignored_energy: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate(classifier: Classifier, examples: Sequence[Example]) -> Metrics:
    """Measure a classifier on examples that it did not learn from; those that cannot be read are left out."""
    correct: list[bool] = []
    confidences: list[float] = []
    looked: list[bool] = []
    ignored: list[float] = []
    for start in range(0, len(examples), _IMAGES_PER_STEP):
        step: list[Example] = []
        images: list[Image.Image] = []
        for example in examples[start : start + _IMAGES_PER_STEP]:
            try:
                images.append(load_image(example.image))
            except LookhereError as error:
                log.warning("An example is left out: %s", error)
                continue
            step.append(example)
        for example, said in zip(step, predict(classifier, images), strict=True):
            if example.label is not None:
                correct.append(said.label == classifier.spec.classes[example.label])
                confidences.append(said.confidence)
            for click in example.clicks:
                if click.role is ClickRole.LOOK:
                    looked.append(np.hypot(said.peak[0] - click.x, said.peak[1] - click.y) <= RADIUS)
                else:
                    ignored.append(_share(said, affected_segment(said.attention, click.x, click.y)))
    return Metrics(
        images=len(correct),
        accuracy=float(np.mean(correct)) if correct else 0.0,
        calibration_error=calibration_error(np.array(confidences), np.array(correct, bool)),
        look_clicks=len(looked),
        look_accuracy=float(np.mean(looked)) if looked else 0.0,
        ignore_clicks=len(ignored),
        ignored_energy=float(np.mean(ignored)) if ignored else 0.0,
    )


def calibration_error(confidences: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = _BINS) -> float:
    """Expected calibration error (Guo et al. 2017): the mean gap between confidence and accuracy over equal bins.

    Args:
        confidences: (N,) in [0, 1].
        correct: (N,).
        bins: of equal width.

    Returns:
        In [0, 1]; 0 without any.
    """
    if not len(confidences):
        return 0.0
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        (place == one).mean() * abs(correct[place == one].mean() - confidences[place == one].mean())
        for one in np.unique(place)
    ]
    return float(np.sum(gaps))


def energy_pointing_game(attention: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Share of a map's positive energy inside the object (Wang et al., Score-CAM, 2020).

    Args:
        attention: (h, w), on the classifier's grid; negative cells count as 0.
        mask: (H, W), the object in the image.

    Returns:
        In [0, 1]; 0 for a map without energy.
    """
    height, width = mask.shape
    energy = np.clip(_enlarged(attention, (width, height)), 0, None)
    total = energy.sum()
    return float(energy[mask].sum() / total) if total > 0 else 0.0


def pointing_game(attention: NDArray[np.floating], mask: NDArray[np.bool_]) -> bool:
    """Whether a map's peak is inside the object (Zhang et al. 2016)."""
    height, width = mask.shape
    return bool(mask.flat[int(_enlarged(attention, (width, height)).argmax())])


def group_accuracies(correct: NDArray[np.bool_], groups: Sequence[str]) -> dict[str, float]:
    """Accuracy within each group.

    Args:
        correct: (N,).
        groups: N names.
    """
    names = np.asarray(groups)
    return {str(name): float(correct[names == name].mean()) for name in np.unique(names)}


def worst_group_accuracy(correct: NDArray[np.bool_], groups: Sequence[str]) -> float:
    """The lowest accuracy over the groups (Sagawa et al. 2020)."""
    return min(group_accuracies(correct, groups).values())


def mean_group_accuracy(correct: NDArray[np.bool_], groups: Sequence[str]) -> float:
    """The mean of the groups' accuracies: each group counts alike, however large it is."""
    return float(np.mean(list(group_accuracies(correct, groups).values())))


def _enlarged(attention: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    smooth = Image.fromarray(np.asarray(attention, np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(smooth)


def _share(said: Prediction, cells: NDArray[np.bool_]) -> float:
    total = float(said.attention.sum())
    return float(said.attention[cells].sum()) / total if total > 0 else 0.0
