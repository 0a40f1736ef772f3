"""The HTTP contract, on what a real Label Studio sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from backend.domain import ClickRole, JobKind, JobState, Origin, Project
from backend.intake import Intake
from backend.labelstudio.contract import UNTRAINED
from backend.labelstudio.links import sign
from backend.settings import Settings
from backend.state.database import StateUnavailable
from tests.labelstudio.recorded import Request, all_requests, label_config, requests, scenarios
from tests.web.conftest import SECRET, Running

HOST = "http://labels.example"


def send(running: Running, request: Request) -> tuple[int, object]:
    response = running.client.open(request.path, method=request.method, json=request.body)
    return response.status_code, response.get_json()


def project(running: Running) -> Project:
    return running.store.projects.ensure(HOST, 1, label_config())


@pytest.mark.parametrize("scenario", scenarios())
def test_every_recorded_request_is_answered_as_label_studio_wants(running: Running, scenario: str) -> None:
    version = running.publish(project(running))
    for request in requests(scenario):
        status, answer = send(running, request)
        assert status in (200, 201), (request.path, answer)
        assert isinstance(answer, dict)
        if request.path == "/health":
            assert answer["status"] == "UP"
        elif request.path == "/setup":
            assert answer == {"model_version": version.name}
        elif request.path == "/versions":
            assert answer == {"versions": [version.name]}
        elif request.path == "/predict":
            interactive = request.body["params"]["context"] is not None
            assert_storable(request.body["tasks"], answer["results"], version.name, interactive)


def assert_storable(tasks: list[dict], results: list, version: str, interactive: bool) -> None:
    assert len(results) == len(tasks)
    for result in results:
        assert isinstance(result, dict), "anything but an object costs the whole batch"
        assert result["model_version"] == version
        assert isinstance(result["score"], float)
        assert 0 <= result["score"] <= 1
        kinds = [region["type"] for region in result["result"]]
        assert not (interactive and "choices" in kinds), "a class in this answer would overwrite the annotator's"
        assert interactive or kinds == ["keypointlabels", "choices", "brushlabels"]
        for region in result["result"]:
            assert region["to_name"] == "image"
            if region["type"] != "choices":
                assert (region["original_width"], region["original_height"]) == (64, 48)


def test_recorded_events_leave_label_studios_own_state(running: Running) -> None:
    """After the scenarios of project 1 in order, what we hold is what Label Studio held."""
    known = project(running)
    for scenario in scenarios():
        if scenario[:2] in ("20", "21", "22", "23", "26", "27"):
            for request in requests(scenario):
                send(running, request)
    held = {annotation.id: annotation for annotation in running.store.annotations.annotations(known.key)}
    assert 1 not in held, "annotation 1 was deleted"
    assert held, "others were not"
    for scenario in ("20_annotation_created",):
        for request in requests(scenario):
            send(running, request)
    assert 1 not in {one.id for one in running.store.annotations.annotations(known.key)}, "late news revive nothing"


@pytest.mark.parametrize(
    ("scenario", "origins"),
    [
        ("80_ui_open_and_accept_unchanged", [(ClickRole.LOOK, Origin.CONFIRMED)]),
        ("81_ui_move_predicted_keypoint", [(ClickRole.LOOK, Origin.CORRECTED)]),
        ("82_ui_delete_predicted_keypoint", []),
        ("83_ui_add_keypoint_change_choice", [(ClickRole.LOOK, Origin.CONFIRMED), (ClickRole.IGNORE, Origin.MANUAL)]),
        ("84_ui_smart_click", [(ClickRole.LOOK, Origin.CONFIRMED), (ClickRole.IGNORE, Origin.MANUAL)]),
    ],
)
def test_what_the_annotator_did_on_screen_is_what_is_kept(
    running: Running, scenario: str, origins: list[tuple[ClickRole, Origin]]
) -> None:
    for request in requests(scenario):
        send(running, request)
    (kept,) = running.store.annotations.annotations(project(running).key)
    assert [(click.role, click.origin) for click in kept.clicks] == origins
    assert len(kept.rejected) == (1 if scenario.startswith("82") else 0)


def test_a_skip_keeps_nothing_of_the_prefilled_prediction(running: Running) -> None:
    for request in requests("85_ui_skip_in_stream"):
        send(running, request)
    (kept,) = running.store.annotations.annotations(project(running).key)
    assert kept.skipped
    assert kept.clicks == ()
    assert kept.label is None


def test_lists_in_annotations_created_are_taken_whole(running: Running) -> None:
    for request in requests("28_predictions_to_annotations"):
        send(running, request)
    kept = running.store.annotations.annotations(project(running).key)
    assert len(kept) == 2
    assert {click.origin for one in kept for click in one.clicks} == {Origin.CONFIRMED}


def test_the_start_training_button_asks_for_one_training(running: Running) -> None:
    for _ in range(3):
        for request in requests("14_train"):
            send(running, request)
    (job,) = running.store.jobs.list()
    assert (job.kind, job.state) == (JobKind.TRAIN, JobState.QUEUED)


def test_enough_new_annotations_ask_for_a_training(running: Running) -> None:
    for scenario in ("80_ui_open_and_accept_unchanged", "81_ui_move_predicted_keypoint"):
        assert running.store.jobs.list() == []
        for request in requests(scenario):
            send(running, request)
    (job,) = running.store.jobs.list()
    assert job.kind is JobKind.TRAIN


def test_a_repeated_event_does_not_count_twice(running: Running) -> None:
    for _ in range(3):
        for request in requests("80_ui_open_and_accept_unchanged"):
            send(running, request)
    assert running.store.jobs.list() == []


def test_a_task_that_annotators_disagree_on_comes_to_the_front(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.intake._STRAYS", 1000)
    running.store.change_settings(project(running), {"train_after": 1000})
    running.publish(project(running))
    (event,) = [one for one in requests("20_annotation_created") if one.action]
    for number, name in enumerate(("cat", "cat", "dog", "dog")):
        result = [{"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": [name]}}]
        said = {**event.body["annotation"], "id": number, "completed_by": number, "result": result}
        running.client.post("/webhook", json={**event.body, "annotation": said})
        asked = [job.kind for job in running.store.jobs.list()]
        assert asked == ([JobKind.SCORE] if number == 3 else [])


def test_without_a_credential_no_event_starts_a_training(running: Running, settings: Settings) -> None:
    """Nobody could read whether it is true."""
    blind = Intake(settings.model_copy(update={"label_studio_api_key": None}), running.store)
    for scenario in ("14_train", "80_ui_open_and_accept_unchanged", "81_ui_move_predicted_keypoint"):
        for request in requests(scenario):
            if request.action:
                blind.receive(request.body)
    assert running.store.jobs.list() == []


def test_our_own_project_updates_start_nothing(running: Running) -> None:
    for request in requests("40_project_updated"):
        send(running, request)
    assert running.store.jobs.list() == []


def test_without_a_version_every_task_is_declined(running: Running) -> None:
    known = project(running)
    assert running.client.post("/setup", json={"project": "1.17", "schema": known.label_config}).get_json() == {
        "model_version": UNTRAINED
    }
    for request in requests("08_retrieve_predictions_batch"):
        status, answer = send(running, request)
        if request.path == "/predict":
            assert (status, answer) == (200, {"results": [{}] * len(request.body["tasks"])})


def test_one_bad_task_never_costs_the_batch(running: Running) -> None:
    version = running.publish(project(running))
    (batch,) = [one for one in requests("08_retrieve_predictions_batch") if one.path == "/predict"]
    running.unreachable.add(batch.body["tasks"][1]["data"]["image"])
    tasks = [*batch.body["tasks"], {"id": 77, "data": {}}, None, {"id": "x", "data": {"image": "a.png"}}]
    answer = running.client.post("/predict", json={**batch.body, "tasks": tasks}).get_json()["results"]
    declined = [place for place, one in enumerate(answer) if one == {}]
    assert declined == [1, len(tasks) - 3, len(tasks) - 2, len(tasks) - 1]
    assert all(one["model_version"] == version.name for place, one in enumerate(answer) if place not in declined)


def test_a_class_that_the_config_no_longer_has_is_declined(running: Running) -> None:
    running.publish(project(running))
    running.predictor.label = "ferret"
    (batch,) = [one for one in requests("08_retrieve_predictions_batch") if one.path == "/predict"]
    answer = running.client.post("/predict", json=batch.body).get_json()["results"]
    assert answer == [{}] * len(batch.body["tasks"])


def test_an_empty_context_is_answered_with_no_region(running: Running) -> None:
    running.publish(project(running))
    (batch,) = [one for one in requests("08_retrieve_predictions_batch") if one.path == "/predict"]
    body = {**batch.body, "tasks": batch.body["tasks"][:1], "params": {"context": {"result": []}}}
    (answer,) = running.client.post("/predict", json=body).get_json()["results"]
    assert answer["result"] == []


def test_the_secrets_of_a_project_are_not_kept(running: Running) -> None:
    (event,) = [one for one in requests("20_annotation_created") if one.action]
    described = {**event.body["project"], "token": "planted-invitation", "task_data_password": "planted-password"}
    assert running.client.post("/webhook", json={**event.body, "project": described}).status_code == 201
    everything = b"".join(path.read_bytes() for path in running.store.folder.rglob("*") if path.is_file())
    assert b"planted" not in everything


def test_a_heat_map_is_drawn_for_the_projects_own_images_only(running: Running) -> None:
    known = project(running)
    reference = "/data/upload/1/a b&c=d.png?x=1"
    running.client.post(
        "/webhook",
        json={"action": "TASKS_CREATED", "tasks": [{"id": 5, "data": {"image": reference}}], "project": {"id": 1}},
    )
    signature = sign(SECRET, known.key)
    heat = f"/heat/{known.key}/{signature}?src="
    bare = running.client.get(heat + quote(reference, safe="/?&="))
    assert (bare.status_code, bare.data) == (200, running.image.read_bytes())
    version = running.publish(known)
    drawn = running.client.get(heat + quote(reference, safe="/?&="))
    assert drawn.data == b"a picture of " + version.name.encode()
    assert drawn.headers["Access-Control-Allow-Origin"] == HOST
    again = running.client.get(heat + quote(reference, safe="/?&="), headers={"If-None-Match": drawn.headers["ETag"]})
    assert again.status_code == 304
    assert running.client.get(heat + "/data/upload/2/other.png").status_code == 404
    assert running.client.get(f"/heat/{known.key}/{'0' * 32}?src={reference}").status_code == 403
    assert running.client.get(f"/heat/{known.key + 1}/{signature}?src={reference}").status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/setup", "no json"),
        ("/setup", []),
        ("/setup", {"project": "../etc", "schema": "<View/>"}),
        ("/setup", {"project": True, "schema": "<View/>"}),
        ("/setup", {"project": "1.2", "schema": "<View/>"}),
        ("/predict", {"project": "1.2", "tasks": "all"}),
        ("/predict", {"tasks": []}),
        ("/webhook", {"event": "no action"}),
        ("/webhook", None),
    ],
)
def test_a_malformed_request_is_refused_with_a_reason(running: Running, path: str, body: object) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    response = running.client.post(path, data=text, content_type="application/json")
    assert response.status_code == 400
    assert response.get_json()["error"]


def test_a_label_config_without_roles_says_what_is_missing(running: Running) -> None:
    response = running.client.post(
        "/setup", json={"project": "9.1", "schema": '<View><Image name="i" value="$i"/></View>'}
    )
    assert response.status_code == 400
    assert "<KeyPointLabels" in response.get_json()["error"]


def test_an_unknown_event_is_kept_and_counted(running: Running) -> None:
    response = running.client.post("/webhook", json={"action": "MOON_ROSE", "project": {"id": 1}})
    assert response.status_code == 201
    assert running.store.events.counts()["MOON_ROSE"] == 1


def test_every_recorded_event_is_in_the_log(running: Running) -> None:
    events = [one for one in all_requests() if one.path == "/webhook"]
    for event in events:
        send(running, event)
    assert sum(running.store.events.counts().values()) == len(events)


def test_an_event_and_what_follows_from_it_are_on_disk_together_or_not_at_all(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event,) = [one for one in requests("20_annotation_created") if one.action]
    with monkeypatch.context() as crash:
        crash.setattr(running.store.annotations, "put", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            running.client.post("/webhook", json=event.body)
    assert running.store.events.counts() == {}
    with monkeypatch.context() as crash:
        crash.setattr(running.store.annotations, "put", raises(StateUnavailable))
        assert running.client.post("/webhook", json=event.body).status_code == 503
    assert running.store.events.counts() == {}
    assert running.client.post("/webhook", json=event.body).status_code == 201
    assert len(running.store.annotations.annotations(project(running).key)) == 1


def test_an_event_that_nobody_foresaw_is_kept_and_costs_no_other(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event,) = [one for one in requests("20_annotation_created") if one.action]
    with monkeypatch.context() as surprise:
        surprise.setattr("backend.intake.annotation_from_json", raises(ZeroDivisionError))
        assert running.client.post("/webhook", json=event.body).status_code == 201
    assert running.store.events.counts() == {"ANNOTATION_CREATED": 1}
    assert running.store.annotations.annotations(project(running).key) == []
    assert running.client.post("/webhook", json=event.body).status_code == 201
    assert len(running.store.annotations.annotations(project(running).key)) == 1


def test_events_that_come_together_are_written_together(settings: Settings, running: Running) -> None:
    intake = Intake(settings, running.store)
    events = [one.body for one in all_requests() if one.path == "/webhook"] * 3
    with ThreadPoolExecutor(16) as senders:
        list(senders.map(intake.receive, events))
    assert sum(running.store.events.counts().values()) == len(events)


def raises(kind: type[BaseException]) -> Callable[..., None]:
    def raising(*_: object) -> None:
        raise kind("a fault of the tests")

    return raising
