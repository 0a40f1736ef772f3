"""Images and clicks to tensors, and the transforms that move both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import KeyPoints, Mask

from backend.domain import LookhereError
from backend.guidance.targets import Marks

# Of ImageNet, which torchvision's backbones were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def load_image(path: Path) -> Image.Image:
    """Read an image as browsers show it: EXIF orientation applied, RGB.

    Raises:
        LookhereError: if the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LookhereError(f"Expected a readable image, got {path.name!r}: {error}.") from error


def to_tensor(image: Image.Image, size: int) -> Tensor:
    """An image as a backbone wants it.

    Args:
        image: RGB.
        size: side in pixels; the image is resized to a square, so that a click's place stays a share of each side.

    Returns:
        (3, size, size) float32, normalised by ImageNet's mean and deviation.
    """
    pixels = functional.pil_to_tensor(image)
    square = functional.resize(pixels, [size, size], antialias=True)
    normalised: Tensor = functional.normalize(functional.to_dtype(square, torch.float32, scale=True), MEAN, STD)
    return normalised


def jittered_image(image: Tensor, seed: int) -> Tensor:
    """Shift and scale an image at random.

    Mild, and without flips: what a mirrored digit, letter or sign means is another thing.

    Args:
        image: (3, S, S), normalised.
        seed: of the randomness; ``jittered_marks`` moves with the same seed alike.

    Returns:
        (3, S, S)
    """
    return _jitter(image, seed)


def jittered_marks(marks: Marks, side: int, seed: int) -> Marks:
    """Move the marks on an image as ``jittered_image`` moves the image.

    Args:
        marks: on the unmoved image.
        side: S, in pixels.
        seed: of the randomness.

    Returns:
        The moved marks, without the clicks that are no longer on the image.
    """
    places = [[click.x * side, click.y * side] for click in marks.clicks]
    points = _jitter(KeyPoints(torch.tensor(places).reshape(-1, 2), canvas_size=(side, side)), seed)
    moved = (points.as_subclass(Tensor) / side).tolist()
    clicks = tuple(
        replace(click, x=x, y=y)
        for click, (x, y) in zip(marks.clicks, moved, strict=True)
        if 0 <= x <= 1 and 0 <= y <= 1
    )
    region = marks.region
    if region is not None:
        square = functional.resize(Mask(region[None]), [side, side], antialias=True)
        region = _jitter(square, seed).as_subclass(Tensor)[0]
    return Marks(clicks, region)


_Moved = TypeVar("_Moved", bound=Tensor)


def _jitter(what: _Moved, seed: int) -> _Moved:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        moved: _Moved = _JITTER(what)
    return moved


_JITTER = v2.RandomAffine(degrees=0, translate=(0.08, 0.08), scale=(0.9, 1.1), fill=0)
