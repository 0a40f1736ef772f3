"""From acquisition and diversity to the score that Label Studio sorts by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backend.selection.attention import unit
from backend.selection.strategies import DEFAULT, STRATEGIES, Pool
from backend.selection.uncertainty import confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from backend.domain import Prediction

AHEAD = 16
"""Tasks at the front of the order that are looked after one by one: about what is annotated between two trainings."""

# Beyond this many tasks nobody clicks before the next training, which makes the order anew.
_HEAD = 256
_CELLS = AHEAD // 2

# Where in (0, 1) the scores lie: the head by its place, the open rest and then the annotated tasks by confidence.
_OPEN_FROM, _ANNOTATED_FROM, _UNTIL = 0.25, 0.75, 0.99
# What tells equally confident tasks apart: a million of them still keep below the next range.
_STEP = 1e-9


def scores(
    predictions: Sequence[Prediction],
    annotated: Sequence[bool],
    corrected: Sequence[bool | None],
    contested: Sequence[bool] | None = None,
    strategy: str = DEFAULT,
) -> NDArray[np.float64]:
    """Score a pool: in (0, 1), each once, the lowest is annotated first.

    Contested tasks come first. The head behind them is what the strategy chooses; the rest follows by rising
    confidence, and tasks that are annotated come last. Outside the head a task's score says its confidence alone, so it
    stays while that stays, whatever comes or goes beside it.

    Args:
        predictions: of all tasks, with features.
        annotated: which of them somebody has annotated.
        corrected: whether the annotators corrected a task's attention or accepted it; None where nobody spoke of it.
        contested: which of the annotated tasks have annotators who chose different classes; None for none of them.
        strategy: name of one of ``STRATEGIES`` that needs no views.

    Returns:
        (N,) below 0.25 for contested tasks and the head by its order, from there to 0.75 for other open tasks, and
        above for annotated ones.

    Raises:
        ValueError: if a prediction carries no features.
    """
    if not predictions:
        return np.empty(0)
    probabilities = np.array([list(prediction.probabilities.values()) for prediction in predictions])
    done = np.asarray(annotated, bool)
    pool = Pool(
        probabilities=probabilities,
        features=_features(predictions),
        attention=np.stack([prediction.attention for prediction in predictions]),
        corrected=np.array([np.nan if one is None else float(one) for one in corrected]),
        annotated=done,
    )
    start, end = np.where(done, [[_ANNOTATED_FROM], [_UNTIL]], [[_OPEN_FROM], [_ANNOTATED_FROM]])
    found = start + (end - start) * 0.99 * confidence(probabilities)
    chosen = STRATEGIES[strategy].choose(pool, _HEAD, 0)
    head = np.concatenate([np.flatnonzero(np.zeros(len(done), bool) if contested is None else contested), chosen])
    found[head] = _OPEN_FROM * (np.arange(len(head)) + 0.5) / max(_HEAD, len(head))
    return _told_apart(found)


def _told_apart(values: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(values, kind="stable")
    steps = _STEP * np.arange(len(values))
    # The least rise that leaves every value at least a step above the one before it.
    found = np.empty_like(values)
    found[order] = np.maximum.accumulate(values[order] - steps) + steps
    return found


def amended(
    served: NDArray[np.floating], fresh: NDArray[np.floating], annotated: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Scores that serve the front of a new order, with as few changes as that takes.

    Between two trainings only annotations and new tasks change the order, so what Label Studio has is kept but for the
    ``AHEAD`` open tasks that now come first, and even these where they come first already.

    Args:
        served: (N,) what Label Studio has; NaN for tasks without a score.
        fresh: (N,) what :func:`scores` says now.
        annotated: (N,) which tasks somebody has annotated.

    Returns:
        (N,) in (0, 1), each once.
    """
    found = np.where(np.isnan(served), fresh, served).astype(np.float64)
    open_ = np.flatnonzero(~annotated)
    front = open_[np.argsort(fresh[open_], kind="stable")][:AHEAD]
    behind = np.setdiff1d(open_, front)
    lowest = found[behind].min() if len(behind) else _UNTIL
    if np.isnan(served[front]).any() or (np.diff(found[front]) <= 0).any() or (found[front] >= lowest).any():
        lowest = min(lowest, found[annotated].min(initial=_UNTIL))
        found[front] = lowest * (np.arange(len(front)) + 0.5) / AHEAD
    new = np.isnan(served)
    while len(clashing := np.flatnonzero(new & _repeated(found))):
        found[clashing] += _STEP * (1 + np.arange(len(clashing)))
    return found


def _repeated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    repeated: NDArray[np.bool_] = counts[inverse] > 1
    return repeated


def cells(
    predictions: Sequence[Prediction], order: NDArray[np.floating], annotated: NDArray[np.bool_]
) -> list[int | None]:
    """Which of the tasks at the front are alike, as groups among which an annotator is led around.

    Label Studio 1.23.2 serves first the cluster of which this annotator has solved the fewest tasks, and then the
    lowest score. So of several annotators at once each is shown all kinds, whoever takes which task.

    Args:
        predictions: of all tasks, with features.
        order: (N,) their scores.
        annotated: (N,) which tasks somebody has annotated.

    Returns:
        For each of the ``AHEAD`` open tasks with the lowest scores the number of the one of the first half that is
        most like it, from 0; None for all others.
    """
    found: list[int | None] = [None] * len(predictions)
    open_ = np.flatnonzero(~annotated)
    front = open_[np.argsort(order[open_], kind="stable")][:AHEAD]
    if len(front):
        rows = _features([predictions[place] for place in front])
        directions = unit(rows - rows.mean(0))
        nearest = (directions @ directions[:_CELLS].T).argmax(1)
        # Equal images have no direction from their mean: the first ones are their own cells all the same.
        nearest[:_CELLS] = np.arange(len(nearest[:_CELLS]))
        for place, cell in zip(front.tolist(), nearest.tolist(), strict=True):
            found[place] = cell
    return found


def _features(predictions: Sequence[Prediction]) -> NDArray[np.float32]:
    rows = [prediction.features for prediction in predictions if prediction.features is not None]
    if len(rows) < len(predictions):
        raise ValueError("Expected predictions with features, to tell which images are alike.")
    return np.stack(rows)
