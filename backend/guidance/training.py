"""A guided training, from top to bottom: prepare → probe → fit."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.domain import Example
from backend.guidance.classifier import Classifier, ClassifierOutput
from backend.guidance.losses import guidance_loss, swap
from backend.guidance.preparing import OnProgress, Prepared, prepare, untold
from backend.guidance.probe import solve_head

log = logging.getLogger(__name__)

_MOST_PROBES = 1920
_WARM_UP = 0.2
_LONG = 500
"""Steps from which on compiling the trained part is repaid; it takes half a minute."""
_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class FitSettings:
    """How a classifier is fitted. One default for all data sets.

    Attributes:
        epochs: passes over the labelled images when a trained, pretrained backbone learns on.
        fresh_epochs: the same for a classifier that has learnt nothing yet.
        small_epochs: the same for the built-in network when it learns on; nobody trained it before.
        fewest_steps: are taken, however few images there are.
        learning_rate: of AdamW, at its highest, for the last stage of a pretrained backbone.
        small_learning_rate: the same for the built-in network.
        head_rate: how many times faster the head learns; its gradient is a mean over all cells, and small.
        weight_decay: of AdamW.
        batch_size: images in a step.
        guided_share: how many of them guide; the others are drawn from all labelled ones.
        look_weight: λ₊ of "Look here".
        ignore_weight: λ₋ of "Ignore".
        swap_share: how often an image whose object is known is shown before another image's surroundings.
        carry_over: whether a few clicks may guide on images that nobody clicked (``pointer``).
        probes_per_class: images of each class from which the head is solved before the last stage learns.
        views: how many versions of each image are learnt from, the image itself and shifted ones.
        seed: of order, swaps and transforms.
        time_budget_s: the fit ends after about this many seconds, with its schedule.
        checkpoint_every_s: how many seconds of work are lost at most when the fit is killed.
    """

    epochs: int = 4
    fresh_epochs: int = 12
    small_epochs: int = 25
    fewest_steps: int = 24
    learning_rate: float = 5e-4
    small_learning_rate: float = 5e-3
    head_rate: float = 10.0
    weight_decay: float = 1e-2
    batch_size: int = 40
    guided_share: float = 0.5
    look_weight: float = 0.3
    ignore_weight: float = 0.3
    swap_share: float = 0.9
    carry_over: bool = True
    probes_per_class: int = 192
    views: int = 3
    seed: int = 0
    time_budget_s: float = math.inf
    checkpoint_every_s: float = 20.0


class Batch(NamedTuple):
    """The images of one step.

    Attributes:
        features: (N, C, H, W) float32, what the trained part takes; objects perhaps before other surroundings.
        labels: (N,) classes.
        look: (N, h, w) in [0, 1].
        ignore: (N, h, w) in [0, 1].
        kept: (N, H, W) in [0, 1].
        guiding: which of the images guide; the others teach their class alone.
    """

    features: Tensor
    labels: Tensor
    look: Tensor
    ignore: Tensor
    kept: Tensor
    guiding: slice


Term = Callable[[Classifier, Batch, ClassifierOutput], Tensor]
"""What is added to the cross-entropy of a batch, a scalar."""


def fit(
    parent: Classifier,
    examples: Sequence[Example],
    settings: FitSettings,
    *,
    workdir: Path | None = None,
    on_progress: OnProgress = untold,
    term: Term | None = None,
) -> Classifier:
    """Fit a classifier to labelled and clicked images.

    The trunk stays as it is, and so do the statistics of a pretrained backbone's batch norms. The head is solved first
    (linear probing, then fine-tuning: Kumar et al., ICLR 2022), on the same kind of images that the steps show: with
    objects before other surroundings it is last-layer retraining on a balanced set (Kirichenko et al., ICLR 2023) that
    nobody had to collect. Then the last stage and the head learn. Without clicks it is plain cross-entropy.

    On the CPU the same call gives the same weights, unless the time budget is short. A fit that was killed goes on from
    its last checkpoint when it is called again with the same arguments.

    Args:
        parent: what to start from; it is not changed.
        examples: those without a class teach nothing; those that cannot be read are left out, with a warning.
        settings: how.
        workdir: folder for the trunk's features, which the next training uses again, and for the checkpoint; None keeps
            nothing.
        on_progress: told how far it is.
        term: another guidance loss than the energy loss, for comparison.

    Returns:
        The fitted classifier, in evaluation mode, on the device of ``parent``.

    Raises:
        LookhereError: if no example has a class and can be read.
    """
    begun = time.monotonic()
    classifier = copy.deepcopy(parent).eval()
    prepared = prepare(
        classifier,
        examples,
        views=settings.views,
        carry_over=settings.carry_over,
        time_budget_s=settings.time_budget_s,
        workdir=workdir,
        on_progress=lambda done, what: on_progress(0.3 * done, what),
    )
    sampler = Sampler(prepared, settings, len(classifier.spec.classes))
    fresh = not bool(parent.head.weight.any())
    passes = settings.fresh_epochs if fresh else settings.epochs if classifier.pretrained else settings.small_epochs
    steps = max(settings.fewest_steps, passes * math.ceil(len(prepared.labels) / settings.batch_size))
    loop = Loop(classifier, sampler, settings, steps, term or energy_term(settings))
    checkpoint = _Checkpoint(workdir, loop, parent, settings)
    if not checkpoint.resume():
        _probe(classifier, sampler, settings)
    with _made_fast(classifier, steps):
        first, pace_begun = loop.step, time.monotonic()
        while loop.step < loop.steps:
            loss = loop.advance()
            if loop.step % 10 == 1:
                told = f"fitting: step {loop.step} of {loop.steps}, loss {loss.item():.3f}"
                on_progress(0.3 + 0.7 * loop.step / loop.steps, told)
            now = time.monotonic()
            left = (settings.time_budget_s - (now - begun)) / (now - pace_begun) * (loop.step - first)
            if left < loop.steps - loop.step:
                loop.steps = loop.step + max(0, int(left))
                log.warning("The fit ends with step %s: its time budget allows no more.", loop.steps)
            checkpoint.keep()
    checkpoint.remove()
    clicked = sum(example.guides for example in examples)
    on_progress(1.0, f"fitted {len(prepared.labels)} images, {clicked} of them clicked")
    return classifier.eval()


class Sampler:
    """Draws the images of the steps.

    Args:
        prepared: what is drawn from.
        settings: how many, and in which mixture.
        classes: how many there are.
    """

    def __init__(self, prepared: Prepared, settings: FitSettings, classes: int) -> None:
        self._prepared = prepared
        self._settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        counts = torch.bincount(prepared.labels, minlength=classes).float()
        # Every class is seen equally often, however few of it there are.
        self._balance = (1 / counts[prepared.labels]).cpu()
        weights = settings.look_weight, settings.ignore_weight, settings.swap_share
        self.guides = bool(prepared.guided.any()) and max(weights) > 0

    @property
    def prepared(self) -> Prepared:
        """What is drawn from."""
        return self._prepared

    def draw(self) -> Batch:
        """The images of the next step: labelled ones, then guiding ones."""
        settings, prepared = self._settings, self._prepared
        guiding = int(settings.guided_share * settings.batch_size) if self.guides else 0
        images = self._pick(self._balance, settings.batch_size - guiding)
        if guiding:
            images = torch.cat([images, self._pick(self._balance * prepared.guided, guiding)])
        views = torch.randint(prepared.inputs.shape[1], (len(images),), generator=self.generator)
        features, kept = prepared.inputs[images, views].float(), prepared.kept[images, views]
        if self.guides:
            features = self._swapped(features, kept)
        return Batch(
            features,
            prepared.labels[images],
            prepared.look[images, views],
            prepared.ignore[images, views],
            kept,
            slice(len(images) - guiding, len(images)),
        )

    def _swapped(self, features: Tensor, kept: Tensor) -> Tensor:
        chance = torch.rand(len(features), generator=self.generator)
        others = torch.randperm(len(features), generator=self.generator)
        # An image with an "Ignore" alone does not say what its object is: it has nothing to put elsewhere.
        shown = (kept.amax((1, 2)) > 0) & (chance < self._settings.swap_share).to(kept.device)
        return torch.where(shown[:, None, None, None], swap(features, kept, features[others], kept[others]), features)

    def _pick(self, weights: Tensor, count: int) -> Tensor:
        return torch.multinomial(weights, count, replacement=True, generator=self.generator)


def energy_term(settings: FitSettings) -> Term:
    """The energy loss, as ``guidance_loss`` says."""

    def energy(_classifier: Classifier, batch: Batch, output: ClassifierOutput) -> Tensor:
        on = batch.guiding
        targets = batch.look[on], batch.ignore[on]
        return guidance_loss(output.maps[on], batch.labels[on], *targets, settings.look_weight, settings.ignore_weight)

    return energy


class Loop:
    """The steps, and all that changes with them.

    Args:
        classifier: is trained.
        sampler: of its images.
        settings: how.
        steps: how many there will be.
        term: what is added to the cross-entropy, if there is guidance.
    """

    def __init__(self, classifier: Classifier, sampler: Sampler, settings: FitSettings, steps: int, term: Term) -> None:
        self.classifier = classifier
        self.sampler = sampler
        self.step = 0
        self.steps = steps
        self._term = term
        stage, head = list(classifier.last_stage.parameters()), list(classifier.head.parameters())
        self._parameters = [*stage, *head]
        rate = settings.learning_rate if classifier.pretrained else settings.small_learning_rate
        self._rates = rate, rate * settings.head_rate
        self.optimizer = torch.optim.AdamW([{"params": stage}, {"params": head}], weight_decay=settings.weight_decay)

    def advance(self) -> Tensor:
        """One step; returns its loss."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * _one_cycle((self.step + 0.5) / self.steps)
        batch = self.sampler.draw()
        self.optimizer.zero_grad()
        with torch.autocast(batch.features.device.type, torch.bfloat16, enabled=batch.features.is_cuda):
            output = self.classifier.from_trunk(batch.features)
        # Exponents and logarithms of small shares want the full precision.
        output = ClassifierOutput(*(values.float() for values in output))
        loss = F.cross_entropy(output.logits, batch.labels)
        if self.sampler.guides:
            loss = loss + self._term(self.classifier, batch, output)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        nn.utils.clip_grad_norm_(self._parameters, 5.0)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """All that changes with the steps."""
        return {
            "step": self.step,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.sampler.generator.get_state(),
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Take up where ``state`` was taken."""
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.generator.set_state(state["generator"].cpu())
        self.step = state["step"]


def _one_cycle(progress: float) -> float:
    """The learning rate as a share of its highest: up, then down, both as cosines (Smith and Topin 2019)."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))) / 2


@contextmanager
def _made_fast(classifier: Classifier, steps: int) -> Iterator[None]:
    """Train with what a GPU is fast with; the classifier is left as it was."""
    stage, device = classifier.last_stage, next(classifier.parameters()).device
    # Statistics of few images ruin pretrained batch norms; the built-in network's have none yet.
    stage.train(not classifier.pretrained)
    if device.type != "cuda":
        yield
        return
    stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch types it for tensors alone
    if steps >= _LONG:
        stage.compile()
    try:
        yield
    finally:
        stage._compiled_call_impl = None
        stage.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@torch.inference_mode()
def _probe(classifier: Classifier, sampler: Sampler, settings: FitSettings) -> None:
    """Solve the head on the last stage as it is, by logistic regression."""
    wanted = min(settings.probes_per_class * len(classifier.spec.classes), _MOST_PROBES)
    classifier.eval()
    batches = [sampler.draw() for _ in range(math.ceil(wanted / settings.batch_size))]
    features = torch.cat([classifier.from_trunk(batch.features).features for batch in batches]).double().cpu().numpy()
    labels = torch.cat([batch.labels for batch in batches]).cpu().numpy()
    solve_head(classifier.head, features, labels)


class _Checkpoint:
    """The state of a loop on disk, so that a killed fit goes on where it was."""

    def __init__(self, workdir: Path | None, loop: Loop, parent: Classifier, settings: FitSettings) -> None:
        self._path = workdir / _CHECKPOINT if workdir is not None else None
        self._loop = loop
        self._every = settings.checkpoint_every_s
        self._kept = time.monotonic()
        self._fit = _fingerprint(loop, parent, settings) if workdir is not None else ""

    def resume(self) -> bool:
        """Whether there was one of this fit; the loop then stands where it was kept."""
        if self._path is None or not self._path.exists():
            return False
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            if state["fit"] != self._fit:
                return False
            self._loop.go_on(state)
        except Exception as error:  # noqa: BLE001 - the unpickler raises anything on bytes that are no checkpoint
            log.warning("The checkpoint is unreadable, the fit begins anew: %s", error)
            return False
        log.info("The fit goes on from step %s of %s.", self._loop.step, self._loop.steps)
        return True

    def keep(self) -> None:
        """Keep the state, if the last time is long enough ago."""
        if self._path is None or time.monotonic() - self._kept < self._every:
            return
        with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
            torch.save({"fit": self._fit, **self._loop.state()}, file)
        Path(file.name).replace(self._path)
        self._kept = time.monotonic()

    def remove(self) -> None:
        """The fit has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _fingerprint(loop: Loop, parent: Classifier, settings: FitSettings) -> str:
    """What makes a fit this one: where it starts, what it learns from, and how."""
    prepared = loop.sampler.prepared
    how = replace(settings, time_budget_s=math.inf, checkpoint_every_s=0.0)
    digest = hashlib.sha256(repr((parent.spec, how, loop.steps)).encode())
    learnt_from = prepared.labels, prepared.look, prepared.ignore, prepared.kept, prepared.guided
    started_from = (*parent.last_stage.state_dict().values(), *parent.head.state_dict().values())
    for tensor in (*learnt_from, *started_from, prepared.inputs.float().mean((2, 3, 4))):
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
