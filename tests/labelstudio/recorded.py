"""What a real Label Studio 1.23.2 sent to an ML backend, recorded: 80 scenarios in ``payloads/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAYLOADS = Path(__file__).parent / "payloads"


@dataclass(frozen=True)
class Request:
    """A request as Label Studio sent it."""

    scenario: str
    method: str
    path: str
    body: Any

    @property
    def action(self) -> str | None:
        return self.body.get("action") if isinstance(self.body, dict) else None


def scenarios() -> list[str]:
    """The names of the scenarios, in the order of their recording."""
    return sorted(path.stem for path in PAYLOADS.glob("*.json"))


def requests(scenario: str) -> list[Request]:
    """What the backend received in a scenario, in order."""
    recorded = json.loads((PAYLOADS / f"{scenario}.json").read_text(encoding="utf-8"))
    return [Request(scenario, one["method"], one["path"], one["body"]) for one in recorded["backend_received"]]


def all_requests() -> Iterator[Request]:
    """What the backend received in all scenarios."""
    for scenario in scenarios():
        yield from requests(scenario)


def label_config() -> str:
    """The label config of the recorded projects."""
    schema: str = next(request.body["schema"] for request in all_requests() if request.path == "/setup")
    return schema
