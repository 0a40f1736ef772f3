"""Reads from Label Studio what the webhooks missed: the API is the truth, an event is a hint."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

from backend.domain import Annotation, LookhereError, Project, Task
from backend.jobs.context import Context, Report
from backend.jobs.patience import patiently
from backend.labelstudio.annotations import annotation_from_json, task_from_json
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.labelconfig import Roles, read_roles

log = logging.getLogger(__name__)

_TASKS_AT_ONCE = 100
_OVERLAP = timedelta(minutes=1)
"""How far before the last reading the next one begins: what was being saved then may be seen only now."""


def reconcile(context: Context, number: int, report: Report = lambda _progress, _message: None) -> Project:
    """Make the state of a project equal to Label Studio's.

    Deleted tasks and annotations go, imported ones come, forged ones are dropped. What a webhook brings while this
    reads stays. Only what has changed since the last reading is read, page by page, and each page is kept: a reading
    that was killed goes on where it was. All is read again when the label config has changed, as it says what an
    annotation means.

    Args:
        context: what the job works with.
        number: Label Studio's project id.
        report: told the progress.

    Returns:
        The project, with its present label config.

    Raises:
        LookhereError: if no credential is set, Label Studio still does not answer after some attempts, or the label
            config cannot work.
    """
    client = context.client
    if client is None:
        raise LookhereError(
            "Expected a credential to read the project with, got none; set LOOKHERE_LABEL_STUDIO_API_KEY to a "
            "personal access token or a legacy token of Label Studio."
        )
    info = patiently(lambda: client.project(number), report)
    project = context.store.projects.ensure(client.url, number, info.label_config, info.title)
    reading = _Reading(context, client, project, read_roles(project.label_config), report)
    reading.settle_claims()
    reading.take_changes(hashlib.sha256(project.label_config.encode()).hexdigest())
    reading.drop_the_gone()
    return project


class _Reading:
    """One reading of a project."""

    def __init__(
        self, context: Context, client: LabelStudioClient, project: Project, roles: Roles, report: Report
    ) -> None:
        self._store = context.store
        self._client = client
        self._project = project
        self._roles = roles
        self._report = report

    def settle_claims(self) -> None:
        """Ask about the tasks of which events have claimed something: the claim may be forged."""
        waiting = iter(sorted(self._store.annotations.unconfirmed(self._project.key)))
        while ids := list(islice(waiting, _TASKS_AT_ONCE)):
            self._confirm(partial(self._client.some_tasks, self._project.number, ids), set(ids))

    def take_changes(self, config: str) -> None:
        """Read the tasks that have changed since the last reading.

        Args:
            config: tells label configs apart.
        """
        number, key = self._project.number, self._project.key
        state = self._store.projects.options(key).get("reading", {})
        if state.get("config") != config:
            state = {"config": config, "since": ""}
        if "upto" not in state:
            # What changes from here on is the next reading's.
            upto, _ = patiently(lambda: self._client.newest_change(number), self._report)
            state |= {"upto": upto, "after": 0}
        read = 0

        def next_page() -> list[dict[str, Any]]:
            return self._client.changed_tasks(number, state["since"], state["after"], _TASKS_AT_ONCE)

        while raws := self._confirm(next_page):
            state["after"] = raws[-1]["id"]
            self._store.projects.set_options(key, {"reading": state})
            read += len(raws)
            self._report(0.0, f"read {read} changed tasks from Label Studio")
        since = _less_overlap(state["upto"]) if state["upto"] else ""
        self._store.projects.set_options(key, {"reading": {"config": config, "since": since}})

    def drop_the_gone(self) -> None:
        """Forget tasks that were deleted, where there are more known than exist."""
        number, annotations = self._project.number, self._store.annotations
        _, present = patiently(lambda: self._client.newest_change(number), self._report)
        if present == annotations.count_tasks(self._project.key):
            return
        as_of = annotations.latest_revision(self._project.key)
        left = patiently(lambda: self._client.task_ids(number), self._report)
        gone = {task.id for task in annotations.tasks(self._project.key)} - left
        annotations.confirm(self._project.key, [], [], as_of, gone)

    def _confirm(self, ask: Callable[[], list[dict[str, Any]]], asked: set[int] | None = None) -> list[dict[str, Any]]:
        """Take the API's word on tasks: on those that it lists, and on others that were asked for by name."""
        annotations = self._store.annotations
        as_of = annotations.latest_revision(self._project.key)
        raws = patiently(ask, self._report)
        tasks, answers = _read(raws, self._roles, self._project)
        told = (asked or set()) | {raw["id"] for raw in raws}
        if told:
            annotations.confirm(self._project.key, tasks, answers, as_of, told)
        return raws


def _read(raws: Sequence[Mapping[str, Any]], roles: Roles, project: Project) -> tuple[list[Task], list[Annotation]]:
    tasks: list[Task] = []
    annotations: list[Annotation] = []
    for raw in raws:
        try:
            tasks.append(task_from_json(raw, roles))
        except LookhereError as error:
            log.warning("Task %s of project %s is left out: %s", raw.get("id"), project.number, error)
            continue
        annotations += _answers(raw, roles, project)
    return tasks, annotations


def _answers(raw: Mapping[str, Any], roles: Roles, project: Project) -> Iterator[Annotation]:
    for answer in raw.get("annotations", ()):
        try:
            yield annotation_from_json(answer, roles)
        except LookhereError as error:
            log.warning("Annotation %s of project %s is left out: %s", answer.get("id"), project.number, error)


def _less_overlap(moment: str) -> str:
    # The one form that Label Studio 1.23.2 takes in a filter.
    return f"{datetime.fromisoformat(moment) - _OVERLAP:%Y-%m-%dT%H:%M:%S.%fZ}"
