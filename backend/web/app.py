"""The Flask application: the rooms put together."""

from __future__ import annotations

import logging
from http import HTTPStatus

from flask import Blueprint, Flask, Response, jsonify
from werkzeug.exceptions import HTTPException
from werkzeug.routing import IntegerConverter, Map

from backend.domain import LookhereError
from backend.labelstudio.contract import UseCases, contract
from backend.serving import Overloaded
from backend.state.database import StateUnavailable
from backend.web.gate import close

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5


def create_app(use: UseCases, *more: Blueprint, largest_body: int = 256 * 2**20) -> Flask:
    """The application that speaks the contract of a Label Studio ML backend.

    Args:
        use: what it needs done.
        more: routes beside the contract, for people and scripts; whatever they are, they open to the owner alone.
        largest_body: of a request, in bytes.
    """
    app = Flask("lookhere", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = largest_body
    app.url_map.converters["int"] = _RowNumber
    close(app, use.secret)
    for routes in (contract(use), *more):
        app.register_blueprint(routes)

    @app.errorhandler(Overloaded)
    @app.errorhandler(StateUnavailable)
    def try_later(error: LookhereError) -> Response:
        response = jsonify({"error": str(error)})
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
        return response

    @app.errorhandler(LookhereError)
    def refused(error: LookhereError) -> tuple[Response, int]:
        log.warning("Refused: %s", error)
        return jsonify({"error": str(error)}), HTTPStatus.BAD_REQUEST

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        return jsonify({"error": error.description}), error.code or HTTPStatus.INTERNAL_SERVER_ERROR

    return app


class _RowNumber(IntegerConverter):
    """A number that a database can hold: a path with a larger one leads nowhere."""

    def __init__(self, map: Map) -> None:
        super().__init__(map, max=2**63 - 1)
