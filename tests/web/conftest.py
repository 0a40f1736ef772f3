"""A backend with its real state and routes; only the classifier is played."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from backend.domain import Click, LookhereError, ModelVersion, Prediction, Project, Task
from backend.intake import Intake
from backend.labelstudio.answers import Answers
from backend.labelstudio.contract import UseCases
from backend.settings import Settings
from backend.state.store import Store
from backend.web.app import create_app
from backend.web.jobs import job_routes
from backend.web.projects import projects

SECRET = b"a secret of the tests"
LARGEST_BODY = 2**20


@dataclass
class PlayedPredictor:
    """Says the same of every image; ``broken`` images cannot be read."""

    label: str = "cat"
    broken: set[Path] = field(default_factory=set)

    def predict(self, version: ModelVersion, images: Sequence[Path]) -> list[Prediction | None]:
        assert version.active
        attention = np.zeros((4, 4), np.float32)
        attention[1, 2] = 1
        said = Prediction(self.label, 0.8, {"cat": 0.8, "dog": 0.2}, (0.625, 0.375), attention, 0.9)
        return [None if path in self.broken else said for path in images]

    def overlay(self, version: ModelVersion, image: Path) -> bytes:
        return b"a picture of " + version.name.encode()

    def affected(self, version: ModelVersion, image: Path, clicks: Sequence[Click]) -> list[np.ndarray]:
        cells = np.zeros((4, 4), bool)
        cells[:2, :2] = True
        return [cells for _ in clicks]


class OwnersClient(FlaskClient):
    """Shows the secret, unless a test shows something else."""

    def open(self, *request: Any, **more: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {SECRET.decode()}"} if more.get("headers") is None else more["headers"]
        return super().open(*request, **(more | {"headers": headers}))


@dataclass
class Running:
    """The backend under test."""

    client: FlaskClient
    store: Store
    predictor: PlayedPredictor
    image: Path
    unreachable: set[str] = field(default_factory=set)

    def publish(self, project: Project) -> ModelVersion:
        version = self.store.versions.publish(project.key, lambda folder: (folder / "weights").write_bytes(b"w"), {})
        return self.store.versions.activate(project.key, version.name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        label_studio_url="http://labels.example",
        label_studio_api_key="a token of the tests",
        train_after=2,
    )


def backend_with(settings: Settings, folder: Path) -> Running:
    """A backend with its state, and an image that all its tasks show."""
    store = Store.open(settings)
    image = folder / "image.png"
    Image.new("RGB", (64, 48), "red").save(image)
    intake = Intake(settings, store)
    predictor = PlayedPredictor()
    unreachable: set[str] = set()

    def fetch(_project: Project, task: Task) -> Path:
        if task.image in unreachable:
            raise LookhereError(f"no image at {task.image}")
        return image

    def active_name(key: int) -> str | None:
        version = store.versions.active(key)
        return version.name if version else None

    def keys(only: int | None) -> list[int]:
        return [project.key for project in store.projects.all()] if only is None else [only]

    app = create_app(
        UseCases(
            project=lambda number, config, host: intake.project(number, config, host=host),
            project_of_key=store.projects.find_key,
            receive=intake.receive,
            active_version=active_name,
            versions=lambda only: [one.name for key in keys(only) for one in store.versions.list(key)],
            answers=Answers(predictor, store.versions.active, fetch, store.annotations),
            secret=SECRET,
            label_studio_address=lambda host: host or settings.label_studio_url,
        ),
        job_routes(store.jobs),
        projects(settings, store),
        largest_body=LARGEST_BODY,
    )
    app.test_client_class = OwnersClient
    return Running(app.test_client(), store, predictor, image, unreachable)


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[Running]:
    running = backend_with(settings, tmp_path)
    yield running
    running.store.database.close()
