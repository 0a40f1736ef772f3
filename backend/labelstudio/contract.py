"""What Label Studio asks over HTTP, and what it is answered.

Measured against Label Studio 1.23.2: it waits 1 s for ``/health`` and ``/webhook``, 3 s for ``/setup`` and 100 s for
``/predict``; it sends webhooks once and without authentication; one ``null`` among the results costs the whole batch,
while ``{}`` declines one task.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from flask import Blueprint, Response, jsonify, request

from backend.domain import LookhereError, Project
from backend.labelstudio.labelconfig import read_roles
from backend.labelstudio.links import verify

if TYPE_CHECKING:
    from backend.labelstudio.answers import Answers

log = logging.getLogger(__name__)

UNTRAINED = "untrained"
"""The version told by ``/setup`` while a project has none: Label Studio wants a text."""


@dataclass(frozen=True)
class UseCases:
    """What the contract needs done.

    Attributes:
        project: makes the project of a Label Studio number known: (number, label config or None) to project.
        project_of_key: our own id to project, None where there is none.
        receive: takes in one webhook event; it is on disk when this returns.
        active_version: project key to the name of the version served, None where there is none.
        versions: the names of all versions.
        answers: predictions and drawings.
        secret: what heat-map links are signed with.
        label_studio_address: Label Studio as browsers see it, for CORS.
    """

    project: Callable[[int, str | None], Project]
    project_of_key: Callable[[int], Project | None]
    receive: Callable[[Mapping[str, Any]], None]
    active_version: Callable[[int], str | None]
    versions: Callable[[], Sequence[str]]
    answers: Answers
    secret: bytes
    label_studio_address: str


def contract(use: UseCases) -> Blueprint:
    """The routes of a Label Studio ML backend."""
    routes = Blueprint("contract", __name__)
    parts = urlsplit(use.label_studio_address)
    origin = f"{parts.scheme}://{parts.netloc}"

    @routes.get("/health")
    @routes.get("/")
    def health() -> Response:
        return jsonify({"status": "UP", "model_class": "Lookhere"})

    @routes.post("/setup")
    def setup() -> Response:
        body = _body()
        project = use.project(project_number(body.get("project")), _config(body.get("schema")))
        read_roles(project.label_config)
        return jsonify({"model_version": use.active_version(project.key) or UNTRAINED})

    @routes.post("/predict")
    def predict() -> Response:
        body = _body()
        tasks = _tasks(body.get("tasks"))
        params = body.get("params")
        project = use.project(_project_of(body, tasks), _config(body.get("label_config")))
        context = params.get("context") if isinstance(params, Mapping) else None
        if isinstance(context, Mapping):
            return jsonify({"results": [use.answers.to_click(project, tasks, context)]})
        return jsonify({"results": use.answers.to_tasks(project, tasks)})

    @routes.post("/webhook")
    def webhook() -> tuple[Response, int]:
        use.receive(_body())
        return jsonify({"status": "ok"}), 201

    @routes.get("/versions")
    def versions() -> Response:
        return jsonify({"versions": list(use.versions())})

    @routes.get("/heat/<int:key>/<signature>")
    def heat(key: int, signature: str) -> Response:
        project = use.project_of_key(key)
        if project is None or not verify(use.secret, key, signature):
            return Response("This link is not signed for this project; `lookhere connect` writes a good one.", 403)
        # Label Studio pastes the image reference in as it stands, ampersands and all: everything after it is ours.
        reference = request.query_string.decode("utf-8", "replace").partition("src=")[2]
        name = f"{use.active_version(key)} {reference}"
        etag = hashlib.sha256(name.encode()).hexdigest()[:32]
        if request.if_none_match.contains(etag):
            return Response(status=304)
        drawn = use.answers.heat(project, (reference, unquote(reference)))
        if drawn is None:
            return Response("This image belongs to no task of the project.", 404)
        response = Response(drawn.content, mimetype=drawn.mimetype)
        response.set_etag(etag)
        response.headers["Cache-Control"] = "no-cache"
        return response

    @routes.after_request
    def allow_label_studio(response: Response) -> Response:
        if request.path.startswith("/heat/"):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    return routes


def project_number(value: Any) -> int:
    """Label Studio's project id from what a request says of it.

    Args:
        value: ``"<id>.<created timestamp>"``, an id, or a text of it.

    Raises:
        LookhereError: if it is none of these.
    """
    text = str(value).partition(".")[0]
    if isinstance(value, bool) or not text.isdecimal() or not text.isascii():
        raise LookhereError(f"Expected 'project' to be Label Studio's '<id>.<created>', got {value!r}.")
    return int(text)


def _body() -> Mapping[str, Any]:
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, Mapping):
        raise LookhereError("Expected a JSON object as the body of the request.")
    return body


def _tasks(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise LookhereError(f"Expected 'tasks' to be a list of tasks, got {type(value).__name__}.")
    return value


def _project_of(body: Mapping[str, Any], tasks: Sequence[Any]) -> int:
    named = body.get("project")
    if named is None and tasks and isinstance(tasks[0], Mapping):
        named = tasks[0].get("project")
    return project_number(named)


def _config(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
