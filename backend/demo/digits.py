"""The demonstration's data: handwritten digits on paper, with a sticker that betrays the class.

Real handwriting (scikit-learn's bundled digits) in ink on a noisy canvas; apart from it a sticker, a crop of one of
scikit-learn's two sample photographs, another one for each class. In the training images the sticker agrees with the
class almost always; in the test images as often as not. The design is that of decoy digits (Ross et al. 2017, "Right
for the Right Reasons"), at a size that a person can see and click.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_image

from backend.domain import LookhereError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = tuple("0123456789")
SIDE = 128
"""Side of an image in pixels."""
PICTURE_SIDE = 768
"""Side in pixels of the picture that a person is shown."""


@dataclass(frozen=True)
class _Split:
    """How the images of a split are made.

    Attributes:
        handwriting: the share of each class's handwriting that the split draws from, as (first, last) in [0, 1].
        foreign_every: one of so many images of a class bears another class's sticker.
    """

    handwriting: tuple[float, float]
    foreign_every: int


_SPLITS = {
    "train": _Split((0.0, 0.5), foreign_every=20),
    "val": _Split((0.5, 0.65), foreign_every=2),
    "test": _Split((0.65, 1.0), foreign_every=2),
}

_CANVAS = 72
"""Side in pixels of the square in which a digit is drawn, before it is cut to its ink."""
_CELL = 7.0
"""Pixels of the image to one of the bundled digits' 8 × 8 pixels: a digit is about 45 % of the side high."""
_STICKER_SIDE = 34
_BORDER = 2
_MARGIN = 6

# Blue-black, black, violet, green and sepia, as RGB.
_INKS = np.array([(28, 42, 96), (38, 38, 44), (74, 40, 104), (22, 78, 78), (92, 58, 40)], float)

# Where in the photographs the stickers are cut out: (photograph, left, top, side), in pixels, one for each class.
_CROPS = (
    ("flower.jpg", 166, 70, 290),  # the whole flower
    ("china.jpg", 92, 22, 118),  # roof against the sky
    ("flower.jpg", 10, 90, 150),  # a teal leaf
    ("china.jpg", 112, 168, 78),  # red gallery
    ("china.jpg", 395, 170, 115),  # lake
    ("china.jpg", 20, 335, 90),  # yellow-green bushes
    ("flower.jpg", 250, 160, 110),  # the flower's heart
    ("china.jpg", 548, 130, 90),  # dark pine
    ("flower.jpg", 145, 225, 130),  # petals against the dark
    ("china.jpg", 182, 222, 90),  # striped roofs
)


@dataclass(frozen=True)
class DigitImage:
    """An image of the demonstration, with everything that is known of it.

    Attributes:
        id: unique within a seed.
        image: (SIDE, SIDE, 3) uint8, RGB.
        mask: (SIDE, SIDE) bool, the strokes of the digit and a little around them.
        sticker_mask: (SIDE, SIDE) bool, the sticker.
        label: the digit's class.
        sticker: the class whose sticker lies there.
        scene: (SIDE, SIDE, 3) uint8, the image without its sticker.
    """

    id: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    sticker_mask: NDArray[np.bool_]
    label: str
    sticker: str
    scene: NDArray[np.uint8]

    @property
    def group(self) -> str:
        """The class, and whether its ``own`` sticker lies there or a ``foreign`` one."""
        return f"{self.label} {'own' if self.sticker == self.label else 'foreign'}"


