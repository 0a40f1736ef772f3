"""What several annotators of one task say together, and how far each agrees with the others.

This is the one place where agreement is defined. A task's *votes* are its annotations that count: not skipped; where
any is ground truth, those alone; of several by one annotator, the latest. From the votes comes what the task teaches
(:func:`merge`). An annotator's agreement is measured against the consensus of the *others*, so that nobody agrees
with themselves (:func:`agreements`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backend.domain import REGION_SIDE, Annotation, Click, ClickRole, Guidance, Origin, Region, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_PLACE = 0.08
"""Clicks of several annotators closer than this, as a share of the image's side, mean the same place."""

_CONSENSUS = 0.5
"""Share of the other annotators from which on a click of theirs is their consensus."""


@dataclass(frozen=True)
class Agreement:
    """How far one annotator agrees with the others.

    Attributes:
        annotator: Label Studio's user id (``completed_by``).
        tasks: how many tasks they answered, skipped ones not counted.
        compared: of these, how many have a class from them and a consensus of others on it.
        label: share in [0, 1] of the compared tasks with the same class; None without any.
        kappa: the same beyond chance, Cohen's κ in [-1, 1] (Educational and Psychological Measurement 1960); None where
            chance alone would agree always, or nothing was compared.
        clicked: on how many tasks both they and the others' consensus have clicks.
        clicks: mean over these tasks of :func:`click_agreement`, in [0, 1]; None without any.
        contradicted: how many of their clicks lie where the others' consensus has the opposite role.
        edited: how many of their answers somebody else changed last; what stands there now is not theirs, and is not
            compared.
    """

    annotator: int
    tasks: int
    compared: int
    label: float | None
    kappa: float | None
    clicked: int
    clicks: float | None
    contradicted: int
    edited: int


def merge(task: Task, annotations: Iterable[Annotation]) -> Guidance:
    """What the annotations of one task teach together.

    The class is that of the most votes, and contested where that is a tie; without any vote, it is the one that the
    task's data state. Clicks of one role within ``SAME_PLACE`` of each other become their mean. Its agreement is the
    share of annotators behind it, less the share who clicked the opposite there.

    Args:
        task: the task.
        annotations: of this task, in any order.
    """
    counting = votes(annotations)
    label = _label(task, counting)
    clicks = _merged_clicks(counting)
    region = _merged_region(counting)
    return Guidance(
        task,
        label,
        clicks,
        annotated=bool(counting),
        contested=label is None and any(one.label is not None for one in counting),
        contradicted=any(_opposed(one, clicks) or _on(region, one) for one in clicks),
        region=region,
    )


def votes(annotations: Iterable[Annotation]) -> list[Annotation]:
    """The annotations of one task that count, in the order of their last change."""
    given = [one for one in annotations if not one.skipped]
    given = [one for one in given if one.ground_truth] or given
    latest: dict[object, Annotation] = {}
    for annotation in sorted(given, key=lambda one: (one.updated_at, one.id)):
        latest[("nobody", annotation.id) if annotation.annotator is None else annotation.annotator] = annotation
    return list(latest.values())


def _merged_region(counting: Sequence[Annotation]) -> Region | None:
    """The cells that at least half of those outlined who outlined any."""
    outlined = [np.unpackbits(np.frombuffer(one.region, np.uint8)) for one in counting if one.region is not None]
    if not outlined:
        return None
    most = np.mean(outlined, axis=0) >= _CONSENSUS
    return np.packbits(most).tobytes() if most.any() else None


def _on(region: Region | None, click: Click) -> bool:
    """Whether an "Ignore" lies on what is outlined to be looked at."""
    if region is None or click.role is not ClickRole.IGNORE:
        return False
    row, column = (min(int(share * REGION_SIDE), REGION_SIDE - 1) for share in (click.y, click.x))
    return bool(np.unpackbits(np.frombuffer(region, np.uint8))[row * REGION_SIDE + column])


def weight_of(click: Click, of: Annotation, annotations: Iterable[Annotation], merged: Guidance) -> float:
    """What a click counts in what its task teaches, in [0, 1]; 0 where its annotation does not count.

    Args:
        click: as it was made.
        of: the annotation that it is of.
        annotations: all of the task.
        merged: what :func:`merge` made of them.
    """
    if of not in votes(annotations):
        return 0.0
    same = (one for one in merged.clicks if one.role is click.role)
    return min(same, key=lambda one: (one.x - click.x) ** 2 + (one.y - click.y) ** 2).agreement


def _label(task: Task, counting: Sequence[Annotation]) -> str | None:
    votes = Counter(one.label for one in counting if one.label is not None).most_common()
    if not votes:
        return task.known_label
    tied = len(votes) > 1 and votes[0][1] == votes[1][1]
    return None if tied else votes[0][0]


def _merged_clicks(counting: Sequence[Annotation]) -> tuple[Click, ...]:
    merged = _places(counting)
    return tuple(replace(one, agreement=_less_contradiction(one, merged)) for one in merged)


def _places(counting: Sequence[Annotation]) -> list[Click]:
    """The clicks of several annotators, those in the same place as one, with the share who made them."""
    places: list[list[tuple[int, Click]]] = []
    for voter, annotation in enumerate(counting):
        for click in annotation.clicks:
            for group in places:
                if group[0][1].role is click.role and _same_place(group[0][1], click):
                    group.append((voter, click))
                    break
            else:
                places.append([(voter, click)])
    return [_mean(group, len(counting)) for group in places]


