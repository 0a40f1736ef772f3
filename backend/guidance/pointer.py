"""Where the clicks would be on the images that nobody clicked.

A few clicks say what an object looks like to the trunk: a ridge regression from the trunk's features at a cell, and
around it, to the clicks' soft discs finds the object in the other images. So one click teaches more than one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.guidance.targets import Marks

_RIDGE = 0.03
"""Penalty on the standardised features, as a share of the number of cells."""
_AROUND = 5
"""Side in cells of the square whose mean describes the surroundings of a cell."""
_FOLDS = 4
UNCHECKED = 1 / 3
"""Trust in what a single click taught: it finds the object in 76 of 100 training images of the digits, and in 61 of the
pack's, and until the second click nobody can tell whether here too."""
_DOUBT = 0.2
"""What a place far from a click counts beside the clicked one: hands slip, and one click in ten may be a mistake."""


@dataclass(frozen=True)
class Pointer:
    """A linear map from features to "an annotator would click here".

    Attributes:
        weights: (D,), applied to ``described`` features.
        offset: scalar.
    """

    weights: Tensor
    offset: Tensor

    def point(self, features: Tensor, near: Tensor | None = None) -> tuple[float, float]:
        """The place where a click is expected.

        Args:
            features: (C, H, W) of the trunk.
            near: (H, W) in [0, 1], where somebody clicked already: the place is sought there first. None where nobody
                did.

        Returns:
            (x, y) in [0, 1], the centre of a cell.
        """
        response = torch.einsum("d,dhw->hw", self.weights, _described(features)) + self.offset
        if near is not None:
            response = response.clamp_min(0) * (near + _DOUBT)
        height, width = response.shape
        row, column = divmod(int(response.argmax()), width)
        return (column + 0.5) / width, (row + 0.5) / height


def learn(features: Sequence[Tensor], marks: Sequence[Marks]) -> Pointer:
    """Learn to point from clicked images.

    Args:
        features: of the trunk, (C, H, W) for each image.
        marks: on each image; one of them says where to look.
    """
    return _solved(_moments(features, marks))


def trust(features: Sequence[Tensor], marks: Sequence[Marks]) -> float:
    """How often a pointer finds the clicks of images that it did not learn from.

    Args:
        features: of the trunk, (C, H, W) for each clicked image.
        marks: on each image.

    Returns:
        Share in [0, 1] of the images on which the pointed place is what is marked, by cross-validation, each image by
        itself where there are few. A single image leaves nothing to check: ``UNCHECKED``; none, 0.
    """
    if len(features) < 2:
        return UNCHECKED * len(features)
    count = min(_FOLDS, len(features))
    folds = [_moments(features[fold::count], marks[fold::count]) for fold in range(count)]
    whole = reduce(add, folds)
    hits = 0
    for fold in range(count):
        pointer = _solved(whole - folds[fold])
        for held_out, on in zip(features[fold::count], marks[fold::count], strict=True):
            hits += on.found(*pointer.point(held_out))
    return hits / len(features)


@dataclass(frozen=True)
class _Moments:
    """Sums over cells, of D features and the target: all that a regression needs to know of images."""

    cells: int
    features: Tensor
    target: Tensor
    gram: Tensor
    product: Tensor

    def __add__(self, other: _Moments) -> _Moments:
        return self._with(other, 1)

    def __sub__(self, other: _Moments) -> _Moments:
        return self._with(other, -1)

    def _with(self, other: _Moments, sign: int) -> _Moments:
        return _Moments(
            self.cells + sign * other.cells,
            self.features + sign * other.features,
            self.target + sign * other.target,
            self.gram + sign * other.gram,
            self.product + sign * other.product,
        )


def _moments(features: Sequence[Tensor], marks: Sequence[Marks]) -> _Moments:
    return reduce(add, map(_moments_of_one, features, marks))


def _moments_of_one(features: Tensor, marks: Marks) -> _Moments:
    described = _described(features).flatten(1)
    target = marks.look((features.shape[1], features.shape[2])).flatten()
    return _Moments(len(target), described.sum(1), target.sum(), described @ described.T, described @ target)


def _solved(moments: _Moments) -> Pointer:
    mean, wanted = moments.features.double() / moments.cells, moments.target.double() / moments.cells
    covariance = moments.gram.double() / moments.cells - torch.outer(mean, mean)
    product = moments.product.double() / moments.cells - mean * wanted
    # Penalising each feature by its own variance is the ridge of standardised features.
    penalty = torch.diag(_RIDGE * covariance.diagonal() + 1e-6)
    weights = torch.linalg.solve(covariance + penalty, product)
    return Pointer(weights.float(), (wanted - weights @ mean).float())


def _described(features: Tensor) -> Tensor:
    # Less the image's mean, so that what lies beyond the border counts as neither more nor less.
    centred = features.float() - features.float().mean((1, 2), keepdim=True)
    return torch.cat([features.float(), F.avg_pool2d(centred, _AROUND, 1, _AROUND // 2)])
