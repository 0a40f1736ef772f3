"""Acquisition from a single image's probabilities: how sure a version is of its class. Low is unsure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import entropy

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


def margin(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Lead of the most probable class over the next one (Scheffer et al. 2001).

    Args:
        probabilities: (N, K), rows sum to 1.

    Returns:
        (N,) in [0, 1].
    """
    ordered = np.sort(np.asarray(probabilities, np.float64), axis=1)
    lead: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return lead


def certainty(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 less the entropy as a share of the highest possible (Shannon 1948; as acquisition: Settles 2009, §3.1).

    Args:
        probabilities: (N, K), rows sum to 1.

    Returns:
        (N,) in [0, 1].
    """
    spread = entropy(np.asarray(probabilities, np.float64), base=np.shape(probabilities)[1], axis=1)
    sure: NDArray[np.float64] = 1 - np.asarray(spread)
    return sure
