"""Acquisition from the whole pool: images that stand for many, unlike those already chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.neighbors import NearestNeighbors

from backend.selection.attention import unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIKE = 0.95
"""Cosine similarity of features from which on one image says nothing beside another."""

_SAMPLE = 4096
"""Images of a pool that are weighed against each other: more would cost their square, and say the same."""

_DIGITS = 4
"""Digits of a gain, in images stood for, that count: beyond them, sums in another order differ."""

_NEIGHBOURS = 20


def representative(
    features: NDArray[np.floating],
    count: int,
    annotated: NDArray[np.bool_] | None = None,
    weights: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> NDArray[np.intp]:
    """Order images so that each prefix stands for as much of the pool as it can: greedy facility location.

    An image adds Σ_i w_i max(0, s_ij − what the chosen ones reach of i), s the cosine similarity of centred features,
    so typical images come first, and copies add nothing. Greedy is within 1 − 1/e of the best prefix of every length
    (Nemhauser et al. 1978; for active learning: Wei et al., ICML 2015). No image that is ``ALIKE`` one before it is
    taken while there are others. Whoever annotates in this order finds the rest of it unchanged.

    Args:
        features: (N, C), any scale; a memory map will do. Of pools beyond 4,096 a random sample is weighed, and of as
            many annotated ones: time and memory are bounded.
        count: how many to choose.
        annotated: (N,) which images are annotated already and not chosen again; None for none.
        weights: (N,) not negative, how much it is worth to stand for each image; None for 1.
        seed: of the samples.

    Returns:
        Indices into ``features``, in the order of choice, each once; as many as asked for, or as are in the sample.
    """
    done = np.zeros(len(features), np.bool_) if annotated is None else annotated
    sample, known = _sample(np.flatnonzero(~done), seed), _sample(np.flatnonzero(done), seed)
    count = min(count, len(sample))
    if count <= 0:
        return np.empty(0, np.intp)
    raw, chosen = np.asarray(features[sample], np.float32), np.asarray(features[known], np.float32)
    # In an order that does not tell who is annotated: sums differ by it, and equal images would change places.
    centre = np.asarray(features[np.union1d(sample, known)], np.float32).mean(0)
    directions, centred = unit(raw), unit(raw - centre)
    similarity = np.clip(centred @ centred.T, 0, None)
    worth = np.ones(len(sample), np.float32) if weights is None else np.asarray(weights, np.float32)[sample]
    reached = np.zeros(len(sample), np.float32)
    copies = np.zeros(len(sample), np.bool_)
    if len(known):
        reached = np.clip((centred @ unit(chosen - centre).T).max(1), 0, None)
        copies = (directions @ unit(chosen).T).max(1) > ALIKE
    # What an image adds only falls as others are chosen: only those that may still be the best are weighed again.
    gains = np.round(np.maximum(similarity - reached[:, None], 0).T @ worth, _DIGITS)
    behind = worth.sum() + 1
    weighed_at = np.zeros(len(sample), np.intp)
    taken = np.zeros(len(sample), np.bool_)
    order = np.empty(count, np.intp)
    for place in range(count):
        while True:
            best = int(np.where(taken, -np.inf, gains - behind * copies).argmax())
            if weighed_at[best] == place:
                break
            gains[best] = np.round(np.maximum(similarity[best] - reached, 0) @ worth, _DIGITS)
            weighed_at[best] = place
        order[place] = best
        taken[best] = True
        np.maximum(reached, similarity[best], out=reached)
        copies |= directions @ directions[best] > ALIKE
    return sample[order]


def _sample(places: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    if len(places) <= _SAMPLE:
        return places
    return np.sort(np.random.default_rng(seed).choice(places, _SAMPLE, replace=False))


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
    directions = unit(features)
    order = np.empty(count, np.intp)
    if chosen is None or len(chosen) == 0:
        order[0] = np.argmax(directions @ directions.mean(axis=0))
        similarity = directions @ directions[order[0]]
        start = 1
    else:
        similarity = (directions @ unit(chosen).T).max(axis=1)
        start = 0
    similarity[order[:start]] = np.inf
    for place in range(start, count):
        order[place] = np.argmin(similarity)
        np.maximum(similarity, directions @ directions[order[place]], out=similarity)
        similarity[order[place]] = np.inf
    return order


def far_at_random(features: NDArray[np.floating], count: int, seed: int) -> NDArray[np.intp]:
    """Draw images with a chance that grows with the squared distance from those drawn (k-means++; as in BADGE, 2020).

    Args:
        features: (N, C), any scale; compared by direction.
        count: how many to draw, at most N.
        seed: of the draw.

    Returns:
        (min(count, N),) indices, in the order of the draw; each once.
    """
    count = min(count, len(features))
    if count <= 0:
        return np.empty(0, np.intp)
    _, drawn = kmeans_plusplus(unit(features).astype(np.float64), count, random_state=seed)
    # Copies of what was drawn may be drawn again, at a distance of 0.
    once = np.array(list(dict.fromkeys(drawn.tolist())), np.intp)
    rest = np.setdiff1d(np.arange(len(features)), once)
    order: NDArray[np.intp] = np.concatenate([once, rest])[:count]
    return order


def typical(
    features: NDArray[np.floating], count: int, chosen: NDArray[np.floating] | None = None, seed: int = 0
) -> NDArray[np.intp]:
    """The most typical image of each large cluster without a chosen one (TypiClust; Hacohen et al., ICML 2022).

    Args:
        features: (N, C), any scale; compared by direction.
        count: how many to choose, at most N.
        chosen: (M, C) features of images that are already annotated.
        seed: of the clustering.

    Returns:
        (min(count, N),) indices, in the order of choice, each once.
    """
    count = min(count, len(features))
    if count <= 0:
        return np.empty(0, np.intp)
    directions = unit(features)
    known = unit(chosen) if chosen is not None and len(chosen) else np.empty((0, directions.shape[1]), np.float32)
    everything = np.concatenate([directions, known])
    clusters = KMeans(min(len(known) + count, len(everything)), n_init=1, random_state=seed).fit(everything).labels_
    covered = np.bincount(clusters[len(directions) :], minlength=clusters.max() + 1)
    open_clusters = clusters[: len(directions)]
    density = np.zeros(len(directions))
    for cluster in np.unique(open_clusters):
        members = np.flatnonzero(open_clusters == cluster)
        near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(members))).fit(directions[members])
        density[members] = -near.kneighbors(directions[members])[0].mean(1)
    sizes = np.bincount(clusters)
    order: list[int] = []
    left = np.ones(len(directions), np.bool_)
    while len(order) < count:
        waiting = np.unique(open_clusters[left])
        cluster = min(waiting, key=lambda one: (covered[one], -sizes[one], one))
        members = np.flatnonzero(left & (open_clusters == cluster))
        best = int(members[density[members].argmax()])
        order.append(best)
        left[best] = False
        covered[cluster] += 1
    return np.array(order, np.intp)
