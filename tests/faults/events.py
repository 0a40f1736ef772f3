"""Events in any order, twice, or not at all; and what a reconciliation makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from pydantic import SecretStr

from backend.intake import Intake
from backend.jobs import reconcile as reconcile_module
from backend.jobs.context import Context
from backend.jobs.reconcile import reconcile
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from backend.state.store import Store
from tests.faults.kill import CONFIG
from tests.faults.label_studio import NUMBER, PlayedLabelStudio

_ACTIONS = 7
"""That the annotators take before each delivery."""
_DELIVERIES = 2
"""In one history, the second with the events of the first again."""
_ORDERS_EVERY = 10


@dataclass
class Outcome:
    """What was found.

    Attributes:
        histories: how many were played.
        events: how many were delivered.
        different: reconciliations after which the state was not Label Studio's.
        orders: histories that were delivered whole, without reconciling, in two orders.
        order_mattered: those that led to different states.
    """

    histories: int = 0
    events: int = 0
    different: int = 0
    orders: int = 0
    order_mattered: int = 0


def measure(folder: Path, times: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Play histories of annotators, and deliver their events badly.

    Args:
        folder: an empty one.
        times: how many deliveries, each followed by a reconciliation; a history has two.
        seed: of everything.
        say: told the progress.
    """
    rng, outcome = random.Random(seed), Outcome()
    settings = Settings(
        _env_file=None,
        data_dir=folder,
        label_studio_api_key=SecretStr("a token of the fault tests"),
        train_after=10_000,
    )
    store = Store.open(settings)
    # The played clock tells all moments apart: a reading need not overlap the one before.
    with patch.object(reconcile_module, "_OVERLAP", timedelta(0)):
        for number in range(times // _DELIVERIES):
            _history(settings, store, number, rng, outcome)
            if outcome.histories % 500 == 0:
                say(f"{outcome.histories} histories, {outcome.events} events, {outcome.different} different")
    return outcome


def _history(settings: Settings, store: Store, number: int, rng: random.Random, outcome: Outcome) -> None:
    here = settings.model_copy(update={"label_studio_url": f"http://labels-{number}.example"})
    studio, sent = PlayedLabelStudio(CONFIG), []
    context, intake = Context(here, store), Intake(here, store)
    context.__dict__["client"] = _client(here, studio)
    for _ in range(_DELIVERIES):
        sent += act(studio, rng)
        delivered = badly(sent, rng)
        for event in delivered:
            intake.receive(event)
        key = reconcile(context, NUMBER).key
        outcome.different += known(store, key) != studio_state(studio)
        outcome.events += len(delivered)
    outcome.histories += 1
    if number % _ORDERS_EVERY == 0:
        one, other = (_after(settings, store, f"{number}-{order}", sent, rng) for order in range(2))
        outcome.orders += 1
        outcome.order_mattered += one != other


def _after(settings: Settings, store: Store, name: str, sent: list[dict[str, Any]], rng: random.Random) -> Any:
    """The state after all events, in any order, some twice."""
    there = settings.model_copy(update={"label_studio_url": f"http://order-{name}.example"})
    intake = Intake(there, store)
    delivered = [*sent, *rng.choices(sent, k=3)]
    rng.shuffle(delivered)
    for event in delivered:
        intake.receive(event)
    return known(store, store.projects.ensure(there.label_studio_url, NUMBER).key)


def act(studio: PlayedLabelStudio, rng: random.Random) -> list[dict[str, Any]]:
    """Let annotators work for a while; gives the events that Label Studio sends."""
    events: list[dict[str, Any]] = []

    def bring(count: int) -> None:
        made = studio.import_tasks([{"picture": f"https://images.example/{rng.random()}.png"} for _ in range(count)])
        events.append(studio.event("TASKS_CREATED", tasks=[dict(studio.tasks[task]) for task in made]))

    def label() -> list[dict[str, Any]]:
        choice = rng.choice(["light", "dark"])
        return [{"type": "choices", "from_name": "kind", "to_name": "photo", "value": {"choices": [choice]}}]

    bring(2)
    for _ in range(_ACTIONS):
        action = rng.random()
        if action < 0.45 and studio.tasks:
            task = rng.choice(list(studio.tasks))
            skipped = rng.random() < 0.1
            made = studio.annotate(task, label(), user=rng.randint(1, 3), was_cancelled=skipped)
            events.append(studio.event("ANNOTATION_CREATED", task=dict(studio.tasks[task]), annotation=made))
        elif action < 0.7 and studio.annotations:
            changed = studio.update(rng.choice(list(studio.annotations)), result=label())
            task = studio.tasks[changed["task"]]
            events.append(studio.event("ANNOTATION_UPDATED", task=dict(task), annotation=changed))
        elif action < 0.8 and studio.annotations:
            gone = rng.choice(list(studio.annotations))
            studio.delete(gone)
            events.append(studio.event("ANNOTATIONS_DELETED", annotations=[{"id": gone}]))
        elif action < 0.9 and studio.tasks:
            task = rng.choice(list(studio.tasks))
            studio.delete_task(task)
            events.append(studio.event("TASKS_DELETED", tasks=[{"id": task}]))
        else:
            bring(1)
    return events


def badly(events: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Events as a bad network delivers them: in any order, some twice, some not at all, one forged."""
    delivered = [event for event in events if rng.random() > 0.2]
    delivered += rng.choices(events, k=rng.randint(0, 3))
    forged = dict(rng.choice(events))
    if "annotation" in forged:
        forged["annotation"] = {**forged["annotation"], "id": rng.randint(1, 40), "updated_at": "2031-01-01T00:00:00Z"}
    delivered.append(forged)
    rng.shuffle(delivered)
    return delivered


def known(store: Store, key: int) -> tuple[set[int], dict[int, tuple[int, str | None]]]:
    """The tasks, and of each annotation its task and class, as the backend knows them."""
    answers = {one.id: (one.task, one.label) for one in store.annotations.annotations(key)}
    return {task.id for task in store.annotations.tasks(key)}, answers


def studio_state(studio: PlayedLabelStudio) -> tuple[set[int], dict[int, tuple[int, str | None]]]:
    """The same as Label Studio has it."""
    answers = {}
    for one in studio.annotations.values():
        # Whoever skips a task says nothing of its class.
        label = None if one["was_cancelled"] else one["result"][0]["value"]["choices"][0]
        answers[one["id"]] = (one["task"], label)
    return set(studio.tasks), answers


def _client(settings: Settings, studio: PlayedLabelStudio) -> LabelStudioClient:
    assert settings.label_studio_api_key is not None
    client = LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
    client.close()
    client._http = httpx.Client(transport=httpx.WSGITransport(app=studio.application()))
    return client
