"""What a click asks of the classifier: attention, and the same answer whatever surrounds the object.

For a clicked image with class y, target t ∈ [0, 1] on the cells ("Look here"), n ∈ [0, 1] ("Ignore"), and the positive
part s of the contrast map S = M_y − mean of the other classes' maps (``evidence``):

    L = CE − λ₊ log(Σ t·s / Σ s) − λ₋ log(1 − Σ n·s / Σ s)

after the energy loss of Rao et al., ICCV 2023, on the live map, so that it has a gradient on every weight. A map can
move while the decision still hangs on the surroundings, which every cell of a deep layer sees. So the object is also
put before the surroundings of other images, in the trunk's features, and must keep its class there: ``swap``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-6


def contrast_map(maps: Tensor, labels: Tensor) -> Tensor:
    """What speaks for a class against the others.

    Args:
        maps: (N, K, h, w) signed class activation maps.
        labels: (N,) the classes.

    Returns:
        (N, h, w) the class's map less the mean of the others'.
    """
    own = maps[torch.arange(len(maps)), labels]
    others = (maps.sum(1) - own) / (maps.shape[1] - 1)
    return own - others


def evidence(contrast: Tensor) -> Tensor:
    """What of contrast maps counts as attention: their positive part.

    The head's bias alone can speak for a class while every cell speaks against it. Then the cells are judged beside
    each other, by what is above their mean: such an image has attention to show, and a gradient to move it.

    Args:
        contrast: (N, h, w) signed.

    Returns:
        (N, h, w), not negative; all 0 only where the whole map is one value.
    """
    best = contrast.amax((1, 2), keepdim=True)
    return F.relu(torch.where(best > 0, contrast, contrast - contrast.mean((1, 2), keepdim=True)))


def energy_share(contrast: Tensor, region: Tensor) -> Tensor:
    """The share of the attention of maps that lies in a region.

    Args:
        contrast: (N, h, w) signed.
        region: (N, h, w) in [0, 1].

    Returns:
        (N,) in [0, 1].
    """
    energy = evidence(contrast)
    return (region * energy).sum((1, 2)) / (energy.sum((1, 2)) + _TINY)


def guidance_loss(
    maps: Tensor, labels: Tensor, look: Tensor, ignore: Tensor, look_weight: float, ignore_weight: float
) -> Tensor:
    """The guidance term of the loss.

    Args:
        maps: (N, K, h, w) signed class activation maps of clicked images.
        labels: (N,) their classes.
        look: (N, h, w) in [0, 1]; all 0 for an image without a "Look here".
        ignore: (N, h, w) in [0, 1]; all 0 for an image without an "Ignore".
        look_weight: λ₊.
        ignore_weight: λ₋.

    Returns:
        scalar, the mean over the images.
    """
    contrast = contrast_map(maps, labels)
    # A click that counts less pulls less: its disc's height is its weight, not a smaller share to reach.
    strength = look.amax((1, 2))
    inside = energy_share(contrast, look / strength.clamp_min(_TINY)[:, None, None])
    outside = 1 - energy_share(contrast, ignore)
    pull = -strength * torch.log(inside.clamp_min(_TINY))
    push = -torch.log(outside.clamp_min(_TINY))
    return (look_weight * pull + ignore_weight * push).mean()


def swap(features: Tensor, kept: Tensor, others: Tensor, others_kept: Tensor) -> Tensor:
    """Put objects before the surroundings of other images.

    Args:
        features: (N, C, H, W) of the trunk.
        kept: (N, H, W) in [0, 1], the objects in them.
        others: (N, C, H, W) of the images that give the surroundings.
        others_kept: (N, H, W) in [0, 1], the objects in those: the mean of their surroundings takes their place.

    Returns:
        (N, C, H, W)
    """
    inside, theirs = kept[:, None], others_kept[:, None]
    outside = 1 - theirs
    mean = (outside * others).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True).clamp_min(_TINY)
    return inside * features + (1 - inside) * (outside * others + theirs * mean)
