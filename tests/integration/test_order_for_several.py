"""Which ways of Label Studio to the next task keep to the scores, for one annotator and for several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from backend.demo.label_studio import LabelStudioServer
from backend.labelstudio.client import LOWEST_SCORE_FIRST, LabelStudioClient
from tests.integration.harness import Api

pytestmark = pytest.mark.integration

TASKS = 8


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    assert label_studio.legacy_token is not None
    with LabelStudioClient(label_studio.url, label_studio.legacy_token) as client:
        yield client


@pytest.fixture
def annotators(sign_up: Callable[[int], list[Api]]) -> list[Api]:
    return sign_up(3)


def pushed(
    client: LabelStudioClient, api: Api, overlap: int = 1, clusters: Sequence[int] = ()
) -> tuple[int, list[int]]:
    """A project whose tasks are served in their order, the first one last by id."""
    number = api.project()
    api.call("PATCH", f"/api/projects/{number}/", json={"maximum_annotations": overlap})
    client.set_sampling(number)
    order = api.tasks(number, TASKS)[::-1]
    predictions: list[dict[str, Any]] = [
        {"task": task, "result": [], "score": (place + 1) / 10, "model_version": "v1-00000000"}
        for place, task in enumerate(order)
    ]
    for prediction, cluster in zip(predictions, clusters, strict=False):
        prediction["cluster"] = cluster
    client.publish_predictions(number, predictions, "v1-00000000", lambda _: True)
    return number, order


def stream(person: Api, number: int) -> int:
    """What the label stream serves next (“Label” without a chosen order)."""
    task: int = person.call("GET", f"/api/projects/{number}/next")["id"]
    return task


def view(person: Api, number: int) -> int:
    """What “Label All Tasks” in a view sorted by score serves next."""
    body = {"ordering": [LOWEST_SCORE_FIRST], "selectedItems": {"all": True, "excluded": []}, "project": number}
    task: int = person.call("POST", "/api/dm/actions", params={"id": "next_task", "project": number}, json=body)["id"]
    return task


def submit(person: Api, task: int) -> None:
    person.call("POST", f"/api/tasks/{task}/annotations/", json={"result": [], "lead_time": 1.0})


@pytest.mark.parametrize("way", [stream, view])
def test_one_annotator_is_served_by_score(client: LabelStudioClient, api: Api, way: Any) -> None:
    number, order = pushed(client, api)
    for expected in order:
        assert way(api, number) == expected
        submit(api, expected)


def test_the_stream_gives_each_of_several_the_best_task_that_nobody_holds(
    client: LabelStudioClient, api: Api, annotators: list[Api]
) -> None:
    number, order = pushed(client, api)
    assert [stream(person, number) for person in annotators] == order[:3]
    assert [stream(person, number) for person in annotators] == order[:3], "a task is held until it is submitted"
    for person, task in zip(annotators, order[:3], strict=True):
        submit(person, task)
    assert [stream(person, number) for person in annotators] == order[3:6]


def test_a_sorted_view_gives_several_the_same_task(client: LabelStudioClient, api: Api, annotators: list[Api]) -> None:
    number, order = pushed(client, api)
    assert [view(person, number) for person in annotators] == order[:1] * 3


def test_with_overlap_the_stream_first_finishes_what_was_begun(
    client: LabelStudioClient, api: Api, annotators: list[Api]
) -> None:
    number, order = pushed(client, api, overlap=2)
    first, second, _ = annotators
    assert stream(first, number) == order[0]
    submit(first, order[0])
    submit(first, order[4])
    assert stream(second, number) in (order[0], order[4]), "tasks begun by others, at random"
    assert view(second, number) == order[0], "the view keeps to the scores"


def test_an_annotator_is_led_from_group_to_group(client: LabelStudioClient, api: Api, annotators: list[Api]) -> None:
    number, order = pushed(client, api, clusters=[0, 0, 1, 1])
    first, second, _ = annotators
    seen = []
    for _ in range(4):
        seen.append(stream(first, number))
        submit(first, seen[-1])
    # Tasks without a group count as one more group.
    assert seen == [order[0], order[2], order[4], order[1]]
    assert stream(second, number) == order[3]


def test_an_amended_score_and_group_are_served(client: LabelStudioClient, api: Api) -> None:
    number, order = pushed(client, api, clusters=[3])
    client.amend_prediction(order[5], "v1-00000000", {"score": 0.01, "cluster": 3})
    assert stream(api, number) == order[5]
    submit(api, order[5])
    assert stream(api, number) == order[1], "the first is in the group that was just served"
    client.amend_prediction(order[4], "v0-00000000", {"score": 0.0})
    assert client.predicted_versions(number) == {"v1-00000000": TASKS}


def test_a_task_that_was_deleted_meanwhile_costs_its_own_prediction(client: LabelStudioClient, api: Api) -> None:
    number, order = pushed(client, api)
    api.call("DELETE", f"/api/tasks/{order[0]}/")
    predictions = [
        {"task": task, "result": [], "score": 0.5, "model_version": "v2-00000000", "cluster": 1} for task in order[:3]
    ]
    assert client.push_predictions(number, predictions) == 2
    client.amend_prediction(order[0], "v1-00000000", {"score": 0.0})
