"""Kills the backend, by signal 9, at random moments of every phase of its loop, and sees that nothing is lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import func, select
from werkzeug.serving import make_server

from backend.demo.label_studio import free_port
from backend.domain import JobKind, JobState
from backend.settings import Settings
from backend.state.database import activations, versions
from backend.state.store import Store
from tests.faults.label_studio import NUMBER, PlayedLabelStudio

CONFIG = """<View>
  <Image name="photo" value="$picture"/>
  <KeyPointLabels name="spot" toName="photo"><Label value="Look here" lookhere="look"/></KeyPointLabels>
  <Choices name="kind" toName="photo"><Choice value="light"/><Choice value="dark"/></Choices>
</View>"""
PHASES = ("receiving", "training", "publishing", "activating", "pushing", "switching", "cleaning up")

_SECRET = "a secret of the fault tests"
_TASKS = 12
_PATIENCE_S = 120.0
_KEPT_VERSIONS = 4


@dataclass
class Outcome:
    """What was found.

    Attributes:
        kills: how many fell into each phase.
        lost: acknowledged annotations that were gone.
        torn: versions that did not pass their hashes.
        stuck: kills after which the loop did not complete.
        recovery_s: from each restart to the completed loop.
    """

    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    torn: int = 0
    stuck: int = 0
    recovery_s: list[float] = field(default_factory=list)


def measure(folder: Path, times: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Kill the backend so many times, and let the loop complete after each.

    Args:
        folder: an empty one.
        times: how many kills.
        seed: of the moments.
        say: told each kill.
    """
    rng = random.Random(seed)
    studio, outcome = PlayedLabelStudio(CONFIG), Outcome()
    studio.import_tasks([{"picture": path.as_uri(), "kind": kind} for path, kind in _pictures(folder)])
    with studio.served() as url:
        loop = Loop(_settings(folder, url), studio, rng)
        with loop.backend():
            loop.tell()
            loop.complete()
        for number in range(times):
            phase = PHASES[number % len(PHASES)]
            with loop.backend() as process:
                hit = loop.kill_in(phase, process)
            outcome.kills[phase if hit else "elsewhere"] += 1
            lost, torn = loop.lost(), loop.torn()
            begun = time.monotonic()
            with loop.backend():
                completed = loop.complete()
            outcome.recovery_s.append(time.monotonic() - begun)
            lost, torn = max(lost, loop.lost()), max(torn, loop.torn())
            outcome.lost += lost
            outcome.torn += torn
            outcome.stuck += not completed
            when = phase if hit else f"{phase} (missed)"
            say(f"{number + 1}: {when}, {outcome.recovery_s[-1]:.1f} s, lost {lost}, torn {torn}")
    return outcome


