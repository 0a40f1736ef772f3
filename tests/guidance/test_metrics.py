"""Measures against plain references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backend.domain import Click, ClickRole, Example
from backend.guidance.classifier import Classifier, ClassifierSpec, create
from backend.guidance.metrics import (
    calibration_error,
    energy_pointing_game,
    evaluate,
    group_accuracies,
    mean_group_accuracy,
    pointing_game,
    worst_group_accuracy,
)
from backend.guidance.overlay import attention_overlay
from backend.guidance.predicting import predict


def mask(rows: slice, columns: slice, side: int = 70) -> np.ndarray:
    found = np.zeros((side, side), bool)
    found[rows, columns] = True
    return found


def test_the_energy_pointing_game_counts_the_energy_inside() -> None:
    rng = np.random.default_rng(0)
    attention = rng.normal(size=(7, 7)).astype(np.float32)
    object_ = mask(slice(10, 50), slice(5, 33))
    enlarged = np.asarray(Image.fromarray(attention).resize((70, 70), Image.Resampling.BILINEAR)).clip(0)
    inside = sum(enlarged[row, column] for row in range(10, 50) for column in range(5, 33))
    assert energy_pointing_game(attention, object_) == pytest.approx(inside / enlarged.sum(), rel=1e-4)


def test_the_energy_pointing_game_at_its_ends() -> None:
    attention = np.zeros((7, 7), np.float32)
    assert energy_pointing_game(attention, mask(slice(0, 70), slice(0, 70))) == 0
    attention[1, 1] = 1
    assert energy_pointing_game(attention, mask(slice(0, 70), slice(0, 70))) == pytest.approx(1)
    assert energy_pointing_game(attention, mask(slice(0, 30), slice(0, 30))) == pytest.approx(1, abs=1e-3)
    assert energy_pointing_game(attention, mask(slice(40, 70), slice(40, 70))) == 0


def test_the_pointing_game_asks_for_the_peak() -> None:
    attention = np.full((7, 7), 0.5, np.float32)
    attention[5, 2] = 1
    assert pointing_game(attention, mask(slice(50, 60), slice(20, 30)))
    assert not pointing_game(attention, mask(slice(20, 30), slice(50, 60)))


@given(
    answers=st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), min_size=1, max_size=40),
)
def test_group_accuracies_are_counted(answers: list[tuple[bool, str]]) -> None:
    expected = {}
    for name in {group for _, group in answers}:
        mine = [right for right, group in answers if group == name]
        expected[name] = sum(mine) / len(mine)
    correct, groups = np.array([right for right, _ in answers]), [group for _, group in answers]
    assert group_accuracies(correct, groups) == pytest.approx(expected)
    assert worst_group_accuracy(correct, groups) == pytest.approx(min(expected.values()))
    assert mean_group_accuracy(correct, groups) == pytest.approx(sum(expected.values()) / len(expected))


def test_the_calibration_error_is_the_mean_gap_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.random(500)
    correct = rng.random(500) < confidences**2
    expected = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        mine = [place for place in range(500) if low < confidences[place] <= high]
        if mine:
            gap = abs(sum(correct[mine]) / len(mine) - sum(confidences[mine]) / len(mine))
            expected += gap * len(mine) / 500
    assert calibration_error(confidences, correct) == pytest.approx(expected)
    assert calibration_error(np.array([]), np.array([], bool)) == 0
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0


def lamp(place: tuple[int, int], label: int) -> Classifier:
    """A classifier that sees one cell of 4 × 4 light up, says one class, and is sure of it."""
    cells = torch.zeros(1, 1, 4, 4)
    cells[0, 0][place] = 1

    class Cells(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return cells.expand(len(images), -1, -1, -1)

    head = torch.nn.Linear(1, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-1.0]]) * (100 if label == 0 else -100))
        head.bias.zero_()
    return Classifier(ClassifierSpec("lamp", ("a", "b"), 32), torch.nn.Identity(), Cells(), head)


def examples(folder: Path, *clicks: Click) -> list[Example]:
    made = []
    for number, label in enumerate((0, 0, 1)):
        path = folder / f"{number}.png"
        Image.new("RGB", (20, 10), "grey").save(path)
        made.append(Example(path, label, clicks))
    return made


def test_a_prediction_says_where_its_class_is_seen() -> None:
    (said,) = predict(lamp((1, 3), 0), [Image.new("RGB", (40, 20))])
    assert said.label == "a"
    assert said.confidence == pytest.approx(1, abs=1e-3)
    assert sum(said.probabilities.values()) == pytest.approx(1)
    assert said.peak == (3.5 / 4, 1.5 / 4)
    assert said.attention.shape == (4, 4)
    assert said.attention.max() == said.attention[1, 3] == 1
    assert said.attention.sum() == 1
    assert said.attention_share == pytest.approx(1, abs=1e-3)
    assert said.features is not None
    assert said.features.shape == (1,)


def test_predictions_do_not_hang_on_the_batch() -> None:
    classifier = create("small", ("a", "b"), 32)
    torch.nn.init.normal_(classifier.head.weight)
    images = [Image.effect_noise((40, 40), 20 * number + 1).convert("RGB") for number in range(5)]
    for alone, together in zip(predict(classifier, images, 1), predict(classifier, images, 4), strict=True):
        np.testing.assert_allclose(alone.attention, together.attention, atol=1e-5)
        assert alone.confidence == pytest.approx(together.confidence, abs=1e-5)


def test_no_images_no_predictions() -> None:
    assert predict(create("small", ("a", "b"), 32), []) == []


def test_a_fresh_classifier_looks_nowhere() -> None:
    (said,) = predict(create("small", ("a", "b"), 32), [Image.effect_noise((40, 40), 50).convert("RGB")])
    assert said.confidence == pytest.approx(0.5)
    assert not said.attention.any()
    assert said.attention_share == 0


def test_a_version_is_evaluated_on_classes_and_clicks(tmp_path: Path) -> None:
    on, off = Click(0.85, 0.4, ClickRole.LOOK), Click(0.1, 0.9, ClickRole.LOOK)
    ignored = Click(0.9, 0.4, ClickRole.IGNORE)
    measured = evaluate(lamp((1, 3), 0), examples(tmp_path, on, off, ignored))
    assert measured.images == 3
    assert measured.accuracy == pytest.approx(2 / 3)
    assert measured.calibration_error == pytest.approx(1 / 3, abs=1e-3)
    assert (measured.look_clicks, measured.look_accuracy) == (6, 0.5)
    assert (measured.ignore_clicks, measured.ignored_energy) == (3, 1.0)
    assert measured.to_json()["accuracy"] == measured.accuracy


def test_nothing_to_evaluate_is_no_error() -> None:
    measured = evaluate(create("small", ("a", "b"), 32), [])
    assert measured.images == 0
    assert measured.accuracy == 0


def test_an_unreadable_image_does_not_cost_the_evaluation(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    measured = evaluate(lamp((0, 0), 0), [*examples(tmp_path), Example(bad, 0)])
    assert measured.images == 3


def test_the_overlay_colours_the_attention_and_keeps_the_image() -> None:
    attention = np.zeros((4, 4), np.float32)
    attention[0, 0] = 1
    image = Image.effect_noise((120, 80), 60).convert("RGB")
    drawn = attention_overlay(image, attention)
    assert drawn.mode == "RGB"
    assert drawn.size == image.size
    pixels, grey = np.asarray(drawn, float), np.asarray(image.convert("L"), float)
    unlit, lit = pixels[60:, 90:], pixels[:15, :15]
    # Away from the attention: no colour, and the image's own light and dark.
    assert np.ptp(unlit, axis=2).mean() < 5
    assert np.corrcoef(unlit.mean(2).ravel(), grey[60:, 90:].ravel())[0, 1] > 0.99
    assert np.ptp(lit, axis=2).mean() > 60
    assert np.corrcoef(lit.mean(2).ravel(), grey[:15, :15].ravel())[0, 1] > 0.7
