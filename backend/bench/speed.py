"""How fast: attention maps, a guided step, a retraining; each against its rival in the same run."""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.nn import functional as F

from backend.bench.data import DataSet, open_data
from backend.demo.annotator import SimulatedAnnotator
from backend.domain import Annotation, Click, ClickRole, Example, JobKind, LookhereError, Origin, Project, Task
from backend.guidance.classifier import Classifier, create
from backend.guidance.data import load_image, to_tensor
from backend.guidance.predicting import made_to_serve
from backend.guidance.preparing import prepare
from backend.guidance.training import FitSettings, Loop, Sampler, energy_term, fit
from backend.jobs.context import Context
from backend.jobs.local import LocalEngine
from backend.settings import Settings

_BATCH = 16
_REPEATS = 15
_CLICKED = 64
_CONTROL = FitSettings(look_weight=0, ignore_weight=0, swap_share=0)


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        maps_ratio: images a second of the closed-form maps, as a multiple of pytorch-grad-cam's.
        maps_difference: largest difference between the two, in [0, 1].
        step_ratio: duration of a guided step, as a multiple of a cross-entropy step with as many images.
        first_training_s: from the request to a published version, nothing cached.
        retraining_s: the same with the clicks, the trunk's features on disk.
    """

    maps_ratio: float
    maps_difference: float
    step_ratio: float
    first_training_s: float
    retraining_s: float


def bench(data: str, backbone: str, weights: Path | None, out: Path, say: Callable[[str], None] = click.echo) -> Path:
    """Measure; write the figures as JSON.

    Args:
        data: ``digits``, or a folder in the pack format.
        backbone: a torchvision model, or ``small``.
        weights: of it.
        out: folder of the results.
        say: told each result.

    Returns:
        The JSON file.

    Raises:
        LookhereError: if pytorch-grad-cam is not installed.
    """
    known = open_data(data, out / "work" / "digits")
    start = create(backbone, known.classes, weights=weights)
    examples = _clicked(known)
    biased = fit(start, [replace(one, clicks=()) for one in examples], _CONTROL, workdir=out / "work")
    maps_ratio, difference = _maps(biased, examples)
    say(f"attention maps: {maps_ratio:.2f} × the throughput of pytorch-grad-cam, difference {difference:.1e}")
    step_ratio = _steps(biased, examples, out / "work")
    say(f"guided step: {step_ratio:.2f} × a cross-entropy step")
    first, again = _trainings(known, backbone, weights)
    say(f"training: {first:.1f} s with nothing cached, {again:.1f} s with {_CLICKED} clicks and cached features")
    speed = Speed(maps_ratio, difference, step_ratio, first, again)
    path = out / f"speed-{known.name}.json"
    facts = {"backbone": backbone, "images": len(examples), "threads": torch.get_num_threads(), **asdict(speed)}
    path.write_text(json.dumps(facts, indent=1))
    return path


def _clicked(data: DataSet) -> list[Example]:
    index = {name: place for place, name in enumerate(data.classes)}
    annotator = SimulatedAnnotator(seed=0)
    examples = []
    for place, one in enumerate(data.splits["train"]):
        clicks = (Click(*annotator.look_here(one.read_mask()), ClickRole.LOOK),) if place < _CLICKED else ()
        examples.append(Example(one.image, index[one.label], clicks))
    return examples


def _maps(classifier: Classifier, examples: list[Example]) -> tuple[float, float]:
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise LookhereError(
            "Expected pytorch-grad-cam to compare with; install it with `pip install grad-cam`."
        ) from error
    images = torch.stack([to_tensor(load_image(one.image), classifier.spec.image_size) for one in examples[:_BATCH]])
    targets = [ClassifierOutputTarget(int(one.label or 0)) for one in examples[:_BATCH]]
    labels = torch.tensor([int(one.label or 0) for one in examples[:_BATCH]])

    served = made_to_serve(copy.deepcopy(classifier))

    def ours() -> Any:
        with torch.inference_mode():
            maps = served(images).maps[torch.arange(len(images)), labels].relu()
            # pytorch-grad-cam's map is the mean gradient's, and it stretches it before and after it enlarges it.
            maps = _stretched(maps / maps[0].numel())
            return _stretched(F.interpolate(maps[:, None], images.shape[2:], mode="bilinear")[:, 0]).numpy()

    logits = _Logits(classifier)
    with GradCAM(logits, [classifier.last_stage]) as grad_cam:

        def theirs() -> Any:
            return grad_cam(images, targets)

        return _ratio(theirs, ours), float(np.abs(theirs() - ours()).max())


def _stretched(maps: torch.Tensor) -> torch.Tensor:
    lifted = maps - maps.amin((1, 2), keepdim=True)
    return lifted / (1e-7 + lifted.amax((1, 2), keepdim=True))


class _Logits(torch.nn.Module):
    """Gives what pytorch-grad-cam takes: logits alone."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits: torch.Tensor = self.classifier(images).logits
        return logits


def _steps(classifier: Classifier, examples: list[Example], work: Path) -> float:
    prepared = prepare(classifier, examples, views=FitSettings().views, workdir=work)

    def loop(settings: FitSettings) -> Loop:
        sampler = Sampler(prepared, settings, len(classifier.spec.classes))
        return Loop(classifier, sampler, settings, 10 * _REPEATS, energy_term(settings))

    guided, plain = loop(FitSettings()), loop(_CONTROL)
    return _ratio(guided.advance, plain.advance)


def _ratio(first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """How many times as long the first takes; in turns, so that what else the machine does meets both."""
    first(), second()
    durations: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        for what, into in zip((first, second), durations, strict=True):
            begun = time.perf_counter()
            what()
            into.append(time.perf_counter() - begun)
    return statistics.median(durations[0]) / statistics.median(durations[1])


def _trainings(data: DataSet, backbone: str, weights: Path | None) -> tuple[float, float]:
    """Seconds of two trainings, as the server runs them: a first one from known classes, then one with clicks."""
    images = data.splits["train"]
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder),
            backbone=backbone,
            weights=weights.absolute() if weights else None,
            image_folders=(images[0].image.absolute().parent,),
            label_studio_api_key=None,
        )
        context = Context.open(settings)
        choices = "".join(f'<Choice value="{name}"/>' for name in data.classes)
        config = (
            '<View><Image name="image" value="$image"/><KeyPointLabels name="look" toName="image">'
            '<Label value="Look here"/></KeyPointLabels>'
            f'<Choices name="class" toName="image">{choices}</Choices></View>'
        )
        project = context.store.projects.ensure("http://label-studio", 1, config)
        tasks = [Task(place, one.image.absolute().as_uri(), one.label) for place, one in enumerate(images)]
        context.store.annotations.put_tasks(project.key, tasks)
        first = _trained(context, project)
        annotator, now = SimulatedAnnotator(seed=0), datetime.now(UTC)
        answers = [
            Annotation(
                place, place, 1, now, annotator.clicks(one.read_mask()), label=one.label, label_origin=Origin.MANUAL
            )
            for place, one in enumerate(images[:_CLICKED])
        ]
        context.store.annotations.put(project.key, answers)
        return first, _trained(context, project)


def _trained(context: Context, project: Project) -> float:
    begun = time.monotonic()
    engine = LocalEngine(context.settings, context.store)
    job = context.store.jobs.request(project.key, JobKind.TRAIN)
    engine.run_next()
    took = time.monotonic() - begun
    ended = context.store.jobs.get(job.id)
    if context.store.versions.active(project.key) is None:
        raise LookhereError(f"The training failed: {ended.error or ended.message}")
    return took
