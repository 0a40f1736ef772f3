"""Acquisition from a single image: how sure a version is of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def confidence(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability of the most probable class; least confidence first is *uncertainty sampling* (Lewis & Gale 1994).

    Args:
        probabilities: (N, K), rows sum to 1.

    Returns:
        (N,) in [1/K, 1].
    """
    largest: NDArray[np.float64] = np.asarray(probabilities, np.float64).max(axis=1)
    return largest
