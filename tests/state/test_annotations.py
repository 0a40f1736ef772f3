"""The state does not depend on how often, or in which order, events came."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain import Annotation, Click, ClickRole, Origin, Task
from backend.settings import Settings
from backend.state.consensus import merge
from backend.state.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)
TASK = Task(1, "a.png", known_label="dog")


def annotation(number: int = 1, minute: int = 0, task: int = 1, **facts: object) -> Annotation:
    values = {"annotator": number, "updated_at": START + timedelta(minutes=minute), "label": "cat", **facts}
    if values["label"] is not None:
        values.setdefault("label_origin", Origin.MANUAL)
    return Annotation(id=number, task=task, **values)  # type: ignore[arg-type]


def look(x: float, y: float, origin: Origin = Origin.MANUAL) -> Click:
    return Click(x, y, ClickRole.LOOK, origin)


Event = Callable[[Store, int], None]
put = st.builds(
    lambda number, minute: lambda store, key: store.annotations.put(key, [annotation(number, minute, task=number % 3)]),
    st.integers(1, 6),
    st.integers(0, 5),
)
remove = st.builds(lambda number: lambda store, key: store.annotations.remove(key, [number]), st.integers(1, 6))
remove_task = st.builds(
    lambda number: lambda store, key: store.annotations.remove_tasks(key, [number]), st.integers(0, 2)
)


@given(
    events=st.lists(st.one_of(put, put, remove, remove_task), max_size=12),
    order=st.randoms(),
    repeats=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_order_and_repetition_of_events_change_nothing(events: list[Event], order: object, repeats: int) -> None:
    def state(sequence: list[Event]) -> list[Annotation]:
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(Settings(data_dir=Path(folder)))
            key = store.projects.ensure("http://labels", 1).key
            for event in sequence:
                event(store, key)
            kept = store.annotations.annotations(key)
            store.database.close()
            return kept

    shuffled = events * repeats
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert state(shuffled) == state(events)


def test_everything_of_an_annotation_survives(store: Store) -> None:
    key = store.projects.ensure("http://labels", 1).key
    full = annotation(
        clicks=(look(0.1, 0.2), Click(0.3, 0.4, ClickRole.IGNORE, Origin.CORRECTED)),
        rejected=(look(0.5, 0.6, Origin.CONFIRMED),),
        ground_truth=True,
        editor=5,
        region=bytes(range(256)) * 8,
    )
    store.annotations.put(key, [full])
    assert store.annotations.annotations(key) == [full]


def test_an_older_state_never_replaces_a_newer_one(store: Store) -> None:
    key = store.projects.ensure("http://labels", 1).key
    store.annotations.put(key, [annotation(minute=5, label="dog")])
    store.annotations.put(key, [annotation(minute=3, label="cat")])
    assert store.annotations.annotations(key)[0].label == "dog"


def test_a_repeated_event_raises_no_revision(store: Store) -> None:
    key = store.projects.ensure("http://labels", 1).key
    store.annotations.put(key, [annotation()])
    before = store.annotations.latest_revision(key)
    store.annotations.put(key, [annotation()])
    assert store.annotations.latest_revision(key) == before
    assert store.annotations.fresh_annotations(key, 0) == 1
    assert store.annotations.fresh_annotations(key, before) == 0


def test_the_truth_of_the_api_removes_revives_and_keeps_what_came_meanwhile(store: Store) -> None:
    key = store.projects.ensure("http://labels", 1).key
    store.annotations.put_tasks(key, [TASK, Task(2, "b.png")])
    store.annotations.put(key, [annotation(1), annotation(2)])
    store.annotations.remove(key, [3])
    asked_at = store.annotations.latest_revision(key)
    store.annotations.put(key, [annotation(9)])  # by webhook, while the API is being read
    store.annotations.confirm(key, [TASK], [annotation(1), annotation(3)], as_of_revision=asked_at)
    assert {one.id for one in store.annotations.annotations(key)} == {1, 3, 9}
    assert [task.id for task in store.annotations.tasks(key)] == [1]


def test_projects_do_not_see_each_other(store: Store) -> None:
    one, other = (store.projects.ensure("http://labels", number).key for number in (1, 2))
    store.annotations.put_tasks(one, [TASK])
    store.annotations.put(one, [annotation()])
    store.annotations.remove(other, [1])
    assert store.annotations.annotations(other) == []
    assert store.annotations.task_of_image(other, "a.png") is None
    assert len(store.annotations.annotations(one)) == 1


def test_a_task_without_annotations_teaches_what_its_data_state() -> None:
    assert merge(TASK, []).label == "dog"
    assert not merge(TASK, []).annotated


def test_the_majority_decides_and_a_tie_leaves_the_class_open() -> None:
    votes = [annotation(1, label="cat"), annotation(2, label="cat"), annotation(3, label="dog")]
    assert merge(TASK, votes).label == "cat"
    assert merge(TASK, votes[1:]).label is None


def test_ground_truth_outvotes_everybody() -> None:
    votes = [annotation(1), annotation(2), annotation(3, label="dog", ground_truth=True)]
    assert merge(TASK, votes).label == "dog"


def test_skipped_annotations_teach_nothing() -> None:
    assert not merge(TASK, [annotation(skipped=True, clicks=(look(0.5, 0.5),))]).annotated
    assert merge(TASK, [annotation(skipped=True)]).label == "dog"


def test_of_one_annotators_answers_the_latest_counts() -> None:
    votes = [annotation(1, 0, annotator=7, label="cat"), annotation(2, 5, annotator=7, label="dog")]
    assert merge(TASK, votes).label == "dog"


def test_clicks_in_the_same_place_become_one_with_its_agreement() -> None:
    votes = [
        annotation(1, clicks=(look(0.50, 0.5),)),
        annotation(2, clicks=(look(0.54, 0.5, Origin.CONFIRMED),)),
        annotation(3),
    ]
    (click,) = merge(TASK, votes).clicks
    assert click.x == pytest.approx(0.52)
    assert click.agreement == pytest.approx(2 / 3)
    assert click.origin is Origin.MANUAL


def test_contradicting_clicks_weigh_less() -> None:
    votes = [annotation(1, clicks=(look(0.5, 0.5),)), annotation(2, clicks=(Click(0.5, 0.5, ClickRole.IGNORE),))]
    assert [click.agreement for click in merge(TASK, votes).clicks] == [0.0, 0.0]
