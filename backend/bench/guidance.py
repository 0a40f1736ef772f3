"""Methods of guidance × clicked images × seeds: does a click move the attention, and the accuracy with it?

The annotator is simulated from the training images' masks. Groups, backgrounds and test masks are for measuring; no
method but the upper reference sees them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from backend.bench.arena import Arena, Figures
from backend.bench.data import Masked, open_data
from backend.bench.methods import METHODS, Answer, Method, answered, balanced
from backend.bench.report import heat_maps, plot, summarise, table, write_json
from backend.demo.annotator import SimulatedAnnotator
from backend.domain import Example, LookhereError, Prediction
from backend.guidance.classifier import SMALL, Classifier
from backend.guidance.probe import solve_head


@dataclass(frozen=True)
class Protocol:
    """What is run.

    Attributes:
        data: ``digits``, or a folder in the pack format.
        backbone: a torchvision model, or ``small``.
        weights: of the backbone, to start from.
        methods: names of ``METHODS``.
        clicked: how many images the annotator is asked about, once each.
        seeds: how many repetitions; each has its own order, clicks and weights.
        noise: standard deviation of the annotator's hand, as a share of the image's sides.
        mistakes: share in [0, 1] of the clicks that go anywhere instead.
    """

    data: str
    backbone: str = SMALL
    weights: Path | None = None
    methods: tuple[str, ...] = ("erm", "control", "energy", "default")
    clicked: tuple[int, ...] = (16, 64)
    seeds: int = 5
    noise: float = 0.0
    mistakes: float = 0.0


@dataclass(frozen=True)
class Run(Figures):
    """What one method reached on the test images, beside its ``Figures``.

    Attributes:
        method: name of ``METHODS``.
        clicked: how many images the annotator was asked about.
        seed: of the repetition.
    """

    method: str
    clicked: int
    seed: int


def bench(protocol: Protocol, out: Path, report: Path | None = None, say: Callable[[str], None] = click.echo) -> Path:
    """Run the benchmark; write a table, its JSON, a plot and heat maps.

    Args:
        protocol: what is run.
        out: folder of the results, and below ``work`` of the features.
        report: the JSON file; None for ``guidance-NAME.json`` in ``out``.
        say: told each result.

    Returns:
        The JSON file: the protocol, every run, and mean and 95 % interval over the seeds.

    Raises:
        LookhereError: if there is no such method or data set.
    """
    unknown = set(protocol.methods) - METHODS.keys()
    if unknown:
        raise LookhereError(f"Expected methods of {', '.join(METHODS)}, got {', '.join(sorted(unknown))}.")
    out.mkdir(parents=True, exist_ok=True)
    data = open_data(protocol.data, out / "work" / "digits")
    bench_ = _Bench(protocol, Arena(data, protocol.backbone, protocol.weights, out / "work"))
    runs = []
    for run in bench_.runs():
        runs.append(run)
        say(f"{run.method:8} {run.clicked:4} clicked, seed {run.seed}: worst group {run.worst_group:.1%}")
    facts = [asdict(run) for run in runs]
    summary = summarise(facts)
    text = table(data.name, summary)
    (out / f"guidance-{data.name}.md").write_text(text)
    plot(data.name, summary, out / f"guidance-{data.name}.png")
    heat_maps(bench_.shown(), out / f"guidance-{data.name}-maps.png")
    report = report or out / f"guidance-{data.name}.json"
    write_json(report, protocol, data.name, runs=facts, summary=summary)
    say(text)
    return report


class _Bench:
    """The runs, and what they share."""

    def __init__(self, protocol: Protocol, arena: Arena) -> None:
        self._protocol = protocol
        self._arena = arena
        self._first: dict[str, Classifier] = {}

    def runs(self) -> Iterator[Run]:
        """One method after the other, seed by seed."""
        arena = self._arena
        for seed in range(self._protocol.seeds):
            biased, seconds = arena.biased(seed)
            said = arena.said(biased, arena.train_features)
            for name in self._protocol.methods:
                method = METHODS[name]
                if name == "erm":
                    yield self._measured(name, 0, seed, biased, seconds)
                    continue
                for count in [0] if method.answer is Answer.NOTHING else self._protocol.clicked:
                    if name == "groups":
                        guided = self._with_groups(biased, seed)
                    else:
                        guided = arena.fitted(biased, self._answered(method, said, count, seed), method, seed)
                    yield self._measured(name, count, seed, *guided)

    def shown(self) -> list[tuple[Masked, list[tuple[str, Prediction]]]]:
        """The first test image of each group, as the first seed's classifiers see it; four groups at most."""
        chosen: dict[str, Masked] = {}
        for one in self._arena.test:
            chosen.setdefault(one.group, one)
        few = list(chosen.values())[:4]
        features = self._arena.features(few)
        said = {name: self._arena.said(classifier, features) for name, classifier in self._first.items()}
        return [(one, [(name, each[place]) for name, each in said.items()]) for place, one in enumerate(few)]

    def _answered(self, method: Method, said: Sequence[Prediction], count: int, seed: int) -> list[Example]:
        rng = np.random.default_rng(seed)
        annotator = SimulatedAnnotator(seed, self._protocol.noise, self._protocol.mistakes)
        plain, images = self._arena.plain, self._arena.train
        places = rng.permutation(len(plain))[:count].tolist()
        return answered(method.answer, plain, images, said, places, annotator, rng)

    def _with_groups(self, biased: Classifier, seed: int) -> tuple[Classifier, float]:
        """The upper reference: group labels, of the validation images where there are any."""
        begun = time.monotonic()
        arena = self._arena
        images = arena.data.splits.get("val", arena.train)
        chosen = [images[place] for place in balanced([one.group for one in images], seed)]
        solved = copy.deepcopy(biased)
        pooled = np.array([one.features for one in arena.said(biased, arena.features(chosen))], np.float64)
        solve_head(solved.head, pooled, arena.labels(chosen))
        return solved, time.monotonic() - begun

    def _measured(self, name: str, clicked: int, seed: int, classifier: Classifier, seconds: float) -> Run:
        if seed == 0:
            self._first[f"{name}, {clicked} clicked" if clicked else name] = classifier
        return Run(**asdict(self._arena.figures(classifier, seconds)), method=name, clicked=clicked, seed=seed)
