"""A real `lookhere serve` under load: webhooks while it trains, and predictions without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image
from pydantic import SecretStr

from backend.demo.demonstration import served
from backend.demo.label_studio import free_port
from backend.domain import JobKind
from backend.settings import Settings
from backend.state.store import Store
from tests.faults.kill import CONFIG
from tests.faults.label_studio import NUMBER, PlayedLabelStudio

_SECRET = "a secret of the load tests"
_HEADERS = {"Authorization": f"Bearer {_SECRET}"}
_PATIENCE_S = 600.0
_SENDERS = 32
_PER_REQUEST = 50


@dataclass
class Load:
    """What was found under load.

    Attributes:
        seconds: from when each event was due to its acknowledgement.
        refused: events that were not acknowledged.
        lost: acknowledged annotations that are not known afterwards.
        training: share of the time in which a training ran.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    lost: int = 0
    training: float = 0.0


@dataclass
class Soak:
    """What was found in the soak.

    Attributes:
        predictions: how many.
        megabytes: resident memory of the backend's processes, after each tenth of them.
        failed: tasks without a prediction.
    """

    predictions: int = 0
    megabytes: list[float] = field(default_factory=list)
    failed: int = 0


def measure_load(folder: Path, rate: float, seconds: float, images: int, say: Callable[[str], None]) -> Load:
    """Send annotation events at a fixed rate while trainings use the machine.

    Args:
        folder: an empty one.
        rate: events a second.
        seconds: for how long.
        images: of the project that is trained.
        say: told the progress.
    """
    studio, found = _studio(folder, images), Load()
    with studio.served() as url:
        settings = _settings(folder, url)
        with served(settings, folder / "log"):
            store = Store.open(settings)
            key = store.projects.ensure(url, NUMBER, CONFIG).key
            _trained(store, key, settings)
            say("trained once; the load begins")
            over = threading.Event()
            shares: list[bool] = []
            keeper = threading.Thread(target=_keep_training, args=(store, key, over, shares))
            keeper.start()
            acknowledged = _send(studio, settings, rate, seconds, found)
            over.set()
            keeper.join()
            found.training = float(np.mean(shares))
            known = {one.id for one in store.annotations.annotations(key)}
            found.lost = len(acknowledged - known)
    return found


def measure_soak(folder: Path, predictions: int, say: Callable[[str], None]) -> Soak:
    """Ask for predictions, and watch the memory.

    Args:
        folder: an empty one.
        predictions: how many.
        say: told the progress.
    """
    studio, found = _studio(folder, 100), Soak()
    with studio.served() as url:
        settings = _settings(folder, url)
        with served(settings, folder / "log"), httpx.Client(timeout=_PATIENCE_S) as http:
            store = Store.open(settings)
            _trained(store, store.projects.ensure(url, NUMBER, CONFIG).key, settings)
            tasks = list(studio.tasks.values())
            port = str(settings.port)
            (server,) = (one for one in psutil.Process().children() if one.environ().get("LOOKHERE_PORT") == port)

            def ask(start: int) -> None:
                some = [tasks[(start + place) % len(tasks)] for place in range(_PER_REQUEST)]
                body = {"project": f"{NUMBER}.1", "label_config": CONFIG, "tasks": some}
                answer = http.post(f"http://127.0.0.1:{settings.port}/predict", json=body, headers=_HEADERS)
                found.failed += sum(not one for one in answer.raise_for_status().json()["results"])
                found.predictions += _PER_REQUEST

            # Whatever is loaded once is loaded now.
            for start in range(0, max(predictions // 10, 500), _PER_REQUEST):
                ask(start)
            found.predictions = 0
            found.megabytes.append(_memory_mb(server))
            while found.predictions < predictions:
                ask(found.predictions)
                if found.predictions % max(predictions // 10, _PER_REQUEST) == 0:
                    found.megabytes.append(_memory_mb(server))
                    say(f"{found.predictions} predictions, {found.megabytes[-1]:.0f} MB")
    return found


def _studio(folder: Path, images: int) -> PlayedLabelStudio:
    studio, rng = PlayedLabelStudio(CONFIG), np.random.default_rng(0)
    datas = []
    for number in range(images):
        pixels = rng.integers(100, 150, (48, 48, 3), dtype=np.uint8)
        pixels[:18, :18] = 255 if number % 2 else 0
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        datas.append({"picture": path.as_uri(), "kind": "light" if number % 2 else "dark"})
    studio.import_tasks(datas)
    return studio


def _settings(folder: Path, url: str) -> Settings:
    port = free_port()
    return Settings(
        _env_file=None,
        label_studio_url=url,
        label_studio_api_key=SecretStr("a token of the load tests"),
        secret=SecretStr(_SECRET),
        public_url=f"http://127.0.0.1:{port}",
        port=port,
        data_dir=folder / "data",
        image_folders=(folder,),
        backbone="small",
        train_after=1_000_000,
    )


def _trained(store: Store, key: int, settings: Settings) -> None:
    event = {"action": "START_TRAINING", "project": {"id": NUMBER, "label_config": CONFIG}}
    httpx.post(f"http://127.0.0.1:{settings.port}/webhook", json=event, headers=_HEADERS).raise_for_status()
    deadline = time.monotonic() + _PATIENCE_S
    while store.versions.active(key) is None or any(job.finished_at is None for job in store.jobs.list(key)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Expected a trained version, got {store.jobs.list(key)}.")
        time.sleep(0.2)


def _keep_training(store: Store, key: int, over: threading.Event, shares: list[bool]) -> None:
    while not over.wait(0.2):
        running = [job for job in store.jobs.list(key, limit=5) if job.finished_at is None]
        shares.append(any(job.kind is JobKind.TRAIN for job in running))
        if not shares[-1]:
            store.jobs.request(key, JobKind.TRAIN)


def _send(studio: PlayedLabelStudio, settings: Settings, rate: float, seconds: float, found: Load) -> set[int]:
    acknowledged: set[int] = set()
    tasks = list(studio.tasks)
    # Label Studio opens a connection for each of its webhooks.
    http = httpx.Client(headers={**_HEADERS, "Connection": "close"}, timeout=_PATIENCE_S)
    begun = time.monotonic()

    def tell(number: int) -> None:
        due = begun + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        result = [{"type": "choices", "from_name": "kind", "to_name": "photo", "value": {"choices": ["light"]}}]
        made = studio.annotate(tasks[number % len(tasks)], result)
        event = studio.event("ANNOTATION_CREATED", task=studio.tasks[made["task"]], annotation=made)
        answer = http.post(f"http://127.0.0.1:{settings.port}/webhook", json=event)
        found.seconds.append(time.monotonic() - due)
        if answer.is_success:
            acknowledged.add(made["id"])
        else:
            found.refused += 1

    with http, ThreadPoolExecutor(_SENDERS) as senders:
        list(senders.map(tell, range(int(rate * seconds))))
    return acknowledged


def _memory_mb(process: psutil.Process) -> float:
    """Resident memory of a process and of all below it; what they share is counted once for each part (PSS)."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total / 2**20