class Loop:
    """The loop under attack: a played Label Studio, a real backend, and what was acknowledged.

    Args:
        settings: of the backend.
        studio: the Label Studio.
        rng: of the moments.
    """

    def __init__(self, settings: Settings, studio: PlayedLabelStudio, rng: random.Random) -> None:
        self.store = Store.open(settings)
        self.project = self.store.projects.ensure(settings.label_studio_url, NUMBER, CONFIG).key
        self.acknowledged: set[int] = set()
        self._settings = settings
        self._studio = studio
        self._rng = rng
        self._context = multiprocessing.get_context("forkserver")
        # The kernel forks what has torch already: an import takes longer than the whole loop.
        self._context.set_forkserver_preload(["backend.web.server", "backend.jobs.train", "backend.jobs.score"])

    @contextmanager
    def backend(self) -> Iterator[Any]:
        """A running backend, killed in the end."""
        # Another one each time: somebody else may have taken the last one meanwhile.
        self._settings = self._settings.model_copy(update={"port": free_port()})
        process = self._context.Process(target=_serve, args=(self._settings,))
        process.start()
        try:
            self._await(self._answers)
            yield process
        finally:
            _kill(process)

    def tell(self) -> bool:
        """Annotate a task and send the event; returns whether it was acknowledged."""
        task = self._rng.choice(list(self._studio.tasks))
        kind = self._studio.tasks[task]["data"]["kind"]
        result = [
            {"type": "choices", "from_name": "kind", "to_name": "photo", "value": {"choices": [kind]}},
            {
                "type": "keypointlabels",
                "from_name": "spot",
                "to_name": "photo",
                "original_width": 48,
                "original_height": 48,
                "image_rotation": 0,
                "value": {"x": 20, "y": 20, "width": 1, "keypointlabels": ["Look here"]},
            },
        ]
        made = self._studio.annotate(task, result, user=self._rng.randint(1, 3))
        event = self._studio.event("ANNOTATION_CREATED", task=self._studio.tasks[task], annotation=made)
        try:
            answer = httpx.post(f"{self._url}/webhook", json=event, headers=self._headers, timeout=10.0)
        except httpx.HTTPError:
            return False
        if answer.is_success:
            self.acknowledged.add(made["id"])
        return answer.is_success

    def kill_in(self, phase: str, process: Any) -> bool:
        """Kill the backend in a phase of the loop that an event starts; returns whether the phase came."""
        jobs = self.store.jobs
        asked = Counter(self._studio.asked)
        activated = self._count(activations)

        def came(route: str) -> bool:
            return self._studio.asked[route] > asked[route]

        def running(kind: JobKind) -> bool:
            return any(job.kind is kind and job.state is JobState.RUNNING for job in jobs.list(self.project, limit=5))

        begun: dict[str, Callable[[], bool]] = {
            "receiving": lambda: True,
            "training": lambda: running(JobKind.TRAIN),
            "publishing": lambda: any((self._settings.data_dir / "versions").glob("*/.unfinished-*")),
            "activating": lambda: self._count(versions) > activated,
            "pushing": lambda: came("POST /api/projects/<int:number>/import/predictions"),
            "switching": lambda: came("PATCH /api/projects/<int:number>/"),
            "cleaning up": lambda: came("DELETE /api/projects/<int:number>/model-versions/"),
        }
        lasts_s = {"receiving": 0.02, "training": 2.0}.get(phase, 0.02)
        teller = threading.Thread(target=self.tell)
        teller.start()
        if phase != "receiving":
            teller.join()
        hit = self._await(begun[phase], every_s=0.001)
        time.sleep(self._rng.uniform(0, lasts_s))
        _kill(process)
        teller.join()
        return hit

    def complete(self) -> bool:
        """Wait until nothing is left to do; returns whether Label Studio then serves as it should."""
        if not self.acknowledged:
            return self._await(lambda: True)
        return self._await(self._is_complete)

    def lost(self) -> int:
        """How many acknowledged annotations are not known."""
        return len(self.acknowledged - {one.id for one in self.store.annotations.annotations(self.project)})

    def torn(self) -> int:
        """How many listed versions do not pass their hashes, and one more if none is served."""
        listed = self.store.versions.list(self.project)
        damaged = sum(not self.store.versions.verify(version) for version in listed)
        return damaged + (bool(listed) and self.store.versions.active(self.project) is None)

    def _is_complete(self) -> bool:
        active = self.store.versions.active(self.project)
        if active is None or any(job.finished_at is None for job in self.store.jobs.list(self.project)):
            return False
        current = [one["task"] for one in self._studio.predictions.values()]
        taught = {item.task.id for item in self.store.annotations.guidance(self.project) if item.annotated}
        front = self.store.projects.options(self.project).get("front", [])
        return (
            self._studio.model_version == active.name
            and sorted(current) == sorted(self._studio.tasks)
            and {one["model_version"] for one in self._studio.predictions.values()} == {active.name}
            and {one["task"] for one in self._studio.annotations.values()} == taught
            and self._studio.order()[: len(front)] == front
        )

    def _count(self, table: Any) -> int:
        with self.store.database.read() as connection:
            return int(connection.scalar(select(func.count()).select_from(table)) or 0)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self._url}/health", timeout=5.0).is_success
        except httpx.HTTPError:
            return False

    def _await(self, what: Callable[[], bool], every_s: float = 0.02) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if what():
                return True
            time.sleep(every_s)
        return False

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._settings.port}"

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {_SECRET}"}


def _settings(folder: Path, url: str) -> Settings:
    return Settings(
        _env_file=None,
        label_studio_url=url,
        label_studio_api_key=SecretStr("a token of the fault tests"),
        secret=SecretStr(_SECRET),
        data_dir=folder / "data",
        image_folders=(folder,),
        backbone="small",
        train_after=1,
        keep_versions=_KEPT_VERSIONS,
        # Its one thread forks the workers: no other one may hold a lock meanwhile.
        jobs_at_once=1,
    )


def _pictures(folder: Path) -> Iterator[tuple[Path, str]]:
    rng = np.random.default_rng(0)
    for number in range(_TASKS):
        pixels = rng.integers(100, 150, (48, 48, 3), dtype=np.uint8)
        pixels[:18, :18] = 255 if number % 2 else 0
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        yield path, "light" if number % 2 else "dark"


def _kill(process: Any) -> None:
    if process.is_alive():
        # Its workers are in its group.
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _serve(settings: Settings) -> None:
    """The backend as `lookhere serve` runs it, but without the process that predicts, and forking its workers."""
    os.setpgrp()

    from backend.jobs import local
    from backend.serving import Serving
    from backend.web.server import Backend

    logging.disable(logging.ERROR)
    local.get_context = lambda _method: multiprocessing.get_context("fork")  # type: ignore[assignment]
    local._LEASE_S, local._HEARTBEAT_S = 1.0, 0.2
    Serving.warm_up = lambda _self: None  # type: ignore[method-assign]
    backend = Backend(settings)
    backend.start()
    make_server("127.0.0.1", settings.port, backend.app, threaded=True).serve_forever()