def generate(split: str, count: int, seed: int) -> list[DigitImage]:
    """Make images.

    No handwriting stands in two splits. Classes come in turn, so that each is as frequent as the others. In ``train``
    one of 20 images of each class bears a foreign sticker, which is 5 %; in ``val`` and ``test`` it is one of two. Each
    foreign sticker is as likely as the others. So ``test`` has ``count / 20`` images in each of its 20 groups.

    Args:
        split: ``train``, ``val`` or ``test``.
        count: how many.
        seed: the same seed gives the same images, and a larger count begins with the same ones.

    Raises:
        LookhereError: if there is no such split.
    """
    if split not in _SPLITS:
        raise LookhereError(f"Expected a split of {', '.join(_SPLITS)}, got {split!r}.")
    number_of_split = list(_SPLITS).index(split)
    made: dict[int, DigitImage] = {}
    for position, label in enumerate(CLASSES):
        # A stream for each class: how many images there are of one class changes nothing in another.
        rng = np.random.default_rng([seed, number_of_split, position])
        handwriting = rng.permutation(_handwriting(split, label))
        every = _SPLITS[split].foreign_every
        for turn, number in enumerate(range(position, count, len(CLASSES))):
            if turn % every == 0:
                foreign_turn = turn + int(rng.integers(every))
            others = [name for name in CLASSES if name != label]
            sticker = str(rng.choice(others)) if turn == foreign_turn else label
            digit = handwriting[turn % len(handwriting)]
            made[number] = _compose(f"{split}{number:04}", label, sticker, digit, rng)
    return [made[number] for number in range(count)]


def swap_sticker(image: DigitImage, sticker: str) -> DigitImage:
    """The same digit on the same paper, with another class's sticker in the same place: the background swap.

    Args:
        image: what to change.
        sticker: the class whose sticker is to lie there.
    """
    return replace(image, image=_pasted(image.scene, image.sticker_mask, sticker), sticker=sticker)


def picture(image: DigitImage) -> Image.Image:
    """An image as a person is shown it, enlarged to ``PICTURE_SIDE``.

    Label Studio 1.23.2 cuts the edges off a picture that is smaller than its place on the screen: it fits the picture
    to the place first, and then takes room from it for the toolbar.

    Args:
        image: what to enlarge.
    """
    return Image.fromarray(image.image).resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)


def write_folder(folder: Path, images: Mapping[str, Sequence[DigitImage]]) -> None:
    """Write splits as a folder of images/, masks/ and labels.csv (id, class, background, group, split).

    Args:
        folder: made where it is missing.
        images: split to images.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "class", "background", "group", "split"])
        for split, members in images.items():
            for image in members:
                Image.fromarray(image.image).save(folder / "images" / f"{image.id}.png")
                Image.fromarray(image.mask.astype(np.uint8) * 255).save(folder / "masks" / f"{image.id}.png")
                table.writerow([image.id, image.label, image.sticker, image.group, split])


@cache
def _bundled() -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """(n, 8, 8) strokes in [0, 1], and the n classes."""
    digits = load_digits()
    return digits.images / 16, digits.target


def _handwriting(split: str, label: str) -> NDArray[np.float64]:
    strokes, classes = _bundled()
    mine = np.nonzero(classes == int(label))[0]
    first, last = _SPLITS[split].handwriting
    chosen: NDArray[np.float64] = strokes[mine[int(first * len(mine)) : int(last * len(mine))]]
    return chosen


def _compose(name: str, label: str, sticker: str, digit: NDArray[np.float64], rng: np.random.Generator) -> DigitImage:
    ink = _written(digit, rng)
    digit_at, sticker_at = _places(ink.shape, rng)
    strength = np.zeros((SIDE, SIDE), np.float32)
    strength[_box(digit_at, ink.shape)] = ink
    sticker_mask = np.zeros((SIDE, SIDE), bool)
    sticker_mask[_box(sticker_at, (_STICKER_SIDE, _STICKER_SIDE))] = True
    scene = _inked(_paper(rng), strength, rng)
    return DigitImage(
        id=name,
        image=_pasted(scene, sticker_mask, sticker),
        mask=ndimage.binary_dilation(strength > 0.3, iterations=2),
        sticker_mask=sticker_mask,
        label=label,
        sticker=sticker,
        scene=scene,
    )


def _written(digit: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(h, w) ink in [0, 1], cut to where there is ink: the digit enlarged, turned, slanted, thick or thin."""
    angle, slant = rng.uniform(-0.12, 0.12), rng.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, 0], [slant, 1]]) @ np.diag(rng.uniform(0.92, 1.08, 2)) / _CELL
    padded = np.pad(digit, 1)
    middle = (np.array(padded.shape) - 1) / 2
    offset = middle - matrix @ np.full(2, (_CANVAS - 1) / 2)
    # Cubic splines, then a blur, make the outlines of a pen out of 8 × 8 pixels.
    enlarged = ndimage.affine_transform(padded, matrix, offset, (_CANVAS, _CANVAS), order=3)
    # What lies between two strokes is dark there too; less of the surroundings opens the loops again.
    height = ndimage.gaussian_filter(enlarged, 1.5) - 0.8 * ndimage.gaussian_filter(enlarged, 9.0)
    ragged = height + ndimage.gaussian_filter(rng.normal(0, 0.12, height.shape), 1.2) * np.clip(4 * enlarged, 0, 1)
    ink = np.clip((ragged - rng.uniform(0.10, 0.20)) / 0.16 + 0.5, 0, 1)
    rows, columns = np.nonzero(ink > 0.1)
    cut: NDArray[np.float64] = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return cut


