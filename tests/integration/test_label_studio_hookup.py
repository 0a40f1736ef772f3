"""Connecting a project of a real Label Studio, and what the doctor says before and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backend.demo.label_studio import LabelStudioServer
from backend.labelstudio.client import UNCERTAINTY_SAMPLING, LabelStudioClient, LabelStudioError
from backend.labelstudio.hookup import Finding, connect, diagnose
from backend.labelstudio.labelconfig import LabelConfigError, read_roles
from backend.settings import Settings
from tests.integration.harness import LABEL_CONFIG, Api, DummyBackend

pytestmark = pytest.mark.integration


@pytest.fixture(params=["personal", "legacy"])
def client(request: pytest.FixtureRequest, label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    token = label_studio.personal_access_token() if request.param == "personal" else label_studio.legacy_token
    assert token is not None
    with LabelStudioClient(label_studio.url, token) as client:
        yield client


@pytest.fixture
def settings(label_studio: LabelStudioServer, backend: DummyBackend) -> Settings:
    return Settings(_env_file=None, label_studio_url=label_studio.url, public_url=backend.url)


def heat_link(image_field: str) -> str:
    return f"http://127.0.0.1:9090/heat/1/signature?src=${image_field}"


def faults(client: LabelStudioClient, number: int, settings: Settings) -> dict[str, Finding]:
    findings = diagnose(client, number, settings, heat_link, ours=lambda one: one == "v1", fetch=lambda _: None)
    return {finding.check: finding for finding in findings if not finding.ok}


def whole_state(api: Api, number: int) -> dict[str, Any]:
    """Everything that connecting may touch, without times of change."""
    project = api.call("GET", f"/api/projects/{number}/")
    listed = {
        name: api.call("GET", f"/api/{name}", params={"project": number}) for name in ("ml", "webhooks/", "dm/views/")
    }
    for one in listed["ml"] + listed["webhooks/"]:
        del one["updated_at"]
    return listed | {key: project[key] for key in ("label_config", "sampling", "model_version")}


def test_connecting_hooks_everything_up_and_again_changes_nothing(
    client: LabelStudioClient, api: Api, backend: DummyBackend, settings: Settings
) -> None:
    number = api.project()
    ids = api.tasks(number, 2)
    result = [{"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": ["cat"]}}]
    api.call("POST", f"/api/tasks/{ids[0]}/annotations/", json={"result": result})
    before = faults(client, number, settings)
    assert before.keys() == {"backend", "webhook", "heat-map", "model version", "sampling", "view"}

    done = connect(client, number, settings, heat_link)
    assert done.roles == read_roles(LABEL_CONFIG)
    assert heat_link("image") in done.project.label_config
    assert done.project.sampling == UNCERTAINTY_SAMPLING
    assert len([step for step in done.steps if step.startswith("Done")]) == 4
    once = whole_state(api, number)
    assert [one["url"] for one in once["ml"]] == [backend.url]
    assert [one["url"] for one in once["webhooks/"]] == [f"{backend.url}/webhook"]
    assert faults(client, number, settings).keys() == {"model version"}, "which the first scoring mends"

    again = connect(client, number, settings, heat_link)
    assert not [step for step in again.steps if step.startswith("Done")]
    assert whole_state(api, number) == once

    predictions = [{"task": one, "result": [], "score": 0.5, "model_version": "v1"} for one in ids]
    client.publish_predictions(number, predictions, "v1", lambda one: one == "v1")
    assert faults(client, number, settings) == {}


def test_a_backend_that_went_away_is_found(
    client: LabelStudioClient, api: Api, backend: DummyBackend, settings: Settings
) -> None:
    number = api.project()
    connect(client, number, settings, heat_link)
    backend.state = 500
    assert faults(client, number, settings).keys() >= {"public address", "backend"}


def test_a_label_config_without_roles_is_refused_before_anything_is_changed(
    client: LabelStudioClient, api: Api, settings: Settings
) -> None:
    number = api.project('<View><Image name="image" value="$image"/></View>')
    once = whole_state(api, number)
    with pytest.raises(LabelConfigError):
        connect(client, number, settings, heat_link)
    assert whole_state(api, number) == once
    assert "label config" in faults(client, number, settings)


def test_a_stock_server_is_told_apart_by_the_doctor_and_connect_names_the_remedy(
    stock_label_studio: LabelStudioServer, backend: DummyBackend
) -> None:
    settings = Settings(_env_file=None, label_studio_url=stock_label_studio.url, public_url=backend.url)
    with LabelStudioClient(stock_label_studio.url, stock_label_studio.personal_access_token()) as client:
        number = Api(stock_label_studio, client._http).project()
        with pytest.raises(LabelStudioError, match="ML_BLOCK_LOCAL_IP=false"):
            connect(client, number, settings, heat_link)
        found = faults(client, number, settings)
        assert "SSRF_PROTECTION_ENABLED=false" in found["predictions allowed"].remedy
        assert "SSRF_PROTECTION_ENABLED=false" in found["events allowed"].remedy
