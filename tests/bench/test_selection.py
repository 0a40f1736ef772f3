"""The race of strategies measures what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from backend.bench.methods import METHODS
from backend.bench.selection import Protocol, bench, curves
from backend.cli import main
from backend.demo.digits import generate, write_folder
from backend.domain import LookhereError
from backend.selection.strategies import STRATEGIES


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    write_folder(folder, {"train": generate("train", 20, 0), "test": generate("test", 20, 0)})
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {"epochs": 1, "fresh_epochs": 1, "small_epochs": 1, "fewest_steps": 1, "views": 1, "probes_per_class": 8}
    for name, method in METHODS.items():
        monkeypatch.setitem(METHODS, name, replace(method, settings=replace(method.settings, **fast)))  # type: ignore[arg-type]


def test_every_strategy_asks_round_by_round_until_nothing_is_left(pack: Path, tmp_path: Path) -> None:
    protocol = Protocol(str(pack), strategies=tuple(STRATEGIES), rounds=3, per_round=9, seeds=1)
    report = bench(protocol, tmp_path / "out", tmp_path / "figures.json", say=lambda _line: None)
    found = json.loads(report.read_text())
    for name in STRATEGIES:
        rounds = [run for run in found["runs"] if run["strategy"] == name]
        assert [(run["round"], run["clicked"]) for run in rounds] == [(1, 9), (2, 18), (3, 20)]
    required = {"strategy", "round", "clicked", "seed", "accuracy", "worst_group", "epg", "pointing", "seconds"}
    assert all(required <= run.keys() for run in found["runs"])
    assert {row["strategy"] for row in found["curves"]} == set(STRATEGIES)
    assert "| typiclust |" in (tmp_path / "out" / "selection-pack.md").read_text()
    with Image.open(tmp_path / "out" / "selection-pack.png") as image:
        assert min(image.size) > 200


def test_the_command_takes_its_options(pack: Path, tmp_path: Path) -> None:
    options = ["--strategies", "random,kcentre", "--rounds", "1", "--per-round", "4", "--seeds", "2"]
    places = ["--data", str(pack), "--json", str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(main, ["bench", "selection", *options, *places], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert {(row["strategy"], row["clicked"], row["seeds"]) for row in found["summary"]} == {
        ("biased", 0, 2),
        ("oracle", 20, 2),
        ("random", 4, 2),
        ("kcentre", 4, 2),
    }


def test_an_interrupted_race_goes_on_where_it_was(pack: Path, tmp_path: Path) -> None:
    protocol = Protocol(str(pack), strategies=("random", "kcentre"), rounds=2, per_round=4, seeds=2)
    whole = json.loads(bench(protocol, tmp_path / "whole", say=lambda _line: None).read_text())

    def cut(line: str) -> None:
        if line.startswith("kcentre") and "4 clicked, seed 1" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(protocol, tmp_path / "cut", say=cut)
    (kept,) = (tmp_path / "cut").glob("*.jsonl")
    with kept.open("a") as file:
        file.write('{"strategy": "kcen')
    told: list[str] = []
    found = json.loads(bench(protocol, tmp_path / "cut", say=told.append).read_text())
    assert [line.split()[0] for line in told if " clicked, " in line] == ["kcentre", "kcentre"]
    assert [{**run, "seconds": 0} for run in found["runs"]] == [{**run, "seconds": 0} for run in whole["runs"]]
    assert not kept.exists()


def test_an_interrupted_race_of_another_kind_is_not_taken_over(pack: Path, tmp_path: Path) -> None:
    def cut(line: str) -> None:
        if line.startswith("random"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(Protocol(str(pack), strategies=("random",), rounds=1, per_round=4, seeds=1), tmp_path, say=cut)
    told: list[str] = []
    other = Protocol(str(pack), strategies=("random",), rounds=1, per_round=5, seeds=1)
    found = json.loads(bench(other, tmp_path, say=told.append).read_text())
    assert [run["clicked"] for run in found["runs"]] == [0, 20, 5]
    assert not any("interrupted" in line for line in told)


def test_an_unknown_strategy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookhereError, match="clairvoyant"):
        bench(Protocol("digits", strategies=("clairvoyant",)), tmp_path)


def run(strategy: str, seed: int, clicked: int, worst: float) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "seed": seed,
        "round": clicked // 8,
        "clicked": clicked,
        "worst_group": worst,
        "epg": worst / 2,
    }


def test_a_curve_is_read_by_trapezoids_and_straight_lines() -> None:
    runs = []
    for seed, late in ((0, 0.9), (1, 0.5)):
        runs += [run("biased", seed, 0, 0.1), {**run("oracle", seed, 400, 0.9), "round": 0}]
        runs += [run("random", seed, 8, 0.3), run("random", seed, 16, late)]
        runs += [run("sage", seed, 8, 0.9), run("sage", seed, 16, 0.9)]
    random, sage = curves(runs)
    assert random["area"]["mean"] == pytest.approx(((0.2 + 0.6) / 2 + (0.2 + 0.4) / 2) / 2)
    assert random["never"] == 1
    assert random["needed"]["mean"] == pytest.approx(((8 + 8 * 0.52 / 0.6) + 16) / 2)
    assert random["over_random"] is None
    assert sage["needed"]["mean"] == pytest.approx(8 * 0.72 / 0.8)
    assert sage["epg_area"]["mean"] == pytest.approx((0.25 + 0.45) / 2)
    assert sage["over_random"]["mean"] == pytest.approx(0.7 - 0.35)
