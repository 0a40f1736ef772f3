"""A picture of where the classifier looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Perceptually uniform: twice the attention looks like twice, also to the colour-blind and in grey.
_COLOURS = colormaps["inferno"]
_STRONGEST = 0.75


def attention_overlay(image: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """Lay an attention map over its image.

    The image turns grey and keeps its light; colour tells the attention, and grows opaque with it.

    Args:
        image: RGB.
        attention: (h, w) in [0, 1].

    Returns:
        RGB, of the image's size.
    """
    smooth = Image.fromarray(np.asarray(attention, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)
    grey = np.asarray(image.convert("L"), np.float32)[..., None].repeat(3, axis=2)
    colour = _COLOURS(strength)[..., :3].astype(np.float32) * 255
    opacity = (0.15 + (_STRONGEST - 0.15) * strength)[..., None]
    return Image.fromarray(np.clip((1 - opacity) * grey + opacity * colour, 0, 255).astype(np.uint8))
