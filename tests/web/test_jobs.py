"""The jobs over HTTP."""

from __future__ import annotations

from backend.domain import JobKind, JobState
from tests.web.conftest import Running


def test_a_job_is_listed_shown_and_cancelled(running: Running) -> None:
    key = running.store.projects.ensure("http://labels.example", 1).key
    job = running.store.jobs.request(key, JobKind.TRAIN)
    (listed,) = running.client.get("/jobs").get_json()["jobs"]
    assert (listed["id"], listed["kind"], listed["state"]) == (job.id, "train", "queued")
    shown = running.client.get(f"/jobs/{job.id}").get_json()
    assert shown == listed | {"log": []}
    cancelled = running.client.post(f"/jobs/{job.id}/cancel").get_json()
    assert cancelled["state"] == "cancelled"
    assert running.store.jobs.get(job.id).state is JobState.CANCELLED


def test_a_job_that_is_not_there_is_not_found(running: Running) -> None:
    for method, path in (("GET", "/jobs/7"), ("POST", "/jobs/7/cancel")):
        response = running.client.open(path, method=method)
        assert response.status_code == 404
        assert "Expected the number of a job, got 7" in response.get_json()["error"]


def test_label_studio_may_not_cancel(running: Running) -> None:
    response = running.client.post("/jobs/1/cancel", headers={"Authorization": "Bearer wrong"})
    assert response.status_code == 401
