"""A click has a gradient, and moves the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from backend.domain import Click, ClickRole, Example, LookhereError, Origin
from backend.guidance.classifier import SMALL, Classifier, create
from backend.guidance.data import jittered_image, jittered_marks
from backend.guidance.losses import contrast_map, energy_share, guidance_loss, swap
from backend.guidance.pointer import UNCHECKED, Pointer, learn, trust
from backend.guidance.preparing import prepare
from backend.guidance.probe import solve_head
from backend.guidance.targets import Marks, affected_disc, affected_segment, disc, ignore_target, look_target
from backend.guidance.training import FitSettings, Loop, fit

QUICK = FitSettings(
    epochs=2, fresh_epochs=3, small_epochs=2, fewest_steps=2, views=2, batch_size=16, probes_per_class=32
)
RNG = np.random.default_rng(0)


def look(x: float, y: float, **facts: object) -> Click:
    return Click(x, y, ClickRole.LOOK, **facts)  # type: ignore[arg-type]


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    """Sixteen images; the class is the brightness of the upper left corner."""
    found = []
    for number in range(16):
        pixels = RNG.integers(90, 160, (64, 64, 3), dtype=np.uint8)
        pixels[:20, :20] = 255 * (number % 2)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found.append(Example(path, number % 2))
    return found


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([value.flatten() for value in classifier.state_dict().values()])


def clicked(examples: Sequence[Example], x: float, y: float) -> list[Example]:
    return [replace(one, clicks=(look(x, y),)) if place < 4 else one for place, one in enumerate(examples)]


def test_the_guidance_term_has_a_gradient_on_every_weight() -> None:
    classifier = create(SMALL, ("a", "b"))
    torch.nn.init.normal_(classifier.head.weight)
    output = classifier(torch.randn(2, 3, 64, 64))
    shape = output.maps.shape[2:]
    target = disc(0.2, 0.2, (shape[0], shape[1]))[None].repeat(2, 1, 1)
    guidance_loss(output.maps, torch.tensor([0, 1]), target, torch.zeros_like(target), 1.0, 1.0).backward()
    for name, parameter in classifier.last_stage.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert classifier.head.weight.grad is not None
    assert classifier.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("term", ["look_weight", "swap_share", "ignore_weight"])
def test_a_click_at_another_place_gives_other_weights(examples: list[Example], term: str) -> None:
    parent = fit(create(SMALL, ("a", "b")), examples, QUICK)
    alone = replace(QUICK, **{**dict.fromkeys(("look_weight", "swap_share", "ignore_weight"), 0.0), term: 1.0})
    role = ClickRole.IGNORE if term == "ignore_weight" else ClickRole.LOOK
    here, there = (
        [replace(one, clicks=(Click(x, x, role),)) if place < 4 else one for place, one in enumerate(examples)]
        for x in (0.15, 0.8)
    )
    assert not torch.equal(weights(fit(parent, here, alone)), weights(fit(parent, there, alone)))


def test_without_weight_a_click_changes_nothing(examples: list[Example]) -> None:
    parent = create(SMALL, ("a", "b"))
    silent = replace(QUICK, look_weight=0.0, ignore_weight=0.0, swap_share=0.0)
    assert torch.equal(
        weights(fit(parent, examples, silent)), weights(fit(parent, clicked(examples, 0.2, 0.2), silent))
    )


def test_the_same_call_gives_the_same_weights_and_leaves_its_parent(examples: list[Example], tmp_path: Path) -> None:
    parent = create(SMALL, ("a", "b"))
    before = weights(parent).clone()
    taught = clicked(examples, 0.2, 0.2)
    first = fit(parent, taught, QUICK, workdir=tmp_path)
    assert torch.equal(weights(first), weights(fit(parent, taught, QUICK, workdir=tmp_path)))
    assert torch.equal(weights(parent), before)
    assert not torch.equal(weights(first), weights(fit(parent, taught, replace(QUICK, seed=1))))


def test_it_learns_the_class(examples: list[Example]) -> None:
    classifier = fit(create(SMALL, ("a", "b")), examples, FitSettings(fresh_epochs=20))
    from backend.guidance.metrics import evaluate

    assert evaluate(classifier, examples).accuracy > 0.9


def test_a_pretrained_backbones_trunk_and_statistics_stay(examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    import torchvision

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    parent = create("resnet18", ("a", "b"), 64, path)
    child = fit(parent, clicked(examples, 0.2, 0.2), QUICK, workdir=tmp_path / "work")
    for name, value in child.trunk.state_dict().items():
        assert torch.equal(value, parent.trunk.state_dict()[name]), name
    for name, value in child.last_stage.state_dict().items():
        if "running" in name:
            assert torch.equal(value, parent.last_stage.state_dict()[name]), name
    assert not torch.equal(child.head.weight, parent.head.weight)
    assert list((tmp_path / "work").rglob("*.npy")), "the trunk's features are kept for the next training"


def test_what_cannot_teach_is_left_out(examples: list[Example], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    odd = [Example(tmp_path / "text.png", 0), Example(tmp_path / "gone.png", 1), Example(examples[0].image, None)]
    fit(create(SMALL, ("a", "b")), [*examples, *odd], QUICK)
    with pytest.raises(LookhereError, match="got none"):
        fit(create(SMALL, ("a", "b")), odd, QUICK)


def test_a_spent_budget_ends_the_fit(examples: list[Example], caplog: pytest.LogCaptureFixture) -> None:
    fit(create(SMALL, ("a", "b")), examples, replace(QUICK, time_budget_s=0.0))
    assert "budget" in caplog.text


def test_progress_rises_to_one(examples: list[Example]) -> None:
    told: list[float] = []
    fit(create(SMALL, ("a", "b")), examples, QUICK, on_progress=lambda progress, _message: told.append(progress))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_losses_are_what_they_say() -> None:
    maps = torch.from_numpy(RNG.normal(size=(3, 4, 5, 6)))
    labels = torch.tensor([0, 2, 3])
    t, n = torch.from_numpy(RNG.uniform(size=(2, 3, 5, 6)))
    t[0] = 0
    expected = []
    for image in range(3):
        m, y = maps[image].numpy(), int(labels[image])
        s = np.maximum(m[y] - np.delete(m, y, axis=0).mean(0), 0)
        height = t[image].numpy().max()
        pull = -height * np.log((t[image].numpy() / height * s).sum() / s.sum()) if height else 0.0
        expected.append(0.7 * pull - 0.2 * np.log(1 - (n[image].numpy() * s).sum() / s.sum()))
    assert guidance_loss(maps, labels, t, n, 0.7, 0.2).item() == pytest.approx(np.mean(expected), rel=1e-4)
    assert torch.allclose(contrast_map(maps, labels)[0], maps[0, 0] - maps[0, 1:].mean(0))
    assert energy_share(torch.ones(1, 2, 2), torch.tensor([[[1.0, 0], [0, 0]]])).item() == pytest.approx(0.25)


def test_a_swap_keeps_the_object_and_takes_the_others_surroundings() -> None:
    ours, theirs = torch.full((1, 2, 4, 4), 5.0), torch.full((1, 2, 4, 4), 7.0)
    theirs[..., 3, 3] = 100.0
    kept, their_object = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    kept[0, 0, 0] = 1
    their_object[0, 3, 3] = 1
    mixed = swap(ours, kept, theirs, their_object)
    assert mixed[0, 0, 0, 0] == 5
    assert mixed[0, 0, 1, 1] == 7
    assert mixed[0, 0, 3, 3] == pytest.approx(7), "their own object is gone"


def test_marks_move_with_their_image() -> None:
    image = torch.zeros(3, 60, 60)
    image[:, 20:25, 40:45] = 1
    marks = Marks((look(42.5 / 60, 22.5 / 60),), image[0])
    for seed in range(20):
        moved, on = jittered_image(image, seed), jittered_marks(marks, 60, seed)
        rows, columns = torch.nonzero(moved[0] > 0.5, as_tuple=True)
        (click,) = on.clicks
        assert click.x * 60 == pytest.approx(columns.float().mean().item() + 0.5, abs=1.5)
        assert click.y * 60 == pytest.approx(rows.float().mean().item() + 0.5, abs=1.5)
        assert on.region is not None
        assert torch.equal(on.region > 0.5, moved[0] > 0.5)
    far = Marks((look(0.001, 0.001),))
    assert any(not jittered_marks(far, 60, seed).clicks for seed in range(20)), "what left the image is gone"


def test_an_outline_takes_the_place_of_clicks() -> None:
    region = torch.zeros(40, 40)
    region[:20] = 1
    marks = Marks((look(0.5, 0.9),), region)
    assert torch.equal(marks.look((4, 4)), torch.tensor([[1.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]))
    assert marks.found(0.9, 0.1)
    assert not marks.found(0.5, 0.9)
    assert Marks((look(0.5, 0.9),)).found(0.5, 0.8)
    assert not Marks((look(0.5, 0.9),)).found(0.5, 0.1)


def test_targets_weigh_what_a_click_is_worth() -> None:
    whole = look_target((look(0.5, 0.5),), (7, 7))
    assert whole.max() == 1
    assert divmod(int(whole.argmax()), 7) == (3, 3)
    assert look_target((look(0.5, 0.5, agreement=0.5),), (7, 7)).max() == pytest.approx(0.5)
    assert look_target((look(0.5, 0.5, origin=Origin.CONFIRMED),), (7, 7)).max() == pytest.approx(0.5)
    assert not look_target((), (7, 7)).any()


def test_an_ignore_click_affects_the_segment_under_it() -> None:
    attention = np.zeros((12, 12), np.float32)
    attention[2:6, 2:6] = 1
    segment = affected_segment(attention, 3.5 / 12, 3.5 / 12)
    assert segment[3:5, 3:5].all()
    assert not segment[8:, 8:].any()
    assert ignore_target((Click(3.5 / 12, 3.5 / 12, ClickRole.IGNORE),), attention)[4, 4] == 1
    assert affected_disc((12, 12), 0.5, 0.5)[6, 6]
    assert not affected_disc((12, 12), 0.5, 0.5)[0, 0]


def test_a_pointer_finds_what_was_clicked_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    features, clicks = [], []
    for _ in range(12):
        cells = torch.rand(8, 10, 10, generator=generator)
        row, column = torch.randint(2, 8, (2,), generator=generator).tolist()
        cells[0, row - 1 : row + 2, column - 1 : column + 2] += 4
        features.append(cells)
        clicks.append((look((column + 0.5) / 10, (row + 0.5) / 10),))
    marks = [Marks(on) for on in clicks]
    pointer = learn(features[:8], marks[:8])
    for cells, (click,) in zip(features[8:], clicks[8:], strict=True):
        assert pointer.point(cells) == pytest.approx((click.x, click.y), abs=0.11)
    assert trust(features, marks) == 1.0
    assert trust(features[:2], marks[:2]) == 1.0, "the second click already tells whether the first one holds elsewhere"
    assert trust(features[:1], marks[:1]) == UNCHECKED
    assert trust([], []) == 0.0
    astray = [Marks((look(float(x), float(y)),)) for x, y in torch.rand(12, 2, generator=generator)]
    assert trust(features, astray) < 1 / 3


def test_a_pointer_mends_a_click_that_slipped_and_doubts_one_far_away() -> None:
    weights = torch.tensor([1.0, 0.0])
    cells = torch.zeros(1, 10, 10)
    cells[0, 2, 2], cells[0, 7, 7] = 1.0, 0.9
    pointer = Pointer(weights, torch.tensor(0.0))
    assert pointer.point(cells) == pytest.approx((0.25, 0.25))
    assert pointer.point(cells, disc(0.72, 0.7, (10, 10))) == pytest.approx((0.75, 0.75))
    cells[0, 7, 7] = 0.1
    assert pointer.point(cells, disc(0.72, 0.7, (10, 10))) == pytest.approx((0.25, 0.25))


def test_a_head_is_solved_as_scikit_learn_solves_it() -> None:
    features = RNG.normal(size=(60, 5)) * [1, 10, 0.1, 1, 1] + 3
    for labels in (RNG.integers(0, 3, 60), np.where(features[:, 0] > 3, 0, 2)):
        head = torch.nn.Linear(5, 4)
        solve_head(head, features, labels)
        reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(features, labels)
        with torch.no_grad():
            found = head(torch.from_numpy(features).float())
        present = found[:, np.unique(labels)].softmax(1).numpy()
        np.testing.assert_allclose(present, reference.predict_proba(features), atol=1e-4)
        assert not head.weight[3].any(), "a class without an image speaks for nothing"
    before = head.weight.clone()
    solve_head(head, features, np.zeros(60, int))
    assert torch.equal(head.weight, before), "one class alone says nothing"


class Killed(BaseException):
    pass


def test_a_killed_fit_goes_on_where_it_was(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    parent, taught = create(SMALL, ("a", "b")), clicked(examples, 0.2, 0.2)
    settings = replace(QUICK, fresh_epochs=6, checkpoint_every_s=0.0)
    whole = fit(parent, taught, settings, workdir=tmp_path / "whole")
    advance = Loop.advance

    def dying(loop: Loop) -> torch.Tensor:
        if loop.step == 4:
            raise Killed
        return advance(loop)

    monkeypatch.setattr(Loop, "advance", dying)
    with pytest.raises(Killed):
        fit(parent, taught, settings, workdir=tmp_path)
    steps: list[int] = []
    monkeypatch.setattr(Loop, "advance", lambda loop: (steps.append(loop.step), advance(loop))[1])
    resumed = fit(parent, taught, settings, workdir=tmp_path)
    assert steps == [4, 5]
    assert "goes on from step 4" in caplog.text
    assert torch.equal(weights(resumed), weights(whole))
    assert not list(tmp_path.glob("*.pt")), "a fit that ended leaves no checkpoint"


@pytest.mark.parametrize("fault", ["other clicks", "torn"])
def test_a_checkpoint_of_another_fit_is_not_taken_up(
    examples: list[Example], tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, taught = create(SMALL, ("a", "b")), clicked(examples, 0.2, 0.2)
    settings = replace(QUICK, checkpoint_every_s=0.0)
    expected = fit(parent, taught, settings)
    with monkeypatch.context() as patched:
        patched.setattr("backend.guidance.training._Checkpoint.remove", lambda _checkpoint: None)
        fit(parent, clicked(examples, 0.8, 0.8), settings, workdir=tmp_path)
    (kept,) = tmp_path.glob("*.pt")
    if fault == "torn":
        kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(weights(fit(parent, taught, settings, workdir=tmp_path)), weights(expected))


def test_a_short_budget_ends_reading_too_and_clicked_images_come_first(
    examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    taught = [*examples[4:], *clicked(examples, 0.2, 0.2)[:4]]
    found = prepare(create(SMALL, ("a", "b")), taught, time_budget_s=0.0)
    assert 2 <= len(found.labels) < len(taught)
    assert found.guided.all()
    assert "budget" in caplog.text
