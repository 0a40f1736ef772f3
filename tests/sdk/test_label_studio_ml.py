"""`label-studio-ml start backend`, on the release that PyPI has (1.0.9)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from label_studio_ml.model import LabelStudioMLBase
from PIL import Image

from backend.demo.label_studio import free_port
from backend.domain import JobKind
from backend.guidance.classifier import SMALL, create, save
from backend.labelstudio.sdk import Lookhere
from backend.settings import Settings
from backend.state.store import Store
from tests.labelstudio.recorded import label_config
from tests.labelstudio.recorded import requests as recorded

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 48), "red").save(images / "red.png")
    return Settings(data_dir=tmp_path / "data", label_studio_url="http://labels.example", image_folders=(images,))


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    environment = os.environ | {
        "LOOKHERE_DATA_DIR": str(settings.data_dir),
        "LOOKHERE_LABEL_STUDIO_URL": settings.label_studio_url,
        "LOOKHERE_IMAGE_FOLDERS": f'["{settings.image_folders[0]}"]',
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = shutil.which("label-studio-ml", path=environment["PATH"])
    assert command is not None
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [command, "start", "backend", "--port", str(port), "--host", "127.0.0.1"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                requests.get(f"{url}/health", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def test_our_model_is_one_of_theirs() -> None:
    assert issubclass(Lookhere, LabelStudioMLBase)


def test_it_serves_the_same_predictions_and_receives_the_same_events(settings: Settings, server: str) -> None:
    store = Store.open(settings)
    project = store.projects.ensure(settings.label_studio_url, 1, label_config())
    classifier = create(SMALL, ("cat", "dog"))
    version = store.versions.publish(project.key, lambda folder: save(classifier, folder), {})
    store.versions.activate(project.key, version.name)

    setup = {"project": "1.17", "schema": label_config(), "hostname": "", "access_token": ""}
    assert requests.post(f"{server}/setup", json=setup, timeout=60).json()["model_version"] == version.name

    image = settings.image_folders[0] / "red.png"
    tasks = [{"id": 5, "project": 1, "data": {"image": image.as_uri()}}, {"id": 6, "project": 1, "data": {}}]
    body = {"tasks": tasks, "project": "1.17", "label_config": label_config(), "params": {"context": None}}
    results = requests.post(f"{server}/predict", json=body, timeout=120).json()["results"]
    assert results[0]["model_version"] == version.name
    assert {region["type"] for region in results[0]["result"]} >= {"keypointlabels", "choices"}
    assert results[1] == {}

    (event,) = [one for one in recorded("20_annotation_created") if one.action]
    assert requests.post(f"{server}/webhook", json=event.body, timeout=60).status_code == 201
    (kept,) = store.annotations.annotations(project.key)
    assert kept.label == "cat"
    (start,) = [one for one in recorded("14_train") if one.action]
    requests.post(f"{server}/webhook", json=start.body, timeout=60)
    assert JobKind.TRAIN in {job.kind for job in store.jobs.list()}
