"""The ways to choose the next image: acquisition, diversity, or both. One of them is what the product uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.selection.attention import correction_chance, instability, layout, unlikelihood
from backend.selection.diversity import far_at_random, farthest_first, representative, typical
from backend.selection.uncertainty import certainty, confidence, margin

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pool:
    """What a version says of a project's images.

    Attributes:
        probabilities: (N, K), rows sum to 1.
        features: (N, C) pooled.
        attention: (N, h, w), not negative.
        corrected: (N,) 1 where somebody corrected the attention, 0 where it was accepted, NaN where nobody answered.
        annotated: (N,) whom somebody has annotated.
        views: (N, V, h, w) attention under other views of the image, moved back; None where nobody asked for them.
    """

    probabilities: NDArray[np.floating]
    features: NDArray[np.floating]
    attention: NDArray[np.floating]
    corrected: NDArray[np.floating]
    annotated: NDArray[np.bool_]
    views: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Strategy:
    """A way to choose.

    Attributes:
        choose: from the pool, how many and a seed, to places in the pool: of open images alone, each once, the next one
            first; fewer where there are no more, or where more are asked for than it weighs.
        about: what it is, for the table.
        needs_views: whether the pool must have ``views``.
    """

    choose: Callable[[Pool, int, int], NDArray[np.intp]]
    about: str
    needs_views: bool = False


def _lowest(score: Callable[[Pool, int], NDArray[np.floating]]) -> Callable[[Pool, int, int], NDArray[np.intp]]:
    def choose(pool: Pool, count: int, seed: int) -> NDArray[np.intp]:
        values = np.where(pool.annotated, np.inf, score(pool, seed))
        order: NDArray[np.intp] = np.argsort(values, kind="stable")
        return order[: min(count, int((~pool.annotated).sum()))]

    return choose


def _spread(
    order: Callable[[NDArray[np.floating], int, NDArray[np.floating], Pool, int], NDArray[np.intp]],
) -> Callable[[Pool, int, int], NDArray[np.intp]]:
    def choose(pool: Pool, count: int, seed: int) -> NDArray[np.intp]:
        open_ = np.flatnonzero(~pool.annotated)
        return open_[order(pool.features[open_], count, pool.features[pool.annotated], pool, seed)]

    return choose


def _chance(pool: Pool) -> NDArray[np.float64]:
    return correction_chance(pool.features, pool.attention, pool.corrected)


def _instability(pool: Pool, _seed: int) -> NDArray[np.float64]:
    if pool.views is None:
        raise ValueError("Expected attention under other views, to tell how stable it is.")
    return -instability(pool.views)


def _placed(pool: Pool) -> NDArray[np.float32]:
    """(N, C + 16): where two images are alike in both spaces, each counting half."""
    return np.concatenate([_standard(pool.features), _standard(layout(pool.attention))], axis=1)


def _standard(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows from their mean, of length 1 on average."""
    centred = np.asarray(rows, np.float32) - np.asarray(rows, np.float32).mean(0)
    scaled: NDArray[np.float32] = centred / np.sqrt((centred**2).sum(1).mean() + 1e-12)
    return scaled


DEFAULT = "representative"

STRATEGIES = {
    "random": Strategy(
        _lowest(lambda pool, seed: np.random.default_rng(seed).random(len(pool.annotated))), "any image"
    ),
    "entropy": Strategy(_lowest(lambda pool, _: certainty(pool.probabilities)), "highest entropy of the class"),
    "margin": Strategy(_lowest(lambda pool, _: margin(pool.probabilities)), "smallest lead of the class"),
    "confidence": Strategy(_lowest(lambda pool, _: confidence(pool.probabilities)), "least confident in the class"),
    "confident": Strategy(_lowest(lambda pool, _: -confidence(pool.probabilities)), "most confident in the class"),
    "mixture": Strategy(
        _lowest(lambda pool, seed: -unlikelihood(pool.attention, seed)),
        "least likely attention under a Gaussian mixture (He et al. 2023)",
    ),
    "instability": Strategy(
        _lowest(_instability), "attention that changes most with flips and crops", needs_views=True
    ),
    "kcentre": Strategy(
        _spread(lambda rows, count, chosen, _pool, _seed: farthest_first(rows, count, chosen)),
        "farthest from the chosen ones (k-centre)",
    ),
    "kmeans++": Strategy(
        _spread(lambda rows, count, _chosen, _pool, seed: far_at_random(rows, count, seed)), "k-means++ on features"
    ),
    "typiclust": Strategy(
        _spread(lambda rows, count, chosen, _pool, seed: typical(rows, count, chosen, seed)),
        "typical images of clusters not yet covered (TypiClust 2022)",
    ),
    "learned": Strategy(
        _lowest(lambda pool, _: -_chance(pool)), "attention most likely to be corrected, learnt from the answers"
    ),
    "representative": Strategy(
        lambda pool, count, seed: representative(pool.features, count, pool.annotated, None, seed),
        "stand for most of the pool (facility location)",
    ),
    "placed": Strategy(
        lambda pool, count, seed: representative(_placed(pool), count, pool.annotated, None, seed),
        "stand for most of the pool, in features and in where the attention lies",
    ),
    "combined": Strategy(
        lambda pool, count, seed: representative(pool.features, count, pool.annotated, _chance(pool), seed),
        "stand for most of what is likely to be corrected",
    ),
}
"""By the names under which the benchmark compares them."""
