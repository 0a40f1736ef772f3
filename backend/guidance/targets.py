"""Clicks to targets on the classifier's grid of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage.segmentation import flood
from torch import Tensor
from torch.nn import functional as F

from backend.domain import Click, ClickRole, Origin

if TYPE_CHECKING:
    from numpy.typing import NDArray

RADIUS = 0.17
"""Standard deviation of a click's soft disc, as a share of the image's side: 1.2 cells of a 7 × 7 map."""

CONFIRMATION_WEIGHT = 0.5
"""What an accepted prediction weighs beside a click that somebody placed: the classifier must not feed on itself."""


@dataclass(frozen=True)
class Marks:
    """What somebody marked on an image, or on a moved view of it.

    Attributes:
        clicks: "Look here" and "Ignore".
        region: (S, S) in [0, 1], the object itself; takes the place of the "Look here" clicks. None where nobody
            outlined it.
    """

    clicks: tuple[Click, ...] = ()
    region: Tensor | None = None

    @property
    def looks(self) -> bool:
        """Whether they say where to look."""
        return self.region is not None or any(click.role is ClickRole.LOOK for click in self.clicks)

    @property
    def ignores(self) -> bool:
        """Whether they say where not to look."""
        return any(click.role is ClickRole.IGNORE for click in self.clicks)

    def look(self, shape: tuple[int, int]) -> Tensor:
        """Where the attention shall be: (h, w) float32 in [0, 1]."""
        if self.region is None:
            return look_target(self.clicks, shape)
        cells = F.adaptive_avg_pool2d(self.region[None].float(), shape)[0]
        return cells / cells.max().clamp_min(1e-6)

    def found(self, x: float, y: float) -> bool:
        """Whether a place is what is marked: in the region, or within a radius of a "Look here"."""
        if self.region is not None:
            height, width = self.region.shape
            return bool(self.region[min(int(y * height), height - 1), min(int(x * width), width - 1)] > 0.5)
        looks = (click for click in self.clicks if click.role is ClickRole.LOOK)
        return any((click.x - x) ** 2 + (click.y - y) ** 2 <= RADIUS**2 for click in looks)


def look_target(clicks: Sequence[Click], shape: tuple[int, int], radius: float = RADIUS) -> Tensor:
    """Where the attention shall be: soft discs at the "Look here" clicks.

    Args:
        clicks: of one image; others than "Look here" are passed over.
        shape: (h, w) of the grid.
        radius: standard deviation of a disc as a share of the side.

    Returns:
        (h, w) float32 in [0, 1]; all 0 without such a click.
    """
    target = torch.zeros(shape)
    for click in clicks:
        if click.role is ClickRole.LOOK:
            target = torch.maximum(target, weight(click) * disc(click.x, click.y, shape, radius))
    return target


def ignore_target(clicks: Sequence[Click], attention: NDArray[np.float32]) -> Tensor:
    """Where the attention shall not be: the hills of the map under the "Ignore" clicks.

    Args:
        clicks: of one image; others than "Ignore" are passed over.
        attention: (h, w) in [0, 1], the map that the annotator judged.

    Returns:
        (h, w) float32 in [0, 1]; all 0 without such a click.
    """
    target = torch.zeros(attention.shape)
    for click in clicks:
        if click.role is ClickRole.IGNORE:
            segment = torch.from_numpy(affected_segment(attention, click.x, click.y)).float()
            target = torch.maximum(target, weight(click) * segment)
    return target


def weight(click: Click) -> float:
    """How much a click counts: the annotators' agreement, less for a confirmation."""
    return click.agreement * (CONFIRMATION_WEIGHT if click.origin is Origin.CONFIRMED else 1.0)


def disc(x: float, y: float, shape: tuple[int, int], radius: float = RADIUS) -> Tensor:
    """A soft disc: exp(-d² / 2 radius²), d the distance of a cell's centre from (x, y), in shares of the side.

    Returns:
        (h, w) float32 in [0, 1]; 1 at the cell nearest to the click.
    """
    height, width = shape
    down = (torch.arange(height) + 0.5) / height - y
    right = (torch.arange(width) + 0.5) / width - x
    found = torch.exp(-(down[:, None] ** 2 + right[None, :] ** 2) / (2 * radius**2))
    return found / found.max()


def affected_disc(shape: tuple[int, int], x: float, y: float) -> NDArray[np.bool_]:
    """The cells that a "Look here" click affects by more than half: (h, w)."""
    cells: NDArray[np.bool_] = (disc(x, y, shape) >= 0.5).numpy()
    return cells


def affected_segment(attention: NDArray[np.float32], x: float, y: float) -> NDArray[np.bool_]:
    """The cells that an "Ignore" click affects: the segment of the attention map under it.

    That is, the hill: the connected cells with at least half the attention of the clicked one, by flooding. The paper's
    release takes a Felzenszwalb segment of the enlarged map; on the slopes of a map of few cells that is anything from
    a thin band to nearly the whole map.

    Args:
        attention: (h, w) in [0, 1].
        x: of the click, in [0, 1].
        y: of the click, in [0, 1].

    Returns:
        (h, w); at least the clicked cell, and only that where there is no attention to take away.
    """
    height, width = attention.shape
    clicked = min(int(y * height), height - 1), min(int(x * width), width - 1)
    if attention[clicked] <= 0:
        alone = np.zeros(attention.shape, np.bool_)
        alone[clicked] = True
        return alone
    # Cells beside each other hang together, cells that touch at a corner do not.
    cells: NDArray[np.bool_] = flood(attention >= attention[clicked] / 2, clicked, connectivity=1)  # type: ignore[no-untyped-call]
    return cells
