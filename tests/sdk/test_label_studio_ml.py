"""`label-studio-ml start backend`, on the release that PyPI has (1.0.9)."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from label_studio_ml.model import LabelStudioMLBase
from PIL import Image
from werkzeug.test import EnvironBuilder, run_wsgi_app

from backend.demo.demonstration import environment as ours
from backend.demo.label_studio import free_port
from backend.domain import JobKind
from backend.guidance.classifier import SMALL, create, save
from backend.jobs.context import Context
from backend.labelstudio.access import basic_auth, webhook_headers
from backend.labelstudio.sdk import Front, Lookhere
from backend.settings import Settings
from tests.labelstudio.recorded import label_config
from tests.labelstudio.recorded import requests as recorded

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 48), "red").save(images / "red.png")
    return Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        label_studio_url="http://labels.example",
        label_studio_api_key="a token of the tests",
        secret="a secret of the tests",
        image_folders=(images,),
    )


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    environment = ours(settings) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
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
    context = Context.open(settings)
    store = context.store
    project = store.projects.ensure(settings.label_studio_url, 1, label_config())
    classifier = create(SMALL, ("cat", "dog"))
    version = store.versions.publish(project.key, lambda folder: save(classifier, folder), {})
    store.versions.activate(project.key, version.name)

    secret = context.secret
    auth = basic_auth(secret, project.key)
    studio = requests.Session()
    studio.auth = (auth.user, auth.password.get_secret_value())
    events = webhook_headers(secret, project.key)

    setup = {"project": "1.17", "schema": label_config(), "hostname": "", "access_token": ""}
    assert studio.post(f"{server}/setup", json=setup, timeout=60).json()["model_version"] == version.name

    image = settings.image_folders[0] / "red.png"
    tasks = [{"id": 5, "project": 1, "data": {"image": image.as_uri()}}, {"id": 6, "project": 1, "data": {}}]
    body = {"tasks": tasks, "project": "1.17", "label_config": label_config(), "params": {"context": None}}
    results = studio.post(f"{server}/predict", json=body, timeout=120).json()["results"]
    assert results[0]["model_version"] == version.name
    assert {region["type"] for region in results[0]["result"]} >= {"keypointlabels", "choices"}
    assert results[1] == {}

    (event,) = [one for one in recorded("20_annotation_created") if one.action]
    assert requests.post(f"{server}/webhook", json=event.body, headers=events, timeout=60).status_code == 201
    (kept,) = store.annotations.annotations(project.key)
    assert kept.label == "cat"
    (start,) = [one for one in recorded("14_train") if one.action]
    studio.post(f"{server}/webhook", json=start.body, timeout=60)
    assert JobKind.TRAIN in {job.kind for job in store.jobs.list()}

    another = store.projects.ensure(settings.label_studio_url, 2, label_config())
    store.versions.activate(another.key, store.versions.publish(another.key, lambda to: save(classifier, to), {}).name)
    elsewhere = {**body, "tasks": [{**tasks[0], "project": 2}], "project": "2.17"}
    assert studio.post(f"{server}/predict", json=elsewhere, timeout=120).json()["results"] == [{}]
    assert studio.post(f"{server}/setup", json={**setup, "project": "2.17"}, timeout=60).status_code == 403

    for method, path in (("POST", "/predict"), ("POST", "/setup"), ("POST", "/webhook"), ("POST", "/train")):
        assert requests.request(method, server + path, json=body, timeout=60).status_code == 401, path
    for path in ("/", "/is_training", "/metrics", "/versions", "/nowhere"):
        assert requests.get(server + path, timeout=60).status_code == 401, path
    assert studio.post(f"{server}/train", json={}, timeout=60).status_code == 404


def test_a_body_without_end_is_refused_unread() -> None:
    """By our routes, which see how long it is said to be; the front reads no more of it than they would."""
    seen = []

    def ours(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["CONTENT_LENGTH"], environ["wsgi.input"].read()))
        start_response("413 Request Entity Too Large", [])
        return []

    def theirs(*_: object) -> list[bytes]:
        raise AssertionError("what ours refuses does not reach theirs")

    body = io.BytesIO(b"x" * 1000)
    environ = EnvironBuilder("/setup", method="POST", input_stream=body, headers={"Authorization": "Bearer s"})
    _, status, _ = run_wsgi_app(Front(ours, theirs, b"s", 10), environ.get_environ() | {"CONTENT_LENGTH": "1000"})
    assert status.startswith("413")
    assert seen == [("1000", b"x" * 10)]
