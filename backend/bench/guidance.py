"""Methods of guidance × clicked images × seeds: does a click move the attention, and the accuracy with it?

The annotator is simulated from the training images' masks. Groups, backgrounds and test masks are for measuring; no
method but the upper reference sees them.
"""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from torch import Tensor

from backend.bench.data import DataSet, Masked, open_data
from backend.bench.methods import METHODS, Answer, Method, answered, balanced
from backend.bench.report import heat_maps, plot, summarise, table
from backend.bench.swapping import swapped
from backend.demo.annotator import SimulatedAnnotator
from backend.domain import Example, LookhereError, Prediction
from backend.guidance.classifier import SMALL, Classifier, create
from backend.guidance.metrics import energy_pointing_game, mean_group_accuracy, pointing_game, worst_group_accuracy
from backend.guidance.predicting import read
from backend.guidance.preparing import prepare
from backend.guidance.probe import solve_head
from backend.guidance.training import fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES_PER_STEP = 64


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
class Run:
    """What one method reached on the test images.

    Attributes:
        method: name of ``METHODS``.
        clicked: how many images the annotator was asked about.
        seed: of the repetition.
        accuracy: share of the images whose class is right.
        worst_group: the lowest accuracy over the groups.
        mean_group: the mean of the groups' accuracies.
        consistent: accuracy where the background is the one that the training images have most often with the class.
        epg: energy pointing game, mean share of the attention's energy on the object.
        pointing: pointing game, share of the images whose attention peaks on the object.
        flips: share of the images whose predicted class changes with the background alone.
        seconds: of the fit; the trunk's features of the training images lie on disk.
    """

    method: str
    clicked: int
    seed: int
    accuracy: float
    worst_group: float
    mean_group: float
    consistent: float
    epg: float
    pointing: float
    flips: float
    seconds: float


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
    bench_ = _Bench(protocol, data, out / "work")
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
    done = {**asdict(protocol), "data": data.name, "weights": protocol.weights.name if protocol.weights else None}
    report.write_text(json.dumps({"protocol": done, "runs": facts, "summary": summary}, indent=1))
    say(text)
    return report


