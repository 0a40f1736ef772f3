"""Methods of guidance × clicked images × seeds: does a click move the attention, and the accuracy with it?

The annotator is simulated from the training images' masks. Groups and test masks are for measuring; no method sees
them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from scipy import stats

from backend.bench.data import DataSet, Masked, open_data
from backend.demo.annotator import SimulatedAnnotator
from backend.domain import Click, ClickRole, Example, LookhereError
from backend.guidance.classifier import SMALL, Classifier, create
from backend.guidance.data import load_image
from backend.guidance.metrics import energy_pointing_game, pointing_game, worst_group_accuracy
from backend.guidance.predicting import predict
from backend.guidance.training import FitSettings, fit

_IMAGES_PER_STEP = 64


@dataclass(frozen=True)
class Method:
    """A way to use clicks.

    Attributes:
        settings: the fit.
        astray: the clicks go to random places: a control that must not help.
    """

    settings: FitSettings
    astray: bool = False


_NONE = FitSettings(look_weight=0, ignore_weight=0, swap_weight=0)

METHODS: dict[str, Method | None] = {
    # The biased classifier, that all others start from.
    "erm": None,
    # The same fine-tuning without guidance.
    "control": Method(_NONE),
    # The attention alone: maps move, decisions may not.
    "energy": Method(replace(_NONE, look_weight=1.0, ignore_weight=1.0)),
    # What the product uses.
    "default": Method(FitSettings()),
    "random": Method(FitSettings(), astray=True),
}
"""The methods by name."""


@dataclass(frozen=True)
class Run:
    """What one method reached on the test images."""

    method: str
    clicked: int
    seed: int
    accuracy: float
    worst_group: float
    epg: float
    pointing: float
    seconds: float


def bench(
    data: str,
    weights: Path | None,
    methods: Sequence[str],
    clicked: Sequence[int],
    seeds: int,
    out: Path,
    say: Callable[[str], None] = click.echo,
) -> Path:
    """Run the benchmark; write a table and its JSON.

    Args:
        data: ``digits``, or a folder in the pack format.
        weights: of a ResNet-18 to start from; None takes the built-in network.
        methods: names of ``METHODS``.
        clicked: how many images are clicked, once each.
        seeds: how many repetitions; each has its own order, clicks and weights.
        out: folder of the results.
        say: told each result.

    Returns:
        The JSON file: every run, and mean and 95 % interval over the seeds.

    Raises:
        LookhereError: if there is no such method or data set.
    """
    unknown = set(methods) - METHODS.keys()
    if unknown:
        raise LookhereError(f"Expected methods of {', '.join(METHODS)}, got {', '.join(sorted(unknown))}.")
    out.mkdir(parents=True, exist_ok=True)
    work = out / "work"
    known = open_data(data, work / "digits")
    runs = []
    for run in _runs(known, weights, methods, clicked, range(seeds), work):
        runs.append(run)
        say(f"{run.method:8} {run.clicked:4} clicked, seed {run.seed}: worst group {run.worst_group:.1%}")
    summary = summarise(runs)
    table = _table(known.name, seeds, summary)
    (out / f"guidance-{known.name}.md").write_text(table)
    report = out / f"guidance-{known.name}.json"
    report.write_text(json.dumps({"runs": [asdict(run) for run in runs], "summary": summary}, indent=1))
    say(table)
    return report


def summarise(runs: Iterable[Run]) -> list[dict[str, object]]:
    """Mean and half of the 95 % interval (Student's t over the seeds) of each method and number of clicked images."""
    together: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        together.setdefault((run.method, run.clicked), []).append(run)
    summary: list[dict[str, object]] = []
    for (method, clicked), same in together.items():
        row: dict[str, object] = {"method": method, "clicked": clicked, "seeds": len(same)}
        for figure in ("accuracy", "worst_group", "epg", "pointing", "seconds"):
            values = np.array([getattr(run, figure) for run in same])
            half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else float("nan")
            row[figure] = {"mean": float(values.mean()), "half_interval": float(half)}
        summary.append(row)
    return summary


def _runs(
    data: DataSet,
    weights: Path | None,
    methods: Sequence[str],
    clicked: Sequence[int],
    seeds: Iterable[int],
    work: Path,
) -> Iterable[Run]:
    index = {name: place for place, name in enumerate(data.classes)}
    train = data.splits["train"]
    plain = [Example(one.image, index[one.label]) for one in train]
    for seed in seeds:
        backbone = SMALL if weights is None else "resnet18"
        start = create(backbone, data.classes, weights=weights, seed=seed)
        begun = time.monotonic()
        biased = fit(start, plain, replace(_NONE, seed=seed), workdir=work)
        for name in methods:
            method = METHODS[name]
            if method is None:
                yield measured(name, 0, seed, biased, data.splits["test"], time.monotonic() - begun)
                continue
            for count in clicked:
                examples = _clicked(plain, train, count, seed, astray=method.astray)
                begun = time.monotonic()
                fitted = fit(biased, examples, replace(method.settings, seed=seed), workdir=work)
                yield measured(name, count, seed, fitted, data.splits["test"], time.monotonic() - begun)


def measured(
    method: str, clicked: int, seed: int, classifier: Classifier, test: Sequence[Masked], seconds: float
) -> Run:
    """Measure a classifier on test images."""
    correct, energy, pointed = [], [], []
    for start in range(0, len(test), _IMAGES_PER_STEP):
        step = test[start : start + _IMAGES_PER_STEP]
        for one, said in zip(step, predict(classifier, [load_image(one.image) for one in step]), strict=True):
            mask = one.read_mask()
            correct.append(said.label == one.label)
            energy.append(energy_pointing_game(said.attention, mask))
            pointed.append(pointing_game(said.attention, mask))
    return Run(
        method=method,
        clicked=clicked,
        seed=seed,
        accuracy=float(np.mean(correct)),
        worst_group=worst_group_accuracy(np.array(correct), [one.group for one in test]),
        epg=float(np.mean(energy)),
        pointing=float(np.mean(pointed)),
        seconds=round(seconds, 1),
    )


def _clicked(
    plain: Sequence[Example], train: Sequence[Masked], count: int, seed: int, *, astray: bool
) -> list[Example]:
    rng = np.random.default_rng(seed)
    annotator = SimulatedAnnotator(seed)
    examples = list(plain)
    for place in rng.permutation(len(plain))[:count].tolist():
        x, y = rng.random(2).tolist() if astray else annotator.look_here(train[place].read_mask())
        examples[place] = replace(plain[place], clicks=(Click(x, y, ClickRole.LOOK),))
    return examples


def _table(name: str, seeds: int, summary: Iterable[dict[str, object]]) -> str:
    lines = [
        f"Test images of {name}; mean and 95 % interval over {seeds} seeds.",
        "",
        "| method | clicked | accuracy | worst group | energy pointing game | pointing game | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        cells = [f"{_spread(row[figure], 100, 1)}" for figure in ("accuracy", "worst_group")]
        cells += [_spread(row["epg"], 1, 2), _spread(row["pointing"], 1, 2), _spread(row["seconds"], 1, 0)]
        lines.append(f"| {row['method']} | {row['clicked']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(figure: object, scale: float, digits: int) -> str:
    assert isinstance(figure, dict)  # noqa: S101 - as `summarise` made it
    return f"{scale * figure['mean']:.{digits}f} ± {scale * figure['half_interval']:.{digits}f}"
