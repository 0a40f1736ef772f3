"""Data sets with masks: the demonstration's digits, and any folder in the pack format."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from backend.demo.digits import CLASSES, generate, write_folder
from backend.domain import LookhereError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = "digits"
_COUNTS = {"train": 400, "val": 400, "test": 1000}
_COLUMNS = {"id", "class", "background", "group", "split"}


@dataclass(frozen=True)
class Masked:
    """An image of a data set.

    Attributes:
        image: its file.
        mask: the file that is 255 on the object.
        label: its class.
        background: what its surroundings are; for measuring alone.
        group: class and background; for measuring alone.
    """

    image: Path
    mask: Path
    label: str
    background: str
    group: str

    def read_mask(self) -> NDArray[np.bool_]:
        """(H, W), the object."""
        with Image.open(self.mask) as mask:
            cells: NDArray[np.bool_] = np.asarray(mask.convert("L")) > 127
        return cells


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        name: of it.
        classes: in order.
        splits: ``train`` and ``test``, perhaps ``val``.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Masked]]


def open_data(name: str, folder: Path) -> DataSet:
    """Open a data set.

    Args:
        name: ``digits``, or a folder with images/, masks/ and labels.csv (id, class, background, group, split).
        folder: where the digits are written; not used for a folder.

    Raises:
        LookhereError: if the folder is not in that format.
    """
    if name == DIGITS:
        write_folder(folder, {split: generate(split, count, seed=0) for split, count in _COUNTS.items()})
        return _read(DIGITS, folder, CLASSES)
    return _read(Path(name).name, Path(name), None)


def _read(name: str, folder: Path, classes: tuple[str, ...] | None) -> DataSet:
    table = folder / "labels.csv"
    if not table.is_file():
        raise LookhereError(f"Expected a folder with labels.csv, images/ and masks/, or `digits`, got {str(folder)!r}.")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or _COLUMNS - rows[0].keys():
        raise LookhereError(
            f"Expected columns {', '.join(sorted(_COLUMNS))} in {table}, got {list(rows[0]) if rows else []}."
        )
    splits: dict[str, list[Masked]] = {}
    for row in rows:
        image = next(iter(sorted((folder / "images").glob(f"{row['id']}.*"))), None)
        mask = folder / "masks" / f"{row['id']}.png"
        if image is None or not mask.is_file():
            raise LookhereError(f"Expected an image and a mask of {row['id']!r} below {folder}.")
        splits.setdefault(row["split"], []).append(Masked(image, mask, row["class"], row["background"], row["group"]))
    if not {"train", "test"} <= splits.keys():
        raise LookhereError(f"Expected the splits train and test in {table}, got {', '.join(splits)}.")
    return DataSet(name, classes or tuple(sorted({row["class"] for row in rows})), splits)
