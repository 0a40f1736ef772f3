"""Plays a Label Studio 1.23.2 with one project: its API as far as the backend uses it, and its annotators.

The integration tests hold it against a real one (`tests/integration/test_reconciling.py`).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

NUMBER = 1

_MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass
class PlayedLabelStudio:
    """What it holds.

    Attributes:
        label_config: of the project.
        model_version: of the project.
        tasks: by id; without their annotations and predictions.
        annotations: by id.
        predictions: by id.
        asked: how many requests came for each route.
        broken: answers every request with 503 while it is set.
        breaks_in: after how many more requests it breaks, if it does.
        slow_s: how long every answer takes.
    """

    label_config: str
    model_version: str = ""
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    broken: bool = False
    breaks_in: int | None = None
    slow_s: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)
    _last_id: int = 0
    _last_moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    # What its users do

    def import_tasks(self, datas: list[dict[str, Any]]) -> list[int]:
        """Import tasks; returns their ids."""
        with self.lock:
            made = []
            for data in datas:
                task = {"id": self._id(), "data": data, "updated_at": self._now(), "project": NUMBER}
                self.tasks[task["id"]] = task
                made.append(task["id"])
            return made

    def annotate(self, task: int, result: list[dict[str, Any]], user: int = 1, **more: Any) -> dict[str, Any]:
        """Submit an annotation; returns it."""
        with self.lock:
            annotation = {
                "id": self._id(),
                "task": task,
                "project": NUMBER,
                "completed_by": user,
                "was_cancelled": False,
                "ground_truth": False,
                "result": result,
                "updated_at": "",
                **more,
            }
            self.annotations[annotation["id"]] = annotation
            self._touch(annotation)
            return dict(annotation)

    def update(self, number: int, **change: Any) -> dict[str, Any]:
        """Change an annotation; returns it."""
        with self.lock:
            self.annotations[number].update(change)
            self._touch(self.annotations[number])
            return dict(self.annotations[number])

    def delete(self, number: int) -> None:
        """Delete an annotation."""
        with self.lock:
            self.tasks[self.annotations.pop(number)["task"]]["updated_at"] = self._now()

    def delete_task(self, number: int) -> None:
        """Delete a task and what belongs to it."""
        with self.lock:
            del self.tasks[number]
            for kept in (self.annotations, self.predictions):
                for one in [one for one, held in kept.items() if held["task"] == number]:
                    del kept[one]

    def event(self, action: str, **about: Any) -> dict[str, Any]:
        """A webhook's payload."""
        project = {"id": NUMBER, "title": "Played", "label_config": self.label_config}
        return {"action": action, "project": project, **about}

    def order(self) -> list[int]:
        """The open tasks as Label Studio would serve them: by the score of the current version."""
        with self.lock:
            done = {one["task"] for one in self.annotations.values() if not one["was_cancelled"]}
            current = [one for one in self.predictions.values() if one["model_version"] == self.model_version]
            return [one["task"] for one in sorted(current, key=lambda one: one["score"]) if one["task"] not in done]

    # Its API

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the API; gives its address."""
        server = make_server("127.0.0.1", 0, self.application(), threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

    def application(self) -> Flask:
        """The API as a WSGI application."""
        app = Flask("label-studio")

        @app.before_request
        def trouble() -> tuple[str, int] | None:
            self.asked[f"{request.method} {request.url_rule}"] += 1
            if self.slow_s:
                time.sleep(self.slow_s)
            if self.breaks_in is not None:
                self.broken |= self.breaks_in == 0
                self.breaks_in -= 1
            return ("It is down.", 503) if self.broken else None

        def route(method: str, rule: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
            def register(answer: Callable[..., Any]) -> Callable[..., Any]:
                def locked(**parts: Any) -> Any:
                    with self.lock:
                        return answer(**parts)

                app.add_url_rule(rule, f"{method} {rule}", locked, methods=[method], strict_slashes=False)
                return answer

            return register

        @route("GET", "/api/projects/<int:number>/")
        def project(number: int) -> Any:
            if number != NUMBER:
                return {"detail": "No Project matches the given query."}, 404
            return {
                "id": NUMBER,
                "title": "Played",
                "label_config": self.label_config,
                "created_at": "2026-01-01T00:00:00Z",
                "model_version": self.model_version,
                "sampling": "Uncertainty sampling",
                "show_collab_predictions": True,
                "maximum_annotations": 1,
            }

        @route("PATCH", "/api/projects/<int:number>/")
        def patch_project(number: int) -> Any:
            del number
            version = request.get_json().get("model_version", self.model_version)
            if version not in self._versions():
                return {"validation_errors": {"model_version": ["Model version doesn't exist"]}}, 400
            self.model_version = version
            return {}

        @route("GET", "/api/tasks")
        def tasks() -> Any:
            asked = request.args
            query = json.loads(asked.get("query", "{}"))
            found = [task for task in self.tasks.values() if _passes(task, query)]
            column = query.get("ordering", ["tasks:id"])[0]
            found.sort(key=lambda task: task[column.lstrip("-").removeprefix("tasks:")], reverse=column.startswith("-"))
            size, page = int(asked.get("page_size", 100)), int(asked.get("page", 1))
            shown = found[size * (page - 1) : size * page]
            if not shown and page > 1:
                return {"detail": "Invalid page."}, 404
            whole = asked.get("fields") == "all"
            return {"total": len(found), "tasks": [self._task(task, whole) for task in shown]}

        @route("GET", "/api/tasks/<int:number>/")
        def task(number: int) -> Any:
            return self._task(self.tasks[number], whole=True)

        @route("GET", "/api/projects/<int:number>/model-versions/")
        def versions(number: int) -> Any:
            del number
            return {"static": [{"model_version": name, "count": count} for name, count in self._versions().items()]}

        @route("DELETE", "/api/projects/<int:number>/model-versions/")
        def delete_version(number: int) -> Any:
            del number
            version = request.get_json()["model_version"]
            self.predictions = {key: one for key, one in self.predictions.items() if one["model_version"] != version}
            if self.model_version == version:
                self.model_version = ""
            return {}

        @route("POST", "/api/projects/<int:number>/import/predictions")
        def push(number: int) -> Any:
            del number
            sent = request.get_json()
            if any(one["task"] not in self.tasks for one in sent):
                return {"detail": 'Validation error: invalid "task" field'}, 400
            for one in sent:
                self._store({**one, "cluster": None})
            return {"created": len(sent)}, 201

        @route("GET", "/api/predictions/")
        def predictions() -> Any:
            wanted = request.args.get("task", type=int)
            if wanted is not None and wanted not in self.tasks:
                return {"validation_errors": {"task": ["Select a valid choice."]}}, 400
            return jsonify([one for one in self.predictions.values() if wanted in (None, one["task"])])

        @route("POST", "/api/predictions/")
        def add_prediction() -> Any:
            sent = request.get_json()
            if sent["task"] not in self.tasks:
                return {"validation_errors": {"task": ["Invalid pk"]}}, 400
            return self._store(sent), 201

        @route("PATCH", "/api/predictions/<int:number>/")
        def patch_prediction(number: int) -> Any:
            self.predictions[number].update(request.get_json())
            return self.predictions[number]

        @route("DELETE", "/api/predictions/<int:number>/")
        def delete_prediction(number: int) -> Any:
            del self.predictions[number]
            return Response(status=204)

        return app

    def _task(self, task: Mapping[str, Any], whole: bool) -> dict[str, Any]:
        shown = dict(task)
        if whole:
            for name, kept in (("annotations", self.annotations), ("predictions", self.predictions)):
                shown[name] = [one for one in kept.values() if one["task"] == task["id"]]
        return shown

    def _versions(self) -> Counter[str]:
        return Counter(one["model_version"] for one in self.predictions.values())

    def _store(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        stored = {**prediction, "id": self._id()}
        self.predictions[stored["id"]] = stored
        return stored

    def _touch(self, annotation: dict[str, Any]) -> None:
        annotation["updated_at"] = self._now()
        self.tasks[annotation["task"]]["updated_at"] = annotation["updated_at"]

    def _id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _now(self) -> str:
        self._last_moment += timedelta(seconds=1)
        return f"{self._last_moment:{_MOMENT}}"


def _passes(task: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    for item in query.get("filters", {}).get("items", ()):
        found, wanted = task[item["filter"].removeprefix("filter:tasks:")], item["value"]
        if item["type"] == "Datetime":
            found, wanted = (datetime.strptime(one, _MOMENT).replace(tzinfo=UTC) for one in (found, wanted))
        if not (found in wanted if item["operator"] == "in_list" else found > wanted):
            return False
    return True
