"""Acquisition from the whole pool: images unlike those already chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def farthest_first(
    features: NDArray[np.floating], count: int, chosen: NDArray[np.floating] | None = None
) -> NDArray[np.intp]:
    """Order images so that each is the one least like all before it (k-centre greedy; Gonzalez 1985, Sener 2018).

    Args:
        features: (N, C), any scale; compared by cosine similarity.
        count: how many to choose, at most N.
        chosen: (M, C) features of images that are already annotated. Without any, the first choice is the image
            nearest to the mean: a typical one, since an outlier teaches little (Hacohen et al. 2022).

    Returns:
        (min(count, N),) indices into ``features``, in the order of choice, each once.
    """
    count = min(count, len(features))
    if count <= 0:
        return np.empty(0, np.intp)
    unit = _unit(features)
    order = np.empty(count, np.intp)
    if chosen is None or len(chosen) == 0:
        order[0] = np.argmax(unit @ unit.mean(axis=0))
        similarity = unit @ unit[order[0]]
        start = 1
    else:
        similarity = (unit @ _unit(chosen).T).max(axis=1)
        start = 0
    similarity[order[:start]] = np.inf
    for place in range(start, count):
        order[place] = np.argmin(similarity)
        np.maximum(similarity, unit @ unit[order[place]], out=similarity)
        similarity[order[place]] = np.inf
    return order


def _unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = np.asarray(features, np.float64)
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
