"""Where the clicks would be on the images that nobody clicked.

A few clicks say what an object looks like to the trunk: a ridge regression from the trunk's features at a cell, and
around it, to the clicks' soft discs finds the object in the other images. So one click teaches more than one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.domain import Click, ClickRole
from backend.guidance.targets import RADIUS, look_target

_RIDGE = 0.03
"""Penalty on the standardised features, as a share of the number of cells."""
_AROUND = 5
"""Side in cells of the square whose mean describes the surroundings of a cell."""
_FOLDS = 4


@dataclass(frozen=True)
class Pointer:
    """A linear map from features to "an annotator would click here".

    Attributes:
        weights: (D,), applied to ``described`` features.
        offset: scalar.
    """

    weights: Tensor
    offset: Tensor

    def point(self, features: Tensor) -> tuple[float, float]:
        """The place where a click is expected.

        Args:
            features: (C, H, W) of the trunk.

        Returns:
            (x, y) in [0, 1], the centre of a cell.
        """
        response = torch.einsum("d,dhw->hw", self.weights, _described(features)) + self.offset
        height, width = response.shape
        row, column = divmod(int(response.argmax()), width)
        return (column + 0.5) / width, (row + 0.5) / height


def learn(features: Sequence[Tensor], clicks: Sequence[Sequence[Click]]) -> Pointer:
    """Learn to point from clicked images.

    Args:
        features: of the trunk, (C, H, W) for each image.
        clicks: on each image; at least one "Look here" on one of them.
    """
    described = [_described(one).flatten(1) for one in features]
    targets = [
        look_target(on, (one.shape[1], one.shape[2])).flatten() for on, one in zip(clicks, features, strict=True)
    ]
    cells = sum(one.shape[1] for one in described)
    mean = torch.stack([one.sum(1) for one in described]).sum(0) / cells
    wanted = torch.stack([one.sum() for one in targets]).sum() / cells
    size = len(mean)
    gram, right = torch.zeros(size, size), torch.zeros(size)
    for one, target in zip(described, targets, strict=True):
        centred = one - mean[:, None]
        gram += centred @ centred.T
        right += centred @ (target - wanted)
    # Penalising each feature by its own variance is the ridge of standardised features.
    variance = gram.diagonal() / cells + 1e-6
    weights = torch.linalg.solve(gram + torch.diag(_RIDGE * cells * variance), right)
    return Pointer(weights, wanted - weights @ mean)


def trust(features: Sequence[Tensor], clicks: Sequence[Sequence[Click]]) -> float:
    """How often a pointer finds the clicks of images that it did not learn from.

    Args:
        features: of the trunk, (C, H, W) for each clicked image.
        clicks: on each image.

    Returns:
        Share in [0, 1] of the "Look here" images with a click within a disc's radius of the pointed place, by
        cross-validation; 0 with fewer images than folds.
    """
    if len(features) < _FOLDS:
        return 0.0
    hits = 0
    for fold in range(_FOLDS):
        learnt = [place for place in range(len(features)) if place % _FOLDS != fold]
        pointer = learn([features[place] for place in learnt], [clicks[place] for place in learnt])
        for place in range(fold, len(features), _FOLDS):
            x, y = pointer.point(features[place])
            hits += any(
                (click.x - x) ** 2 + (click.y - y) ** 2 <= RADIUS**2
                for click in clicks[place]
                if click.role is ClickRole.LOOK
            )
    return hits / len(features)


def _described(features: Tensor) -> Tensor:
    # Less the image's mean, so that what lies beyond the border counts as neither more nor less.
    centred = features.float() - features.float().mean((1, 2), keepdim=True)
    return torch.cat([features.float(), F.avg_pool2d(centred, _AROUND, 1, _AROUND // 2)])
