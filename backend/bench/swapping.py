"""The background swap: the same object, in surroundings of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from backend.bench.data import Masked
from backend.domain import LookhereError
from backend.guidance.data import load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CANDIDATES = 8


def swapped(images: Sequence[Masked], seed: int = 0) -> list[Image.Image]:
    """Put every object before the surroundings of another image, of another kind than its own.

    Of a few images of other kinds the one is taken whose object is best covered; what of that object still shows is
    filled from the nearest of its surroundings.

    Args:
        images: with masks.
        seed: of the candidates.

    Returns:
        One image for each, in order, as large as it was.

    Raises:
        LookhereError: if all images have the same kind of surroundings.
    """
    rng = np.random.default_rng(seed)
    kinds = np.array([one.background for one in images])
    made = []
    for one in images:
        others = np.nonzero(kinds != one.background)[0]
        if not len(others):
            raise LookhereError(f"Expected images with several backgrounds, got {one.background!r} alone.")
        picture = load_image(one.image)
        mask = _fitted(one.read_mask(), (picture.height, picture.width))
        candidates = [images[place] for place in rng.permutation(others)[:_CANDIDATES]]
        masks = [_fitted(candidate.read_mask(), mask.shape) for candidate in candidates]
        best = int(np.argmin([(theirs & ~mask).sum() for theirs in masks]))
        scenery = np.asarray(load_image(candidates[best].image).resize(picture.size))
        made.append(Image.fromarray(np.where(mask[..., None], np.asarray(picture), _without(scenery, masks[best]))))
    return made


def _fitted(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize((shape[1], shape[0])))


def _without(scenery: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    grown = ndimage.binary_dilation(mask, iterations=2)
    nearest = ndimage.distance_transform_edt(grown, return_distances=False, return_indices=True)
    filled: NDArray[np.uint8] = scenery[nearest[0], nearest[1]]
    return filled
