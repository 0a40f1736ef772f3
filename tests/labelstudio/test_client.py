"""The client against a Label Studio played by a small HTTP server, where a real one cannot be made to misbehave."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from backend.labelstudio.client import ConnectedWebhook, LabelStudioClient, LabelStudioError

LEGACY = SecretStr("0123456789abcdef0123456789abcdef01234567")
PERSONAL = SecretStr("eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl")


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeLabelStudio:
    """Answers by a function; keeps what it was asked."""

    answer: Callable[[Request], tuple[int, Any]]
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@pytest.fixture
def fake() -> Iterator[FakeLabelStudio]:
    played = FakeLabelStudio(lambda _: (200, {}))

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            split = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(raw) if raw else None
            request = Request(self.command, split.path, parse_qs(split.query), dict(self.headers), body)
            played.requests.append(request)
            status, answer = played.answer(request)
            payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", answer)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._handle
            raise AttributeError(name)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    played.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield played
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(fake: FakeLabelStudio) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(fake.url, LEGACY) as client:
        yield client


def with_access_tokens(answer: Callable[[Request], tuple[int, Any]]) -> Callable[[Request], tuple[int, Any]]:
    bought = iter(range(1, 100))

    def play(request: Request) -> tuple[int, Any]:
        if request.path.endswith("/api/token/refresh/"):
            return 200, {"access": f"access-{next(bought)}"}
        return answer(request)

    return play


def test_a_legacy_token_is_sent_as_it_is(fake: FakeLabelStudio, client: LabelStudioClient) -> None:
    assert client.authorization() == {"Authorization": f"Token {LEGACY.get_secret_value()}"}
    client.task(1)
    assert fake.requests[0].headers["Authorization"] == f"Token {LEGACY.get_secret_value()}"


def test_the_sdk_sends_the_same_credential(fake: FakeLabelStudio) -> None:
    fake.answer = with_access_tokens(lambda _: (200, {"id": 1, "email": "a@b.c"}))
    with LabelStudioClient(fake.url, PERSONAL) as client:
        assert client.whoami().email == "a@b.c"
    assert fake.requests[-1].headers["Authorization"] == "Bearer access-1"


def test_one_access_token_serves_until_it_is_renewed_in_time(
    fake: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("backend.labelstudio.client.time.monotonic", lambda: now)
    fake.answer = with_access_tokens(lambda _: (200, {}))
    with LabelStudioClient(fake.url, PERSONAL) as client:
        assert client.authorization() == {"Authorization": "Bearer access-1"}
        now += 199.0
        assert client.authorization() == {"Authorization": "Bearer access-1"}
        now += 41.0
        assert client.authorization() == {"Authorization": "Bearer access-2"}, "with a minute to go"
    assert fake.requests[0].body == {"refresh": PERSONAL.get_secret_value()}
    assert "Authorization" not in fake.requests[0].headers


def test_a_refused_access_token_is_renewed_once_and_then_given_up(fake: FakeLabelStudio) -> None:
    fake.answer = with_access_tokens(lambda _: (401, {"detail": "Token is expired"}))
    with LabelStudioClient(fake.url, PERSONAL) as client, pytest.raises(LabelStudioError, match="Token is expired"):
        client.task(1)
    assert fake.paths() == ["/api/token/refresh/", "/api/tasks/1/"] * 2


def test_a_sub_path_is_kept_everywhere(fake: FakeLabelStudio) -> None:
    fake.answer = with_access_tokens(lambda _: (200, []))
    with LabelStudioClient(f"{fake.url}/annotate/", PERSONAL) as client:
        client.backends(7)
        client.views(7)
    assert all(path.startswith("/annotate/api/") for path in fake.paths())


def test_threads_share_one_access_token(fake: FakeLabelStudio) -> None:
    fake.answer = with_access_tokens(lambda _: (200, {}))
    with LabelStudioClient(fake.url, PERSONAL) as client:
        threads = [threading.Thread(target=client.task, args=(1,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert fake.paths().count("/api/token/refresh/") == 1


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, {"detail": "legacy token authentication has been disabled"}, "Make a personal access token"),
        (401, {"detail": "Invalid token."}, "LOOKHERE_LABEL_STUDIO_API_KEY"),
        (403, {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}, "ML_BLOCK_LOCAL_IP=false"),
        (403, {"detail": "no"}, "a user who may change this project"),
        (404, {"detail": "No Project matches the given query."}, "See that it exists"),
        (500, "<h1>Server Error</h1>", "Label Studio's log"),
        (400, {"detail": "Validation error", "validation_errors": {"title": ["too short"]}}, "Put right what it names"),
        (302, "https://elsewhere.example/login", "LOOKHERE_LABEL_STUDIO_URL"),
        (200, "<html>a login page</html>", "LOOKHERE_LABEL_STUDIO_URL"),
    ],
)
def test_each_refusal_names_its_remedy(
    fake: FakeLabelStudio, client: LabelStudioClient, status: int, body: Any, remedy: str
) -> None:
    fake.answer = lambda _: (status, body)
    with pytest.raises(LabelStudioError) as caught:
        client.project(7)
    assert caught.value.status == status
    assert remedy in caught.value.remedy
    assert "show project 7" in str(caught.value)


@pytest.mark.parametrize("answer", [(200, "<html>a login page</html>"), (200, [1])])
def test_an_answer_of_another_server_is_an_error_through_the_sdk_too(
    fake: FakeLabelStudio, client: LabelStudioClient, answer: tuple[int, Any]
) -> None:
    fake.answer = lambda _: answer
    with pytest.raises(LabelStudioError, match="LOOKHERE_LABEL_STUDIO_URL"):
        client.whoami()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "localhost:8080", "http://host:port"])
def test_a_label_studio_that_is_not_there_is_said_to_be_so(url: str) -> None:
    with (
        LabelStudioClient(url, LEGACY) as client,
        pytest.raises(LabelStudioError, match="LOOKHERE_LABEL_STUDIO_URL") as caught,
    ):
        client.project(1)
    assert caught.value.status is None


def test_the_reason_names_the_field(fake: FakeLabelStudio, client: LabelStudioClient) -> None:
    fake.answer = lambda _: (400, {"detail": "Validation error", "validation_errors": {"title": ["too <b>short</b>"]}})
    with pytest.raises(LabelStudioError) as caught:
        client.project(7)
    assert caught.value.came == "title: too short"


def test_neither_token_nor_a_projects_token_reaches_error_or_log(
    fake: FakeLabelStudio, client: LabelStudioClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.answer = lambda _: (200, {"id": 7, "token": "the-projects-secret"})
    with pytest.raises(LabelStudioError) as caught:
        client.project(7)
    said = f"{caught.value}{caught.value.__cause__}{caplog.text}{client!r}"
    assert "the-projects-secret" not in said
    assert LEGACY.get_secret_value() not in said


def test_pages_smaller_than_asked_for_hide_no_task(fake: FakeLabelStudio, client: LabelStudioClient) -> None:
    def capped(request: Request) -> tuple[int, Any]:
        page = int(request.query["page"][0])
        tasks = [{"id": number} for number in range(1, 8)][(page - 1) * 2 : page * 2]
        return (200, {"total": 7, "tasks": tasks}) if tasks else (404, {"detail": "Invalid page."})

    fake.answer = capped
    assert [task["id"] for task in client.tasks(1, page_size=100)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_listing_that_never_comes_to_its_end_is_an_error(fake: FakeLabelStudio, client: LabelStudioClient) -> None:
    def short(request: Request) -> tuple[int, Any]:
        if request.query["page"] == ["1"]:
            return 200, {"total": 7, "tasks": [{"id": 1}]}
        return 404, {"detail": "Invalid page."}

    fake.answer = short
    with pytest.raises(LabelStudioError, match="Try again"):
        list(client.tasks(1))


def test_predictions_are_pushed_in_chunks_and_never_twice(fake: FakeLabelStudio, client: LabelStudioClient) -> None:
    fake.answer = lambda _: (201, {"created": 1})
    assert client.push_predictions(1, [{"task": task} for task in range(1201)]) == 1201
    assert [len(request.body) for request in fake.requests] == [500, 500, 201]
    fake.requests.clear()
    fake.answer = lambda _: (502, "bad gateway")
    with pytest.raises(LabelStudioError):
        client.push_predictions(1, [{"task": 1}])
    assert len(fake.requests) == 1, "it may have been stored all the same"


def test_another_versions_prediction_is_refused_before_anything_is_pushed(
    fake: FakeLabelStudio, client: LabelStudioClient
) -> None:
    with pytest.raises(ValueError, match=r"'v2'.*\['v1'\]"):
        client.publish_predictions(1, [{"task": 1, "model_version": "v1"}], "v2", lambda _: True)
    assert fake.requests == []


def test_a_webhooks_headers_are_not_shown() -> None:
    hook = ConnectedWebhook(1, "http://b/webhook", True, True, True, {"X-Secret": "s3cret"})
    assert "X-Secret" in repr(hook)
    assert "s3cret" not in repr(hook)
