"""Examples to what the trained part of a classifier learns from: the trunk's features, and targets for its maps."""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.domain import Click, ClickRole, Example, LookhereError
from backend.guidance.classifier import Classifier
from backend.guidance.data import jittered_image, jittered_marks, load_image, to_tensor
from backend.guidance.losses import contrast_map, evidence
from backend.guidance.pointer import UNCHECKED, Pointer, learn, trust
from backend.guidance.targets import Marks, ignore_target

log = logging.getLogger(__name__)

_TRUSTWORTHY = UNCHECKED
"""Share of clicks that a pointer must find before it is used. Chance finds one in ten; clicks that are themselves off
by a tenth of the image, one in ten of them wrong, can be found in two of three cases at best."""

OnProgress = Callable[[float, str], None]
"""Told the progress in [0, 1] and a line for people."""


def untold(_progress: float, _message: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Prepared:
    """Examples as the trained part of a classifier takes them; the first index is the image, the second the view.

    Attributes:
        inputs: (N, V, C, H, W) float16, what the trunk gives for each view.
        labels: (N,) classes.
        look: (N, V, h, w) in [0, 1], targets of "Look here" on the cells of the map.
        ignore: (N, V, h, w) in [0, 1], targets of "Ignore" on the cells of the map.
        kept: (N, V, H, W) in [0, 1], what of the trunk's features is the object; all 0 where nobody knows.
        guided: (N,) how often an image guides, relative to the others; 0 where it does not.
    """

    inputs: Tensor
    labels: Tensor
    look: Tensor
    ignore: Tensor
    kept: Tensor
    guided: Tensor


def prepare(
    classifier: Classifier,
    examples: Sequence[Example],
    *,
    views: int = 1,
    carry_over: bool = True,
    time_budget_s: float = math.inf,
    workdir: Path | None = None,
    on_progress: OnProgress = untold,
) -> Prepared:
    """Turn examples into what the trained part of a classifier learns from.

    Where the time is short, clicked images are read before the others, and reading takes half of the budget at most.

    Args:
        classifier: whose trunk is used, and whose attention maps the "Ignore" clicks were made on.
        examples: images, classes and clicks.
        views: how many versions of each image, the image itself and shifted ones.
        carry_over: whether a few clicks may guide on images that nobody clicked.
        time_budget_s: of the whole fit.
        workdir: folder for the trunk's features; None keeps nothing.
        on_progress: told how far it is.

    Raises:
        LookhereError: if no example has a class and can be read.
    """
    begun = time.monotonic()
    features = _Features(classifier, workdir, views)
    side = classifier.spec.image_size
    inputs: list[Tensor] = []
    labels: list[int] = []
    marks: list[list[Marks]] = []
    labelled = sorted((one for one in examples if one.label is not None), key=lambda one: not one.guides)
    for number, example in enumerate(labelled):
        if time.monotonic() - begun > time_budget_s / 2 and len(set(labels)) > 1:
            log.warning("The fit learns from %s of %s images: its time budget allows no more.", number, len(labelled))
            break
        try:
            found, seeds = features.of(example.image)
        except (OSError, LookhereError) as error:
            log.warning("An example is left out: %s", error)
            continue
        region = None if example.region is None else torch.from_numpy(example.region).float()
        still = Marks(example.clicks, region)
        inputs.append(found)
        labels.append(int(example.label or 0))
        marks.append([still, *(jittered_marks(still, side, seed) for seed in seeds)])
        on_progress((number + 1) / len(labelled), f"reading images: {number + 1} of {len(labelled)}")
    if not labels:
        raise LookhereError("Expected examples with a class and a readable image to learn from, got none.")
    guided = torch.tensor([float(on[0].looks or on[0].ignores) for on in marks])
    trusted, pointer = _pointer(inputs, marks) if carry_over else (0.0, None)
    if pointer is not None:
        others = (guided == 0).sum().clamp_min(1)
        guided = torch.where(guided > 0, guided / guided.sum(), trusted / others)
    return _targets(classifier, inputs, labels, marks, guided, pointer)


def _pointer(inputs: Sequence[Tensor], marks: Sequence[Sequence[Marks]]) -> tuple[float, Pointer | None]:
    """What finds the object in images that nobody clicked, and how far it is trusted; None if it is not."""
    looked = [place for place, views in enumerate(marks) if views[0].looks]
    features, on = [inputs[place][0] for place in looked], [marks[place][0] for place in looked]
    trusted = trust(features, on)
    return (trusted, learn(features, on)) if trusted >= _TRUSTWORTHY else (0.0, None)


def _targets(
    classifier: Classifier,
    inputs: Sequence[Tensor],
    labels: Sequence[int],
    marks: Sequence[Sequence[Marks]],
    guided: Tensor,
    pointer: Pointer | None,
) -> Prepared:
    shape = _map_shape(classifier, inputs[0])
    looks, ignores, kept = [], [], []
    for features, label, views in zip(inputs, labels, marks, strict=True):
        objects = [_object(one, on, pointer) for one, on in zip(features, views, strict=True)]
        asked = any(on.looks or on.ignores for on in views)
        looks.append(torch.stack([on.look(shape) for on in (views if asked else objects)]))
        ignores.append(_ignored(classifier, features, label, views, shape))
        kept.append(torch.stack([on.look((features.shape[2], features.shape[3])) for on in objects]))
    mask = torch.stack(kept)
    # How much a click counts is the weight of the loss; the object is there or not.
    mask = mask / mask.amax((2, 3), keepdim=True).clamp_min(1e-6)
    device = next(classifier.parameters()).device
    return Prepared(
        torch.stack(list(inputs)).to(device),
        torch.tensor(labels, device=device),
        torch.stack(looks).to(device),
        torch.stack(ignores).to(device),
        mask.to(device),
        guided,
    )


def _object(features: Tensor, marks: Marks, pointer: Pointer | None) -> Marks:
    """The object as far as it is known: outlined, clicked, pointed at; a click may be off, the pointer mends it."""
    if marks.region is not None or pointer is None or (marks.ignores and not marks.looks):
        return marks
    near = marks.look((features.shape[1], features.shape[2])) if marks.looks else None
    return Marks((Click(*pointer.point(features, near), ClickRole.LOOK),))


@torch.inference_mode()
def _map_shape(classifier: Classifier, features: Tensor) -> tuple[int, int]:
    device = next(classifier.parameters()).device
    height, width = classifier.from_trunk(features[:1].float().to(device)).maps.shape[2:]
    return height, width


@torch.inference_mode()
def _ignored(
    classifier: Classifier, features: Tensor, label: int, marks: Sequence[Marks], shape: tuple[int, int]
) -> Tensor:
    """(V, h, w) targets of "Ignore", on the attention that the classifier pays to the class before it learns."""
    if not any(view.ignores for view in marks):
        return torch.zeros(len(marks), *shape)
    device = next(classifier.parameters()).device
    maps = classifier.from_trunk(features.float().to(device)).maps
    attention = evidence(contrast_map(maps, torch.full((len(maps),), label, device=device)))
    attention = attention / attention.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return torch.stack(
        [ignore_target(view.clicks, map_) for view, map_ in zip(marks, attention.cpu().numpy(), strict=True)]
    )


class _Features:
    """What the trunk gives for the views of an image, kept on disk by content: half precision, a file an image."""

    def __init__(self, classifier: Classifier, workdir: Path | None, views: int) -> None:
        self._classifier = classifier
        self._views = views
        self._folder: Path | None = None
        if workdir is not None:
            digest = hashlib.sha256(repr(classifier.spec.image_size).encode())
            for tensor in classifier.trunk.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
            self._folder = workdir / "features" / digest.hexdigest()[:16]
            self._folder.mkdir(parents=True, exist_ok=True)

    def of(self, image: Path) -> tuple[Tensor, list[int]]:
        """(V, C, H, W) float16, and the seeds by which the views after the first are moved."""
        content = hashlib.sha256(image.read_bytes()).digest()
        seed = int.from_bytes(content[:4], "big")
        seeds = [seed + view for view in range(1, self._views)]
        path = self._folder / f"{content.hex()[:32]}-{self._views}.npy" if self._folder else None
        if path is not None and path.exists():
            try:
                return torch.from_numpy(np.load(path)), seeds
            except (OSError, ValueError) as error:
                log.warning("Cached features are unreadable and made anew: %s", error)
        features = self._made(to_tensor(load_image(image), self._classifier.spec.image_size), seeds)
        if path is not None:
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                np.save(file, features.numpy())
            Path(file.name).replace(path)
        return features, seeds

    @torch.inference_mode()
    def _made(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        views = torch.stack([image, *(jittered_image(image, seed) for seed in seeds)])
        features: Tensor = self._classifier.trunk(views.to(next(self._classifier.parameters()).device))
        return features.half().cpu()
