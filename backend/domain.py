"""The values that cross the borders between rooms.

Frozen, plain, and free of any library: Label Studio's percent and JSON end in ``labelstudio``, SQL ends in
``state``, tensors end in ``guidance``. Coordinates here are fractions in [0, 1] of the *upright* image: EXIF
orientation applied, any rotation made in Label Studio undone; x grows to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ClickRole(StrEnum):
    """What a click asks of the classifier's attention."""

    LOOK = "look"
    IGNORE = "ignore"


class Origin(StrEnum):
    """Who placed a region, after Label Studio's ``origin``."""

    MANUAL = "manual"
    """Drawn by the annotator, or written by an API client that named no origin."""
    CONFIRMED = "prediction"
    """Our own prediction, submitted unchanged: a confirmation, not a fresh click."""
    CORRECTED = "prediction-changed"
    """Our own prediction, moved or changed by the annotator."""


@dataclass(frozen=True)
class Click:
    """One point of guidance.

    Attributes:
        x: horizontal position in [0, 1] of the upright image's width.
        y: vertical position in [0, 1] of the upright image's height.
        role: attract or repel attention.
        origin: who placed it.
        agreement: weight in [0, 1]: the share of a task's annotators this click stands for; 1 with one annotator.
    """

    x: float
    y: float
    role: ClickRole
    origin: Origin = Origin.MANUAL
    agreement: float = 1.0


REGION_SIDE = 128
"""Cells in a row and in a column of a region's grid, stretched over the upright image."""

Region = bytes
"""What somebody outlined: the cells of its grid row by row, eight to a byte, the first in its highest bit."""


@dataclass(frozen=True)
class Task:
    """A Label Studio task.

    Attributes:
        id: Label Studio's task id.
        image: the image reference as it stands in the task's data (upload path, URL, local-files path).
        known_label: the class that the task's data already states, or None.
    """

    id: int
    image: str
    known_label: str | None = None


@dataclass(frozen=True)
class Annotation:
    """One annotator's submitted answer on one task.

    Attributes:
        id: Label Studio's annotation id.
        task: Label Studio's task id.
        annotator: Label Studio's user id of the author (``completed_by``), None where it is absent. Any client of Label
            Studio's API can write it: it tells votes apart, and proves nothing.
        updated_at: Label Studio's ``updated_at``, in UTC; the later of two states of one annotation wins.
        clicks: in the order of the result.
        rejected: predicted clicks that the annotator deleted. Kept for measuring; they teach nothing.
        label: the chosen class, None where none was chosen.
        label_origin: who chose it; None where ``label`` is None.
        skipped: the annotator declined (``was_cancelled``); such an annotation teaches nothing, whatever it holds.
        ground_truth: marked as ground truth in Label Studio.
        editor: Label Studio's user id of who changed it last (``updated_by``), None where it is absent.
        region: what was outlined to be looked at; None where nothing was.
    """

    id: int
    task: int
    annotator: int | None
    updated_at: datetime
    clicks: tuple[Click, ...] = ()
    rejected: tuple[Click, ...] = ()
    label: str | None = None
    label_origin: Origin | None = None
    skipped: bool = False
    ground_truth: bool = False
    editor: int | None = None
    region: Region | None = None


@dataclass(frozen=True)
class Guidance:
    """What a task teaches, merged over its annotations.

    Attributes:
        task: the task.
        label: the agreed class, None where it is unknown or contested.
        clicks: merged clicks; empty where nobody clicked.
        annotated: whether any annotation that counts (not skipped) stands behind it.
        contested: whether its annotators chose different classes, none of them most often. It teaches nothing, and
            comes first in the order.
        contradicted: whether a "Look here", or a region, lies where an "Ignore" lies.
        region: the object, as most of those outlined it who did; None where nobody did.
    """

    task: Task
    label: str | None
    clicks: tuple[Click, ...] = ()
    annotated: bool = False
    contested: bool = False
    contradicted: bool = False
    region: Region | None = None

    @property
    def review(self) -> str:
        """Why somebody should look at the task again, for people; empty where nobody need."""
        causes = {
            "annotators chose different classes": self.contested,
            "clicks contradict each other": self.contradicted,
        }
        return "; ".join(cause for cause, holds in causes.items() if holds)


