"""What people and scripts ask of projects over HTTP, with the secret as their bearer token."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import NotFound

from backend.domain import Project
from backend.labelstudio.contract import json_body
from backend.settings import Settings
from backend.state.store import Store, known_host


def projects(settings: Settings, store: Store) -> Blueprint:
    """The routes of projects, named by Label Studio's project id and, beside the first server, by ``?server=URL``.

    Args:
        settings: of the backend.
        store: the durable state.
    """
    routes = Blueprint("projects", __name__, url_prefix="/projects")

    def named(number: int) -> Project:
        host = known_host(settings, request.args.get("server"))
        project = store.projects.find(host, number)
        if project is None:
            raise NotFound(f"Expected a project of {host} that is connected, got {number}; `lookhere connect` does it.")
        return project

    def told(project: Project) -> Response:
        return jsonify(store.settings_json(project, settings))

    @routes.get("")
    def all_of_them() -> Response:
        return jsonify({"projects": [_project_json(store, project) for project in store.projects.all()]})

    @routes.get("/<int:number>/settings")
    def read_settings(number: int) -> Response:
        return told(named(number))

    @routes.patch("/<int:number>/settings")
    def change_settings(number: int) -> Response:
        project = named(number)
        store.change_settings(project, json_body())
        return told(project)

    @routes.get("/<int:number>/annotators")
    def annotators(number: int) -> Response:
        return jsonify({"annotators": [asdict(one) for one in store.annotations.agreements(named(number).key)]})

    @routes.get("/<int:number>/review")
    def review(number: int) -> Response:
        items = store.annotations.guidance(named(number).key)
        return jsonify({"tasks": [{"task": item.task.id, "why": item.review} for item in items if item.review]})

    return routes


def _project_json(store: Store, project: Project) -> dict[str, Any]:
    active = store.versions.active(project.key)
    return {
        "server": project.host,
        "project": project.number,
        "title": project.title,
        "active_version": active.name if active else None,
    }
