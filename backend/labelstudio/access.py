"""Who asks, and what opens to them.

Every key is derived from the backend's one secret, for one thing of one project. Label Studio keeps them where its
users may find them; what one of them finds opens that project alone. The secret itself opens everything: it is the
bearer token of people and scripts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import StrEnum

from pydantic import SecretStr

WEBHOOK_HEADER = "X-Lookhere-Webhook"
"""The header in which a webhook shows its key; Label Studio sends webhooks with no other credential."""

_USER = re.compile(rb"project-([0-9]{1,18})")
_WEBHOOK = re.compile(rb"([0-9]{1,18})\.[0-9a-f]+")


class Role(StrEnum):
    """What a caller showed that it is."""

    OWNER = "owner"
    """Knows the secret: a person or a script."""
    LABEL_STUDIO = "label studio"
    """Label Studio, asking for predictions; also its Start Training button."""
    WEBHOOK = "webhook"
    """Label Studio, telling of an event."""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        role: what it showed that it is.
        project: our own id of the one project that opens to it; None for all.
    """

    role: Role
    project: int | None = None


@dataclass(frozen=True)
class BasicAuth:
    """User and password with which Label Studio speaks to the backend."""

    user: str
    password: SecretStr


def derived(secret: bytes, use: str) -> str:
    """The key for one use: HMAC-SHA256 of its name, hexadecimal.

    Args:
        secret: the backend's secret.
        use: what the key opens.
    """
    return hmac.new(secret, use.encode(), hashlib.sha256).hexdigest()


def same(one: str | bytes, other: str | bytes) -> bool:
    """Whether two texts are equal, in constant time. Any text and any bytes may be asked about."""
    return hmac.compare_digest(*(text if isinstance(text, bytes) else _bytes(text) for text in (one, other)))


def basic_auth(secret: bytes, project: int) -> BasicAuth:
    """User and password with which Label Studio asks about a project.

    Args:
        secret: the backend's secret.
        project: our own id of the project.
    """
    return BasicAuth(f"project-{project}", SecretStr(derived(secret, f"label-studio/{project}")))


def webhook_headers(secret: bytes, project: int) -> dict[str, str]:
    """The headers with which Label Studio tells of a project's events.

    Args:
        secret: the backend's secret.
        project: our own id of the project.
    """
    return {WEBHOOK_HEADER: f"{project}.{derived(secret, f'webhook/{project}')}"}


def caller(secret: bytes, authorization: str, webhook: str) -> Caller | None:
    """Who a request comes from.

    Args:
        secret: the backend's secret.
        authorization: the header ``Authorization`` as it came; empty for none. A bearer token, or Basic with the
            password of a project or, under any name, with the secret.
        webhook: the header ``WEBHOOK_HEADER``; empty for none.

    Returns:
        None where neither is a credential of ours.
    """
    if authorization:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return Caller(Role.OWNER) if same(secret, value.strip()) else None
        return _basic(secret, value) if scheme.lower() == "basic" else None
    shown = _WEBHOOK.fullmatch(_bytes(webhook))
    if shown is None:
        return None
    project = int(shown[1])
    return Caller(Role.WEBHOOK, project) if same(webhook_headers(secret, project)[WEBHOOK_HEADER], webhook) else None


def _basic(secret: bytes, value: str) -> Caller | None:
    try:
        user, _, password = base64.b64decode(_bytes(value.strip()), validate=True).partition(b":")
    except binascii.Error:
        return None
    if same(secret, password):
        return Caller(Role.OWNER)
    named = _USER.fullmatch(user)
    if named is None:
        return None
    project = int(named[1])
    expected = basic_auth(secret, project).password.get_secret_value()
    return Caller(Role.LABEL_STUDIO, project) if same(expected, password) else None


def _bytes(text: str) -> bytes:
    # Headers are handed on as Latin-1, byte for byte.
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
