"""The demonstration as a person finds it: a real Label Studio, this backend, and a browser."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from backend.demo.demonstration import Demonstration, demonstration
from backend.demo.label_studio import LabelStudioServer
from backend.domain import Annotation, Project, Task
from backend.jobs.context import Context
from tests.e2e.labeling_screen import LabelingScreen

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PATIENCE_S = 60.0
_BROWSER_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)


@dataclass(frozen=True)
class Backend:
    """The running backend, from behind: what it holds."""

    context: Context
    project: Project

    def task(self, number: int) -> Task:
        return next(task for task in self.context.store.annotations.tasks(self.project.key) if task.id == number)

    def annotations(self) -> list[Annotation]:
        return list(self.context.store.annotations.annotations(self.project.key))

    def await_annotation_of(self, task: int) -> Annotation:
        """The only annotation of a task, once the webhook has brought it."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            found = [annotation for annotation in self.annotations() if annotation.task == task]
            if found:
                (annotation,) = found
                return annotation
            time.sleep(0.1)
        raise AssertionError(f"no annotation of task {task} came to the backend")

    def heat(self, task: int) -> NDArray[np.uint8]:
        """The heat map that the backend draws for a task: (H, W, 3)."""
        link = self.context.heat_link(self.project)("image").replace("$image", self.task(task).image)
        drawn = httpx.get(link, timeout=_PATIENCE_S).raise_for_status()
        return np.asarray(Image.open(io.BytesIO(drawn.content)).convert("RGB"))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demonstration]:
    with demonstration(tmp_path_factory.mktemp("demonstration") / "live", fresh=True) as running:
        yield running


@pytest.fixture(scope="session")
def label_studio(running: Demonstration) -> LabelStudioServer:
    return running.label_studio


@pytest.fixture(scope="session")
def backend(running: Demonstration) -> Backend:
    context = Context.open(running.settings)
    project = context.store.projects.find(running.settings.label_studio_url, running.project)
    assert project is not None
    return Backend(context, project)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("LOOKHERE_CHROMIUM", "/usr/bin/chromium")
    expect.set_options(timeout=1000 * _PATIENCE_S)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*_BROWSER_SWITCHES])
        yield browser
        browser.close()


@pytest.fixture
def open_screen(browser: Browser, label_studio: LabelStudioServer) -> Iterator[Callable[[], LabelingScreen]]:
    """Opens a fresh browser in which the demonstration's user is logged in."""
    contexts = []

    def opened() -> LabelingScreen:
        contexts.append(browser.new_context(viewport={"width": 1400, "height": 1000}))
        screen = LabelingScreen(contexts[-1].new_page(), label_studio.url)
        screen.login(label_studio.email, label_studio.password.get_secret_value())
        return screen

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def screen(open_screen: Callable[[], LabelingScreen]) -> LabelingScreen:
    return open_screen()
