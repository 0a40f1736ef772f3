"""A real Label Studio shows the keys that `lookhere connect` gave it, and nobody gets in with others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from backend.demo.demonstration import lookhere, served
from backend.demo.label_studio import LabelStudioServer, free_port
from backend.domain import LookhereError
from backend.jobs.context import Context
from backend.labelstudio.access import WEBHOOK_HEADER
from backend.settings import Settings
from tests.integration.harness import Api

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("loop")]

RESULT = [{"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": ["cat"]}}]


@pytest.fixture
def settings(label_studio: LabelStudioServer, tmp_path: Path) -> Settings:
    port = free_port()
    return Settings(
        _env_file=None,
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.personal_access_token(),
        public_url=f"http://127.0.0.1:{port}",
        host="0.0.0.0",  # noqa: S104 - without a secret it will not
        port=port,
        data_dir=tmp_path / "data",
        backbone="small",
        largest_body=200_000,
    )


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[Context]:
    with served(settings, tmp_path / "backend.log"):
        yield Context.open(settings)


def test_label_studio_gets_in_and_nobody_else(api: Api, running: Context, tmp_path: Path) -> None:
    settings, events = running.settings, running.store.events
    assert running.settings.secret is None
    assert listening_on(settings.port) == {"127.0.0.1"}
    assert "LOOKHERE_SECRET is not set: listening on 127.0.0.1 alone" in (tmp_path / "backend.log").read_text()
    number = api.project()
    first, second, third = api.tasks(number, 3)

    connected = lookhere(settings, "connect", "--project", str(number))
    assert connected.count("Done") == 5
    assert "Done" not in lookhere(settings, "connect", "--project", str(number))
    (backend,) = api.call("GET", "/api/ml", params={"project": number})
    assert (backend["state"], backend["auth_method"]) == ("CO", "BASIC_AUTH")
    said = doctor(settings, number)
    assert "ok   secret" in said
    assert "ok   webhook" in said

    annotate(api, first)
    assert events.counts()["ANNOTATION_CREATED"] == 1, "the webhook shows its key"
    api.call("POST", f"/api/ml/{backend['id']}/train", json={})
    assert events.counts()["START_TRAINING"] == 1, "and the button that of Label Studio"

    (hook,) = api.call("GET", "/api/webhooks/", params={"project": number})
    spoilt = {WEBHOOK_HEADER: hook["headers"][WEBHOOK_HEADER][:-1] + "x"}
    api.call("PATCH", f"/api/webhooks/{hook['id']}/", json={"url": hook["url"], "headers": spoilt})
    annotate(api, second)
    assert events.counts()["ANNOTATION_CREATED"] == 1, "a wrong key brings nothing"
    assert "FAIL webhook" in doctor(settings, number)

    wrong = {"project": number, "url": settings.public_url, "basic_auth_pass": "not the password", "timeout": 1.0}
    refused = api.http.patch(f"{api.server.url}/api/ml/{backend['id']}", json=wrong)
    assert refused.status_code == 400, "Label Studio itself is told that its password is wrong"

    assert lookhere(settings, "connect", "--project", str(number)).count("Done") == 1
    annotate(api, third)
    assert events.counts()["ANNOTATION_CREATED"] == 2

    forge(running, number, first)
    lookhere(settings, "sync", "--project", str(number))
    key = running.store.projects.ensure(settings.label_studio_url, number).key
    kept = running.store.annotations.annotations(key)
    assert sorted(one.task for one in kept) == [first, second, third], "what was claimed and is not true is gone"
    assert {one.label for one in kept} == {"cat"}
    other = Settings.model_validate({**settings.model_dump(), "secret": "another secret than the server's"})
    assert "FAIL secret" in doctor(other, number)


def test_no_header_and_no_body_makes_the_server_fail(running: Context) -> None:
    where = urlsplit(running.settings.public_url)
    for wrong in (*(bytes([byte]) for byte in range(256)), bytes(range(33, 127)), bytes(range(128, 256)) * 30):
        for header in ("Authorization: Bearer ", "Authorization: Basic ", f"{WEBHOOK_HEADER}: 1."):
            status = answered(where, b"GET /versions HTTP/1.1\r\nHost: a\r\n" + header.encode() + wrong + b"\r\n\r\n")
            # A control character is no HTTP: refused before anybody looks at the header.
            assert status == 401 or (status == 400 and (wrong < b" " or wrong == b"\x7f")), (header, wrong, status)
    owner = {"Authorization": f"Bearer {running.secret.decode()}", "Content-Type": "application/json"}
    for body in (b" " * 200_001, iter([b" " * 100_000] * 3)):
        assert httpx.post(f"{running.settings.public_url}/webhook", headers=owner, content=body).status_code == 413


def answered(where: Any, request: bytes) -> int:
    with socket.create_connection((where.hostname, where.port), 10) as connection:
        connection.sendall(request)
        return int(connection.recv(65536).split(b" ", 2)[1])


def doctor(settings: Settings, number: int) -> str:
    # It ends with 1 where it found something, and here no version is there yet.
    with pytest.raises(LookhereError) as found:
        lookhere(settings, "doctor", "--project", str(number))
    return str(found.value)


def annotate(api: Api, task: int) -> None:
    api.call("POST", f"/api/tasks/{task}/annotations/", json={"result": RESULT, "lead_time": 1.0})


def forge(running: Context, number: int, task: int) -> None:
    """Tell, with the right key, of an annotation that Label Studio does not have, and another's change."""
    project = running.store.projects.ensure(running.settings.label_studio_url, number)
    (true,) = (one.id for one in running.store.annotations.annotations(project.key) if one.task == task)
    lie = [{**RESULT[0], "value": {"choices": ["dog"]}}]
    for claimed in (true, 987_654):
        event = {
            "action": "ANNOTATION_UPDATED",
            "project": {"id": number},
            "task": {"id": task, "data": {"image": "https://images.example/0.png"}},
            "annotation": {"id": claimed, "task": task, "result": lie, "updated_at": "2099-01-01T00:00:00Z"},
        }
        told = httpx.post(
            f"{running.settings.public_url}/webhook", json=event, headers=running.webhook_headers(project)
        )
        assert told.status_code == 201


def listening_on(port: int) -> set[str]:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [fields[1].split(":") for fields in lines if fields[3] == "0A"]
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address, at in listening if int(at, 16) == port}
