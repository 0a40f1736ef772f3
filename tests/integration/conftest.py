"""A real Label Studio for the tests of this folder, and a backend for it to call."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from filelock import FileLock
from pydantic import SecretStr

from backend.demo.label_studio import LabelStudioServer, migrate
from tests.integration.harness import Api, DummyBackend


@pytest.fixture
def backend() -> Iterator[DummyBackend]:
    dummy = DummyBackend()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: Any) -> None:
            status, answer = dummy.answer(self.path, body)
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    dummy.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield dummy
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated data folder, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "label-studio-seed"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            migrate(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def label_studio(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A server that accepts both kinds of token and may call this machine."""
    with LabelStudioServer(
        tmp_path_factory.mktemp("label-studio"),
        email="annotator@example.com",
        password=SecretStr("integration-password"),
        legacy_token=SecretStr("0123456789abcdef0123456789abcdef01234567"),
        seed=seed,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def stock_label_studio(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A server as it is installed: no legacy tokens, no private addresses."""
    with LabelStudioServer(
        tmp_path_factory.mktemp("stock-label-studio"),
        email="annotator@example.com",
        password=SecretStr("integration-password"),
        private_addresses=False,
        seed=seed,
    ) as server:
        yield server


@pytest.fixture
def api(label_studio: LabelStudioServer) -> Iterator[Api]:
    assert label_studio.legacy_token is not None
    headers = {"Authorization": f"Token {label_studio.legacy_token.get_secret_value()}"}
    with httpx.Client(headers=headers, timeout=60.0) as http:
        yield Api(server=label_studio, http=http)


@pytest.fixture
def sign_up(api: Api) -> Iterator[Callable[[int], list[Api]]]:
    """Makes further people, each signed in with a browser's session."""
    link = api.server.url + api.call("GET", "/api/invite")["invite_url"]
    people: list[Api] = []

    def people_of(count: int) -> list[Api]:
        for _ in range(count):
            http = httpx.Client(timeout=60.0, follow_redirects=True, headers={"Referer": api.server.url})
            token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', http.get(link).text)
            assert token is not None
            email = f"{uuid4().hex}@example.com"
            form = {"email": email, "password": "a-long-password", "csrfmiddlewaretoken": token[1]}
            http.post(link, data=form)
            http.headers["X-CSRFToken"] = http.cookies["csrftoken"]
            people.append(Api(api.server, http))
            assert people[-1].call("GET", "/api/current-user/whoami")["email"] == email
        return people[-count:]

    yield people_of
    for person in people:
        person.http.close()
