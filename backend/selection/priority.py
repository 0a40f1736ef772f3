"""From acquisition and diversity to the score that Label Studio sorts by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backend.selection.diversity import farthest_first
from backend.selection.uncertainty import confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from backend.domain import Prediction

# Beyond this many tasks nobody clicks before the next training, which makes the order anew.
_DIVERSE_HEAD = 256


def scores(predictions: Sequence[Prediction], annotated: Sequence[bool]) -> NDArray[np.float64]:
    """Score a pool: in (0, 1), each once, the lowest is annotated first.

    The head of the order is spread over the pool by features, away from what is annotated already; the rest follows by
    rising confidence, and tasks that are annotated come last.

    Args:
        predictions: of all tasks, with features.
        annotated: which of them somebody has annotated.

    Returns:
        (N,) the place in the order, as a share of the pool.

    Raises:
        ValueError: if a prediction carries no features.
    """
    if not predictions:
        return np.empty(0)
    features = np.stack([_features(prediction) for prediction in predictions])
    done = np.asarray(annotated, bool)
    open_tasks = np.flatnonzero(~done)
    head = open_tasks[farthest_first(features[open_tasks], _DIVERSE_HEAD, features[done])]
    certainty = confidence(np.array([list(prediction.probabilities.values()) for prediction in predictions]))
    rank = np.lexsort((np.arange(len(done)), certainty, done))
    order = np.concatenate([head, rank[~np.isin(rank, head)]])
    places = np.empty(len(order))
    places[order] = (np.arange(len(order)) + 0.5) / len(order)
    return places


def _features(prediction: Prediction) -> NDArray[np.float32]:
    if prediction.features is None:
        raise ValueError("Expected predictions with features, to tell which images are alike.")
    return prediction.features
