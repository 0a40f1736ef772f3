"""The client against a real Label Studio."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backend.demo.label_studio import LabelStudioServer
from backend.labelstudio.client import LOWEST_SCORE_FIRST, VIEW_TITLE, LabelStudioClient, LabelStudioError
from tests.integration.harness import LABEL_CONFIG, Api, DummyBackend

pytestmark = pytest.mark.integration


@pytest.fixture(params=["personal", "legacy"])
def client(request: pytest.FixtureRequest, label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    """A client with either kind of token."""
    token = label_studio.personal_access_token() if request.param == "personal" else label_studio.legacy_token
    assert token is not None
    with LabelStudioClient(label_studio.url, token) as client:
        yield client


@pytest.fixture
def legacy(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    assert label_studio.legacy_token is not None
    with LabelStudioClient(label_studio.url, label_studio.legacy_token) as client:
        yield client


def prediction(task: int, score: float, version: str, label: str = "cat") -> dict[str, Any]:
    choice = {
        "id": f"c{task}",
        "type": "choices",
        "from_name": "class",
        "to_name": "image",
        "value": {"choices": [label]},
    }
    return {"task": task, "score": score, "model_version": version, "result": [choice]}


def ours(version: str) -> bool:
    return version.startswith("v")


def stored(api: Api, number: int) -> dict[int, list[tuple[str, float]]]:
    """Task → the version and the score of each of its predictions."""
    listed = api.call("GET", "/api/predictions/", params={"project": number})
    found: dict[int, list[tuple[str, float]]] = {}
    for one in listed:
        found.setdefault(one["task"], []).append((one["model_version"], one["score"]))
    return found


def test_both_kinds_of_token_are_accepted(client: LabelStudioClient, label_studio: LabelStudioServer) -> None:
    assert client.whoami().email == label_studio.email


def test_the_authorization_headers_open_label_studio(
    client: LabelStudioClient, label_studio: LabelStudioServer
) -> None:
    answer = httpx.get(f"{label_studio.url}/api/current-user/whoami", headers=client.authorization())
    assert answer.json()["email"] == label_studio.email


def test_a_project_is_read(client: LabelStudioClient, api: Api) -> None:
    number = api.project()
    project = client.project(number)
    assert (project.number, project.title, project.label_config) == (number, "Integration", LABEL_CONFIG)
    assert project.model_version == ""
    assert project.created_at.tzinfo is not None
    assert project.shows_predictions


def test_all_tasks_come_once_over_several_pages_with_their_annotations(client: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 7)
    result = prediction(ids[3], 0.5, "v1")["result"]
    api.call("POST", f"/api/tasks/{ids[3]}/annotations/", json={"result": result})
    tasks = {task["id"]: task for task in client.tasks(number, page_size=3)}
    assert sorted(tasks) == ids
    assert [len(tasks[one]["annotations"]) for one in ids] == [0, 0, 0, 1, 0, 0, 0]
    assert tasks[ids[3]]["annotations"][0]["result"][0]["value"] == {"choices": ["cat"]}
    assert client.task(ids[3])["annotations"][0]["result"][0]["value"] == {"choices": ["cat"]}


def test_a_deletion_while_pages_are_read_hides_no_task(legacy: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 7)
    reading = legacy.tasks(number, page_size=3)
    seen = [next(reading)["id"] for _ in range(3)]
    api.call("DELETE", f"/api/tasks/{seen[0]}/")
    seen += [task["id"] for task in reading]
    assert sorted(seen) == ids


def test_deleting_the_last_page_while_reading_ends_the_reading(legacy: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 4)
    reading = legacy.tasks(number, page_size=3)
    seen = [next(reading)["id"] for _ in range(3)]
    (left,) = set(ids) - set(seen)
    api.call("DELETE", f"/api/tasks/{left}/")
    assert list(reading) == []


def test_a_project_without_tasks_has_none(legacy: LabelStudioClient, api: Api) -> None:
    assert list(legacy.tasks(api.project())) == []


def test_a_project_that_does_not_exist_is_an_error_not_an_empty_one(legacy: LabelStudioClient) -> None:
    with pytest.raises(LabelStudioError, match="See that it exists") as caught:
        list(legacy.tasks(987654))
    assert caught.value.status == 404


def test_next_serves_the_lowest_score_of_what_was_published(client: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 4)
    client.set_sampling(number)
    scores = dict(zip(ids, (0.8, 0.3, 0.1, 0.6), strict=True))
    client.publish_predictions(number, [prediction(one, scores[one], "v1") for one in ids], "v1", ours)
    assert api.call("GET", f"/api/projects/{number}/next")["id"] == ids[2]
    # The annotator holds that task until it is submitted; what comes after follows the new order.
    api.call("POST", f"/api/tasks/{ids[2]}/annotations/", json={"result": []})
    scores |= {ids[0]: 0.05}
    client.publish_predictions(number, [prediction(one, scores[one], "v2") for one in ids], "v2", ours)
    assert api.call("GET", f"/api/projects/{number}/next")["id"] == ids[0]


def test_publishing_leaves_one_current_set_and_spares_other_models(client: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 3)
    client.push_predictions(number, [prediction(one, 0.9, "somebody-elses") for one in ids])
    first = client.publish_predictions(number, [prediction(one, 0.5, "v1") for one in ids], "v1", ours)
    assert (first.pushed, first.removed) == (3, ())
    second = client.publish_predictions(number, [prediction(one, 0.6, "v2") for one in ids], "v2", ours)
    assert (second.pushed, second.removed) == (3, ("v1",))
    again = client.publish_predictions(number, [prediction(one, 0.7, "v2") for one in ids], "v2", ours)
    assert (again.pushed, again.removed) == (3, ())
    assert client.project(number).model_version == "v2"
    assert {one: sorted(found) for one, found in stored(api, number).items()} == {
        one: [("somebody-elses", 0.9), ("v2", 0.7)] for one in ids
    }


def test_a_publication_killed_after_the_push_is_mended_by_the_next(
    legacy: LabelStudioClient, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = api.project()
    ids = api.tasks(number, 3)
    legacy.publish_predictions(number, [prediction(one, 0.5, "v1") for one in ids], "v1", ours)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(legacy, "set_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            legacy.publish_predictions(number, [prediction(one, 0.6, "v2") for one in ids], "v2", ours)
    assert legacy.project(number).model_version == "v1", "until the switch annotators work on the old set"
    legacy.publish_predictions(number, [prediction(one, 0.7, "v2") for one in ids], "v2", ours)
    assert stored(api, number) == {one: [("v2", 0.7)] for one in ids}
    assert legacy.project(number).model_version == "v2"


def test_a_prediction_fetched_during_the_push_is_not_doubled(
    legacy: LabelStudioClient, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = api.project()
    ids = api.tasks(number, 3)
    push = legacy.push_predictions

    def push_late(number: int, predictions: Any) -> int:
        fetched = prediction(ids[0], 0.1, "v1") | {"project": number}
        api.call("POST", "/api/predictions/", json=fetched)
        return push(number, predictions)

    monkeypatch.setattr(legacy, "push_predictions", push_late)
    legacy.publish_predictions(number, [prediction(one, 0.7, "v1") for one in ids], "v1", ours)
    assert stored(api, number) == {one: [("v1", 0.7)] for one in ids}


def test_tasks_deleted_meanwhile_cost_only_their_own_prediction(legacy: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 4)
    for gone in (ids[0], ids[2]):
        api.call("DELETE", f"/api/tasks/{gone}/")
    assert legacy.push_predictions(number, [prediction(one, 0.5, "v1") for one in ids]) == 2
    assert sorted(stored(api, number)) == [ids[1], ids[3]]


def test_publishing_nothing_changes_nothing(legacy: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 1)
    legacy.publish_predictions(number, [prediction(ids[0], 0.5, "v1")], "v1", ours)
    assert legacy.publish_predictions(number, [], "v2", ours).pushed == 0
    assert legacy.project(number).model_version == "v1"
    assert legacy.predicted_versions(number) == {"v1": 1}


def test_publishing_overcomes_the_backends_title(legacy: LabelStudioClient, api: Api, backend: DummyBackend) -> None:
    number = api.project()
    ids = api.tasks(number, 3)
    legacy.ensure_backend(number, backend.url, title="Lookhere")
    assert legacy.project(number).model_version == "Lookhere", "as Label Studio does on connecting"
    legacy.publish_predictions(number, [prediction(one, 0.5, "v1") for one in ids], "v1", ours)
    legacy.publish_predictions(number, [prediction(one, 0.5, "v2") for one in ids], "v2", ours)
    assert legacy.project(number).model_version == "v2"


def test_the_view_shows_the_lowest_score_first_and_hides_finished_tasks(client: LabelStudioClient, api: Api) -> None:
    number = api.project()
    ids = api.tasks(number, 4)
    scores = dict(zip(ids, (0.8, 0.3, 0.1, 0.6), strict=True))
    client.publish_predictions(number, [prediction(one, scores[one], "v1") for one in ids], "v1", ours)
    assert client.ensure_view(number)
    assert not client.ensure_view(number)
    (view,) = client.views(number)
    assert (view.title, view.ordering) == (VIEW_TITLE, (LOWEST_SCORE_FIRST,))
    api.call("POST", f"/api/tasks/{ids[1]}/annotations/", json={"result": []})
    listed = api.call("GET", "/api/tasks", params={"view": view.id, "project": number})
    assert [task["id"] for task in listed["tasks"]] == [ids[2], ids[3], ids[0]]


def test_a_view_of_that_name_keeps_what_the_user_chose(legacy: LabelStudioClient, api: Api) -> None:
    number = api.project()
    chosen = {"title": VIEW_TITLE, "gridWidth": 7, "ordering": ["-tasks:id"]}
    api.call("POST", "/api/dm/views/", json={"project": number, "data": chosen})
    assert legacy.ensure_view(number)
    (view,) = legacy.views(number)
    assert (view.data["gridWidth"], view.ordering) == (7, (LOWEST_SCORE_FIRST,))


def test_connecting_twice_leaves_one_backend_and_one_webhook(
    client: LabelStudioClient, api: Api, backend: DummyBackend
) -> None:
    number = api.project()
    made, changed = client.ensure_backend(number, backend.url)
    assert (made.state, made.interactive, changed) == ("CO", True, True)
    assert client.ensure_backend(number, f"{backend.url}/") == (client.backends(number)[0], False)
    hook = f"{backend.url}/webhook"
    assert [one.url for one in client.webhooks(number)] == [hook], "Label Studio registers it by itself"
    assert not client.ensure_webhook(number, hook)
    api.tasks(number, 1)
    assert backend.actions() == ["TASKS_CREATED"]


def test_a_spoilt_webhook_is_put_right(legacy: LabelStudioClient, api: Api, backend: DummyBackend) -> None:
    number = api.project()
    hook = f"{backend.url}/webhook"
    elsewhere = "http://127.0.0.1:9/elsewhere"
    for url in (hook, elsewhere, hook):
        api.call("POST", "/api/webhooks/", json={"project": number, "url": url, "is_active": False})
    assert legacy.ensure_webhook(number, hook, {"X-Secret": "s3cret"})
    found = {one.url: one for one in legacy.webhooks(number)}
    assert len(legacy.webhooks(number)) == 2, "the double is gone, the other's is not"
    assert found[hook].complete({"X-Secret": "s3cret"})
    assert not found[elsewhere].active
    assert "s3cret" not in repr(found[hook])


def test_a_backend_that_is_not_interactive_becomes_so(
    legacy: LabelStudioClient, api: Api, backend: DummyBackend
) -> None:
    number = api.project()
    body = {"project": number, "url": backend.url, "title": "Named by a user", "is_interactive": False}
    api.call("POST", "/api/ml", json=body)
    mended, changed = legacy.ensure_backend(number, backend.url)
    assert (mended.interactive, mended.title, changed) == (True, "Named by a user", True)


def test_a_backend_that_is_not_there_is_said_to_be_so(legacy: LabelStudioClient, api: Api) -> None:
    with pytest.raises(LabelStudioError, match="LOOKHERE_BACKEND_URL"):
        legacy.ensure_backend(api.project(), "http://127.0.0.1:9")


def test_an_invalid_label_config_is_refused_with_the_reason(legacy: LabelStudioClient, api: Api) -> None:
    with pytest.raises(LabelStudioError, match="toName"):
        legacy.set_label_config(
            api.project(), '<View><Choices name="a" toName="b"><Choice value="c"/></Choices></View>'
        )


@pytest.mark.parametrize("token", ["f" * 40, "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"])
def test_a_wrong_token_of_either_kind_is_said_to_be_so(label_studio: LabelStudioServer, token: str) -> None:
    with LabelStudioClient(label_studio.url, SecretStr(token)) as client:
        with pytest.raises(LabelStudioError, match="LOOKHERE_LABEL_STUDIO_API_KEY") as caught:
            client.whoami()
        assert caught.value.status == 401
        assert token not in str(caught.value)


def test_an_access_token_that_label_studio_refuses_is_renewed(
    label_studio: LabelStudioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LabelStudioClient(label_studio.url, label_studio.personal_access_token()) as client:
        client.whoami()
        monkeypatch.setattr(client._credential, "_access", SecretStr("over.by.now"))
        assert client.whoami().email == label_studio.email


def test_no_token_reaches_the_log(
    client: LabelStudioClient, label_studio: LabelStudioServer, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, logger=name or None)
    client.whoami()
    with pytest.raises(LabelStudioError):
        client.project(987654)
    assert label_studio.legacy_token is not None
    secrets = (
        label_studio.legacy_token.get_secret_value(),
        label_studio.personal_access_token().get_secret_value(),
        client.authorization()["Authorization"].split()[1],
    )
    assert caplog.text, "the libraries do log"
    assert not [secret for secret in secrets if secret in caplog.text]


def test_a_stock_server_refuses_private_addresses_and_the_remedy_is_named(
    stock_label_studio: LabelStudioServer, backend: DummyBackend
) -> None:
    with LabelStudioClient(stock_label_studio.url, stock_label_studio.personal_access_token()) as client:
        made = httpx.post(
            f"{stock_label_studio.url}/api/projects/",
            json={"title": "Stock", "label_config": LABEL_CONFIG},
            headers=client.authorization(),
        )
        number = made.json()["id"]
        with pytest.raises(LabelStudioError, match=r"ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false"):
            client.ensure_backend(number, backend.url)
        with pytest.raises(LabelStudioError, match="SSRF_PROTECTION_ENABLED=false"):
            client.ensure_webhook(number, f"{backend.url}/webhook")
        with pytest.raises(LabelStudioError, match="ML_BLOCK_LOCAL_IP=false"):
            client.check_backend_address(number, backend.url)
        with pytest.raises(LabelStudioError, match="SSRF_PROTECTION_ENABLED=false"):
            client.check_webhook_address(number, f"{backend.url}/webhook")
        assert (client.backends(number), client.webhooks(number), backend.asked) == ([], [], [])


def test_a_stock_server_refuses_legacy_tokens_and_the_remedy_is_named(stock_label_studio: LabelStudioServer) -> None:
    with LabelStudioClient(stock_label_studio.url, stock_label_studio.personal_access_token()) as client:
        answer = httpx.get(f"{stock_label_studio.url}/api/current-user/token", headers=client.authorization())
    with (
        LabelStudioClient(stock_label_studio.url, SecretStr(answer.json()["token"])) as legacy,
        pytest.raises(LabelStudioError, match="Make a personal access token"),
    ):
        legacy.whoami()


def test_asking_whether_an_address_is_allowed_changes_nothing(
    legacy: LabelStudioClient, api: Api, backend: DummyBackend
) -> None:
    number = api.project()
    legacy.check_backend_address(number, backend.url)
    legacy.check_webhook_address(number, f"{backend.url}/webhook")
    assert (legacy.backends(number), legacy.webhooks(number), backend.asked) == ([], [], [])