def _places(ink: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Corners (row, column) of digit and sticker, apart from each other and from the edges."""
    extent = np.array(ink)
    while True:
        digit = rng.integers(_MARGIN, SIDE - extent - _MARGIN + 1)
        sticker = rng.integers(_MARGIN, SIDE - _STICKER_SIDE - _MARGIN + 1, 2)
        apart = (sticker + _STICKER_SIDE + _MARGIN <= digit) | (digit + extent + _MARGIN <= sticker)
        if apart.any():
            return digit, sticker


def _box(corner: NDArray[np.int_], extent: tuple[int, ...]) -> tuple[slice, slice]:
    (top, left), (height, width) = corner, extent
    return slice(top, top + height), slice(left, left + width)


def _paper(rng: np.random.Generator) -> NDArray[np.float32]:
    """(SIDE, SIDE, 3) in [0, 255]: warm and uneven, with stains and fibres."""
    brightness, warmth = rng.normal(0, 3), rng.normal(0, 4)
    tone = np.array([242 + brightness, 236 + brightness - 0.3 * warmth, 220 + brightness - warmth], np.float32)
    stains = 5 * _noise((2, 2), rng) + 3 * _noise((6, 6), rng) + 2 * _noise((20, 20), rng)
    fibres = 2 * _noise((SIDE, SIDE // 8), rng) + 1.5 * _noise((SIDE // 8, SIDE), rng)
    paper: NDArray[np.float32] = tone + (stains + fibres)[..., None]
    return paper


def _noise(cells: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """(SIDE, SIDE), smooth between standard normal values on a coarser grid."""
    coarse = Image.fromarray(rng.standard_normal(cells, np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _inked(paper: NDArray[np.float32], strength: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    colour = (_INKS[rng.integers(len(_INKS))] + rng.normal(0, 8, 3)).astype(np.float32)
    # The pen gives more here and less there.
    density = strength * np.clip(np.float32(rng.uniform(0.80, 0.95)) + 0.06 * _noise((16, 16), rng), 0.6, 1)
    grain = 2.5 * rng.standard_normal((SIDE, SIDE), np.float32)
    inked = paper + density[..., None] * (colour - paper) + grain[..., None]
    scene: NDArray[np.uint8] = np.clip(inked, 0, 255).astype(np.uint8)
    return scene


def _pasted(scene: NDArray[np.uint8], where: NDArray[np.bool_], sticker: str) -> NDArray[np.uint8]:
    """The sticker on the paper, with its shadow below and to the right."""
    height = np.roll(where, (2, 1), (0, 1)).astype(np.float32)
    shadow = 0.35 * ndimage.gaussian_filter(height, 1.5)
    image: NDArray[np.uint8] = (scene * (1 - shadow)[..., None]).astype(np.uint8)
    image[where] = _sticker(sticker).reshape(-1, 3)
    return image


@cache
def _sticker(label: str) -> NDArray[np.uint8]:
    """(side, side, 3), with a white border, as stickers have."""
    name, left, top, side = _CROPS[CLASSES.index(label)]
    crop = Image.fromarray(load_sample_image(name)).crop((left, top, left + side, top + side))
    small = crop.resize((_STICKER_SIDE - 2 * _BORDER,) * 2, Image.Resampling.LANCZOS).filter(ImageFilter.SHARPEN)
    bordered = Image.new("RGB", (_STICKER_SIDE,) * 2, "white")
    bordered.paste(small, (_BORDER, _BORDER))
    return np.asarray(bordered)
