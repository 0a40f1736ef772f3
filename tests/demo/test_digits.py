"""The demonstration's data."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backend.demo.digits import CLASSES, SIDE, DigitImage, generate, picture, swap_sticker, write_folder
from backend.domain import LookhereError


@pytest.fixture(scope="module")
def train() -> list[DigitImage]:
    return generate("train", 200, seed=3)


@pytest.fixture(scope="module")
def test() -> list[DigitImage]:
    return generate("test", 200, seed=3)


def test_a_seed_always_gives_the_same_images(train: list[DigitImage]) -> None:
    for again, image in zip(generate("train", 25, seed=3), train, strict=False):
        assert again.id == image.id
        assert (again.image == image.image).all()
        assert (again.mask == image.mask).all()


def test_another_seed_gives_others(train: list[DigitImage]) -> None:
    assert not np.array_equal(generate("train", 1, seed=4)[0].image, train[0].image)


def test_the_sticker_betrays_the_class_in_95_percent_of_the_training_images(train: list[DigitImage]) -> None:
    foreign = Counter(image.label for image in train if image.sticker != image.label)
    assert foreign == dict.fromkeys(CLASSES, 1)


def test_the_sticker_lies_in_half_of_the_test_images_of_each_class(test: list[DigitImage]) -> None:
    groups = Counter(image.group for image in test)
    assert groups == {f"{label} {whose}": 10 for label in CLASSES for whose in ("own", "foreign")}


def test_every_foreign_sticker_occurs() -> None:
    images = generate("test", 1200, seed=0)
    pairs = Counter((image.label, image.sticker) for image in images if image.sticker != image.label)
    assert len(pairs) == 90, "each class with each other sticker"


def test_sticker_and_digit_are_apart_and_of_the_promised_size(train: list[DigitImage]) -> None:
    for image in train:
        assert not (image.mask & image.sticker_mask).any(), image.id
        rows, columns = np.nonzero(image.mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 0.35 * SIDE <= max(height, width) <= 0.6 * SIDE, image.id
        assert 0.22 <= np.sqrt(image.sticker_mask.mean()) <= 0.28, image.id
        assert rows.min() > 0
        assert rows.max() < SIDE - 1


def test_the_digit_can_be_seen_where_its_mask_says(train: list[DigitImage]) -> None:
    for image in train:
        light = image.image.mean(axis=2)
        paper = ~image.mask & ~image.sticker_mask
        darkest = np.percentile(light[image.mask], 25)
        assert darkest < np.median(light[paper]) - 60, f"{image.id}: ink on paper"
        assert (light[paper] > 130).all(), f"{image.id}: no ink outside the mask"


def test_the_stickers_differ(train: list[DigitImage]) -> None:
    stickers = {label: _pixels(swap_sticker(train[0], label)) for label in CLASSES}
    for one, other in combinations(CLASSES, 2):
        assert np.abs(stickers[one] - stickers[other]).mean() > 30, f"stickers {one} and {other} look alike"


def test_handwriting_is_not_shared_between_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, set[bytes]] = {}

    def remember(name: str, *drawn_from: Any) -> str:
        _, _, strokes, _ = drawn_from
        written.setdefault(name.rstrip("0123456789"), set()).add(strokes.tobytes())
        return name

    monkeypatch.setattr("backend.demo.digits._compose", remember)
    for split in ("train", "val", "test"):
        generate(split, 1800, seed=0)
    assert min(map(len, written.values())) > 200
    for one, other in combinations(written, 2):
        assert not written[one] & written[other]


def test_a_swapped_sticker_changes_nothing_else(test: list[DigitImage]) -> None:
    image = test[0]
    other = next(label for label in CLASSES if label != image.sticker)
    swapped = swap_sticker(image, other)
    assert (swapped.image[~image.sticker_mask] == image.image[~image.sticker_mask]).all()
    assert not (swapped.image == image.image).all()
    assert swapped.sticker == other
    assert swapped.label == image.label
    assert (swap_sticker(swapped, image.sticker).image == image.image).all()


def test_the_picture_for_people_shows_the_same(train: list[DigitImage]) -> None:
    shown = picture(train[0])
    assert min(shown.size) >= 640, "as wide as its place in Label Studio, beside the heat map on a 1920 pixel screen"
    difference = np.asarray(shown.resize((SIDE, SIDE), Image.Resampling.BOX), float) - train[0].image
    assert np.abs(difference).mean() < 3


def test_the_folder_holds_everything(tmp_path: Path, train: list[DigitImage], test: list[DigitImage]) -> None:
    write_folder(tmp_path, {"train": train[:3], "test": test[:2]})
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [image.id for image in [*train[:3], *test[:2]]]
    assert rows[0] == {
        "id": train[0].id,
        "class": train[0].label,
        "background": train[0].sticker,
        "group": train[0].group,
        "split": "train",
    }
    for image in [*train[:3], *test[:2]]:
        with Image.open(tmp_path / "images" / f"{image.id}.png") as stored:
            assert (np.asarray(stored) == image.image).all()
        with Image.open(tmp_path / "masks" / f"{image.id}.png") as stored:
            assert ((np.asarray(stored) > 0) == image.mask).all()


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(LookhereError, match="train, val, test, got 'dev'"):
        generate("dev", 1, seed=0)


def _pixels(image: DigitImage) -> NDArray[np.float64]:
    return image.image[image.sticker_mask].astype(np.float64)
