"""Strategies × rounds × seeds: which images shall the annotator be asked about?

Round by round the strategy chooses, the simulated annotator clicks once on each chosen image, and the classifier learns
on, as the product does. All strategies of a seed start from the same biased classifier.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from PIL import Image
from scipy.integrate import trapezoid

from backend.bench.arena import CROP, Arena, Figures
from backend.bench.data import open_data
from backend.bench.methods import METHODS, Answer, answered
from backend.bench.report import plot, spread, spread_text, summarise, write_json
from backend.demo.annotator import SimulatedAnnotator
from backend.domain import Click, ClickRole, LookhereError, Prediction
from backend.guidance.classifier import SMALL, Classifier
from backend.guidance.metrics import pointing_game
from backend.selection.strategies import STRATEGIES, Pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHARE = 0.9
"""Of what outlines of all images gain over the biased classifier: what is asked for."""

_REFERENCES = ("biased", "oracle")
"""Where all strategies of a seed start, and what outlines of all images reach; without rounds."""


@dataclass(frozen=True)
class Protocol:
    """What is run.

    Attributes:
        data: ``digits``, or a folder in the pack format.
        backbone: a torchvision model, or ``small``.
        weights: of the backbone, to start from.
        strategies: names of ``STRATEGIES``.
        rounds: how often the annotator is asked.
        per_round: about how many images each time.
        seeds: how many repetitions; each has its own biased classifier, hand and choices.
    """

    data: str
    backbone: str = SMALL
    weights: Path | None = None
    strategies: tuple[str, ...] = ("random", "entropy", "mixture", "representative")
    rounds: int = 8
    per_round: int = 8
    seeds: int = 10


@dataclass(frozen=True)
class Run(Figures):
    """What a strategy reached on the test images after a round, beside its ``Figures``.

    Attributes:
        strategy: name of ``STRATEGIES``; ``biased`` before, ``oracle`` with the outlines of all images.
        round: from 1; 0 for those two.
        clicked: images that the annotator was asked about until then.
        seed: of the repetition.
    """

    strategy: str
    round: int
    clicked: int
    seed: int


def bench(protocol: Protocol, out: Path, report: Path | None = None, say: Callable[[str], None] = click.echo) -> Path:
    """Run the benchmark; write a table, its JSON and a plot. Interrupted, it goes on where it was when called again.

    Args:
        protocol: what is run.
        out: folder of the results, of what an interrupted run has finished, and below ``work`` of the features.
        report: the JSON file; None for ``selection-NAME.json`` in ``out``.
        say: told each result.

    Returns:
        The JSON file: the protocol, every run, mean and 95 % interval over the seeds of each round, and for each
        strategy its curve as a whole.

    Raises:
        LookhereError: if there is no such strategy or data set.
    """
    unknown = set(protocol.strategies) - STRATEGIES.keys()
    if unknown:
        raise LookhereError(f"Expected strategies of {', '.join(STRATEGIES)}, got {', '.join(sorted(unknown))}.")
    out.mkdir(parents=True, exist_ok=True)
    data = open_data(protocol.data, out / "work" / "digits")
    arena = Arena(data, protocol.backbone, protocol.weights, out / "work")
    finished = _Finished(out / f"selection-{data.name}-unfinished.jsonl", protocol)
    if finished.runs:
        say(f"Going on after {len(finished.runs)} results of an interrupted run; {finished.path} holds them.")
    for seed in range(protocol.seeds):
        for run in _runs(protocol, arena, seed, finished.missing(seed)):
            finished.add(asdict(run))
            say(f"{run.strategy:14} {run.clicked:4} clicked, seed {run.seed}: worst group {run.worst_group:.1%}")
    facts = finished.of(protocol)
    summary, whole = summarise(facts, "strategy"), curves(facts)
    text = table(data.name, whole, protocol.seeds)
    (out / f"selection-{data.name}.md").write_text(text)
    plot(data.name, summary, out / f"selection-{data.name}.png", "strategy", bounds=["oracle"])
    report = report or out / f"selection-{data.name}.json"
    write_json(report, protocol, data.name, runs=facts, summary=summary, curves=whole)
    finished.path.unlink()
    say(text)
    return report


class _Finished:
    """What an interrupted run of the same protocol has finished: its rounds, a JSON line each, below the protocol's.

    Strategies and seeds may differ from the interrupted run's; anything else, and it starts anew.
    """

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self.path, self._rounds, self._asked = path, protocol.rounds, (*_REFERENCES, *protocol.strategies)
        self.runs: dict[tuple[str, int, int], dict[str, Any]] = {}
        same = {"strategies": None, "seeds": None, "weights": str(protocol.weights)}
        header = json.dumps({**asdict(protocol), **same})
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if not lines or lines[0] != header + "\n":
            path.write_text(header + "\n")
            return
        # What was cut short in the last line is run again.
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(whole))
        for line in whole[1:]:
            self._keep(json.loads(line))

    def missing(self, seed: int) -> list[str]:
        """Names of which not all rounds are there."""
        last = {name: 0 if name in _REFERENCES else self._rounds for name in self._asked}
        return [name for name in self._asked if (name, seed, last[name]) not in self.runs]

    def add(self, run: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        self._keep(run)

    def of(self, protocol: Protocol) -> list[dict[str, Any]]:
        """All that was asked for: by seed, by strategy, by round."""
        order = {name: place for place, name in enumerate(self._asked)}
        asked = [key for key in self.runs if key[0] in order and key[1] < protocol.seeds]
        return [self.runs[key] for key in sorted(asked, key=lambda key: (key[1], order[key[0]], key[2]))]

    def _keep(self, run: dict[str, Any]) -> None:
        self.runs[run["strategy"], run["seed"], run["round"]] = run


def _runs(protocol: Protocol, arena: Arena, seed: int, names: Sequence[str]) -> Iterator[Run]:
    if not names:
        return
    biased, seconds = arena.biased(seed)
    for name in names:
        if name == "biased":
            yield Run(**asdict(arena.figures(biased, seconds)), strategy=name, round=0, clicked=0, seed=seed)
        elif name == "oracle":
            hand, rng = SimulatedAnnotator(seed), np.random.default_rng(seed)
            outlined = answered(Answer.OUTLINE, arena.plain, arena.train, (), range(len(arena.plain)), hand, rng)
            oracle, spent = arena.fitted(biased, outlined, METHODS["oracle"], seed)
            figures = asdict(arena.figures(oracle, spent))
            yield Run(**figures, strategy=name, round=0, clicked=len(outlined), seed=seed)
        else:
            yield from _rounds(protocol, arena, name, biased, seed)


def _rounds(protocol: Protocol, arena: Arena, name: str, classifier: Classifier, seed: int) -> Iterator[Run]:
    strategy = STRATEGIES[name]
    masks = [one.read_mask() for one in arena.train]
    # The same image is clicked in the same place, whoever asks and when.
    hands = [SimulatedAnnotator(seed * len(masks) + place) for place in range(len(masks))]
    examples = list(arena.plain)
    corrected = np.full(len(masks), np.nan)
    for number in range(1, protocol.rounds + 1):
        said = arena.said(classifier, arena.train_features)
        pool = Pool(
            probabilities=np.array([list(one.probabilities.values()) for one in said]),
            features=np.array([one.features for one in said]),
            attention=np.array([one.attention for one in said]),
            corrected=corrected,
            annotated=~np.isnan(corrected),
            views=_views(arena, classifier, said) if strategy.needs_views else None,
        )
        for place in strategy.choose(pool, protocol.per_round, seed * 1000 + number).tolist():
            if masks[place].any():
                x, y = hands[place].look_here(masks[place])
                examples[place] = replace(examples[place], clicks=(Click(x, y, ClickRole.LOOK),))
            # Where no object is to be seen, nobody clicks, but everybody looked.
            corrected[place] = not pointing_game(said[place].attention, masks[place])
        classifier, seconds = arena.fitted(classifier, examples, METHODS["default"], seed)
        clicked = int((~np.isnan(corrected)).sum())
        figures = asdict(arena.figures(classifier, seconds))
        yield Run(**figures, strategy=name, round=number, clicked=clicked, seed=seed)


def _views(arena: Arena, classifier: Classifier, said: Sequence[Prediction]) -> NDArray[np.float32]:
    """(N, 3, h, w) attention on the images, on their mirror images, and on their middles, all in place."""
    mirrored, cropped = (arena.said(classifier, features) for features in arena.moved_features)
    return np.stack(
        [
            np.stack([one.attention, mirror.attention[:, ::-1], _replaced(crop.attention)])
            for one, mirror, crop in zip(said, mirrored, cropped, strict=True)
        ]
    )


def _replaced(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """A cropped view's map, where it lies in the whole image."""
    height, width = attention.shape
    fine = 10
    inner = round(CROP * width * fine), round(CROP * height * fine)
    whole = Image.new("F", (width * fine, height * fine))
    middle = Image.fromarray(attention).resize(inner, Image.Resampling.BILINEAR)
    whole.paste(middle, ((width * fine - inner[0]) // 2, (height * fine - inner[1]) // 2))
    return np.asarray(whole.resize((width, height), Image.Resampling.BOX))


def curves(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each strategy's curve as a whole.

    Args:
        runs: ``Run`` as JSON values, with the ``biased`` and the ``oracle`` of each seed.

    Returns:
        A row for each strategy: ``strategy``, and as ``spread`` gives them over the seeds ``area`` (mean worst group
        over the rounds, the biased classifier included, by trapezoids), ``epg_area``, ``over_random`` (paired
        difference of the areas, None without ``random``), ``needed`` (clicked images to the share of 0.9 of the way
        from the biased classifier to the oracle, between two rounds by a straight line; a seed that never gets there
        counts as the last round) and ``never`` (how many seeds never do).
    """
    names = [name for name in dict.fromkeys(run["strategy"] for run in runs) if name not in _REFERENCES]
    together = {name: [_curve(runs, name, seed) for seed in sorted({run["seed"] for run in runs})] for name in names}
    rows = []
    for name, lines in together.items():
        over = None
        if "random" in names and name != "random":
            over = spread([ours.area - theirs.area for ours, theirs in zip(lines, together["random"], strict=True)])
        rows.append(
            {
                "strategy": name,
                "area": spread([line.area for line in lines]),
                "epg_area": spread([line.epg_area for line in lines]),
                "over_random": over,
                "needed": spread([line.needed for line in lines]),
                "never": sum(line.never for line in lines),
            }
        )
    return rows


class _Curve(NamedTuple):
    area: float
    epg_area: float
    needed: float
    never: bool


def _curve(runs: Sequence[dict[str, Any]], name: str, seed: int) -> _Curve:
    here = [run for run in runs if run["seed"] == seed]
    biased, oracle = (next(run for run in here if run["strategy"] == one) for one in _REFERENCES)
    line = [biased, *sorted((run for run in here if run["strategy"] == name), key=lambda run: int(run["round"]))]
    clicked = np.array([run["clicked"] for run in line], float)
    worst = np.array([run["worst_group"] for run in line])
    epg = np.array([run["epg"] for run in line])
    goal = biased["worst_group"] + _SHARE * (oracle["worst_group"] - biased["worst_group"])
    there = np.flatnonzero(worst >= goal)
    return _Curve(
        area=float(trapezoid(worst, clicked) / clicked[-1]),
        epg_area=float(trapezoid(epg, clicked) / clicked[-1]),
        needed=_crossing(clicked, worst, goal, int(there[0])) if len(there) else float(clicked[-1]),
        never=len(there) == 0,
    )


def _crossing(clicked: NDArray[np.floating], worst: NDArray[np.floating], goal: float, first: int) -> float:
    if first == 0:
        return 0.0
    part = (goal - worst[first - 1]) / (worst[first] - worst[first - 1])
    return float(clicked[first - 1] + part * (clicked[first] - clicked[first - 1]))


def table(name: str, whole: Sequence[dict[str, Any]], seeds: int) -> str:
    """A Markdown table of the strategies, with a legend."""
    lines = [
        f"Test images of {name}; mean ± half of the 95 % interval over {seeds} seeds. Worst group in percent.",
        "",
        "| strategy | worst group, mean of the curve | over random, paired | energy pointing, mean of the curve "
        "| images to 90 % of the gain | seeds that never get there |",
        "|---|---|---|---|---|---|",
    ]
    for row in whole:
        over = spread_text(row["over_random"], 100, 1) if row["over_random"] else ""
        lines.append(
            f"| {row['strategy']} | {spread_text(row['area'], 100, 1)} | {over} | {spread_text(row['epg_area'], 1, 3)} "
            f"| {spread_text(row['needed'], 1, 1)} | {row['never']} |"
        )
    lines.append("")
    lines += [f"- **{row['strategy']}**: {STRATEGIES[row['strategy']].about}" for row in whole]
    return "\n".join(lines) + "\n"