def _mean(group: Sequence[tuple[int, Click]], voters: int) -> Click:
    clicks = [click for _, click in group]
    placed = [click.origin for click in clicks if click.origin is not Origin.CONFIRMED]
    return Click(
        x=sum(click.x for click in clicks) / len(clicks),
        y=sum(click.y for click in clicks) / len(clicks),
        role=clicks[0].role,
        # One who placed it outweighs one who let it stand.
        origin=placed[0] if placed else Origin.CONFIRMED,
        agreement=len({voter for voter, _ in group}) / voters,
    )


def _less_contradiction(click: Click, merged: Sequence[Click]) -> float:
    against = [other.agreement for other in _opposed(click, merged)]
    return max(0.0, click.agreement - max(against, default=0.0))


def _opposed(click: Click, others: Iterable[Click]) -> list[Click]:
    """Those of the clicks that ask the opposite of the same place."""
    return [other for other in others if other.role is not click.role and _same_place(other, click)]


def _same_place(one: Click, other: Click) -> bool:
    return (one.x - other.x) ** 2 + (one.y - other.y) ** 2 <= SAME_PLACE**2


def agreements(tasks: Iterable[Sequence[Annotation]]) -> list[Agreement]:
    """How far each annotator agrees with the others.

    The consensus of the others on a task is what :func:`merge` makes of their annotations: of the ground truth, where
    one of them marked any. Its clicks are those on which at least half of them agree.

    Args:
        tasks: the annotations of each task of a project, in any order.

    Returns:
        One for each annotator, by user id; annotations without an author belong to nobody.
    """
    records: defaultdict[int, _Record] = defaultdict(_Record)
    for of_task in tasks:
        authors = {one.annotator for one in of_task if not one.skipped and one.annotator is not None}
        for author in authors:
            _compare(records[author], of_task, author)
    return [record.summed_up(author) for author, record in sorted(records.items())]


def click_agreement(own: Sequence[Click], others: Sequence[Click]) -> float:
    """How well two people's clicks on one image agree, in [0, 1].

    The harmonic mean of two shares: of the own clicks with one of the others' of the same role within ``SAME_PLACE``,
    and of the others' clicks with such a one of one's own.

    Args:
        own: at least one.
        others: at least one.
    """
    near = _near(own, others) & (_roles(own)[:, None] == _roles(others)[None, :])
    precision, recall = float(near.any(1).mean()), float(near.any(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Cohen's κ between two people's classes of the same tasks, in [-1, 1].

    Returns:
        None where both always say the same one class, or nothing: then chance alone agrees always.
    """
    names, found = np.unique([*one, *other], return_inverse=True)
    mine, theirs = found[: len(one)], found[len(one) :]
    shares = [np.bincount(side, minlength=len(names)) / max(1, len(one)) for side in (mine, theirs)]
    by_chance = float(shares[0] @ shares[1])
    if not len(one) or by_chance == 1:
        return None
    return (float((mine == theirs).mean()) - by_chance) / (1 - by_chance)


class _Record:
    """What is counted of one annotator."""

    def __init__(self) -> None:
        self.tasks = 0
        self.edited = 0
        self.contradicted = 0
        self.labels: list[tuple[str, str]] = []
        self.clicks: list[float] = []

    def summed_up(self, annotator: int) -> Agreement:
        mine, theirs = [one for one, _ in self.labels], [other for _, other in self.labels]
        return Agreement(
            annotator=annotator,
            tasks=self.tasks,
            compared=len(self.labels),
            label=float(np.mean([one == other for one, other in self.labels])) if self.labels else None,
            kappa=kappa(mine, theirs),
            clicked=len(self.clicks),
            clicks=float(np.mean(self.clicks)) if self.clicks else None,
            contradicted=self.contradicted,
            edited=self.edited,
        )


def _compare(record: _Record, annotations: Sequence[Annotation], author: int) -> None:
    (own,) = votes(
        replace(one, ground_truth=False) for one in annotations if one.annotator == author and not one.skipped
    )
    record.tasks += 1
    if own.editor not in (None, author):
        record.edited += 1
        return
    others = votes(one for one in annotations if one.annotator != author)
    label = _label(Task(own.task, ""), others)
    if own.label is not None and label is not None:
        record.labels.append((own.label, label))
    # Before contradiction is taken off: what the others say, not what it weighs.
    consensus = [one for one in _places(others) if one.agreement >= _CONSENSUS]
    if own.clicks and consensus:
        record.clicks.append(click_agreement(own.clicks, consensus))
        record.contradicted += sum(bool(_opposed(click, consensus)) for click in own.clicks)


def _near(own: Sequence[Click], others: Sequence[Click]) -> NDArray[np.bool_]:
    places = [np.array([(click.x, click.y) for click in clicks]) for clicks in (own, others)]
    near: NDArray[np.bool_] = ((places[0][:, None] - places[1][None]) ** 2).sum(-1) <= SAME_PLACE**2
    return near


def _roles(clicks: Sequence[Click]) -> NDArray[np.str_]:
    return np.array([click.role.value for click in clicks])
