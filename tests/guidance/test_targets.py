"""Clicks become targets, and transforms move both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backend.domain import Click, ClickRole, LookhereError, Origin
from backend.guidance.data import MEAN, STD, jittered_image, jittered_marks, load_image, to_tensor
from backend.guidance.targets import (
    CONFIRMATION_WEIGHT,
    RADIUS,
    Marks,
    affected_disc,
    affected_segment,
    disc,
    ignore_target,
    look_target,
)

shares = st.floats(0, 1)


def look(x: float, y: float, **rest: object) -> Click:
    return Click(x, y, ClickRole.LOOK, **rest)  # type: ignore[arg-type] # the rest are the fields' own names


@given(x=shares, y=shares, height=st.integers(2, 15), width=st.integers(2, 15))
def test_a_disc_is_highest_under_its_click(x: float, y: float, height: int, width: int) -> None:
    found = disc(x, y, (height, width)).numpy()
    assert found.max() == 1
    assert found.min() >= 0
    assert found[min(int(y * height), height - 1), min(int(x * width), width - 1)] == pytest.approx(1, abs=1e-5)


def test_a_disc_falls_as_a_gaussian() -> None:
    found = disc(0.5, 0.5, (7, 7))
    assert found[3, 3] == 1
    assert found[3, 5].item() == pytest.approx(np.exp(-((2 / 7) ** 2) / (2 * RADIUS**2)), rel=1e-5)


def test_several_clicks_make_one_target() -> None:
    one, other = look(0.1, 0.1), look(0.9, 0.6)
    both = look_target([one, other], (7, 7))
    assert torch.equal(both, torch.maximum(look_target([one], (7, 7)), look_target([other], (7, 7))))


def test_agreement_and_confirmation_weigh() -> None:
    assert look_target([look(0.5, 0.5)], (7, 7)).max() == 1
    assert look_target([look(0.5, 0.5, agreement=0.25)], (7, 7)).max() == 0.25
    confirmed = look(0.5, 0.5, origin=Origin.CONFIRMED)
    assert look_target([confirmed], (7, 7)).max() == CONFIRMATION_WEIGHT < 1
    assert look_target([look(0.5, 0.5, origin=Origin.CORRECTED)], (7, 7)).max() == 1


def test_each_role_has_its_own_target() -> None:
    clicks = [look(0.2, 0.2), Click(0.8, 0.8, ClickRole.IGNORE)]
    attention = np.ones((7, 7), np.float32)
    assert torch.equal(look_target(clicks, (7, 7)), look_target(clicks[:1], (7, 7)))
    assert torch.equal(ignore_target(clicks, attention), ignore_target(clicks[1:], attention))
    assert not look_target(clicks[1:], (7, 7)).any()
    assert not ignore_target(clicks[:1], attention).any()


def hill(x: float, y: float, cells: int, width: float = 0.12) -> np.ndarray:
    down, right = (np.mgrid[:cells, :cells] + 0.5) / cells
    return np.exp(-((down - y) ** 2 + (right - x) ** 2) / (2 * width**2)).astype(np.float32)


@pytest.mark.parametrize("cells", [7, 12])
def test_an_ignored_hill_is_taken_and_the_other_is_left(cells: int) -> None:
    ignored, other = hill(0.25, 0.3, cells), 0.9 * hill(0.75, 0.8, cells)
    attention = np.maximum(ignored, other)
    segment = affected_segment(attention, 0.25, 0.3)
    assert ignored[segment].sum() / ignored.sum() > 0.4
    assert other[segment].sum() / other.sum() < 0.02


def test_an_ignore_where_there_is_no_attention_takes_its_cell_only() -> None:
    attention = np.zeros((7, 7), np.float32)
    attention[1, 1] = 1
    segment = affected_segment(attention, 0.9, 0.9)
    assert segment[6, 6]
    assert segment.sum() == 1


@given(x=shares, y=shares)
def test_the_clicked_cell_is_always_affected(x: float, y: float) -> None:
    attention = np.random.default_rng(0).random((5, 9), np.float32)
    row, column = min(int(y * 5), 4), min(int(x * 9), 8)
    assert affected_segment(attention, x, y)[row, column]
    assert affected_disc((5, 9), x, y)[row, column]


def test_a_disc_affects_its_neighbours_only() -> None:
    cells = affected_disc((7, 7), 0.5, 0.5)
    assert cells[3, 3]
    assert cells[3, 4]
    assert not cells[3, 6]
    assert np.array_equal(cells, cells.T)


def test_images_are_read_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("red", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = load_image(tmp_path / "turned.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((15, 5)) == (255, 0, 0)
    assert upright.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_an_error_for_people(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LookhereError, match=r"photo\.jpg"):
        load_image(path)


def test_a_truncated_image_is_an_error_for_people(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LookhereError, match=r"photo\.png"):
        load_image(path)


def test_tensors_are_normalised_as_imagenet() -> None:
    grey = to_tensor(Image.new("RGB", (30, 50), (128, 128, 128)), 16)
    expected = (128 / 255 - np.array(MEAN)) / np.array(STD)
    assert grey.shape == (3, 16, 16)
    np.testing.assert_allclose(grey.mean((1, 2)).numpy(), expected, rtol=1e-4)


@given(x=st.floats(0.2, 0.8), y=st.floats(0.2, 0.8), seed=st.integers(0, 10_000))
def test_transforms_move_clicks_with_the_image(x: float, y: float, seed: int) -> None:
    side = 64
    image = torch.zeros(3, side, side)
    row, column = int(y * side), int(x * side)
    image[:, row - 2 : row + 3, column - 2 : column + 3] = 1
    click = look((column + 0.5) / side, (row + 0.5) / side)
    moved = jittered_image(image, seed)
    (found,) = jittered_marks(Marks((click,)), side, seed).clicks
    rows, columns = torch.nonzero(moved[0] > 0.5, as_tuple=True)
    assert found.x * side == pytest.approx(columns.float().mean().item() + 0.5, abs=1.5)
    assert found.y * side == pytest.approx(rows.float().mean().item() + 0.5, abs=1.5)


def test_transforms_move_a_region_with_the_image() -> None:
    image = torch.zeros(3, 64, 64)
    image[:, 20:40, 12:30] = 1
    region = jittered_marks(Marks(region=image[0]), 64, seed=3).region
    assert region is not None
    moved = jittered_image(image, seed=3)[0]
    assert not torch.equal(moved, image[0])
    assert torch.equal(moved > 0.5, region > 0.5)


def test_transforms_do_move() -> None:
    marks = Marks((look(0.5, 0.5),))
    places = {jittered_marks(marks, 96, seed).clicks[0].x for seed in range(20)}
    assert len(places) > 8
    assert max(abs(x - 0.5) for x in places) <= 0.1


def test_a_click_that_leaves_the_image_is_dropped() -> None:
    marks = Marks((look(0.0, 0.0), look(0.5, 0.5)))
    kept = [jittered_marks(marks, 32, seed).clicks for seed in range(12)]
    assert {len(clicks) for clicks in kept} == {1, 2}
    assert all(0 <= click.x <= 1 and 0 <= click.y <= 1 for clicks in kept for click in clicks)


def test_an_outline_is_the_target_in_place_of_the_clicks() -> None:
    region = torch.zeros(28, 28)
    region[8:16, 4:8] = 1
    marks = Marks((look(0.9, 0.9),), region)
    target = marks.look((7, 7))
    assert target.max() == 1
    assert torch.nonzero(target).tolist() == [[2, 1], [3, 1]]
    assert marks.found(0.2, 0.4)
    assert not marks.found(0.9, 0.9)
