"""The order that Label Studio serves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from backend.domain import Prediction
from backend.selection.diversity import farthest_first
from backend.selection.priority import AHEAD, _told_apart, amended, cells, scores
from backend.selection.uncertainty import confidence


def prediction(features: np.ndarray, sure: float = 0.7) -> Prediction:
    return Prediction(
        label="a",
        confidence=sure,
        probabilities={"a": sure, "b": 1 - sure},
        peak=(0.5, 0.5),
        attention=np.ones((2, 2), np.float32),
        attention_share=1.0,
        features=features.astype(np.float32),
    )


@given(count=st.integers(1, 40), seed=st.integers(0, 10_000), data=st.data())
@settings(deadline=None, max_examples=50)
def test_scores_are_unique_in_the_unit_interval_and_put_annotated_tasks_last(
    count: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    annotated = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    corrected = [data.draw(st.sampled_from([None, False, True])) if one else None for one in annotated]
    found = scores([prediction(rng.normal(size=4), rng.uniform(0.5, 1)) for _ in range(count)], annotated, corrected)
    assert len(set(found)) == count
    assert found.min() > 0
    assert found.max() < 1
    done = np.array(annotated)
    if done.any() and not done.all():
        assert found[done].min() > found[~done].max()


def test_beyond_the_diverse_head_the_least_confident_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.selection.priority._HEAD", 0)
    found = scores([prediction(np.eye(3)[i], sure) for i, sure in enumerate((0.9, 0.6, 0.8))], [False] * 3, [None] * 3)
    assert found.argsort().tolist() == [1, 2, 0]


def test_the_head_of_the_order_holds_no_copies() -> None:
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(8, 16))
    copies = np.repeat(originals, 5, axis=0) + rng.normal(scale=1e-3, size=(40, 16))
    head = scores([prediction(row) for row in copies], [False] * 40, [None] * 40).argsort()[:8]
    similarity = cosine_similarity(copies[head])
    assert (similarity[~np.eye(8, dtype=bool)] < 0.95).all()


def test_what_is_annotated_already_is_not_asked_for_again() -> None:
    features = np.array([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0]])
    found = scores([prediction(row) for row in features], [True, False, False], [True, None, None])
    assert found.argsort().tolist() == [2, 1, 0]


def test_outside_the_head_a_score_stays_while_the_confidence_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.selection.priority._HEAD", 2)
    rng = np.random.default_rng(0)
    pool = [prediction(rng.normal(size=4), rng.uniform(0.5, 1)) for _ in range(12)]
    annotated = [False] * 6 + [True] * 6
    before = scores(pool, annotated, [None] * 12)
    after = scores([*pool, prediction(rng.normal(size=4), 0.66)], [*annotated, False], [None] * 13)
    same = (before > 0.25) & (after[:12] > 0.25)
    assert same.sum() >= 8
    assert before[same].tolist() == after[:12][same].tolist()


def test_a_million_equally_confident_tasks_are_told_apart() -> None:
    values = np.full(1_000_000, 0.25 + 0.5 * 0.99)
    found = _told_apart(np.append(values, 0.75 + 0.24 * 0.5))
    assert len(np.unique(found)) == len(found)
    assert found[:-1].max() < 0.75


@given(count=st.integers(1, 60), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=100)
def test_amending_serves_the_new_front_and_leaves_the_rest(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    served, fresh = (rng.permutation(2 * count)[:count] + 0.5) / 2 / count, (rng.permutation(count) + 0.5) / count
    served[rng.random(count) < rng.choice([0, 0.3, 1])] = np.nan
    annotated = rng.random(count) < rng.choice([0, 0.5, 1])
    found = amended(served, fresh, annotated)
    assert len(set(found)) == count
    assert found.min() > 0
    assert found.max() < 1

    def front(values: np.ndarray) -> list[int]:
        open_ = np.flatnonzero(~annotated)
        return [int(open_[place]) for place in values[open_].argsort()][:AHEAD]

    assert front(found) == front(fresh)
    changed = np.flatnonzero(~np.isnan(served) & (found != served))
    assert set(changed) <= set(front(fresh))
    again = amended(found, fresh, annotated)
    assert again.tolist() == found.tolist(), "what is served already is not changed"


def test_who_annotates_in_the_order_changes_nothing_of_the_rest() -> None:
    rng = np.random.default_rng(1)
    pool = [prediction(rng.normal(size=8), rng.uniform(0.5, 1)) for _ in range(80)]
    first = scores(pool, [False] * 80, [None] * 80)
    done = np.isin(np.arange(80), first.argsort()[:5])
    fresh = scores(pool, done.tolist(), [True if one else None for one in done])
    assert amended(first, fresh, done).tolist() == first.tolist()


def test_the_front_is_grouped_by_likeness() -> None:
    rng = np.random.default_rng(2)
    kinds = np.eye(4)[np.arange(40) % 4] + rng.normal(scale=0.01, size=(40, 4))
    annotated = np.arange(40) == 0
    order = np.arange(40) / 40
    found = cells([prediction(row) for row in kinds], order, annotated)
    assert [place for place, cell in enumerate(found) if cell is not None] == list(range(1, 1 + AHEAD))
    assert found[1:9] == list(range(8)), "each of the first half begins a group"
    for place in range(9, 1 + AHEAD):
        cell = found[place]
        assert cell is not None
        assert (1 + cell) % 4 == place % 4, "the others are in the group of their kind"


def test_equal_images_are_grouped_too() -> None:
    assert cells([prediction(np.ones(3))] * 3, np.arange(3) / 3, np.zeros(3, bool)) == [0, 1, 2]
    assert cells([], np.empty(0), np.empty(0, bool)) == []


def test_farthest_first_equals_the_plain_definition() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(30, 6))
    found = farthest_first(features, 10)
    similarity = cosine_similarity(features)
    chosen = [
        int(
            cosine_similarity(
                features, (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(axis=0, keepdims=True)
            ).argmax()
        )
    ]
    while len(chosen) < 10:
        rest = [place for place in range(30) if place not in chosen]
        chosen.append(min(rest, key=lambda place: similarity[place, chosen].max()))
    assert found.tolist() == chosen


def test_an_empty_pool_has_no_order() -> None:
    assert scores([], [], []).shape == (0,)
    assert farthest_first(np.empty((0, 3)), 5).shape == (0,)


def test_confidence_is_the_largest_probability() -> None:
    assert confidence(np.array([[0.2, 0.8], [0.5, 0.5]])).tolist() == [0.8, 0.5]


def test_predictions_without_features_are_refused() -> None:
    bare = Prediction("a", 1.0, {"a": 1.0}, (0, 0), np.ones((1, 1), np.float32), 1.0)
    with pytest.raises(ValueError, match="features"):
        scores([bare], [False], [None])


def test_what_annotators_disagree_on_comes_first() -> None:
    rng = np.random.default_rng(0)
    predictions = [prediction(rng.normal(size=4), rng.uniform(0.5, 1)) for _ in range(300)]
    annotated = [place < 40 for place in range(300)]
    contested = [place in (7, 30) for place in range(300)]
    found = scores(predictions, annotated, [None] * 300, contested)
    assert set(found.argsort()[:2].tolist()) == {7, 30}
    assert found[[place for place in range(40) if place not in (7, 30)]].min() > found[40:].max()
    assert len(set(found)) == 300


def test_several_annotators_at_once_are_each_shown_all_kinds() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.eye(8), 30, axis=0)
    predictions = [prediction(row) for row in kinds + rng.normal(scale=0.05, size=kinds.shape)]
    nobody = np.zeros(len(kinds), bool)
    order = scores(predictions, nobody.tolist(), [None] * len(kinds))
    groups = cells(predictions, order, nobody)
    shown: list[list[int]] = [[], [], []]
    left = order.argsort().tolist()
    for _ in range(AHEAD // 3):
        for solved in shown:
            # As Label Studio serves: the group of which this annotator has solved the fewest, then the lowest score.
            times = [groups[place] for place in solved]
            solved.append(min(left[:AHEAD], key=lambda place: (times.count(groups[place]), order[place])))
            left.remove(solved[-1])
    assert len({place for solved in shown for place in solved}) == 3 * (AHEAD // 3), "nobody gets another's image"
    for solved in shown:
        assert len({int(kinds[place].argmax()) for place in solved}) == len(solved), "no kind twice among the first"
