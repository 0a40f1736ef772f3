"""What the benchmarks share: a data set, what it is learnt with, and how a classifier is judged on its test images."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from backend.bench.data import DataSet, Masked
from backend.bench.methods import METHODS, Method
from backend.bench.swapping import swapped
from backend.domain import Example, Prediction
from backend.guidance.classifier import Classifier, create
from backend.guidance.data import load_image, to_tensor
from backend.guidance.metrics import energy_pointing_game, mean_group_accuracy, pointing_game, worst_group_accuracy
from backend.guidance.predicting import read
from backend.guidance.preparing import prepare
from backend.guidance.training import fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP = 0.8
"""Share of the sides that a cropped view shows."""

_IMAGES_PER_STEP = 64


@dataclass(frozen=True)
class Figures:
    """What a classifier reaches on the test images.

    Attributes:
        accuracy: share of the images whose class is right.
        worst_group: the lowest accuracy over the groups.
        mean_group: the mean of the groups' accuracies.
        consistent: accuracy where the background is the one that the training images have most often with the class.
        epg: energy pointing game, mean share of the attention's energy on the object.
        pointing: pointing game, share of the images whose attention peaks on the object.
        flips: share of the images whose predicted class changes with the background alone.
        seconds: of the fit; the trunk's features of the training images lie on disk.
    """

    accuracy: float
    worst_group: float
    mean_group: float
    consistent: float
    epg: float
    pointing: float
    flips: float
    seconds: float


class Arena:
    """Fits classifiers on a data set's training images and judges them on its test images.

    Args:
        data: the data set.
        backbone: a torchvision model, or ``small``.
        weights: of the backbone, to start from.
        work: folder of the trunk's features.
    """

    def __init__(self, data: DataSet, backbone: str, weights: Path | None, work: Path) -> None:
        self._backbone = backbone
        self._weights = weights
        self._work = work
        self._classes = data.classes
        self._index = {name: place for place, name in enumerate(data.classes)}
        self.data = data
        self.train, self.test = data.splits["train"], data.splits["test"]

    def start(self, seed: int) -> Classifier:
        """A classifier that has learnt nothing yet."""
        return create(self._backbone, self._classes, weights=self._weights, seed=seed)

    def biased(self, seed: int) -> tuple[Classifier, float]:
        """The classifier that learnt the classes alone, and the seconds that this took."""
        return self.fitted(self.start(seed), self.plain, METHODS["erm"], seed)

    def fitted(
        self, parent: Classifier, examples: Sequence[Example], method: Method, seed: int
    ) -> tuple[Classifier, float]:
        """A fit by a method, and its seconds."""
        begun = time.monotonic()
        settings = replace(method.settings, seed=seed)
        fitted = fit(parent, examples, settings, workdir=self._work, term=method.term)
        return fitted, time.monotonic() - begun

    def figures(self, classifier: Classifier, seconds: float) -> Figures:
        """Judge a classifier that took so many seconds."""
        said = self.said(classifier, self._test_features)
        elsewhere = self.said(classifier, self._swapped_features)
        correct = np.array([one.label == image.label for one, image in zip(said, self.test, strict=True)])
        groups = [image.group for image in self.test]
        seen = list(zip(said, self._test_masks, strict=True))
        return Figures(
            accuracy=float(correct.mean()),
            worst_group=worst_group_accuracy(correct, groups),
            mean_group=mean_group_accuracy(correct, groups),
            consistent=float(correct[self._consistent].mean()),
            epg=float(np.mean([energy_pointing_game(one.attention, mask) for one, mask in seen])),
            pointing=float(np.mean([pointing_game(one.attention, mask) for one, mask in seen])),
            flips=float(np.mean([one.label != other.label for one, other in zip(said, elsewhere, strict=True)])),
            seconds=round(seconds, 1),
        )

    @torch.inference_mode()
    def said(self, classifier: Classifier, features: Tensor) -> list[Prediction]:
        """What ``predict`` says, from the trunk's features: the trunk is the same for all methods."""
        said: list[Prediction] = []
        for start in range(0, len(features), _IMAGES_PER_STEP):
            part = features[start : start + _IMAGES_PER_STEP]
            said += read(classifier, classifier.from_trunk(part.float()))
        return said

    def features(self, images: Sequence[Masked]) -> Tensor:
        """(N, C, H, W) what the trunk gives for images."""
        examples = [Example(one.image, self._index[one.label]) for one in images]
        return prepare(self.start(0), examples, workdir=self._work).inputs[:, 0]

    def labels(self, images: Sequence[Masked]) -> NDArray[np.int_]:
        """(N,) classes of images."""
        return np.array([self._index[one.label] for one in images])

    @cached_property
    def plain(self) -> list[Example]:
        """The training images, with their classes alone."""
        return [Example(one.image, self._index[one.label]) for one in self.train]

    @cached_property
    def train_features(self) -> Tensor:
        """(N, C, H, W) what the trunk gives for the training images."""
        return self.features(self.train)

    @cached_property
    def moved_features(self) -> Tensor:
        """(2, N, C, H, W) what the trunk gives for the training images mirrored, and cropped to their middle."""
        size = self.start(0).spec.image_size
        trunk = self.start(0).trunk
        mirrored, cropped = [], []
        with torch.inference_mode():
            for one in self.train:
                pixels = to_tensor(load_image(one.image), size)
                mirrored.append(trunk(functional.horizontal_flip(pixels)[None])[0])
                middle = functional.center_crop(pixels, [round(CROP * size)] * 2)
                cropped.append(trunk(functional.resize(middle, [size, size])[None])[0])
        return torch.stack([torch.stack(mirrored), torch.stack(cropped)])

    @cached_property
    def _test_features(self) -> Tensor:
        return self.features(self.test)

    @cached_property
    def _test_masks(self) -> list[NDArray[np.bool_]]:
        return [one.read_mask() for one in self.test]

    @cached_property
    def _swapped_features(self) -> Tensor:
        folder = self._work / "swapped" / self.data.name
        folder.mkdir(parents=True, exist_ok=True)
        elsewhere = []
        for one, image in zip(self.test, swapped(self.test), strict=True):
            path = folder / f"{one.image.stem}.png"
            image.save(path)
            elsewhere.append(replace(one, image=path))
        return self.features(elsewhere)

    @cached_property
    def _consistent(self) -> NDArray[np.bool_]:
        usual = {
            label: Counter(one.background for one in self.train if one.label == label).most_common(1)[0][0]
            for label in self._classes
        }
        return np.array([one.background == usual[one.label] for one in self.test])
