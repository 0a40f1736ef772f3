"""The benchmark measures what it says, on any data set of its format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from backend.bench.data import Masked, open_data
from backend.bench.guidance import Protocol, bench
from backend.bench.methods import METHODS, Answer, balanced, paper_term, rrr_term
from backend.bench.report import summarise
from backend.bench.swapping import swapped
from backend.cli import main
from backend.demo.digits import generate, write_folder
from backend.domain import LookhereError
from backend.guidance.classifier import SMALL, ClassifierOutput, create
from backend.guidance.training import Batch


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    write_folder(folder, {"train": generate("train", 20, 0), "test": generate("test", 20, 0)})
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {"epochs": 1, "fresh_epochs": 1, "small_epochs": 1, "fewest_steps": 1, "views": 1, "probes_per_class": 8}
    for name, method in METHODS.items():
        monkeypatch.setitem(METHODS, name, replace(method, settings=replace(method.settings, **fast)))  # type: ignore[arg-type]


@pytest.mark.usefixtures("quick")
def test_it_runs_methods_times_clicks_times_seeds(pack: Path, tmp_path: Path) -> None:
    protocol = Protocol(str(pack), methods=tuple(METHODS), clicked=(0, 8), seeds=2)
    report = bench(protocol, tmp_path / "out", tmp_path / "figures.json", say=lambda _line: None)
    assert report == tmp_path / "figures.json"
    found = json.loads(report.read_text())
    alone = sum(method.answer is Answer.NOTHING for method in METHODS.values())
    assert len(found["runs"]) == 2 * (alone + 2 * (len(METHODS) - alone))
    assert {run["method"] for run in found["runs"]} == set(METHODS)
    required = {"method", "clicked", "seed", "accuracy", "worst_group", "epg", "pointing", "seconds"}
    for run in found["runs"]:
        assert required <= run.keys()
        assert 0 <= run["worst_group"] <= run["mean_group"] <= 1
        assert run["worst_group"] <= run["accuracy"] <= 1
        assert 0 <= run["flips"] <= 1
    by_name = {(run["method"], run["clicked"], run["seed"]): run for run in found["runs"]}
    for seed in (0, 1):
        unclicked, control = ({**by_name[name, 0, seed], "method": "", "seconds": 0} for name in ("default", "control"))
        assert unclicked == control, "without clicks the default is the control"
    assert by_name["default", 8, 0] != by_name["random", 8, 0]
    assert "| default | 8 |" in (tmp_path / "out" / "guidance-pack.md").read_text()
    for picture in ("guidance-pack.png", "guidance-pack-maps.png"):
        with Image.open(tmp_path / "out" / picture) as image:
            assert min(image.size) > 200


@pytest.mark.usefixtures("quick")
def test_the_command_takes_its_options(pack: Path, tmp_path: Path) -> None:
    options = ["--methods", "erm,default", "--clicked", "4", "--seeds", "1", "--noise", "0.1", "--mistakes", "0.5"]
    places = ["--data", str(pack), "--json", str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(main, ["bench", "guidance", *options, *places], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["protocol"]["noise"], found["protocol"]["mistakes"]) == (0.1, 0.5)
    assert {(row["method"], row["clicked"]) for row in found["summary"]} == {("erm", 0), ("default", 4)}
    assert CliRunner().invoke(main, ["bench", "guidance", "--clicked", "few"]).exit_code == 1


@pytest.mark.usefixtures("quick")
def test_an_image_whose_object_is_not_to_be_seen_is_not_clicked(pack: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        hidden = open_data(str(pack), tmp_path).splits[split][0]
        with Image.open(hidden.mask) as mask:
            size = mask.size
        Image.new("L", size).save(hidden.mask)
    methods = tuple(name for name, method in METHODS.items() if method.answer is not Answer.NOTHING)
    report = bench(Protocol(str(pack), methods=methods, clicked=(20,), seeds=1), tmp_path / "out", say=lambda _: None)
    assert len(json.loads(report.read_text())["runs"]) == len(methods)


def test_intervals_are_students() -> None:
    figures = dict.fromkeys(("worst_group", "mean_group", "consistent", "flips", "epg", "pointing", "seconds"), 0.0)
    runs = [{"method": "a", "clicked": 1, "seed": 0, "accuracy": value, **figures} for value in (0.1, 0.2, 0.3)]
    (row,) = summarise(runs)
    assert row["accuracy"]["mean"] == pytest.approx(0.2)
    assert row["accuracy"]["half_interval"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert row["accuracy"]["deviation"] == pytest.approx(0.1)


def test_the_swap_keeps_the_object_and_changes_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for number, background in enumerate(("dark", "dark", "bright", "bright")):
        pixels = np.full((40, 40, 3), 20 if background == "dark" else 220, np.uint8)
        mask = np.zeros((40, 40), bool)
        top, left = rng.integers(2, 20, 2)
        mask[top : top + 12, left : left + 12] = True
        pixels[mask] = (200, 0, 0)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{number}-mask.png")
        images.append(
            Masked(tmp_path / f"{number}.png", tmp_path / f"{number}-mask.png", "a", background, f"a {background}")
        )
    for one, image in zip(images, swapped(images), strict=True):
        pixels, mask = np.asarray(image), one.read_mask()
        assert (pixels[mask] == (200, 0, 0)).all()
        assert (pixels[~mask] == (220 if one.background == "dark" else 20)).all(), "nothing of the other object is left"
    with pytest.raises(LookhereError, match="several backgrounds"):
        swapped(images[:2])


def test_the_papers_loss_is_the_distance_of_barycentres_and_the_mass_in_the_segment() -> None:
    maps = torch.zeros(1, 2, 4, 4, requires_grad=True)
    with torch.no_grad():
        maps[0, 0, 0, 0] = maps[0, 0, 0, 2] = 1.0
    look, ignore = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    look[0, 3, 1] = 1.0
    ignore[0, 0, :2] = 1.0
    features = torch.zeros(1, 1, 4, 4)
    batch = Batch(features, torch.tensor([0]), look, ignore, look, slice(0, 1))
    loss = paper_term(create(SMALL, ("a", "b")), batch, ClassifierOutput(maps.mean((2, 3)), maps, features))
    assert loss.item() == pytest.approx(3 * (0.75**2 + 0.5))
    loss.backward()  # type: ignore[no-untyped-call]
    assert maps.grad is not None
    assert maps.grad.any(), "unlike the released code's"


def test_rrr_has_no_loss_where_the_gradient_is_in_the_outline_alone() -> None:
    classifier = create(SMALL, ("a", "b"))
    torch.nn.init.normal_(classifier.head.weight)
    features = torch.randn(2, 19, 16, 16)
    for kept, expected in ((torch.ones(2, 16, 16), 0.0), (torch.zeros(2, 16, 16), 10.0)):
        batch = Batch(features, torch.tensor([0, 1]), kept, kept, kept, slice(0, 2))
        loss = rrr_term(classifier, batch, classifier.from_trunk(features))
        assert loss.item() == pytest.approx(expected, abs=1e-3)


def test_groups_are_balanced() -> None:
    groups = ["a"] * 10 + ["b"] * 3
    chosen = balanced(groups, 0)
    assert sorted(groups[place] for place in chosen) == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize("fault", ["no folder", "no column", "no mask", "no test"])
def test_a_folder_of_another_format_is_refused(fault: str, pack: Path, tmp_path: Path) -> None:
    table = pack / "labels.csv"
    if fault == "no folder":
        table.unlink()
    elif fault == "no column":
        table.write_text(table.read_text().replace("group", "family", 1))
    elif fault == "no mask":
        next((pack / "masks").iterdir()).unlink()
    else:
        table.write_text("\n".join(line for line in table.read_text().splitlines() if "test" not in line))
    with pytest.raises(LookhereError, match="Expected"):
        open_data(str(pack), tmp_path)


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookhereError, match="magic"):
        bench(Protocol("digits", methods=("magic",)), tmp_path)
