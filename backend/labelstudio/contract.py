"""What Label Studio asks over HTTP, and what it is answered.

Measured against Label Studio 1.23.2: it waits 1 s for ``/health`` and ``/webhook``, 3 s for ``/setup`` and 100 s for
``/predict``; it sends webhooks once and without authentication; one ``null`` among the results costs the whole batch,
while ``{}`` declines one task.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.exceptions import BadRequest, Forbidden, RequestEntityTooLarge, UnsupportedMediaType

from backend.domain import LookhereError, Project
from backend.labelstudio.access import Caller
from backend.labelstudio.annotations import number_of_project, smart_clicks
from backend.labelstudio.labelconfig import read_roles
from backend.labelstudio.links import verify

if TYPE_CHECKING:
    from backend.labelstudio.answers import Answers

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,18}")

UNTRAINED = "untrained"
"""The version told by ``/setup`` while a project has none: Label Studio wants a text."""


@dataclass(frozen=True)
class UseCases:
    """What the contract needs done.

    Attributes:
        project: makes the project of a Label Studio number known: (number, label config or None, host or None for the
            first server) to project.
        project_of_key: our own id to project, None where there is none.
        receive: takes in one webhook event, from a host or None for the first server; it is on disk when this returns.
        active_version: project key to the name of the version served, None where there is none.
        versions: the names of the versions of one project, by its key, or of all.
        answers: predictions and drawings.
        secret: what opens the backend, and what heat-map links are signed with.
        label_studio_address: the Label Studio of a host, or None for the first one, as browsers see it; for CORS.
        most_tasks: how many one request may ask predictions of.
    """

    project: Callable[[int, str | None, str | None], Project]
    project_of_key: Callable[[int], Project | None]
    receive: Callable[[Mapping[str, Any], str | None], None]
    active_version: Callable[[int], str | None]
    versions: Callable[[int | None], Sequence[str]]
    answers: Answers
    secret: bytes
    label_studio_address: Callable[[str | None], str]
    most_tasks: int = 10_000


def contract(use: UseCases) -> Blueprint:
    """The routes of a Label Studio ML backend. Before them stands a gate that says in ``g.caller`` who asks."""
    routes = Blueprint("contract", __name__)

    def opened(number: int, config: str | None) -> Project:
        return use.project(number, config, need_project(g.caller, number, use.project_of_key))

    @routes.get("/health")
    def health() -> Response:
        return jsonify({"status": "UP", "model_class": "Lookhere"})

    @routes.post("/setup")
    def setup() -> Response:
        body = json_body()
        project = opened(project_number(body.get("project")), _config(body.get("schema")))
        read_roles(project.label_config)
        return jsonify({"model_version": use.active_version(project.key) or UNTRAINED})

    @routes.post("/predict")
    def predict() -> Response:
        body = json_body()
        tasks = _tasks(body.get("tasks"), use.most_tasks)
        params, config = body.get("params"), _config(body.get("label_config"))
        context = params.get("context") if isinstance(params, Mapping) else None
        if isinstance(context, Mapping) and config is not None:
            # Clicks without a place are refused before the project's new config is kept.
            smart_clicks(context, read_roles(config))
        project = opened(_project_of(body, tasks), config)
        if isinstance(context, Mapping):
            return jsonify({"results": [use.answers.to_click(project, tasks, context)]})
        return jsonify({"results": use.answers.to_tasks(project, tasks)})

    @routes.post("/webhook")
    def webhook() -> tuple[Response, int]:
        event = json_body()
        use.receive(event, need_project(g.caller, number_of_project(event), use.project_of_key))
        return jsonify({"status": "ok"}), 201

    @routes.get("/versions")
    def versions() -> Response:
        return jsonify({"versions": list(use.versions(g.caller.project))})

    @routes.get("/heat/<int:key>/<signature>")
    def heat(key: int, signature: str) -> Response:
        project = use.project_of_key(key) if verify(use.secret, key, signature) else None
        if project is None:
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
            project = use.project_of_key((request.view_args or {}).get("key", 0))
            parts = urlsplit(use.label_studio_address(project.host if project else None))
            response.headers["Access-Control-Allow-Origin"] = f"{parts.scheme}://{parts.netloc}"
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
    text = str(value).partition(".")[0] if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _NUMBER.fullmatch(text):
        raise LookhereError(f"Expected 'project' to be Label Studio's '<id>.<created>', got {value!r:.80}.")
    return int(text)


def need_project(caller: Caller, number: int | None, project_of_key: Callable[[int], Project | None]) -> str | None:
    """See that a project opens to a caller.

    Args:
        caller: who asks.
        number: Label Studio's id of the project that is asked about, None where none is named.
        project_of_key: our own id to project, None where there is none.

    Returns:
        The address of the Label Studio that the caller's own project is of; None for an owner, who means the first one.

    Raises:
        Forbidden: if it is another project than the caller's own.
    """
    if caller.project is None:
        return None
    own = project_of_key(caller.project)
    if own is None or own.number != number:
        raise Forbidden(f"This credential opens project {own.number if own else None} alone, not project {number}.")
    return own.host


def json_body() -> Mapping[str, Any]:
    """The JSON object that is the body of the request.

    Raises:
        HTTPException: if it is none, or is not declared as one.
    """
    if request.content_encoding:
        raise UnsupportedMediaType(f"Expected a body as it is, got one encoded as {request.content_encoding!r:.80}.")
    # Of another type, a stranger's page could send it from an annotator's browser unasked.
    if not request.is_json:
        raise UnsupportedMediaType(f"Expected a body of type application/json, got {request.mimetype!r:.80}.")
    sent = request.get_data(cache=False)
    if request.content_length is None and len(sent) == request.max_content_length:
        # Without a length, what is too long is cut off without a word.
        raise RequestEntityTooLarge
    try:
        body = json.loads(sent, parse_constant=_no_number)
        if b"\\ud" in sent.lower():
            # Half a pair of surrogates is no text: nothing can store it.
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Expected JSON as the body of the request, got none: {_cause(error)}.") from error
    if not isinstance(body, Mapping):
        raise BadRequest(f"Expected a JSON object as the body of the request, got {type(body).__name__}.")
    return body


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _cause(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is no UTF-8" if isinstance(error, UnicodeError) else str(error)


def _tasks(value: Any, most: int) -> Sequence[Any]:
    if not isinstance(value, list):
        raise LookhereError(f"Expected 'tasks' to be a list of tasks, got {type(value).__name__}.")
    if len(value) > most:
        raise RequestEntityTooLarge(
            f"Expected at most {most} tasks at once, got {len(value)}; select fewer in Label Studio, or leave it to "
            "`lookhere score`. LOOKHERE_MOST_TASKS sets the limit."
        )
    return value


def _project_of(body: Mapping[str, Any], tasks: Sequence[Any]) -> int:
    named = body.get("project")
    if named is None and tasks and isinstance(tasks[0], Mapping):
        named = tasks[0].get("project")
    return project_number(named)


def _config(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
