"""The same backend for those who run ``label-studio-ml start backend``.

Works on label-studio-ml 1.0.9 (PyPI) and 2.x (git), whose base classes and servers differ: 1.0.9 makes one model for
all projects and runs each event in a process of its own; 2.x makes a model for each request.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.domain import LookhereError, Project
from backend.labelstudio.answers import Answers

# What label-studio-ml's own routes lose: a version that changes, and events that are kept before they are answered.
_OURS = ("/setup", "/webhook", "/versions", "/heat/")


@dataclass(frozen=True)
class Behind:
    """The use cases behind the model class.

    Attributes:
        answers: predictions of the active versions.
        project: makes a project known: (number, label config or None) to project.
        receive: takes in one event.
    """

    answers: Answers
    project: Callable[[int, str | None], Project]
    receive: Callable[[Mapping[str, Any]], None]


class Lookhere(LabelStudioMLBase):  # type: ignore[misc] # label-studio-ml has no types
    """Predicts with the active version of the tasks' project, and hands every event on to the intake."""

    behind: Callable[[], Behind]
    """Set once, before the server starts: gives the use cases, in whichever process this runs."""

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """Predict tasks, or answer a smart click.

        Args:
            tasks: task JSON, all of one project.
            context: the smart click; None for plain predictions.

        Returns:
            One prediction for each task; ``{}`` for a task that is declined.
        """
        behind = type(self).behind()
        if not tasks:
            return []
        number = tasks[0].get("project")
        if not isinstance(number, int):
            raise LookhereError(f"Expected tasks with the number of their 'project', got {number!r}.")
        project = behind.project(number, None)
        if context is not None:
            return [behind.answers.to_click(project, tasks, context)]
        return behind.answers.to_tasks(project, tasks)

    def process_event(self, event: str, data: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, str]:
        """Take in an event of any kind (1.0.9 and 2.x call this for webhooks)."""
        type(self).behind().receive({"action": event, **data})
        return {"status": "ok"}

    def fit(self, *_: Any, event: str = "", data: Mapping[str, Any] | None = None, **__: Any) -> dict[str, str]:
        """Take in an event (2.x calls this for webhooks); the training itself runs in the background."""
        return self.process_event(event, data or {})


class Front:
    """WSGI middleware: our routes where label-studio-ml's own would lose events or say a constant version.

    Args:
        ours: the contract's application.
        theirs: the application of label-studio-ml.
    """

    def __init__(self, ours: Callable[..., Iterable[bytes]], theirs: Callable[..., Iterable[bytes]]) -> None:
        self._ours = ours
        self._theirs = theirs

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        if path == "/setup":
            # 1.0.9 refuses to predict before its own setup has made a model.
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            for _ in self._theirs({**environ, "wsgi.input": io.BytesIO(body)}, lambda *_: None):
                pass
            environ = {**environ, "wsgi.input": io.BytesIO(body)}
        return (self._ours if path.startswith(_OURS) else self._theirs)(environ, start_response)
