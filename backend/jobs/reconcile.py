"""Reads from Label Studio what the webhooks missed: the API is the truth, an event is a hint."""

from __future__ import annotations

import logging

from backend.domain import Annotation, LookhereError, Project, Task
from backend.jobs.context import Context
from backend.labelstudio.annotations import annotation_from_json, task_from_json
from backend.labelstudio.labelconfig import read_roles

log = logging.getLogger(__name__)


def reconcile(context: Context, number: int) -> Project:
    """Make the state of a project equal to Label Studio's.

    Deleted tasks and annotations go, imported ones come, forged ones are dropped. What a webhook brings while this
    reads stays.

    Args:
        context: what the job works with.
        number: Label Studio's project id.

    Returns:
        The project, with its present label config.

    Raises:
        LookhereError: if no credential is set, Label Studio cannot be asked, or the label config cannot work.
    """
    client = context.client
    if client is None:
        raise LookhereError(
            "Expected a credential to read the project with, got none; set LOOKHERE_LABEL_STUDIO_API_KEY to a "
            "personal access token or a legacy token of Label Studio."
        )
    info = client.project(number)
    project = context.store.projects.ensure(client.url, number, info.label_config, info.title)
    roles = read_roles(project.label_config)
    begun_at = context.store.annotations.latest_revision(project.key)
    tasks: list[Task] = []
    annotations: list[Annotation] = []
    for raw in client.tasks(number):
        try:
            tasks.append(task_from_json(raw, roles))
        except LookhereError as error:
            log.warning("Task %s of project %s is left out: %s", raw.get("id"), number, error)
            continue
        for answer in raw.get("annotations", ()):
            try:
                annotations.append(annotation_from_json(answer, roles))
            except LookhereError as error:
                log.warning("Annotation %s of project %s is left out: %s", answer.get("id"), number, error)
    context.store.annotations.replace(project.key, tasks, annotations, as_of_revision=begun_at)
    return project
