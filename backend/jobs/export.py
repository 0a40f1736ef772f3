"""Writes what a project has won, for use elsewhere: its classifier and its clicks."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.domain import Annotation, LookhereError, Project
from backend.guidance.classifier import load
from backend.guidance.exporting import Format, export
from backend.jobs.context import Context
from backend.state.consensus import merge, weight_of

CARD_FILE = "card.json"
CLICKS_FILE = "clicks.csv"
COLUMNS = (
    "server", "project", "task", "image", "annotation", "annotator", "class", "x", "y", "role", "origin", "weight",
    "ground_truth", "skipped", "updated_at",
)  # fmt: skip


def export_project(context: Context, project: Project, form: Format, folder: Path) -> list[Path]:
    """Write the clicks of a project, and its active classifier with a card.

    Args:
        context: what the job works with.
        project: whose.
        form: of the classifier.
        folder: is made where it is missing; files of an earlier export are replaced.

    Returns:
        The files.

    Raises:
        LookhereError: if no version is active, once the clicks are written; or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / CLICKS_FILE).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(clicks_table(context, project))
        version = context.store.versions.active(project.key)
        if version is None:
            raise LookhereError(
                f"Expected an active version to export, got none; {CLICKS_FILE} alone is written. Train one first: "
                f"`lookhere train --project {project.number}`."
            )
        told = export(load(version.folder), form, folder)
        card = {"version": version.name, "server": project.host, "project": project.number, "title": project.title}
        told = {**card, **told, "trained": dict(version.card)}
        (folder / CARD_FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise LookhereError(f"Expected a folder that can be written, got {str(folder)!r}: {error}.") from error
    return [folder / name for name in (form.file, CARD_FILE, CLICKS_FILE)]


def clicks_table(context: Context, project: Project) -> Iterator[tuple[Any, ...]]:
    """A row of ``COLUMNS`` for each click, as it was made; its weight is what it counts after merging.

    Args:
        context: what the job works with.
        project: whose.
    """
    annotations = context.store.annotations
    of_task: defaultdict[int, list[Annotation]] = defaultdict(list)
    for annotation in annotations.annotations(project.key):
        of_task[annotation.task].append(annotation)
    for task in annotations.tasks(project.key):
        merged = merge(task, of_task[task.id])
        for one in of_task[task.id]:
            for click in one.clicks:
                weight = round(weight_of(click, one, of_task[task.id], merged), 6)
                yield (
                    project.host, project.number, task.id, task.image, one.id, one.annotator, one.label, click.x,
                    click.y, click.role.value, click.origin.value, weight, one.ground_truth, one.skipped,
                    one.updated_at.isoformat(),
                )  # fmt: skip
