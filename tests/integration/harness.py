"""What the tests of this folder speak to a real Label Studio with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from backend.demo.label_studio import LabelStudioServer

_PATIENCE_S = 300.0

LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="Look here" background="#1a9641" lookhere="look"/>
    <Label value="Ignore" background="#d7191c" lookhere="ignore"/>
  </KeyPointLabels>
  <Choices name="class" toName="image" choice="single" lookhere="class">
    <Choice value="cat"/>
    <Choice value="dog"/>
  </Choices>
</View>"""


@dataclass
class DummyBackend:
    """Answers what Label Studio asks of an ML backend, and keeps what came."""

    model_version: str = "v1-00000000"
    state: int = 200
    asked: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((path, body))
        if path == "/predict":
            return self.state, {"results": [{} for _ in body["tasks"]]}
        return self.state, {"model_version": self.model_version, "status": "UP"}

    def actions(self) -> list[str]:
        return [body["action"] for path, body in self.asked if path == "/webhook"]


@dataclass(frozen=True)
class Api:
    """Label Studio's API as any client sees it, to arrange and to check without the code under test."""

    server: LabelStudioServer
    http: httpx.Client

    def call(self, method: str, path: str, **request: Any) -> Any:
        response = self.http.request(method, self.server.url + path, **request)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json() if response.content else None

    def project(self, label_config: str = LABEL_CONFIG) -> int:
        made = self.call("POST", "/api/projects/", json={"title": "Integration", "label_config": label_config})
        number: int = made["id"]
        return number

    def tasks(self, number: int, count: int) -> list[int]:
        tasks = [{"image": f"https://images.example/{index}.png"} for index in range(count)]
        self.call("POST", f"/api/projects/{number}/import", json=tasks)
        listed = self.call("GET", "/api/tasks", params={"project": number, "page_size": count})
        return sorted(task["id"] for task in listed["tasks"])


def wait_for(what: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true; returns it."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not come")
