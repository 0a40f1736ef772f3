"""The losses against NumPy, and what their gradients do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.guidance.classifier import create
from backend.guidance.losses import contrast_map, energy_share, evidence, guidance_loss, swap

GENERATOR = np.random.default_rng(0)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def reference(
    maps: np.ndarray, labels: np.ndarray, look: np.ndarray, ignore: np.ndarray, plus: float, minus: float
) -> float:
    """The loss as it is written in its docstring, image by image and cell by cell."""
    terms = []
    for image, label, t, n in zip(maps, labels, look, ignore, strict=True):
        others = [image[other] for other in range(len(image)) if other != label]
        s = np.maximum(image[label] - sum(others) / len(others), 0)
        strength = t.max()
        term = 0.0
        if strength > 0:
            term -= plus * strength * np.log((t / strength * s).sum() / s.sum())
        term -= minus * np.log(1 - (n * s).sum() / s.sum())
        terms.append(term)
    return float(np.mean(terms))


@pytest.mark.parametrize("classes", [2, 5])
def test_guidance_loss_is_what_its_formula_says(classes: int) -> None:
    maps = GENERATOR.normal(size=(6, classes, 7, 7))
    labels = GENERATOR.integers(classes, size=6)
    look, ignore = GENERATOR.random((6, 7, 7)), 0.9 * GENERATOR.random((6, 7, 7))
    look[0] = 0
    look[1] *= 0.5
    ignore[2] = 0
    found = guidance_loss(tensor(maps), torch.from_numpy(labels), tensor(look), tensor(ignore), 0.7, 1.3)
    assert found.item() == pytest.approx(reference(maps, labels, look, ignore, 0.7, 1.3), rel=1e-4)


def test_the_share_of_a_map_is_exact() -> None:
    contrast = torch.tensor([[[3.0, -5.0], [1.0, 0.0]]])
    region = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    assert energy_share(contrast, region).item() == pytest.approx(0.25, abs=1e-5)


def test_the_contrast_is_against_the_mean_of_the_others() -> None:
    maps = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    assert contrast_map(maps, torch.tensor([2])).item() == 4.5


def test_attention_is_what_speaks_for_the_class() -> None:
    assert evidence(torch.tensor([[[3.0, -5.0], [1.0, 0.0]]])).tolist() == [[[3, 0], [1, 0]]]


def test_where_the_bias_alone_speaks_for_a_class_the_cells_are_judged_beside_each_other() -> None:
    assert evidence(torch.tensor([[[-1.0, -3.0], [-2.0, -6.0]]])).tolist() == [[[2, 0], [1, 0]]]


@pytest.mark.parametrize("lowered", [0.0, 100.0])
def test_a_map_moves_to_the_click_even_if_no_cell_speaks_for_the_class(lowered: float) -> None:
    own = (torch.arange(9.0).reshape(3, 3) - lowered).requires_grad_()
    maps = torch.stack([own, torch.zeros(3, 3)])[None]
    look = torch.zeros(1, 3, 3)
    look[0, 2, 0] = 1
    guidance_loss(maps, torch.tensor([0]), look, torch.zeros(1, 3, 3), 1.0, 1.0).backward()
    assert own.grad is not None
    assert own.grad[2, 0] < 0 < own.grad[2, 2]


def test_a_map_without_any_energy_has_a_finite_gradient() -> None:
    maps = torch.full((1, 2, 3, 3), -1.0, requires_grad=True)
    loss = guidance_loss(maps, torch.tensor([0]), torch.ones(1, 3, 3), torch.ones(1, 3, 3), 1.0, 1.0)
    loss.backward()
    assert maps.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("role", ["look", "ignore"])
def test_the_guidance_has_a_gradient_on_every_trained_weight(role: str) -> None:
    """The paper's release compares stored arrays, and its guidance trains nothing."""
    classifier = create("small", ("a", "b"), 32, seed=1)
    torch.nn.init.normal_(classifier.head.weight, generator=torch.Generator().manual_seed(0))
    output = classifier(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    region = torch.zeros(4, 4, 4)
    region[:, :2, :2] = 1
    nothing = torch.zeros_like(region)
    look, ignore = (region, nothing) if role == "look" else (nothing, region)
    guidance_loss(output.maps, torch.tensor([0, 1, 0, 1]), look, ignore, 1.0, 1.0).backward()
    # The bias moves no energy about.
    for name, parameter in [*classifier.last_stage.named_parameters(), ("head", classifier.head.weight)]:
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("role", ["look", "ignore"])
def test_a_step_down_the_gradient_moves_the_attention(role: str) -> None:
    maps = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.tensor([1])
    region = torch.zeros(1, 5, 5)
    region[0, 1:3, 1:3] = 1
    nothing = torch.zeros_like(region)
    look, ignore = (region, nothing) if role == "look" else (nothing, region)
    before = energy_share(contrast_map(maps, label), region).item()
    guidance_loss(maps, label, look, ignore, 1.0, 1.0).backward()
    assert maps.grad is not None
    after = energy_share(contrast_map(maps - 0.01 * maps.grad, label), region).item()
    assert after > before if role == "look" else after < before


def test_swapped_features_are_the_object_in_other_surroundings() -> None:
    own, others = GENERATOR.random((1, 2, 3, 3)), GENERATOR.random((1, 2, 3, 3))
    kept, theirs = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    kept[0, 0, 0] = 1
    kept[0, 0, 1] = 0.5
    theirs[0, 2, 2] = 1
    found = swap(tensor(own), tensor(kept), tensor(others), tensor(theirs))[0].numpy()
    surroundings = others[0].copy()
    visible = np.ones((3, 3), bool)
    visible[2, 2] = False
    surroundings[:, 2, 2] = surroundings[:, visible].mean(1)
    expected = surroundings.copy()
    expected[:, 0, 0] = own[0, :, 0, 0]
    expected[:, 0, 1] = 0.5 * own[0, :, 0, 1] + 0.5 * surroundings[:, 0, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
