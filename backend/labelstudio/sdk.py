"""The same backend for those who run ``label-studio-ml start backend``.

Works on label-studio-ml 1.0.9 (PyPI) and 2.x (git), whose base classes and servers differ: 1.0.9 makes one model for
all projects and runs each event in a process of its own; 2.x makes a model for each request.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import has_request_context, request
from label_studio_ml.model import LabelStudioMLBase
from werkzeug.exceptions import Forbidden
from werkzeug.test import run_wsgi_app
from werkzeug.wsgi import get_content_length

from backend.domain import LookhereError, Project
from backend.labelstudio.access import WEBHOOK_HEADER, Caller, Role, caller
from backend.labelstudio.answers import Answers
from backend.labelstudio.contract import need_project
from backend.labelstudio.predictions import declined

log = logging.getLogger(__name__)

# What label-studio-ml's own routes lose: a version that changes, and events that are kept before they are answered.
_OURS = ("/setup", "/webhook", "/versions", "/heat/")
# Where in a request's environment stands who asks.
_CALLER = "lookhere.caller"


@dataclass(frozen=True)
class Behind:
    """The use cases behind the model class.

    Attributes:
        answers: predictions of the active versions.
        project: makes a project known: (number, label config or None, host or None for the first server) to project.
        project_of_key: our own id to project, None where there is none.
        receive: takes in one event, from a host or None for the first server.
    """

    answers: Answers
    project: Callable[[int, str | None, str | None], Project]
    project_of_key: Callable[[int], Project | None]
    receive: Callable[[Mapping[str, Any], str | None], None]


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
        host = None
        if has_request_context():
            try:
                host = need_project(request.environ[_CALLER], number, behind.project_of_key)
            except Forbidden as error:
                # label-studio-ml would make of it a 500 with the trace.
                log.warning("Declined %d tasks: %s", len(tasks), error.description)
                return [declined() for _ in tasks]
        project = behind.project(number, None, host)
        if context is not None:
            return [behind.answers.to_click(project, tasks, context)]
        return behind.answers.to_tasks(project, tasks)

    def process_event(self, event: str, data: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, str]:
        """Take in an event of any kind (1.0.9 and 2.x call this for webhooks)."""
        type(self).behind().receive({"action": event, **data}, None)
        return {"status": "ok"}

    def fit(self, *_: Any, event: str = "", data: Mapping[str, Any] | None = None, **__: Any) -> dict[str, str]:
        """Take in an event (2.x calls this for webhooks); the training itself runs in the background."""
        return self.process_event(event, data or {})


class Front:
    """WSGI middleware: our routes where label-studio-ml's own would lose events or say a constant version.

    It lets nobody in without a credential, to their routes as to ours: label-studio-ml knows none of a webhook's, and
    its ``/predict`` none of a project's.

    Args:
        ours: the contract's application.
        theirs: the application of label-studio-ml.
        secret: the backend's secret.
        largest_body: of a request, in bytes.
    """

    def __init__(
        self,
        ours: Callable[..., Iterable[bytes]],
        theirs: Callable[..., Iterable[bytes]],
        secret: bytes,
        largest_body: int,
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._secret = secret
        self._largest_body = largest_body

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        who = self._caller(environ)
        if path != "/health" and not path.startswith("/heat/") and not _may(who, path):
            # Ours knows how to refuse.
            return self._ours(environ, start_response)
        environ = {**environ, _CALLER: who}
        if path == "/setup":
            return self._set_up(environ, start_response)
        return (self._ours if path.startswith(_OURS) else self._theirs)(environ, start_response)

    def _set_up(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # What is too long is refused by ours, which does not look at it.
        body = environ["wsgi.input"].read(min(get_content_length(environ) or 0, self._largest_body))
        answer, status, headers = run_wsgi_app(self._ours, {**environ, "wsgi.input": io.BytesIO(body)}, buffered=True)
        if status.startswith("200"):
            # 1.0.9 refuses to predict before its own setup has made a model.
            run_wsgi_app(self._theirs, {**environ, "wsgi.input": io.BytesIO(body)}, buffered=True)
        start_response(status, list(headers))
        return answer

    def _caller(self, environ: Mapping[str, Any]) -> Caller | None:
        header = f"HTTP_{WEBHOOK_HEADER.upper().replace('-', '_')}"
        return caller(self._secret, environ.get("HTTP_AUTHORIZATION", ""), environ.get(header, ""))


def _may(who: Caller | None, path: str) -> bool:
    """Whether a caller may go on: to their own routes but /predict the owner alone."""
    if who is None:
        return False
    return path.startswith(_OURS) or who.role is Role.OWNER or (path == "/predict" and who.role is Role.LABEL_STUDIO)
