"""Who may call what."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from flask import Flask, g, request
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.sansio.response import Response as Answer

from backend.labelstudio.access import WEBHOOK_HEADER, Role, caller

OPEN = {"contract.health", "contract.heat"}
"""Asked without a credential: whether it lives, and heat maps, whose links are signed."""
MAY: Mapping[str, set[Role]] = {
    "contract.setup": {Role.OWNER, Role.LABEL_STUDIO},
    "contract.predict": {Role.OWNER, Role.LABEL_STUDIO},
    "contract.versions": {Role.OWNER, Role.LABEL_STUDIO},
    # The Start Training button comes the way of predictions, not that of events.
    "contract.webhook": {Role.OWNER, Role.LABEL_STUDIO, Role.WEBHOOK},
}
"""Who may call what of the contract. Whatever is not named here opens to the owner alone."""


def close(app: Flask, secret: bytes) -> None:
    """Let nobody in without a credential, and everybody only where the table says.

    Args:
        app: the application, whatever its routes.
        secret: the backend's secret.
    """

    @app.before_request
    def admit() -> None:
        if request.endpoint in OPEN:
            return
        headers = request.headers
        who = caller(secret, headers.get("Authorization", ""), headers.get(WEBHOOK_HEADER, ""))
        if who is None:
            raise Unauthorized(
                "Expected a credential of this backend, got none or a wrong one; `lookhere connect` gives Label Studio "
                "its own, people and scripts send `Authorization: Bearer <LOOKHERE_SECRET>`."
            )
        if request.endpoint is not None and who.role not in MAY.get(request.endpoint, {Role.OWNER}):
            raise Forbidden(f"This credential is one of a {who.role}, which may not call {request.path}.")
        g.caller = who

    @app.after_request
    def say_how(response: Answer) -> Answer:
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            # Not Basic: a browser would remember it, and send it wherever a stranger's page sends it.
            response.headers["WWW-Authenticate"] = 'Bearer realm="lookhere"'
        return response