@dataclass(frozen=True)
class Example:
    """A training or evaluation image on disk.

    Attributes:
        image: path of a readable image file.
        label: index into the classifier's classes, None where unknown.
        clicks: guidance; empty where there is none.
        region: (H, W) of the upright image, the object itself, where somebody outlined it; takes the place of the
            "Look here" clicks.
    """

    image: Path
    label: int | None
    clicks: tuple[Click, ...] = ()
    region: NDArray[np.bool_] | None = None

    @property
    def guides(self) -> bool:
        """Whether somebody said where to look, or where not."""
        return bool(self.clicks) or self.region is not None


@dataclass(frozen=True)
class Prediction:
    """What one version says of one image.

    Attributes:
        label: the most probable class.
        confidence: its probability in [0, 1].
        probabilities: class to probability; sums to 1.
        peak: (x, y) in [0, 1], where the attention map of ``label`` is highest.
        attention: (h, w) float32 in [0, 1], the map of ``label`` on the classifier's grid, largest value 1 (all 0 if
            no cell speaks for the class).
        attention_share: share in [0, 1] of the map's energy within the disc of a click at ``peak``.
        features: (C,) float32 pooled features, for diversity; None where the caller did not ask for them.
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    peak: tuple[float, float]
    attention: NDArray[np.float32]
    attention_share: float
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ScoredTask:
    """A prediction with its place in the order.

    Attributes:
        task: Label Studio's task id.
        prediction: what the version says.
        score: in [0, 1]; reads as confidence, the lowest is annotated first.
        image_size: (width, height) in pixels of the upright image.
    """

    task: int
    prediction: Prediction
    score: float
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Project:
    """A Label Studio project that uses this backend.

    Attributes:
        key: our own id of it, stable, used in every table and folder.
        host: origin and path of its Label Studio, without a trailing slash.
        number: Label Studio's project id.
        label_config: its label config, XML.
        title: its title in Label Studio.
    """

    key: int
    host: str
    number: int
    label_config: str
    title: str = ""


class JobKind(StrEnum):
    """The use cases that take time."""

    SYNC = "sync"
    """Read from Label Studio what the webhooks missed."""
    TRAIN = "train"
    """Sync, fit, evaluate, publish, activate, and ask for a score."""
    SCORE = "score"
    """Score the pool with the active version and put the order into Label Studio."""


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its worker died; it is taken up again until its attempts are spent."""


@dataclass(frozen=True)
class Job:
    """One run of a use case for one project.

    Attributes:
        id: our own id.
        project: ``Project.key``.
        kind: what is to be done.
        state: where it stands.
        attempts: how many workers have begun it.
        progress: in [0, 1].
        message: the last line of progress, for people.
        error: the cause of failure, for people; empty unless failed.
        requested_at: when it was asked for, UTC.
        started_at: when a worker last began it, UTC.
        finished_at: when it ended, UTC.
    """

    id: int
    project: int
    kind: JobKind
    state: JobState
    attempts: int
    progress: float
    message: str
    error: str
    requested_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True)
class ModelVersion:
    """An immutable, published classifier.

    Attributes:
        project: ``Project.key``.
        name: the ``model_version`` that Label Studio sees; unique for ever within the project.
        folder: where its weights and card lie.
        created_at: UTC.
        active: whether it is the one that is served.
        card: data hash, settings, metrics, parent, seed, library versions; JSON values only.
    """

    project: int
    name: str
    folder: Path
    created_at: datetime
    active: bool
    card: Mapping[str, Any] = field(default_factory=dict)


class LookhereError(Exception):
    """An error for people: what was expected, what came, what to do."""
