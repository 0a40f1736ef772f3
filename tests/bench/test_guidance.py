"""The benchmark measures what it says, on any data set of its format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend.bench import guidance
from backend.bench.data import open_data
from backend.bench.guidance import METHODS, Run, bench, summarise
from backend.demo.digits import generate, write_folder
from backend.domain import LookhereError
from backend.guidance.training import FitSettings

QUICK = {"epochs": 1, "fresh_epochs": 1, "views": 1}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    write_folder(folder, {"train": generate("train", 20, 0), "test": generate("test", 20, 0)})
    return folder


def test_it_runs_methods_times_clicks_times_seeds(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in METHODS.items():
        if method is not None:
            quick = replace(method, settings=replace(method.settings, **QUICK))  # type: ignore[arg-type]
            monkeypatch.setitem(guidance.METHODS, name, quick)
    monkeypatch.setattr(guidance, "_NONE", FitSettings(look_weight=0, ignore_weight=0, swap_weight=0, **QUICK))  # type: ignore[arg-type]
    report = bench(str(pack), None, list(METHODS), [0, 8], 2, tmp_path / "out", say=lambda _line: None)
    found = json.loads(report.read_text())
    assert len(found["runs"]) == 2 * (1 + 2 * (len(METHODS) - 1))
    assert {run["method"] for run in found["runs"]} == set(METHODS)
    for run in found["runs"]:
        assert run.keys() == {"method", "clicked", "seed", "accuracy", "worst_group", "epg", "pointing", "seconds"}
        assert 0 <= run["worst_group"] <= run["accuracy"] <= 1
    by_name = {(run["method"], run["clicked"], run["seed"]): run for run in found["runs"]}
    for seed in (0, 1):
        unclicked, control = ({**by_name[name, 0, seed], "method": "", "seconds": 0} for name in ("default", "control"))
        assert unclicked == control, "without clicks the default is the control"
    assert "| default | 8 |" in report.with_suffix(".md").read_text()


def test_intervals_are_students() -> None:
    runs = [Run("a", 1, seed, accuracy, 0, 0, 0, 0) for seed, accuracy in enumerate((0.1, 0.2, 0.3))]
    (row,) = summarise(runs)
    figure = row["accuracy"]
    assert isinstance(figure, dict)
    assert figure["mean"] == pytest.approx(0.2)
    assert figure["half_interval"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


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
        bench("digits", None, ["magic"], [1], 1, tmp_path)
