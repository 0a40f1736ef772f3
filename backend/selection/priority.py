"""From acquisition and diversity to the score that Label Studio sorts by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backend.selection.strategies import DEFAULT, STRATEGIES, Pool
from backend.selection.uncertainty import confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from backend.domain import Prediction

# Beyond this many tasks nobody clicks before the next training, which makes the order anew.
_HEAD = 256


def scores(
    predictions: Sequence[Prediction], annotated: Sequence[bool], corrected: Sequence[bool | None]
) -> NDArray[np.float64]:
    """Score a pool: in (0, 1), each once, the lowest is annotated first.

    The head of the order is what the default strategy chooses; the rest follows by rising confidence, and tasks that
    are annotated come last.

    Args:
        predictions: of all tasks, with features.
        annotated: which of them somebody has annotated.
        corrected: whether the annotators corrected a task's attention or accepted it; None where nobody spoke of it.

    Returns:
        (N,) the place in the order, as a share of the pool.

    Raises:
        ValueError: if a prediction carries no features.
    """
    if not predictions:
        return np.empty(0)
    probabilities = np.array([list(prediction.probabilities.values()) for prediction in predictions])
    answers = np.array([np.nan if one is None else float(one) for one in corrected])
    done = np.asarray(annotated, bool)
    pool = Pool(
        probabilities=probabilities,
        features=np.stack([_features(prediction) for prediction in predictions]),
        attention=np.stack([prediction.attention for prediction in predictions]),
        corrected=answers,
        annotated=done,
    )
    head = STRATEGIES[DEFAULT].choose(pool, _HEAD, 0)
    rank = np.lexsort((np.arange(len(done)), confidence(probabilities), done))
    order = np.concatenate([head, rank[~np.isin(rank, head)]])
    places = np.empty(len(order))
    places[order] = (np.arange(len(order)) + 0.5) / len(order)
    return places


def _features(prediction: Prediction) -> NDArray[np.float32]:
    if prediction.features is None:
        raise ValueError("Expected predictions with features, to tell which images are alike.")
    return prediction.features
