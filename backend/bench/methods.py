"""The ways to use a click that the benchmark compares: ours, the paper's, others', and the controls.

All of them fine-tune the same part of the same biased classifier, from the same features, for as many steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from backend.bench.data import Masked
from backend.demo.annotator import SimulatedAnnotator
from backend.domain import Click, ClickRole, Example, Prediction
from backend.guidance.classifier import Classifier, ClassifierOutput
from backend.guidance.losses import contrast_map, evidence
from backend.guidance.metrics import energy_pointing_game
from backend.guidance.training import Batch, FitSettings, Term

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY = 1e-6
_PAPER_WEIGHT = 3.0
_RRR_WEIGHT = 10.0


class Answer(StrEnum):
    """What the annotator says of an image."""

    NOTHING = "nothing"
    CLICK = "a click on the object"
    BOTH = "a click on the object, and one where the attention lies off it"
    ASTRAY = "a click anywhere"
    OUTLINE = "the object's outline"
    YES_NO = "whether the attention lies on the object"


@dataclass(frozen=True)
class Method:
    """A way to guide.

    Attributes:
        answer: what it asks of the annotator.
        settings: the fit.
        term: its loss, where it is not the energy loss.
        about: what it is, for the table.
    """

    answer: Answer
    settings: FitSettings
    about: str
    term: Term | None = None


def attention_of(output: ClassifierOutput, batch: Batch) -> Tensor:
    """(N, h, w) the positive part of the contrast maps of the guiding images."""
    return evidence(contrast_map(output.maps[batch.guiding], batch.labels[batch.guiding]))


def paper_term(_classifier: Classifier, batch: Batch, output: ClassifierOutput) -> Tensor:
    """The loss of He et al. (IUI 2023), with a gradient: barycentre of the map to the click, mass off the segment.

    Squared distance, in units of the image, between the map's barycentre and that of the "Look here" target, and the
    mean of the map (its maximum 1) in the "Ignore" segment; both times three.
    """
    attention = attention_of(output, batch)
    look, ignore = batch.look[batch.guiding], batch.ignore[batch.guiding]
    distance = (_barycentre(attention) - _barycentre(look)).square().sum(1) * (look.amax((1, 2)) > 0)
    height = attention / attention.amax((1, 2), keepdim=True).clamp_min(_TINY)
    mass = (height * ignore).sum((1, 2)) / ignore.sum((1, 2)).clamp_min(_TINY)
    return _PAPER_WEIGHT * (distance + mass).mean()


def rrr_term(classifier: Classifier, batch: Batch, _output: ClassifierOutput) -> Tensor:
    """Right for the right reasons (Ross et al., IJCAI 2017): no gradient of the log-probabilities off the outline.

    The gradient is taken on what the trained part sees, the trunk's features: the trunk is not trained. Squared and
    summed off the outline, as a share of all of it, so that its weight means the same for every network.
    """
    features = batch.features[batch.guiding].detach().requires_grad_()
    log_probabilities = F.log_softmax(classifier.from_trunk(features).logits, 1).sum()
    (gradient,) = torch.autograd.grad(log_probabilities, features, create_graph=True)
    energy = gradient.square().sum(1)
    outside = 1 - batch.kept[batch.guiding]
    return _RRR_WEIGHT * ((outside * energy).sum((1, 2)) / energy.sum((1, 2)).clamp_min(1e-12)).mean()


_ALONE = FitSettings(swap_share=0, carry_over=False)
CONTROL = FitSettings(look_weight=0, ignore_weight=0, swap_share=0)

METHODS: dict[str, Method] = {
    "erm": Method(Answer.NOTHING, CONTROL, "the biased classifier, from which all others start"),
    "control": Method(Answer.NOTHING, CONTROL, "the same fine-tuning without guidance"),
    "default": Method(Answer.CLICK, FitSettings(), "what the product uses: energy, swap and pointer"),
    "both": Method(Answer.BOTH, FitSettings(), "the same, with “Ignore” where the attention lay off the object"),
    "energy": Method(
        Answer.CLICK, replace(_ALONE, look_weight=1.0, ignore_weight=1.0), "energy loss alone (Rao et al. 2023)"
    ),
    "swap": Method(
        Answer.CLICK, FitSettings(look_weight=0, ignore_weight=0, carry_over=False), "swap alone, on clicked images"
    ),
    "paper": Method(Answer.BOTH, _ALONE, "barycentre and segment (He et al. 2023), with a gradient", paper_term),
    "rrr": Method(Answer.OUTLINE, _ALONE, "right for the right reasons, with outlines (Ross et al. 2017)", rrr_term),
    "crayon": Method(
        Answer.YES_NO, replace(_ALONE, look_weight=1.0, ignore_weight=1.0), "yes or no on each map, after CRAYON (2024)"
    ),
    "oracle": Method(Answer.OUTLINE, FitSettings(), "the default with outlines in place of clicks"),
    "random": Method(Answer.ASTRAY, FitSettings(), "the default with clicks at random places"),
    "groups": Method(Answer.NOTHING, CONTROL, "last-layer retraining with group labels (DFR, 2023): upper reference"),
}
"""The methods by name."""


def answered(
    answer: Answer,
    plain: Sequence[Example],
    images: Sequence[Masked],
    said: Sequence[Prediction],
    places: Sequence[int],
    annotator: SimulatedAnnotator,
    rng: np.random.Generator,
) -> list[Example]:
    """The training images, some of them with what an annotator says of them.

    Args:
        answer: what is asked.
        plain: the images without guidance.
        images: the same with their masks.
        said: what the biased classifier says of them.
        places: which of them are asked about.
        annotator: who answers.
        rng: of random clicks.
    """
    examples = list(plain)
    for place in places:
        mask = images[place].read_mask()
        if not mask.any():
            # Where no object is to be seen, nobody clicks.
            continue
        one = plain[place]
        if answer is Answer.CLICK:
            one = replace(one, clicks=(Click(*annotator.look_here(mask), ClickRole.LOOK),))
        elif answer is Answer.ASTRAY:
            x, y = rng.random(2).tolist()
            one = replace(one, clicks=(Click(x, y, ClickRole.LOOK),))
        elif answer is Answer.BOTH:
            one = replace(one, clicks=annotator.clicks(mask, ~mask, said[place].peak))
        elif answer is Answer.OUTLINE:
            one = replace(one, region=mask)
        elif answer is Answer.YES_NO:
            region, clicks = _judged(mask, said[place])
            one = replace(one, region=region, clicks=clicks)
        examples[place] = one
    return examples


def _judged(mask: NDArray[np.bool_], said: Prediction) -> tuple[NDArray[np.bool_] | None, tuple[Click, ...]]:
    """A "yes" keeps the part of the map that is at least half as high as its peak; a "no" ignores the hill there."""
    height, width = mask.shape
    enlarged = np.asarray(Image.fromarray(said.attention).resize((width, height), Image.Resampling.BILINEAR))
    if energy_pointing_game(said.attention, mask) >= 0.5:
        return enlarged >= 0.5, ()
    return None, (Click(*said.peak, ClickRole.IGNORE),)


def balanced(groups: Sequence[str], seed: int) -> NDArray[np.int_]:
    """As many places of each group: what deep feature reweighting (Kirichenko et al., ICLR 2023) learns from.

    Args:
        groups: N names; no other method sees them.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(groups)
    unique, counts = np.unique(names, return_counts=True)
    return np.concatenate([rng.permutation(np.nonzero(names == name)[0])[: counts.min()] for name in unique])


def _barycentre(maps: Tensor) -> Tensor:
    """(N, 2) centres of mass (x, y) of maps (N, h, w), in units of the image."""
    height, width = maps.shape[1:]
    down = (torch.arange(height, device=maps.device) + 0.5) / height
    right = (torch.arange(width, device=maps.device) + 0.5) / width
    mass = maps.sum((1, 2)).clamp_min(_TINY)
    return torch.stack([(maps.sum(1) * right).sum(1) / mass, (maps.sum(2) * down).sum(1) / mass], 1)
