"""What the served version said of a project's tasks, and the scores that Label Studio was given."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.domain import Prediction, ScoredTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pools:
    """Keeps one scored pool for each project: a copy, that can be made anew at the price of its predictions.

    Attributes:
        folder: where the pools lie, a file for each project.
    """

    folder: Path

    def save(self, project: int, version: str, images: Sequence[str], scored: Sequence[ScoredTask]) -> None:
        """Keep a pool in the place of the last one, at once; where the disk has no room, none is kept.

        Args:
            project: ``Project.key``.
            version: that predicted.
            images: the references that were predicted, one for each task.
            scored: the tasks with their scores; features and maps all of one shape, the same classes in all.
        """
        said = [one.prediction for one in scored]
        columns: dict[str, Any] = {
            "version": np.array(version),
            "classes": np.array(list(said[0].probabilities) if said else [], str),
            "tasks": np.array([one.task for one in scored], np.int64),
            "images": np.array(images, str),
            "scores": np.array([one.score for one in scored]),
            "sizes": np.array([one.image_size for one in scored], np.int64),
            "probabilities": np.array([list(one.probabilities.values()) for one in said]),
            "peaks": np.array([one.peak for one in said]),
            "attention": np.array([one.attention for one in said], np.float32),
            "shares": np.array([one.attention_share for one in said]),
            "features": np.array([one.features for one in said], np.float32),
        }
        unfinished = self.folder / f".{project}-{os.getpid()}.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.savez(unfinished, **columns)
            unfinished.replace(self._path(project))
        except OSError as error:
            log.warning("What was predicted cannot be kept (%s); it will be predicted anew.", error)
            # What was kept last is not what Label Studio has now.
            for path in (unfinished, self._path(project)):
                path.unlink(missing_ok=True)

    def load(self, project: int, version: str) -> Mapping[tuple[int, str], ScoredTask]:
        """The kept pool by task id and image reference; empty where none of this version is kept.

        Args:
            project: ``Project.key``.
            version: that must have predicted.
        """
        path = self._path(project)
        if not path.exists():
            return {}
        try:
            with np.load(path, allow_pickle=False) as kept:
                if str(kept["version"]) != version:
                    return {}
                columns = {name: kept[name] for name in kept.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("The kept predictions in %s cannot be read (%s); they are made anew.", path, error)
            return {}
        classes = columns["classes"].tolist()
        found = {}
        for row in range(len(columns["tasks"])):
            probabilities = columns["probabilities"][row]
            best = int(probabilities.argmax())
            x, y = columns["peaks"][row].tolist()
            width, height = columns["sizes"][row].tolist()
            prediction = Prediction(
                label=classes[best],
                confidence=float(probabilities[best]),
                probabilities=dict(zip(classes, probabilities.tolist(), strict=True)),
                peak=(x, y),
                attention=columns["attention"][row],
                attention_share=float(columns["shares"][row]),
                features=columns["features"][row],
            )
            task = int(columns["tasks"][row])
            found[task, str(columns["images"][row])] = ScoredTask(
                task, prediction, float(columns["scores"][row]), (width, height)
            )
        return found

    def _path(self, project: int) -> Path:
        return self.folder / f"{project}.npz"
