"""What the doctor says of a Label Studio that is hooked up wrongly in one thing; the client is played."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from backend.domain import LookhereError
from backend.labelstudio.client import (
    LOWEST_SCORE_FIRST,
    UNCERTAINTY_SAMPLING,
    VIEW_TITLE,
    ConnectedBackend,
    ConnectedWebhook,
    DataManagerView,
    LabelStudioClient,
    LabelStudioError,
    ProjectState,
    User,
)
from backend.labelstudio.hookup import Finding, diagnose
from backend.labelstudio.labelconfig import with_heat
from backend.settings import Settings

LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="Look here" lookhere="look"/>
    <Label value="Ignore" lookhere="ignore"/>
  </KeyPointLabels>
  <Choices name="class" toName="image" choice="single" lookhere="class">
    <Choice value="cat"/>
    <Choice value="dog"/>
  </Choices>
</View>"""


def heat_link(image_field: str) -> str:
    return f"http://backend.example/heat/1/signature?src=${image_field}"


@dataclass
class Healthy:
    """A Label Studio in which everything is as it should be; each test spoils one thing."""

    address: str
    url: str = "http://label-studio.example"
    state: ProjectState = field(
        default_factory=lambda: ProjectState(
            number=7,
            title="Animals",
            label_config=with_heat(LABEL_CONFIG, heat_link("image")),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            model_version="v2",
            sampling=UNCERTAINTY_SAMPLING,
            shows_predictions=True,
            overlap=1,
        )
    )
    connected: list[ConnectedBackend] = field(default_factory=list)
    hooks: list[ConnectedWebhook] = field(default_factory=list)
    tabs: list[DataManagerView] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=lambda: {"v2": 3, "somebody-elses": 3})
    first_task: dict[str, Any] = field(default_factory=lambda: {"id": 1, "data": {"image": "/data/upload/7/1.png"}})
    refused: dict[str, LabelStudioError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connected.append(ConnectedBackend(1, self.address, "Lookhere", "CO", "", True, "v2"))
        self.hooks.append(ConnectedWebhook(1, f"{self.address}/webhook", True, True, True, {}))
        self.tabs.append(DataManagerView(1, VIEW_TITLE, {"ordering": [LOWEST_SCORE_FIRST]}))

    def _or_refuse(self, name: str) -> None:
        if name in self.refused:
            raise self.refused[name]

    def whoami(self) -> User:
        self._or_refuse("whoami")
        return User(1, "annotator@example.com")

    def project(self, _: int) -> ProjectState:
        self._or_refuse("project")
        return self.state

    def backends(self, _: int) -> list[ConnectedBackend]:
        return self.connected

    def webhooks(self, _: int) -> list[ConnectedWebhook]:
        return self.hooks

    def views(self, _: int) -> list[DataManagerView]:
        return self.tabs

    def predicted_versions(self, _: int) -> dict[str, int]:
        return self.versions

    def tasks(self, _: int, page_size: int) -> Iterator[dict[str, Any]]:
        return iter([self.first_task] * page_size if self.first_task else [])

    def check_backend_address(self, *_: object) -> None:
        self._or_refuse("check_backend_address")

    def check_webhook_address(self, *_: object) -> None:
        self._or_refuse("check_webhook_address")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A backend whose ``/health`` answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def healthy(address: str) -> Healthy:
    return Healthy(address)


def examine(
    label_studio: Healthy,
    *,
    fetch: Callable[[str], object] = lambda _: None,
    webhook_headers: dict[str, str] | None = None,
    **settings: Any,
) -> list[Finding]:
    given = {"label_studio_url": label_studio.url, "public_url": label_studio.address, "backend_url": None} | settings
    return diagnose(
        cast(LabelStudioClient, label_studio),
        7,
        Settings(_env_file=None, **given),
        heat_link,
        ours=lambda version: version.startswith("v"),
        fetch=fetch,
        webhook_headers=webhook_headers,
    )


def faults(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if not finding.ok}


def test_a_healthy_hook_up_has_no_fault(healthy: Healthy) -> None:
    findings = examine(healthy)
    assert faults(findings) == {}
    looked_at = {finding.check for finding in findings}
    assert looked_at >= {"token", "project", "public address", "predictions allowed", "events allowed", "backend"}
    assert looked_at >= {"webhook", "heat-map", "image", "model version", "sampling", "view"}
    assert not any(finding.remedy for finding in findings)


def spoil_state(**change: Any) -> Callable[[Healthy], None]:
    def spoil(healthy: Healthy) -> None:
        healthy.state = replace(healthy.state, **change)

    return spoil


def spoil_backend(**change: Any) -> Callable[[Healthy], None]:
    def spoil(healthy: Healthy) -> None:
        healthy.connected[0] = replace(healthy.connected[0], **change)

    return spoil


def spoil_webhook(**change: Any) -> Callable[[Healthy], None]:
    def spoil(healthy: Healthy) -> None:
        healthy.hooks[0] = replace(healthy.hooks[0], **change)

    return spoil


def refuse(name: str, status: int | None, remedy: str) -> Callable[[Healthy], None]:
    def spoil(healthy: Healthy) -> None:
        healthy.refused[name] = LabelStudioError("be asked", status, "no", remedy)

    return spoil


CONNECT = "lookhere connect --project 7"
SCORE = "lookhere score --project 7"


@pytest.mark.parametrize(
    ("spoil", "check", "detail", "remedy"),
    [
        (refuse("whoami", None, "Start it."), "Label Studio", "did not answer", "Start it."),
        (refuse("whoami", 401, "Make a token."), "token", "answered 401", "Make a token."),
        (refuse("project", 404, "Look again."), "project", "answered 404", "Look again."),
        (refuse("check_backend_address", 403, "ML_BLOCK"), "predictions allowed", "may not call", "ML_BLOCK"),
        (refuse("check_webhook_address", 403, "SSRF"), "events allowed", "/webhook: no", "SSRF"),
        (spoil_backend(url="http://old.example"), "backend", "connected: http://old.example", CONNECT),
        (spoil_backend(state="DI", error="timed out"), "backend", "timed out", "LOOKHERE_BACKEND_URL"),
        (spoil_backend(interactive=False), "backend", "not interactive", CONNECT),
        (spoil_webhook(url="http://old.example/hook"), "webhook", "webhooks: http://old.example/hook", CONNECT),
        (spoil_webhook(active=False), "webhook", "switched off", CONNECT),
        (spoil_webhook(payload=False), "webhook", "with its payload", CONNECT),
        (spoil_webhook(all_actions=False), "webhook", "every event", CONNECT),
        (spoil_webhook(url="http://old.example/webhook"), "left webhook", "old.example", "Delete it"),
        (spoil_state(model_version="Lookhere"), "model version", "a backend's title", SCORE),
        (spoil_state(model_version=""), "model version", "''", SCORE),
        (spoil_state(model_version="somebody-elses"), "model version", "'somebody-elses'", SCORE),
        (lambda it: it.versions.pop("v2"), "model version", "no predictions of ours", SCORE),
        (lambda it: it.versions.update(v1=3), "old predictions", "['v1']", SCORE),
        (spoil_state(shows_predictions=False), "predictions shown", "not shown", "Annotation"),
        (spoil_state(sampling="Sequential sampling"), "sampling", "Sequential", CONNECT),
        (lambda it: it.tabs.clear(), "view", "no view", CONNECT),
        (spoil_state(label_config=LABEL_CONFIG), "heat-map", "no heat-map", CONNECT),
        (spoil_state(label_config='<View><Image name="image" value="$image"/></View>'), "label config", "", "Labeling"),
        (lambda it: it.first_task["data"].clear(), "image", "task 1 has no image in 'image'", "Import"),
    ],
)
def test_each_misconfiguration_is_found_alone_and_has_its_remedy(
    healthy: Healthy, spoil: Callable[[Healthy], object], check: str, detail: str, remedy: str
) -> None:
    spoil(healthy)
    found = faults(examine(healthy))
    assert detail in found[check].detail
    assert remedy in found[check].remedy
    also = {"left webhook": {"webhook"}}.get(check, set())
    assert found.keys() - {check} == also


def test_a_backend_behind_another_one_is_never_asked(healthy: Healthy) -> None:
    healthy.connected.insert(0, ConnectedBackend(0, "http://first.example", "First", "CO", "", True, "x"))
    assert "http://first.example" in faults(examine(healthy))["backend"].detail


def test_a_doubled_backend_and_a_doubled_webhook_are_found(healthy: Healthy) -> None:
    healthy.connected.append(replace(healthy.connected[0], id=2))
    healthy.hooks.append(replace(healthy.hooks[0], id=2))
    found = faults(examine(healthy))
    assert "2 times" in found["backend"].detail
    assert "2 times" in found["webhook"].detail


def test_a_webhook_without_its_secret_is_found(healthy: Healthy) -> None:
    found = faults(examine(healthy, webhook_headers={"X-Secret": "s3cret"}))
    assert "headers" in found["webhook"].detail
    assert "s3cret" not in repr(found)


def test_a_view_sorted_otherwise_is_found(healthy: Healthy) -> None:
    healthy.tabs[0] = DataManagerView(1, VIEW_TITLE, {"ordering": ["-tasks:predictions_score"]})
    assert "lowest first" in faults(examine(healthy))["view"].detail


def test_an_outdated_heat_map_link_is_found(healthy: Healthy) -> None:
    old = with_heat(LABEL_CONFIG, "http://old.example/heat/1/signature?src=$image")
    healthy.state = replace(healthy.state, label_config=old)
    assert faults(examine(healthy)).keys() == {"heat-map"}


def test_an_image_that_cannot_be_read_is_found_with_the_cause(healthy: Healthy) -> None:
    def fetch(reference: str) -> None:
        raise LookhereError(f"{reference}: 404")

    found = faults(examine(healthy, fetch=fetch))
    assert "/data/upload/7/1.png: 404" in found["image"].detail


def test_a_project_without_tasks_is_no_fault(healthy: Healthy) -> None:
    healthy.first_task = {}
    assert faults(examine(healthy)) == {}


def test_a_public_address_where_nobody_answers_is_found(healthy: Healthy) -> None:
    found = faults(examine(healthy, public_url="http://127.0.0.1:9", backend_url=healthy.address))
    assert found.keys() == {"public address"}
    assert "LOOKHERE_PUBLIC_URL" in found["public address"].remedy


def test_plain_heat_maps_in_an_encrypted_label_studio_are_found(healthy: Healthy) -> None:
    found = faults(examine(healthy, label_studio_url="https://label-studio.example"))
    assert found.keys() == {"encryption"}


def test_it_says_which_button_keeps_to_the_order_with_overlap(healthy: Healthy) -> None:
    healthy.state = replace(healthy.state, overlap=3)
    told = {finding.check: finding for finding in examine(healthy)}
    assert told["overlap"].ok
    assert VIEW_TITLE in told["overlap"].detail
