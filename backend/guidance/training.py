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

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.domain import Click, ClickRole, Example, LookhereError
from backend.guidance.classifier import Classifier
from backend.guidance.data import jittered, load_image, to_tensor
from backend.guidance.losses import contrast_map, guidance_loss, swap
from backend.guidance.pointer import learn, trust
from backend.guidance.targets import ignore_target, look_target

log = logging.getLogger(__name__)

_TRUSTWORTHY = 0.5
"""Share of clicks that a pointer must find before images that nobody clicked guide as well."""

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
        learning_rate: of AdamW, at its highest, for the last stage of a pretrained backbone.
        small_learning_rate: the same for the built-in network.
        head_rate: how many times faster the head learns; its gradient is a mean over all cells, and small.
        weight_decay: of AdamW.
        batch_size: labelled images in a step.
        guided_batch_size: guided images in a step, beside the labelled ones; and as many swapped ones.
        look_weight: λ₊ of "Look here".
        ignore_weight: λ₋ of "Ignore".
        swap_weight: weight of the cross-entropy on swapped images.
        views: how many versions of each image are learnt from, the image itself and shifted ones.
        seed: of order and transforms.
        time_budget_s: the fit ends after this many seconds, wherever it is.
    """

    epochs: int = 8
    fresh_epochs: int = 12
    learning_rate: float = 3e-4
    small_learning_rate: float = 5e-3
    head_rate: float = 20.0
    weight_decay: float = 1e-2
    batch_size: int = 32
    guided_batch_size: int = 32
    look_weight: float = 0.3
    ignore_weight: float = 0.3
    swap_weight: float = 1.0
    views: int = 3
    seed: int = 0
    time_budget_s: float = math.inf


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


def fit(
    parent: Classifier,
    examples: Sequence[Example],
    settings: FitSettings,
    *,
    workdir: Path | None = None,
    on_progress: OnProgress = _untold,
) -> Classifier:
    """Fit a classifier to labelled and clicked images.

    The trunk stays as it is, and so do the statistics of a pretrained backbone's batch norms; the last stage and the
    head learn. Without clicks it is plain cross-entropy. On the CPU the same call gives the same weights.

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
    stage, head = list(classifier.last_stage.parameters()), list(classifier.head.parameters())
    rate = settings.learning_rate if classifier.pretrained else settings.small_learning_rate
    rates = [rate, rate * settings.head_rate]
    optimizer = torch.optim.AdamW([{"params": stage}, {"params": head}], weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.2)
    # Statistics of few images ruin pretrained batch norms; the built-in network's have none yet.
    classifier.last_stage.train(not classifier.pretrained)
    for step in range(steps):
        optimizer.zero_grad()
        loss = _loss(classifier, prepared, settings, generator)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        nn.utils.clip_grad_norm_([*stage, *head], 5.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            on_progress(0.3 + 0.7 * step / steps, f"fitting: step {step} of {steps}, loss {loss.item():.3f}")
        if time.monotonic() - begun > settings.time_budget_s:
            log.warning("The fit ended after %s of %s steps: its time budget is spent.", step + 1, steps)
            break
    clicked = sum(bool(example.clicks) for example in examples)
    on_progress(1.0, f"fitted {len(prepared.labels)} images, {clicked} of them clicked")
    return classifier.eval()


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
    inputs: list[Tensor] = []
    labels: list[int] = []
    clicks: list[list[tuple[Click, ...]]] = []
    for number, example in enumerate(examples):
        if example.label is None:
            continue
        try:
            content = hashlib.sha256(example.image.read_bytes()).digest()
            image = to_tensor(load_image(example.image), classifier.spec.image_size)
        except (OSError, LookhereError) as error:
            log.warning("An example is left out: %s", error)
            continue
        seed = int.from_bytes(content[:4], "big")
        views = [(image, example.clicks)]
        views += [jittered(image, example.clicks, seed + view) for view in range(1, settings.views)]
        inputs.append(cache.features(torch.stack([view for view, _ in views]), content))
        labels.append(example.label)
        clicks.append([moved for _, moved in views])
        on_progress((number + 1) / len(examples), f"reading images: {number + 1} of {len(examples)}")
    if not labels:
        raise LookhereError("Expected examples with a class and a readable image to learn from, got none.")
    guided = torch.tensor([float(bool(on[0])) for on in clicks])
    trusted = _point(inputs, clicks)
    if trusted:
        others = (guided == 0).sum().clamp_min(1)
        guided = torch.where(guided > 0, guided / guided.sum(), trusted / others)
    return _targets(classifier, inputs, labels, clicks, guided)


def _point(inputs: Sequence[Tensor], clicks: list[list[tuple[Click, ...]]]) -> float:
    """Put the clicks that the pointer expects on the images that nobody clicked; returns how far it is trusted."""
    looked = [place for place, on in enumerate(clicks) if any(click.role is ClickRole.LOOK for click in on[0])]
    if not looked:
        return 0.0
    features, places = [inputs[place][0] for place in looked], [clicks[place][0] for place in looked]
    trusted = trust(features, places)
    if trusted < _TRUSTWORTHY:
        return 0.0
    pointer = learn(features, places)
    for views, on in zip(inputs, clicks, strict=True):
        if not on[0]:
            on[:] = [(Click(*pointer.point(view), ClickRole.LOOK),) for view in views]
    return trusted


def _targets(
    classifier: Classifier,
    inputs: Sequence[Tensor],
    labels: Sequence[int],
    clicks: Sequence[Sequence[Sequence[Click]]],
    guided: Tensor,
) -> Prepared:
    shape = _map_shape(classifier, inputs[0])
    looks, ignores, kept = [], [], []
    for features, label, on in zip(inputs, labels, clicks, strict=True):
        looks.append(torch.stack([look_target(view, shape) for view in on]))
        ignores.append(_ignored(classifier, features, label, on, shape))
        kept.append(torch.stack([look_target(view, (features.shape[2], features.shape[3])) for view in on]))
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


def _loss(classifier: Classifier, prepared: Prepared, settings: FitSettings, generator: torch.Generator) -> Tensor:
    counts = torch.bincount(prepared.labels, minlength=len(classifier.spec.classes)).float()
    # Every class is seen equally often, however few of it there are.
    balance = (1 / counts[prepared.labels]).cpu()
    labelled = _draw(balance, settings.batch_size, generator)
    guides = bool(prepared.guided.any()) and max(settings.look_weight, settings.ignore_weight, settings.swap_weight) > 0
    if not guides:
        images, views = labelled, _views(prepared, len(labelled), generator)
        output = classifier.from_trunk(prepared.inputs[images, views].float())
        return F.cross_entropy(output.logits, prepared.labels[images])
    guiding = _draw(balance * prepared.guided, settings.guided_batch_size, generator)
    images = torch.cat([labelled, guiding])
    views = _views(prepared, len(images), generator)
    features = prepared.inputs[images, views].float()
    known = prepared.kept[images, views]
    others = torch.randperm(len(images), generator=generator)[: len(guiding)]
    swapped = swap(features[len(labelled) :], known[len(labelled) :], features[others], known[others])
    output = classifier.from_trunk(torch.cat([features, swapped]))
    labels = prepared.labels[images]
    guided = slice(len(labelled), len(images))
    # An image with an "Ignore" alone does not say what its object is: it has nothing to put elsewhere.
    shown = (known[guided].amax((1, 2)) > 0).float()
    kept_class = (F.cross_entropy(output.logits[len(images) :], labels[guided], reduction="none") * shown).mean()
    return (
        F.cross_entropy(output.logits[: len(images)], labels)
        + guidance_loss(
            output.maps[guided],
            labels[guided],
            prepared.look[images, views][guided],
            prepared.ignore[images, views][guided],
            settings.look_weight,
            settings.ignore_weight,
        )
        + settings.swap_weight * kept_class
    )


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def _views(prepared: Prepared, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(prepared.inputs.shape[1], (count,), generator=generator)


@torch.inference_mode()
def _map_shape(classifier: Classifier, features: Tensor) -> tuple[int, int]:
    device = next(classifier.parameters()).device
    height, width = classifier.from_trunk(features[:1].float().to(device)).maps.shape[2:]
    return height, width


@torch.inference_mode()
def _ignored(
    classifier: Classifier, features: Tensor, label: int, clicks: Sequence[Sequence[Click]], shape: tuple[int, int]
) -> Tensor:
    """(V, h, w) targets of "Ignore", on the attention that the classifier pays to the class before it learns."""
    if all(click.role is ClickRole.LOOK for view in clicks for click in view):
        return torch.zeros(len(clicks), *shape)
    device = next(classifier.parameters()).device
    maps = classifier.from_trunk(features.float().to(device)).maps
    attention = F.relu(contrast_map(maps, torch.full((len(maps),), label, device=device)))
    attention = attention / attention.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return torch.stack([ignore_target(view, map_) for view, map_ in zip(clicks, attention.cpu().numpy(), strict=True)])


class _FeatureCache:
    """What the trunk gives for the views of an image, kept on disk by content: half precision, a file an image."""

    def __init__(self, classifier: Classifier, workdir: Path | None) -> None:
        self._classifier = classifier
        self._folder: Path | None = None
        if workdir is not None:
            digest = hashlib.sha256(repr(classifier.spec.image_size).encode())
            for tensor in classifier.trunk.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
            self._folder = workdir / "features" / digest.hexdigest()[:16]
            self._folder.mkdir(parents=True, exist_ok=True)

    @torch.inference_mode()
    def features(self, views: Tensor, content: bytes) -> Tensor:
        """(V, C, H, W) float16."""
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
