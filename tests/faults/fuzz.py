"""Malformed requests to every route: bent from what a real Label Studio sent."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import func, select

from backend.labelstudio.links import sign
from backend.settings import Settings
from backend.state.database import activations, annotation_rows, events, jobs, projects, tasks, versions
from tests.labelstudio.recorded import all_requests, label_config
from tests.web.conftest import SECRET, Running, backend_with

_NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 2**70, -(2**63), 1e308, -0.0, 0.1),
    *("", " ", "0", "1.5", "-1", "nan", "\0", "\ufffd", "\ud800", "a" * 10_000),
    *("../../etc/passwd", "http://169.254.169.254/", "<View/>", "<!DOCTYPE x [<!ENTITY a 'a'>]><View>&a;</View>"),
    *([], {}, [[]], [None], {"": None}, {"id": {}}, [{"id": "1"}], [1, "a", None, {}]),
)
_TABLES = (events, tasks, annotation_rows, jobs, versions, activations)
_HEADERS: tuple[dict[str, str], ...] = (
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic Og=="},
    {"Authorization": "Basic ä"},
    {"Authorization": "\x7f"},
    {"X-Lookhere-Webhook": "1.00"},
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=latin-1"},
    {"Content-Encoding": "gzip"},
    {"Content-Length": "-1"},
    {"Transfer-Encoding": "chunked"},
)
_BODIES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"a"',
    b"NaN",
    b'{"tasks": NaN}',
    b"\xff\xfe",
    b"[" * 5000,
    b'{"a":' * 2000,
    b"0" * 5000,
)


@dataclass
class Outcome:
    """What was found.

    Attributes:
        statuses: how many requests were answered with each.
        broken: requests that were answered with a 5xx other than 503, or not at all.
        changed: refused requests that changed the state.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def measure(folder: Path, times: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Send malformed requests.

    Args:
        folder: an empty one.
        times: how many.
        seed: of all of them.
        say: told the progress.
    """
    rng, outcome = random.Random(seed), Outcome()
    settings = Settings(
        _env_file=None,
        data_dir=folder / "data",
        label_studio_url="http://labels.example",
        label_studio_api_key=SecretStr("a token of the fault tests"),
    )
    running = backend_with(settings, folder)
    key = running.store.projects.ensure(settings.label_studio_url, 1, label_config()).key
    running.publish(running.store.projects.get(key))
    recorded = [request for request in all_requests() if isinstance(request.body, dict)]
    # Without this, an exception ends the sender in place of the request.
    running.client.application.config["PROPAGATE_EXCEPTIONS"] = False
    for number in range(times):
        method, path, sent = _request(rng, recorded, key)
        before = fingerprint(running)
        try:
            status = running.client.open(path, method=method, **sent).status_code
        except Exception as error:  # noqa: BLE001 # whatever it is, nobody was answered
            outcome.broken.append(f"{type(error).__name__}: {error}: {method} {path} {str(sent)[:300]}")
            continue
        outcome.statuses[status] += 1
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.SERVICE_UNAVAILABLE:
            outcome.broken.append(f"{status}: {method} {path} {str(sent)[:300]}")
        if status >= HTTPStatus.BAD_REQUEST and fingerprint(running) != before:
            outcome.changed.append(f"{status}: {method} {path} {str(sent)[:300]}")
        if (number + 1) % 5000 == 0:
            say(f"{number + 1} requests: {dict(outcome.statuses)}")
    return outcome


def fingerprint(running: Running) -> tuple[Any, ...]:
    """Changes whenever the state does."""
    state = running.store.database
    counts = [select(func.count()).select_from(table).scalar_subquery() for table in _TABLES]
    with state.read() as connection:
        kept = connection.execute(select(projects)).all()
        return (*connection.execute(select(*counts)).one(), *kept)


def _request(rng: random.Random, recorded: list[Any], key: int) -> tuple[str, str, dict[str, Any]]:
    base = rng.choice(recorded)
    method, path = "POST", base.path
    sent: dict[str, Any] = {}
    kind = rng.random()
    if kind < 0.7:
        body = copy.deepcopy(base.body)
        for _ in range(rng.randint(1, 3)):
            _bend(body, rng)
        sent = {"data": json.dumps(body), "content_type": "application/json"}
    elif kind < 0.8:
        sent = {"data": rng.choice(_BODIES), "content_type": "application/json"}
    elif kind < 0.88:
        sent = {"data": json.dumps(base.body), "content_type": "application/json", "headers": rng.choice(_HEADERS)}
    else:
        method, path = rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")), _path(rng, key)
    return method, path, sent


def _path(rng: random.Random, key: int) -> str:
    nasty = ("..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "a" * 5000, "-1", str(2**70), "é", "%2e%2e", "1;x", " ")
    signature = sign(SECRET, key)
    return rng.choice(
        (
            f"/heat/{key}/{signature}?src={rng.choice(nasty)}",
            f"/heat/{rng.choice(nasty)}/{signature}",
            f"/heat/{key}/{rng.choice(nasty)}?src=x",
            f"/jobs/{rng.choice(nasty)}",
            f"/jobs/{rng.choice(nasty)}/cancel",
            f"/{rng.choice(nasty)}",
            rng.choice(("/", "/health", "/setup", "/predict", "/webhook", "/versions", "/jobs", "/static/x")),
        )
    )


def _bend(body: Any, rng: random.Random) -> None:
    """Change one place of a JSON value: another value, nothing, or one name too many."""
    at = body
    while True:
        places = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not places:
            return
        place = rng.choice(places)
        inner = at[place]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            at = inner
            continue
        action = rng.random()
        if action < 0.7:
            at[place] = rng.choice(_NASTY)
        elif action < 0.9:
            del at[place]
        elif isinstance(at, dict):
            at[rng.choice(("id", "project", "tasks", "annotation", "__proto__", ""))] = rng.choice(_NASTY)
        return
