"""Acquisition from attention maps: whose attention is unusual, unstable, or likely to be corrected. High is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 4
_COMPONENTS = 2
_FITTED = 20_000


def layout(attention: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where maps lie, coarsely: their shares of energy on a grid of 4 × 4.

    Args:
        attention: (N, h, w), not negative.

    Returns:
        (N, 16) rows sum to 1; all equal for a map without energy.
    """
    count, height, width = attention.shape
    down, right = _pooling(height), _pooling(width)
    pooled = np.einsum("ih,nhw,jw->nij", down, np.asarray(attention, np.float64), right).reshape(count, -1)
    total = pooled.sum(1, keepdims=True)
    shares: NDArray[np.float64] = np.where(total > 0, pooled / np.maximum(total, 1e-12), 1 / _SIDE**2)
    return shares


def unlikelihood(attention: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """How unlikely maps are under a mixture of two Gaussians with diagonal covariance (He et al., IUI 2023, §3.3).

    One fit on the pool, on maps of equal energy and few dimensions. Unusual attention is asked about first: in the
    paper's release the direction depends on the sign that a likelihood happens to have.

    Args:
        attention: (N, h, w), not negative.
        seed: of the fit's start.

    Returns:
        (N,) negative log-likelihoods.
    """
    points = layout(attention)
    if len(points) < 2 * _COMPONENTS:
        return np.zeros(len(points))
    some = np.random.default_rng(seed).permutation(len(points))[:_FITTED]
    # Shares of energy are of the order of 0.1: a cell that is always empty must not decide alone.
    mixture = GaussianMixture(_COMPONENTS, covariance_type="diag", reg_covar=1e-4, random_state=seed).fit(points[some])
    unlikely: NDArray[np.float64] = -mixture.score_samples(points)
    return unlikely


def instability(views: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much the attention changes when only the view of the image does: flipped, cropped, moved back.

    The mean total variation distance of the maps' shares of energy from their mean, after the consistency of
    explanations under transforms (Pillai and Pirsiavash 2022; as acquisition: Gao et al., ECCV 2020).

    Args:
        views: (N, V, h, w), not negative, moved back to the image's own coordinates.

    Returns:
        (N,) in [0, 1].
    """
    count, several = views.shape[:2]
    shares = layout(views.reshape(count * several, *views.shape[2:])).reshape(count, several, -1)
    distances: NDArray[np.float64] = np.abs(shares - shares.mean(1, keepdims=True)).sum(2).mean(1) / 2
    return distances


def correction_chance(
    features: NDArray[np.floating], attention: NDArray[np.floating], corrected: NDArray[np.floating]
) -> NDArray[np.float64]:
    """How likely an annotator corrects the attention: learnt from what was corrected and what was accepted so far.

    A penalised logistic regression on the pooled features, the layout of the maps, and where their energy lies.

    Args:
        features: (N, C) pooled.
        attention: (N, h, w), not negative.
        corrected: (N,) 1 where the attention was corrected, 0 where it was accepted, NaN where nobody said.

    Returns:
        (N,) in [0, 1]; the rate so far for all, while there is only one kind of answer.
    """
    known = ~np.isnan(corrected)
    answers = corrected[known] > 0.5
    if len(np.unique(answers)) < 2:
        # One answer that was never given: Laplace's rule keeps the rate off 0 and 1.
        return np.full(len(corrected), (answers.sum() + 1) / (known.sum() + 2))
    rows = np.concatenate([unit(features), layout(attention)], axis=1)
    learnt = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(rows[known], answers)
    chance: NDArray[np.float64] = learnt.predict_proba(rows)[:, 1]
    return chance


def unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features of length 1: (N, C) float32; what is compared is their direction."""
    rows = np.asarray(features, np.float32)
    directions: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return directions


def _pooling(cells: int) -> NDArray[np.float64]:
    """(4, cells): how much of each cell lies in each quarter of the side."""
    edges = np.arange(cells + 1) / cells * _SIDE
    lower, upper = edges[None, :-1], edges[None, 1:]
    quarter = np.arange(_SIDE)[:, None]
    overlap: NDArray[np.float64] = np.clip(np.minimum(upper, quarter + 1) - np.maximum(lower, quarter), 0, None)
    return overlap / (upper - lower)
