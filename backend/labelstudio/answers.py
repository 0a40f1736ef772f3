"""Tasks, clicks and image references to what Label Studio is shown: the predict use case in its words."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backend.domain import Click, LookhereError, ModelVersion, Prediction, Project, ScoredTask, Task
from backend.labelstudio.annotations import smart_clicks, task_from_json
from backend.labelstudio.images import upright_size
from backend.labelstudio.labelconfig import Roles, read_roles
from backend.labelstudio.predictions import declined, interactive_reply, prediction_to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_FETCHES_AT_ONCE = 8


class Predictor(Protocol):
    """What answers from the loaded versions."""

    def predict(self, version: ModelVersion, images: Sequence[Path]) -> list[Prediction | None]:
        """Predict image files; None for one that cannot be read."""

    def overlay(self, version: ModelVersion, image: Path) -> bytes:
        """Draw the attention map over an image file: a JPEG."""

    def affected(self, version: ModelVersion, image: Path, clicks: Sequence[Click]) -> list[NDArray[np.bool_]]:
        """For each click the (h, w) cells that it affects."""


class Pool(Protocol):
    """The known tasks of the projects."""

    def put_tasks(self, project: int, tasks: Sequence[Task]) -> object:
        """Make tasks known."""

    def task_of_image(self, project: int, image: str) -> Task | None:
        """The task that shows an image, None where there is none."""


@dataclass(frozen=True)
class Picture:
    """An encoded image and its media type."""

    content: bytes
    mimetype: str


class Answers:
    """Answers for Label Studio's requests, from the active version of each project.

    Args:
        predictor: the loaded versions.
        active: project key to the version that is served, None where there is none.
        fetch: (project, task) to the path of the task's image on this machine; raises LookhereError.
        pool: the known tasks.
    """

    def __init__(
        self,
        predictor: Predictor,
        active: Callable[[int], ModelVersion | None],
        fetch: Callable[[Project, Task], Path],
        pool: Pool,
    ) -> None:
        self._predictor = predictor
        self._active = active
        self._fetch = fetch
        self._pool = pool

    def to_tasks(self, project: Project, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        """Predict tasks.

        Args:
            project: whose tasks they are.
            tasks: task JSON, as Label Studio sends it.

        Returns:
            One element for each task, in order: a prediction, or ``{}`` where the task is declined. Label Studio
            skips a declined task; anything else than an object would cost the whole batch.
        """
        roles = read_roles(project.label_config)
        version = self._active(project.key)
        if version is None:
            return [declined() for _ in tasks]
        known = [self._understood(task, project, roles) for task in tasks]
        self._pool.put_tasks(project.key, [task for task in known if task is not None])
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as threads:
            paths = list(threads.map(lambda task: self._fetched(project, task), known))
        predictions = iter(self._predictor.predict(version, [path for path in paths if path is not None]))
        results = []
        for task, path in zip(known, paths, strict=True):
            prediction = next(predictions) if path is not None else None
            if task is None or path is None or prediction is None or prediction.label not in roles.classes:
                results.append(declined())
                continue
            # One task alone has no pool to be ranked in: its confidence stands in until the next scoring.
            scored = ScoredTask(task.id, prediction, prediction.confidence, upright_size(path))
            results.append(prediction_to_json(scored, roles, version.name))
        return results

    def to_click(self, project: Project, tasks: Sequence[Any], context: Mapping[str, Any]) -> dict[str, Any]:
        """Answer smart clicks with what they will affect; never with a class, and never without the clicks.

        Args:
            project: whose task it is.
            tasks: the one task under the click, as JSON.
            context: Label Studio's interactive context; its ``result`` is empty after a submit.

        Returns:
            A prediction whose regions show the disc or the segment; without regions where there is no click.
        """
        roles = read_roles(project.label_config)
        version = self._active(project.key)
        clicks = smart_clicks(context, roles)
        task = self._understood(tasks[0], project, roles) if tasks else None
        path = self._fetched(project, task)
        if version is None or path is None or not clicks:
            size = upright_size(path) if path else _shown_size(context)
            return interactive_reply(clicks, [], roles, version.name if version else "", size)
        affected = self._predictor.affected(version, path, [smart.click for smart in clicks])
        return interactive_reply(clicks, affected, roles, version.name, upright_size(path))

    def heat(self, project: Project, references: Sequence[str]) -> Picture | None:
        """Draw where the active version looks.

        Args:
            project: whose image it is.
            references: the image reference as it may stand in a task's data, the likeliest first.

        Returns:
            The picture; the bare image while the project has no version; None where no task shows this image.

        Raises:
            LookhereError: if the image cannot be read.
        """
        tasks = (self._pool.task_of_image(project.key, reference) for reference in references)
        task = next((task for task in tasks if task is not None), None)
        if task is None:
            return None
        path = self._fetch(project, task)
        version = self._active(project.key)
        if version is None:
            return Picture(path.read_bytes(), mimetypes.guess_type(task.image)[0] or "image/jpeg")
        return Picture(self._predictor.overlay(version, path), "image/jpeg")

    def _understood(self, task: Any, project: Project, roles: Roles) -> Task | None:
        try:
            understood = task_from_json(task, roles)
            if task.get("project", project.number) != project.number:
                raise LookhereError(
                    f"Expected task {understood.id} to be one of project {project.number}, got one of project "
                    f"{task['project']!r:.80}."
                )
            return understood
        except LookhereError as error:
            log.warning("Declined a task: %s", error)
            return None

    def _fetched(self, project: Project, task: Task | None) -> Path | None:
        if task is None:
            return None
        try:
            return self._fetch(project, task)
        except LookhereError as error:
            log.warning("Declined task %s of project %s: %s", task.id, project.number, error)
            return None


def _shown_size(context: Mapping[str, Any]) -> tuple[int, int]:
    """The image's size as the browser tells it, for an image that cannot be read here."""
    for region in context.get("result") or ():
        if isinstance(region, Mapping):
            size = region.get("original_width"), region.get("original_height")
            if all(isinstance(side, int) for side in size):
                return size  # type: ignore[return-value] # both are numbers, as was just checked
    return 1, 1
