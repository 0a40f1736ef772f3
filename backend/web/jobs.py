"""The jobs over HTTP, for people and scripts: what runs, how far it is, and how to stop it."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import NotFound

from backend.domain import Job, LookhereError
from backend.state.jobs import Jobs


def job_routes(jobs: Jobs) -> Blueprint:
    """The routes. They open to the owner alone.

    Args:
        jobs: the queue.
    """
    routes = Blueprint("jobs", __name__)

    @routes.get("/jobs")
    def listed() -> Response:
        return jsonify({"jobs": [_to_json(job) for job in jobs.list()]})

    @routes.get("/jobs/<int:number>")
    def shown(number: int) -> Response:
        return jsonify({**_to_json(_known(number)), "log": list(jobs.log(number))})

    @routes.post("/jobs/<int:number>/cancel")
    def cancelled(number: int) -> Response:
        _known(number)
        return jsonify(_to_json(jobs.cancel(number)))

    def _known(number: int) -> Job:
        try:
            return jobs.get(number)
        except LookhereError as error:
            raise NotFound(str(error)) from error

    return routes


def _to_json(job: Job) -> dict[str, object]:
    moments = {"requested_at": job.requested_at, "started_at": job.started_at, "finished_at": job.finished_at}
    return {
        "id": job.id,
        "project": job.project,
        "kind": job.kind,
        "state": job.state,
        "attempts": job.attempts,
        "progress": job.progress,
        "message": job.message,
        "error": job.error,
        **{name: moment.isoformat() if moment else None for name, moment in moments.items()},
    }
