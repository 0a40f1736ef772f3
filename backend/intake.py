"""The receive use case: an event from Label Studio becomes durable state and, where it is due, a job.

Label Studio sends an event once, waits one second and lets anybody forge it. So an event is written down before it is
acknowledged, what it says is taken as a hint, and every training first reads the truth from the API.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from backend.domain import JobKind, LookhereError, Project
from backend.labelstudio.annotations import annotation_from_json, number_of_project, task_from_json
from backend.labelstudio.labelconfig import LabelConfigError, Roles, read_roles
from backend.settings import Settings
from backend.state.database import StateUnavailable, Unstorable
from backend.state.store import Store

log = logging.getLogger(__name__)

_STRAYS = 4
"""Annotations of tasks that were not at the front of the order, from which on the front is made anew."""

# What of a project is worth keeping; the rest holds its invitation token and the credentials of its task data.
_PROJECT_KEYS = ("id", "title", "label_config", "model_version", "created_at")


@dataclass
class _Event:
    """An event on its way to the disk."""

    action: str
    number: int | None
    payload: Mapping[str, Any]
    host: str | None
    written: bool = False
    failure: BaseException | None = None


class Intake:
    """Receives what Label Studio tells.

    Args:
        settings: the settings.
        store: the durable state.
        wake: called after a job was asked for, so that the engine looks at once.
    """

    def __init__(self, settings: Settings, store: Store, wake: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._store = store
        self._wake = wake
        self._waiting: list[_Event] = []
        self._arriving, self._writing = Lock(), Lock()

    def project(
        self, number: int, label_config: str | None = None, title: str = "", host: str | None = None
    ) -> Project:
        """The project of a Label Studio number, made known if it is new.

        Args:
            number: Label Studio's project id.
            label_config: XML; None leaves the known one.
            title: empty leaves the known one.
            host: address of its Label Studio; None for the first one.

        Raises:
            LookhereError: if the config cannot work, or none is known; nothing is kept of it.
        """
        host = host or self._settings.label_studio_url
        if label_config is not None:
            read_roles(label_config)
        elif self._store.projects.find(host, number) is None:
            raise LookhereError(
                f"Expected the label config of project {number}, which is not known yet; run "
                f"`lookhere connect --project {number}`."
            )
        return self._store.projects.ensure(host, number, label_config, title)

    def receive(self, payload: Mapping[str, Any], host: str | None = None) -> None:
        """Take in one webhook event. It is on disk, with all that follows from it, when this returns.

        Events that come while others are being written are written together: a disk takes about a hundredth of a second
        for a transaction, whatever is in it.

        Args:
            payload: the JSON body, as Label Studio sent it.
            host: address of the Label Studio whose credential it came with; None for the first one.

        Raises:
            LookhereError: if the payload is no event, or the state cannot be written; nothing is kept of it.
        """
        action = payload.get("action")
        if not isinstance(action, str):
            raise LookhereError(f"Expected a webhook event with the text field 'action', got {action!r:.80}.")
        event = _Event(action, number_of_project(payload), payload, host)
        with self._arriving:
            self._waiting.append(event)
        with self._writing:
            if not event.written:
                self._write()
        if event.failure is not None:
            raise event.failure

    def _write(self) -> None:
        with self._arriving:
            events, self._waiting = self._waiting, []
        try:
            with self._store.database.begin():
                for event in events:
                    self._take_in(event)
        except BaseException as failure:
            # Whoever waits for one of these events must hear of it.
            for event in events:
                event.failure = failure
            raise
        finally:
            for event in events:
                event.written = True

    def _take_in(self, event: _Event) -> None:
        payload = _without_secrets(event.payload)
        try:
            with self._store.database.begin():
                kept = self._store.events.append(event.action, event.number, payload)
        except Unstorable as failure:
            event.failure = failure
            return
        self._store.events.mark(kept, self._outcome(event))

    def _outcome(self, event: _Event) -> str:
        if event.number is None:
            return "ignored: names no project"
        try:
            with self._store.database.begin():
                return self._apply(event.action, event.number, event.payload, event.host)
        except StateUnavailable:
            raise
        except LookhereError as error:
            # The event stays in the log; the next reconciliation brings what it meant.
            log.warning("Event %s of project %s was not understood: %s", event.action, event.number, error)
            return f"not understood: {error}"
        except Exception as error:
            # Label Studio does not send it again: whatever is wrong here, the event is kept.
            log.exception("Event %s of project %s could not be taken in", event.action, event.number)
            return f"failed: {type(error).__name__}"

    def request(self, project: Project, kind: JobKind) -> None:
        """Ask for a job; a waiting one of the same kind serves both."""
        self._store.jobs.request(project.key, kind)
        self._wake()

    def _apply(self, action: str, number: int, payload: Mapping[str, Any], host: str | None) -> str:
        described = payload["project"] if isinstance(payload.get("project"), Mapping) else {}
        config, title = self._config(described, number), _text(described.get("title")) or ""
        project = self.project(number, config, title, host)
        if action == "START_TRAINING":
            return "training asked for" if self._ask_for_training(project) else "no training without a credential"
        if action == "TASKS_DELETED":
            self._store.annotations.remove_tasks(project.key, _ids(payload.get("tasks")))
            return "tasks removed"
        if action == "ANNOTATIONS_DELETED":
            self._store.annotations.remove(project.key, _ids(payload.get("annotations")))
            return "annotations removed"
        if action == "TASKS_CREATED":
            self._take_tasks(project, _objects(payload.get("tasks")))
            self._ask_for_scores(project)
            return "tasks taken"
        if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"):
            tasks = _objects(payload.get("task"))
            self._take_tasks(project, tasks)
            self._take_annotations(project, _objects(payload.get("annotation")))
            if not self._train_if_due(project) and action != "ANNOTATION_UPDATED":
                self._score_if_due(project, tasks)
            return "annotations taken"
        if action == "PROJECT_UPDATED":
            # Our own switch of the active version fires this too: nothing may follow from it but the new config.
            return "label config taken"
        return "kept, of no known kind"

    def _config(self, described: Mapping[str, Any], number: int) -> str | None:
        config = _text(described.get("label_config"))
        if config is not None:
            try:
                read_roles(config)
            except LabelConfigError as error:
                # What the event tells is taken by the config that worked; the next reading says what is wrong.
                log.warning("The label config of project %s cannot work: %s", number, error)
                return None
        return config

    def _take_tasks(self, project: Project, tasks: Sequence[Mapping[str, Any]]) -> None:
        roles = self._roles(project)
        if roles is not None:
            self._store.annotations.put_tasks(project.key, [task_from_json(task, roles) for task in tasks])

    def _take_annotations(self, project: Project, annotations: Sequence[Mapping[str, Any]]) -> None:
        roles = self._roles(project)
        if roles is not None:
            self._store.annotations.put(project.key, [annotation_from_json(one, roles) for one in annotations])

    def _roles(self, project: Project) -> Roles | None:
        try:
            return read_roles(project.label_config)
        except LabelConfigError as error:
            log.warning("Project %s: %s", project.number, error)
            return None

    def _train_if_due(self, project: Project) -> bool:
        train_after = self._store.settings_of(project, self._settings).train_after
        due = self._store.training_is_due(project.key, train_after)
        return due and self._ask_for_training(project)

    def _score_if_due(self, project: Project, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Have the front of the order made anew, once several annotations came from elsewhere.

        Whoever annotates in the order finds the rest of it still right, but for a task whose annotators do not agree:
        it comes to the front again, for one more to decide.
        """
        options = self._store.projects.options(project.key)
        annotated = set(_ids(list(tasks)))
        strays = options.get("strays", 0) + len(annotated - set(options.get("front", ())))
        if strays >= _STRAYS or any(self._store.annotations.is_contested(project.key, task) for task in annotated):
            self._ask_for_scores(project)
        elif strays:
            self._store.projects.set_options(project.key, {"strays": strays})

    def _ask_for_scores(self, project: Project) -> None:
        if self._store.versions.active(project.key) is not None:
            self._store.projects.set_options(project.key, {"strays": None})
            self.request(project, JobKind.SCORE)

    def _ask_for_training(self, project: Project) -> bool:
        if self._store.settings_of(project, self._settings).label_studio_api_key is None:
            # What an event says counts when it has been read from Label Studio, which takes a credential.
            log.warning("Project %s is not trained: no token of %s is set.", project.number, project.host)
            return False
        self._store.ask_for_training(project.key)
        self._wake()
        return True


def _without_secrets(payload: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(payload)
    if isinstance(kept.get("project"), Mapping):
        kept["project"] = {key: kept["project"][key] for key in _PROJECT_KEYS if key in kept["project"]}
    return kept


def _objects(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Mapping)]


def _ids(value: Any) -> list[int]:
    found = (item.get("id") for item in _objects(value))
    return [number for number in found if isinstance(number, int) and not isinstance(number, bool)]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
