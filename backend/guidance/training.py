"""A guided training, from top to bottom: prepare → fit."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.domain import Click, ClickRole, Example, LookhereError
from backend.guidance.classifier import Classifier
from backend.guidance.data import jittered, load_image, to_tensor
from backend.guidance.losses import contrast_map, guidance_loss
from backend.guidance.targets import ignore_target, look_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

OnProgress = Callable[[float, str], None]
"""Told the progress in [0, 1] and a line for people."""


def _untold(_progress: float, _message: str) -> None:
    pass


@dataclass(frozen=True)
class FitSettings:
    """How a classifier is fitted. One default for all data sets.

    Attributes:
        epochs: passes over the labelled images when a trained classifier learns on.
        fresh_epochs: the same for a classifier that has learnt nothing yet.
        learning_rate: of AdamW, at its highest, for a pretrained backbone.
        small_learning_rate: the same for the built-in network.
        weight_decay: of AdamW.
        batch_size: labelled images in a step.
        clicked_batch_size: clicked images in a step, beside the labelled ones.
        look_weight: λ₊ of "Look here".
        ignore_weight: λ₋ of "Ignore".
        views: how many versions of each image are learnt from, the image itself and shifted ones.
        seed: of order and transforms.
        time_budget_s: the fit ends after this many seconds, wherever it is.
    """

    epochs: int = 10
    fresh_epochs: int = 30
    learning_rate: float = 3e-4
    small_learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    batch_size: int = 32
    clicked_batch_size: int = 16
    look_weight: float = 1.0
    ignore_weight: float = 1.0
    views: int = 3
    seed: int = 0
    time_budget_s: float = math.inf


@dataclass(frozen=True)
class Prepared:
    """Examples as the trained part of a classifier takes them; the first index is the image, the second the view.

    Attributes:
        inputs: (N, V, …) what the trunk gives for each view.
        labels: (N,) classes.
        look: (N, V, h, w) targets of "Look here".
        ignore: (N, V, h, w) targets of "Ignore".
        clicked: indices of the images that guide.
    """

    inputs: Tensor
    labels: Tensor
    look: Tensor
    ignore: Tensor
    clicked: Tensor


def fit(
    parent: Classifier,
    examples: Sequence[Example],
    settings: FitSettings,
    *,
    workdir: Path | None = None,
    on_progress: OnProgress = _untold,
) -> Classifier:
    """Fit a classifier to labelled and clicked images.

    The trunk of a pretrained backbone stays as it is, and so do the statistics of its batch norms; its last stage and
    the head learn. The built-in network learns whole. On the CPU the same call gives the same weights.

    Args:
        parent: what to start from; it is not changed.
        examples: those without a class teach nothing; those that cannot be read are left out, with a warning.
        settings: how.
        workdir: folder for the trunk's features, which the next training uses again; None keeps nothing.
        on_progress: told how far it is.

    Returns:
        The fitted classifier, in evaluation mode, on the device of ``parent``.

    Raises:
        LookhereError: if no example has a class and can be read.
    """
    begun = time.monotonic()
    classifier = copy.deepcopy(parent).eval()
    prepared = prepare(classifier, examples, settings, workdir, lambda done, what: on_progress(0.3 * done, what))
    generator = torch.Generator().manual_seed(settings.seed)
    fresh = not bool(parent.head.weight.any())
    epochs = settings.fresh_epochs if fresh else settings.epochs
    steps = epochs * math.ceil(len(prepared.labels) / settings.batch_size)
    trained = [*classifier.last_stage.parameters(), *classifier.head.parameters()]
    rate = settings.learning_rate if classifier.pretrained else settings.small_learning_rate
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        loss = _loss(classifier, prepared, settings, generator)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            on_progress(0.3 + 0.7 * step / steps, f"fitting: step {step} of {steps}, loss {loss.item():.3f}")
        if time.monotonic() - begun > settings.time_budget_s:
            log.warning("The fit ended after %s of %s steps: its time budget is spent.", step + 1, steps)
            break
    on_progress(1.0, f"fitted {len(prepared.labels)} images, {len(prepared.clicked)} of them clicked")
    return classifier


def prepare(
    classifier: Classifier,
    examples: Sequence[Example],
    settings: FitSettings,
    workdir: Path | None = None,
    on_progress: OnProgress = _untold,
) -> Prepared:
    """Turn examples into what the trained part of a classifier learns from.

    Args:
        classifier: whose trunk is used, and whose attention maps the "Ignore" clicks were made on.
        examples: images, classes and clicks.
        settings: how many views.
        workdir: folder for the trunk's features; None keeps nothing.
        on_progress: told how far it is.

    Raises:
        LookhereError: if no example has a class and can be read.
    """
    cache = _FeatureCache(classifier, workdir)
    inputs, labels, looks, ignores = [], [], [], []
    for number, example in enumerate(examples):
        if example.label is None:
            continue
        try:
            content = hashlib.sha256(example.image.read_bytes()).digest()
            image = to_tensor(load_image(example.image), classifier.spec.image_size)
        except (OSError, LookhereError) as error:
            log.warning("An example is left out: %s", error)
            continue
        views = [(image, example.clicks)]
        seed = int.from_bytes(content[:4], "big")
        views += [jittered(image, example.clicks, seed + view) for view in range(1, settings.views)]
        features = cache.features(torch.stack([view for view, _ in views]), content)
        shape, attention = _attention(classifier, features, example.label, example.clicks)
        inputs.append(features)
        labels.append(example.label)
        looks.append(torch.stack([look_target(clicks, shape) for _, clicks in views]))
        ignores.append(
            torch.stack([ignore_target(clicks, map_) for (_, clicks), map_ in zip(views, attention, strict=True)])
        )
        on_progress((number + 1) / len(examples), f"reading images: {number + 1} of {len(examples)}")
    if not labels:
        raise LookhereError("Expected examples with a class and a readable image to learn from, got none.")
    look, ignore = torch.stack(looks), torch.stack(ignores)
    guided = (look.flatten(1).amax(1) > 0) | (ignore.flatten(1).amax(1) > 0)
    device = next(classifier.parameters()).device
    return Prepared(
        torch.stack(inputs).to(device),
        torch.tensor(labels, device=device),
        look.to(device),
        ignore.to(device),
        guided.nonzero().flatten(),
    )


def _loss(classifier: Classifier, prepared: Prepared, settings: FitSettings, generator: torch.Generator) -> Tensor:
    counts = torch.bincount(prepared.labels, minlength=len(classifier.spec.classes)).float()
    # Every class is seen equally often, however few of it there are.
    balance = (1 / counts[prepared.labels]).cpu()
    labelled = torch.multinomial(balance, settings.batch_size, replacement=True, generator=generator)
    chosen = labelled
    guides = bool(len(prepared.clicked)) and (settings.look_weight > 0 or settings.ignore_weight > 0)
    if guides:
        places = torch.randint(len(prepared.clicked), (settings.clicked_batch_size,), generator=generator)
        chosen = torch.cat([labelled, prepared.clicked[places]])
    views = torch.randint(prepared.inputs.shape[1], (len(chosen),), generator=generator)
    labels = prepared.labels[chosen]
    output = classifier.from_trunk(prepared.inputs[chosen, views].float())
    loss = F.cross_entropy(output.logits, labels)
    if guides:
        clicked = slice(len(labelled), None)
        loss = loss + guidance_loss(
            output.maps[clicked],
            labels[clicked],
            prepared.look[chosen, views][clicked],
            prepared.ignore[chosen, views][clicked],
            settings.look_weight,
            settings.ignore_weight,
        )
    return loss


@torch.inference_mode()
def _attention(
    classifier: Classifier, features: Tensor, label: int, clicks: Sequence[Click]
) -> tuple[tuple[int, int], list[NDArray[np.float32]]]:
    """The grid, and the attention of the class on each view; computed only where somebody clicked "Ignore"."""
    device = next(classifier.parameters()).device
    judged = any(click.role is ClickRole.IGNORE for click in clicks)
    maps = classifier.from_trunk((features if judged else features[:1]).float().to(device)).maps
    shape = (maps.shape[2], maps.shape[3])
    if not judged:
        return shape, [np.zeros(shape, np.float32)] * len(features)
    labels = torch.full((len(maps),), label, device=device)
    positive = F.relu(contrast_map(maps, labels))
    positive = positive / positive.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return shape, list(positive.cpu().numpy())


class _FeatureCache:
    """What the trunk gives for the views of an image, kept on disk by content: half precision, a file an image."""

    def __init__(self, classifier: Classifier, workdir: Path | None) -> None:
        self._classifier = classifier
        self._folder: Path | None = None
        if workdir is not None and classifier.pretrained:
            digest = hashlib.sha256(repr(classifier.spec.image_size).encode())
            for tensor in classifier.trunk.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
            self._folder = workdir / "features" / digest.hexdigest()[:16]
            self._folder.mkdir(parents=True, exist_ok=True)

    @torch.inference_mode()
    def features(self, views: Tensor, content: bytes) -> Tensor:
        """(V, …) float16 of a pretrained trunk; the images themselves, float32, where there is no trunk."""
        if not self._classifier.pretrained:
            return views
        path = self._folder / f"{content.hex()[:32]}-{len(views)}.npy" if self._folder else None
        if path is not None and path.exists():
            try:
                return torch.from_numpy(np.load(path))
            except (OSError, ValueError) as error:
                log.warning("Cached features are unreadable and made anew: %s", error)
        device = next(self._classifier.parameters()).device
        features: Tensor = self._classifier.trunk(views.to(device)).half().cpu()
        if path is not None:
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                np.save(file, features.numpy())
            Path(file.name).replace(path)
        return features
