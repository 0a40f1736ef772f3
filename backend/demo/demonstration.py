"""A real Label Studio, this backend, and a project to click in."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
from pydantic import SecretStr

from backend.demo.digits import CLASSES, DigitImage, generate, picture
from backend.demo.label_studio import LabelStudioServer, free_port, migrate
from backend.domain import LookhereError
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings

TITLE = "Lookhere demonstration"
EMAIL = "demo@example.com"
TASKS = 400
SEED = 0
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Demonstration:
    """The running demonstration.

    Attributes:
        settings: of the backend.
        project: Label Studio's project id.
        label_studio: the server.
        token: a personal access token for it.
        images: what the tasks show, by file name.
    """

    settings: Settings
    project: int
    label_studio: LabelStudioServer
    token: SecretStr
    images: Mapping[str, DigitImage]


@contextmanager
def demonstration(folder: Path, *, fresh: bool) -> Iterator[Demonstration]:
    """A Label Studio and a backend on loopback, with a connected, trained and scored project.

    Args:
        folder: where it all lives.
        fresh: begin with nothing.
    """
    if fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = _write_images(folder / "files" / "digits")
    seed = folder.parent / "label-studio-seed"
    with stage("Starting Label Studio"):
        if not (seed / "done").exists():
            migrate(seed)
            (seed / "done").touch()
        server = LabelStudioServer(
            folder / "label-studio",
            email=EMAIL,
            password=_kept_secret(folder / "password"),
            port=_port(folder, "label-studio"),
            files=folder / "files",
            seed=seed,
        )
        server.start()
    try:
        token = server.personal_access_token()
        with stage("Making the project"):
            project = _project(server, token, folder / "files" / "digits", images)
        port = _port(folder, "backend")
        settings = Settings(
            label_studio_url=server.url,
            label_studio_api_key=token,
            public_url=f"http://127.0.0.1:{port}",
            port=port,
            secret=_kept_secret(folder / "secret"),
            data_dir=folder / "backend",
            backbone="small",
            seed=SEED,
        )
        with served(settings, folder / "backend.log"):
            with stage("Connecting the project, training a first, biased classifier and scoring the pool"):
                lookhere(settings, "connect", "--project", str(project))
            yield Demonstration(settings, project, server, token, images)
    finally:
        server.stop()


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    click.echo(f"{what} … ", nl=False)
    sys.stdout.flush()
    begun = time.monotonic()
    yield
    click.echo(f"{time.monotonic() - begun:.1f} s")


def _port(folder: Path, server: str) -> int:
    # A project is known by its Label Studio's address, so that stays the same from start to start.
    kept = folder / f"{server}.port"
    if not kept.exists():
        kept.write_text(str(free_port()))
    return int(kept.read_text())


def _kept_secret(kept: Path) -> SecretStr:
    # Label Studio takes the password when it makes the user, and our keys when it is connected.
    if not kept.exists():
        kept.touch(mode=0o600)
        kept.write_text(secrets.token_urlsafe(16))
    return SecretStr(kept.read_text())


def _write_images(folder: Path) -> dict[str, DigitImage]:
    images = {f"{image.id}.jpg": image for image in generate("train", TASKS, SEED)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        picture(image).save(folder / name, quality=90)
    return images


def _project(server: LabelStudioServer, token: SecretStr, files: Path, images: Mapping[str, DigitImage]) -> int:
    authorization = LabelStudioClient(server.url, token).authorization()
    with httpx.Client(base_url=server.url, headers=authorization, timeout=120.0) as label_studio:

        def post(path: str, body: object) -> Any:
            return label_studio.post(path, json=body).raise_for_status().json()

        for known in label_studio.get("/api/projects/").raise_for_status().json()["results"]:
            if known["title"] == TITLE:
                return int(known["id"])
        number = int(post("/api/projects/", {"title": TITLE, "label_config": _label_config()})["id"])
        # Label Studio serves local files only below a storage of the project.
        storage = {"project": number, "path": str(files.absolute()), "use_blob_urls": True}
        post("/api/storages/localfiles", storage)
        shown = [
            {"image": f"/data/local-files/?d={files.name}/{name}", "class": image.label}
            for name, image in images.items()
        ]
        post(f"/api/projects/{number}/import", [{"data": data} for data in shown])
    return number


def _label_config() -> str:
    choices = "\n".join(f'    <Choice value="{name}"/>' for name in CLASSES)
    return f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <KeyPointLabels name="click" toName="image" smart="true" opacity="0.5">
    <Label value="Look here" background="#1a9641" lookhere="look"/>
    <Label value="Ignore" background="#d7191c" lookhere="ignore"/>
  </KeyPointLabels>
  <Choices name="class" toName="image" choice="single" showInline="true" lookhere="class">
{choices}
  </Choices>
</View>"""


@contextmanager
def served(settings: Settings, log: Path) -> Iterator[None]:
    """Run `lookhere serve` with these settings.

    Args:
        settings: of the backend.
        log: the file for what it prints.

    Raises:
        LookhereError: if it does not come up.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend.cli", "serve"],
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with stage("Starting the backend"):
            _wait_until_healthy(settings, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{settings.public_url}/health", timeout=1.0).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise LookhereError(f"The backend did not come up; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")


def lookhere(settings: Settings, *command: str) -> str:
    """Run a command of ours with these settings.

    Returns:
        What it printed.

    Raises:
        LookhereError: if it failed; holds what it printed.
    """
    done = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "backend.cli", *command],
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LookhereError(f"`lookhere {' '.join(command)}` failed:\n{done.stdout}")
    return done.stdout


def environment(settings: Settings) -> dict[str, str]:
    """The environment in which a command sees these settings and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("LOOKHERE_")}
    ours = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None and value != ():
            ours[f"LOOKHERE_{name.upper()}"] = (
                json.dumps(value, default=str) if isinstance(value, tuple) else str(value)
            )
    return others | ours
