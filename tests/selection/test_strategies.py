"""Every way to choose keeps its promises, and the scores equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from backend.selection.attention import correction_chance, instability, layout, unlikelihood
from backend.selection.diversity import ALIKE, representative, typical
from backend.selection.strategies import STRATEGIES, Pool
from backend.selection.uncertainty import certainty, margin


def pool(count: int, seed: int, annotated: np.ndarray | None = None, features: np.ndarray | None = None) -> Pool:
    rng = np.random.default_rng(seed)
    done = np.zeros(count, bool) if annotated is None else annotated
    return Pool(
        probabilities=rng.dirichlet(np.ones(3), count),
        features=rng.random((count, 12)) if features is None else features,
        attention=rng.random((count, 7, 7)),
        corrected=np.where(done, rng.integers(0, 2, count), np.nan),
        annotated=done,
        views=rng.random((count, 3, 7, 7)),
    )


@pytest.mark.parametrize("name", STRATEGIES)
@given(count=st.integers(1, 30), wanted=st.integers(0, 40), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_open_images_are_chosen_once_each_and_again_alike(name: str, count: int, wanted: int, seed: int) -> None:
    annotated = np.random.default_rng(seed).random(count) < 0.3
    chosen = STRATEGIES[name].choose(pool(count, seed, annotated), wanted, seed)
    assert len(chosen) == min(wanted, (~annotated).sum())
    assert len(set(chosen.tolist())) == len(chosen)
    assert not annotated[chosen].any()
    assert chosen.tolist() == STRATEGIES[name].choose(pool(count, seed, annotated), wanted, seed).tolist()


def test_whoever_follows_the_order_finds_it_unchanged() -> None:
    features = np.random.default_rng(11).random((400, 16))
    order = representative(features, 40)
    for annotated in (1, 7, 20):
        done = np.isin(np.arange(400), order[:annotated])
        assert representative(features, 20, done).tolist() == order[annotated : annotated + 20].tolist()


@pytest.mark.parametrize("name", ["representative", "combined"])
def test_planted_copies_are_not_asked_about_twice(name: str) -> None:
    rng = np.random.default_rng(1)
    originals = np.abs(rng.normal(size=(100, 64)))
    copies = np.repeat(originals, 4, axis=0) + rng.normal(scale=0.02, size=(400, 64))
    first = STRATEGIES[name].choose(pool(400, 1, features=copies), 64, 0)
    similarity = cosine_similarity(copies[first])
    assert similarity[~np.eye(64, dtype=bool)].max() <= ALIKE
    assert cosine_similarity(copies[:4]).min() > ALIKE, "they were copies"


def test_what_is_annotated_is_not_asked_about_in_a_copy() -> None:
    rng = np.random.default_rng(2)
    features = np.abs(rng.normal(size=(20, 64)))
    features[1] = features[0] * 1.01
    annotated = np.arange(20) == 0
    order = STRATEGIES["representative"].choose(pool(20, 2, annotated, features), 19, 0)
    assert order[-1] == 1


def facility_location(features: np.ndarray, count: int, weights: np.ndarray) -> list[int]:
    """The plain definition: every gain anew, for every choice."""
    centred = features - features.mean(0)
    similarity = np.clip(cosine_similarity(centred), 0, None)
    chosen: list[int] = []
    for _ in range(count):
        rest = [place for place in range(len(features)) if place not in chosen]
        chosen.append(max(rest, key=lambda place: float(weights @ similarity[:, [*chosen, place]].max(1))))
    return chosen


def test_representative_equals_the_plain_definition() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(60, 8))
    weights = rng.random(60)
    assert cosine_similarity(features)[~np.eye(60, dtype=bool)].max() < ALIKE
    assert representative(features, 12, weights=weights).tolist() == facility_location(features, 12, weights)


def test_typical_images_stand_in_the_middle_of_large_clusters() -> None:
    rng = np.random.default_rng(5)
    sizes = (30, 20, 10)
    features = np.repeat(np.eye(3), sizes, axis=0) + rng.normal(scale=0.05, size=(sum(sizes), 3))
    first = typical(features, 3)
    assert [int(np.searchsorted((30, 50, 60), place, side="right")) for place in first] == [0, 1, 2]
    again = typical(features, 2, chosen=features[[0]])
    assert all(place >= 30 for place in again), "the first cluster is covered"


def test_uncertainty_by_its_definitions() -> None:
    probabilities = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert margin(probabilities).tolist() == pytest.approx([0, 1, 0])
    assert certainty(probabilities).tolist() == pytest.approx([1 - np.log(2) / np.log(3), 1, 0])


@pytest.mark.parametrize("cells", [(4, 4), (7, 7), (8, 8), (3, 11)])
def test_a_layout_holds_all_energy_where_it_lies(cells: tuple[int, int]) -> None:
    maps = np.random.default_rng(6).random((5, *cells))
    found = layout(maps)
    assert found.sum(1) == pytest.approx(np.ones(5))
    upper = layout(
        np.stack([np.concatenate([np.ones((cells[0] // 2, cells[1])), np.zeros((cells[0] - cells[0] // 2, cells[1]))])])
    )
    assert upper.reshape(4, 4)[0].sum() > upper.reshape(4, 4)[3].sum()
    assert layout(np.zeros((1, *cells)))[0] == pytest.approx(np.full(16, 1 / 16))


def test_unusual_attention_is_unlikely() -> None:
    rng = np.random.default_rng(7)
    maps = np.zeros((60, 8, 8))
    maps[:30, :2, :2] = 1
    maps[30:59, 6:, 6:] = 1
    maps[59, :2, 6:] = 1
    maps += 0.05 * rng.random(maps.shape)
    assert unlikelihood(maps).argmax() == 59


def test_the_mixtures_likelihood_is_a_density() -> None:
    """One blob: both components share it, and the mixture's density follows its single Gaussian's."""
    maps = np.random.default_rng(8).random((400, 4, 4)) + 5
    points = layout(maps)
    single = -multivariate_normal(points.mean(0), np.diag(points.var(0) + 1e-4)).logpdf(points)
    assert np.corrcoef(unlikelihood(maps), single)[0, 1] > 0.9


def test_attention_that_stays_is_stable() -> None:
    steady = np.repeat(np.random.default_rng(9).random((1, 1, 8, 8)), 3, axis=1)
    jumping = np.zeros((1, 2, 8, 8))
    jumping[0, 0, :2, :2] = 1
    jumping[0, 1, 6:, 6:] = 1
    assert instability(steady) == pytest.approx([0])
    assert instability(jumping) == pytest.approx([0.5])


def test_corrections_are_learnt_from_the_answers() -> None:
    rng = np.random.default_rng(10)
    truth = rng.integers(0, 2, 200).astype(float)
    features = rng.normal(size=(200, 6)) + np.outer(truth, rng.normal(size=6))
    attention = rng.random((200, 7, 7))
    corrected = np.where(np.arange(200) < 40, truth, np.nan)
    chance = correction_chance(features, attention, corrected)
    unseen = np.arange(200) >= 40
    assert roc_auc_score(truth[unseen], chance[unseen]) > 0.8


@pytest.mark.parametrize(("answers", "rate"), [([], 0.5), ([1, 1, 1], 0.8), ([0, 0], 0.25)])
def test_one_kind_of_answer_tells_a_rate_alone(answers: list[int], rate: float) -> None:
    corrected = np.full(5, np.nan)
    corrected[: len(answers)] = answers
    found = correction_chance(np.random.default_rng(0).random((5, 3)), np.ones((5, 4, 4)), corrected)
    assert found.tolist() == pytest.approx([rate] * 5)