class _Bench:
    """The runs, and what they share."""

    def __init__(self, protocol: Protocol, data: DataSet, work: Path) -> None:
        self._protocol = protocol
        self._data = data
        self._work = work
        self._index = {name: place for place, name in enumerate(data.classes)}
        self._train, self._test = data.splits["train"], data.splits["test"]
        self._first: dict[str, Classifier] = {}

    def runs(self) -> Iterator[Run]:
        """One method after the other, seed by seed."""
        for seed in range(self._protocol.seeds):
            begun = time.monotonic()
            biased = self._fitted(self._start(seed), self._plain, METHODS["erm"], seed)
            seconds = time.monotonic() - begun
            said = self._said(biased, self._features(self._train))
            for name in self._protocol.methods:
                method = METHODS[name]
                if name == "erm":
                    yield self._measured(name, 0, seed, biased, seconds)
                    continue
                for count in [0] if method.answer is Answer.NOTHING else self._protocol.clicked:
                    begun = time.monotonic()
                    if name == "groups":
                        guided = self._with_groups(biased, seed)
                    else:
                        guided = self._fitted(biased, self._answered(method, said, count, seed), method, seed)
                    yield self._measured(name, count, seed, guided, time.monotonic() - begun)

    def shown(self) -> list[tuple[Masked, list[tuple[str, Prediction]]]]:
        """The first test image of each group, as the first seed's classifiers see it; four groups at most."""
        chosen: dict[str, Masked] = {}
        for one in self._test:
            chosen.setdefault(one.group, one)
        few = list(chosen.values())[:4]
        features = self._features(few)
        said = {name: self._said(classifier, features) for name, classifier in self._first.items()}
        return [(one, [(name, each[place]) for name, each in said.items()]) for place, one in enumerate(few)]

    def _start(self, seed: int) -> Classifier:
        return create(self._protocol.backbone, self._data.classes, weights=self._protocol.weights, seed=seed)

    def _fitted(self, parent: Classifier, examples: Sequence[Example], method: Method, seed: int) -> Classifier:
        settings = replace(method.settings, seed=seed)
        return fit(parent, examples, settings, workdir=self._work, term=method.term)

    def _answered(self, method: Method, said: Sequence[Prediction], count: int, seed: int) -> list[Example]:
        rng = np.random.default_rng(seed)
        annotator = SimulatedAnnotator(seed, self._protocol.noise, self._protocol.mistakes)
        places = rng.permutation(len(self._plain))[:count].tolist()
        return answered(method.answer, self._plain, self._train, said, places, annotator, rng)

    def _with_groups(self, biased: Classifier, seed: int) -> Classifier:
        """The upper reference: group labels, of the validation images where there are any."""
        images = self._data.splits.get("val", self._train)
        chosen = [images[place] for place in balanced([one.group for one in images], seed)]
        solved = copy.deepcopy(biased)
        pooled = np.array([one.features for one in self._said(biased, self._features(chosen))], np.float64)
        solve_head(solved.head, pooled, np.array([self._index[one.label] for one in chosen]))
        return solved

    def _measured(self, name: str, clicked: int, seed: int, classifier: Classifier, seconds: float) -> Run:
        if seed == 0:
            self._first[f"{name}, {clicked} clicked" if clicked else name] = classifier
        said = self._said(classifier, self._test_features)
        elsewhere = self._said(classifier, self._swapped_features)
        correct = np.array([one.label == image.label for one, image in zip(said, self._test, strict=True)])
        groups = [image.group for image in self._test]
        seen = list(zip(said, self._test_masks, strict=True))
        return Run(
            method=name,
            clicked=clicked,
            seed=seed,
            accuracy=float(correct.mean()),
            worst_group=worst_group_accuracy(correct, groups),
            mean_group=mean_group_accuracy(correct, groups),
            consistent=float(correct[self._consistent].mean()),
            epg=float(np.mean([energy_pointing_game(one.attention, mask) for one, mask in seen])),
            pointing=float(np.mean([pointing_game(one.attention, mask) for one, mask in seen])),
            flips=float(np.mean([one.label != other.label for one, other in zip(said, elsewhere, strict=True)])),
            seconds=round(seconds, 1),
        )

    @torch.inference_mode()
    def _said(self, classifier: Classifier, features: Tensor) -> list[Prediction]:
        """What ``predict`` says, from the trunk's features: the trunk is the same for all methods."""
        said: list[Prediction] = []
        for start in range(0, len(features), _IMAGES_PER_STEP):
            part = features[start : start + _IMAGES_PER_STEP]
            said += read(classifier, classifier.from_trunk(part.float()))
        return said

    def _features(self, images: Sequence[Masked]) -> Tensor:
        examples = [Example(one.image, self._index[one.label]) for one in images]
        return prepare(self._start(0), examples, workdir=self._work).inputs[:, 0]

    @cached_property
    def _plain(self) -> list[Example]:
        return [Example(one.image, self._index[one.label]) for one in self._train]

    @cached_property
    def _test_features(self) -> Tensor:
        return self._features(self._test)

    @cached_property
    def _test_masks(self) -> list[NDArray[np.bool_]]:
        return [one.read_mask() for one in self._test]

    @cached_property
    def _swapped_features(self) -> Tensor:
        folder = self._work / "swapped" / self._data.name
        folder.mkdir(parents=True, exist_ok=True)
        elsewhere = []
        for one, image in zip(self._test, swapped(self._test), strict=True):
            path = folder / f"{one.image.stem}.png"
            image.save(path)
            elsewhere.append(replace(one, image=path))
        return self._features(elsewhere)

    @cached_property
    def _consistent(self) -> NDArray[np.bool_]:
        usual = {
            label: Counter(one.background for one in self._train if one.label == label).most_common(1)[0][0]
            for label in self._data.classes
        }
        return np.array([one.background == usual[one.label] for one in self._test])
