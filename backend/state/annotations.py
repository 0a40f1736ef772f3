"""The event log, and tasks and annotations as they stand now.

Events come in any order, twice, or not at all. So the state after them does not depend on their order: of two states of
one annotation the later ``updated_at`` wins, and what was removed stays removed until the API says that it exists.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Table, func, insert, select, update

from backend.domain import Annotation, Click, ClickRole, Guidance, LookhereError, Origin, Task
from backend.state import database as tables
from backend.state.consensus import Agreement, agreements, merge
from backend.state.database import Database

# Databases limit the parameters of one statement.
_IDS_PER_STATEMENT = 500


class Events:
    """Keeps every event.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, action: str, project_number: int | None, payload: Mapping[str, Any]) -> int:
        """Write an event down.

        Args:
            action: Label Studio's name of it, also an unknown one.
            project_number: Label Studio's project id, None where the event names none.
            payload: its JSON, without secrets.

        Returns:
            The event's number.
        """
        values = {
            "action": action,
            "project_number": project_number,
            "payload": json.dumps(payload),
            "received_at": datetime.now(UTC),
        }
        with self._database.begin() as connection:
            return _new_row(connection, tables.events, values)

    def mark(self, event: int, outcome: str) -> None:
        """Note what became of an event."""
        table = tables.events
        with self._database.begin() as connection:
            connection.execute(update(table).where(table.c.id == event).values(outcome=outcome))

    def counts(self) -> dict[str, int]:
        """How many events of each action were received."""
        table = tables.events
        with self._database.read() as connection:
            rows = connection.execute(select(table.c.action, func.count()).group_by(table.c.action))
            return {row[0]: row[1] for row in rows}


class Annotations:
    """Remembers the tasks and annotations of each project.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_tasks(self, project: int, items: Sequence[Task]) -> None:
        """Make tasks known, or take over their changed data. Removed ones stay removed."""
        if items:
            with self._database.begin() as connection:
                _Writer(connection, project).put_tasks(items)

    def put(self, project: int, items: Sequence[Annotation]) -> None:
        """Take in annotations. An older or equal state changes nothing; a removed annotation stays removed."""
        if items:
            with self._database.begin() as connection:
                _Writer(connection, project).put(items)

    def remove_tasks(self, project: int, ids: Sequence[int]) -> None:
        """Forget tasks and their annotations. Unknown ids are remembered as removed: the news of them may come late."""
        with self._database.begin() as connection:
            writer = _Writer(connection, project)
            of_tasks = writer.known(tables.annotation_rows, ids, tables.annotation_rows.c.task)
            writer.remove(tables.annotation_rows, of_tasks)
            writer.remove(tables.tasks, ids)

    def remove(self, project: int, ids: Sequence[int]) -> None:
        """Forget annotations. Unknown ids are remembered as removed: the news of them may come late."""
        with self._database.begin() as connection:
            _Writer(connection, project).remove(tables.annotation_rows, ids)

    def confirm(
        self,
        project: int,
        tasks: Sequence[Task],
        annotations: Sequence[Annotation],
        as_of_revision: int,
        asked: Collection[int] | None = None,
    ) -> None:
        """Make the state equal to what the API says.

        Args:
            project: whose state it is.
            tasks: all tasks that there are, of those that were asked about.
            annotations: all their annotations.
            as_of_revision: ``latest_revision`` before the API was asked. What was written since then came by webhook
                meanwhile and stays, unconfirmed.
            asked: ids of the tasks that were asked about; None for all of the project.
        """
        with self._database.begin() as connection:
            _Writer(connection, project, truth_as_of=as_of_revision).confirm(tasks, annotations, asked)

    def unconfirmed(self, project: int) -> set[int]:
        """Ids of the tasks of which an event claims something that the API has not confirmed."""
        found: set[int] = set()
        with self._database.read() as connection:
            answers = tables.annotation_rows
            for table, task in ((tables.tasks, tables.tasks.c.id), (answers, answers.c.task)):
                claimed = (table.c.project == project) & ~table.c.confirmed & task.is_not(None)
                found |= set(connection.scalars(select(task).where(claimed)))
        return found

    def count_tasks(self, project: int) -> int:
        """How many tasks a project has."""
        table = tables.tasks
        present = (table.c.project == project) & ~table.c.removed
        with self._database.read() as connection:
            return int(connection.scalar(select(func.count()).select_from(table).where(present)) or 0)

    def tasks(self, project: int) -> list[Task]:
        """The tasks of a project, by id."""
        return [_task(row) for row in self._present(tables.tasks, project)]

    def task_of_image(self, project: int, image: str) -> Task | None:
        """The first task that shows an image, None where none does."""
        table = tables.tasks
        known = (table.c.project == project) & ~table.c.removed & (table.c.image == image)
        with self._database.read() as connection:
            row = connection.execute(select(table).where(known).order_by(table.c.id).limit(1)).first()
        return _task(row) if row else None

    def annotations(self, project: int) -> list[Annotation]:
        """The annotations of a project, by id."""
        return [_annotation(row) for row in self._present(tables.annotation_rows, project)]

    def latest_revision(self, project: int) -> int:
        """Rises with each change of what the project knows; a repeated event is no change."""
        table = tables.projects
        with self._database.read() as connection:
            return int(connection.scalar(select(table.c.revision).where(table.c.key == project)) or 0)

    def fresh_annotations(self, project: int, since_revision: int) -> int:
        """How many annotations that teach are new or changed since a revision."""
        table = tables.annotation_rows
        fresh = (table.c.project == project) & ~table.c.removed & ~table.c.skipped & (table.c.revision > since_revision)
        with self._database.read() as connection:
            return int(connection.scalar(select(func.count()).select_from(table).where(fresh)) or 0)

    def guidance(self, project: int, confirmed: bool = False) -> list[Guidance]:
        """What each task teaches, merged over its annotations, by task id.

        Args:
            project: ``Project.key``.
            confirmed: whether to leave out the tasks of which an event claims something unconfirmed.
        """
        doubted = self.unconfirmed(project) if confirmed else set()
        of_task: defaultdict[int, list[Annotation]] = defaultdict(list)
        for annotation in self.annotations(project):
            of_task[annotation.task].append(annotation)
        return [merge(task, of_task[task.id]) for task in self.tasks(project) if task.id not in doubted]

    def agreements(self, project: int) -> list[Agreement]:
        """How far each annotator of a project agrees with the others, by user id."""
        of_task: defaultdict[int, list[Annotation]] = defaultdict(list)
        for annotation in self.annotations(project):
            of_task[annotation.task].append(annotation)
        return agreements(of_task[task.id] for task in self.tasks(project))

    def is_contested(self, project: int, task: int) -> bool:
        """Whether the annotators of a task chose different classes, none of them most often."""
        rows = self._present(tables.annotation_rows, project, tables.annotation_rows.c.task == task)
        return merge(Task(task, ""), [_annotation(row) for row in rows]).contested

    def _present(self, table: Table, project: int, only: ColumnElement[bool] | None = None) -> list[Row[Any]]:
        present = (table.c.project == project) & ~table.c.removed
        query = select(table).where(present if only is None else present & only).order_by(table.c.id)
        with self._database.read() as connection:
            return list(connection.execute(query))


class _Writer:
    """Writes within one transaction, and counts each change in the project's revision.

    Args:
        connection: of the transaction.
        project: whose rows are written.
        truth_as_of: what is written is the API's truth at this revision: it revives removed rows that are not newer.
            None for a webhook's hint, which revives nothing.
    """

    def __init__(self, connection: Connection, project: int, truth_as_of: int | None = None) -> None:
        self._connection = connection
        self._project = project
        self._truth_as_of = truth_as_of
        self._revision: int | None = None

    def known(
        self, table: Table, ids: Iterable[int] | None = None, column: Column[Any] | None = None
    ) -> dict[int, Row[Any]]:
        """The rows of the project, removed ones too, by id; all of them, or those with some ids in a column."""
        query = select(table).where(table.c.project == self._project)
        if ids is None:
            return {row.id: row for row in self._connection.execute(query)}
        found_by = table.c.id if column is None else column
        wanted = sorted(set(ids))
        chunks = (wanted[start : start + _IDS_PER_STATEMENT] for start in range(0, len(wanted), _IDS_PER_STATEMENT))
        return {row.id: row for chunk in chunks for row in self._connection.execute(query.where(found_by.in_(chunk)))}

    def confirm(self, items: Sequence[Task], annotations: Sequence[Annotation], asked: Collection[int] | None) -> None:
        of_tasks = self.known(tables.tasks, asked)
        rows = self.known(tables.annotation_rows, asked, tables.annotation_rows.c.task)
        for table, known, present in (
            (tables.tasks, of_tasks, {item.id for item in items}),
            (tables.annotation_rows, rows, {item.id for item in annotations}),
        ):
            old = [number for number, row in known.items() if self._is_outdated(row)]
            self.remove(table, [number for number in old if number not in present])
            self._mark_confirmed(table, [number for number in old if not known[number].confirmed])
        self.put_tasks(items)
        self.put(annotations)

    def _mark_confirmed(self, table: Table, ids: Sequence[int]) -> None:
        # A confirmation changes nothing that is taught: the revision stays.
        for start in range(0, len(ids), _IDS_PER_STATEMENT):
            these = (table.c.project == self._project) & table.c.id.in_(ids[start : start + _IDS_PER_STATEMENT])
            self._connection.execute(update(table).where(these).values(confirmed=True))

    def put_tasks(self, items: Sequence[Task]) -> None:
        known = self.known(tables.tasks, (item.id for item in items))
        for item in {item.id: item for item in items}.values():
            row = known.get(item.id)
            # A task has no time of its own: the last hint stays, unless it came before the truth was read.
            may_write = row is None or self._is_outdated(row) or (self._truth_as_of is None and not row.removed)
            if may_write and (row is None or row.removed or _task(row) != item):
                self._write(tables.tasks, item.id, row, {"image": item.image, "known_label": item.known_label})

    def put(self, items: Sequence[Annotation]) -> None:
        of_tasks = self.known(tables.tasks, (item.task for item in items)).values()
        gone = {row.id for row in of_tasks if row.removed}
        known = self.known(tables.annotation_rows, (item.id for item in items))
        # An id that stands there twice: its latest state.
        for item in {item.id: item for item in sorted(items, key=_order)}.values():
            row = known.get(item.id)
            if item.task in gone or (row is not None and not self._is_news(row, item)):
                continue
            values = {
                "task": item.task,
                "updated_at": item.updated_at,
                "skipped": item.skipped,
                "content": json.dumps(_content(item)),
            }
            self._write(tables.annotation_rows, item.id, row, values)

    def remove(self, table: Table, ids: Iterable[int]) -> None:
        ids = sorted(set(ids))
        known = self.known(table, ids)
        for gone in ids:
            row = known.get(gone)
            if row is None or not row.removed:
                self._write(table, gone, row, {"removed": True})

    def _is_news(self, row: Row[Any], item: Annotation) -> bool:
        if self._truth_as_of is None and row.task is not None and row.task != item.task:
            # An annotation never moves to another task, whoever claims it.
            return False
        if self._is_outdated(row):
            # The truth wins whatever time the known state claims: it may have been forged.
            return bool(row.removed) or _annotation(row) != item
        return not row.removed and _order(_annotation(row)) < _order(item)

    def _is_outdated(self, row: Row[Any]) -> bool:
        return self._truth_as_of is not None and row.revision <= self._truth_as_of

    def _write(self, table: Table, number: int, row: Row[Any] | None, values: Mapping[str, Any]) -> None:
        confirmed = self._truth_as_of is not None
        values = {"removed": False, **values, "confirmed": confirmed, "revision": self._next_revision()}
        if row is None:
            self._connection.execute(insert(table).values(project=self._project, id=number, **values))
        else:
            this = (table.c.project == self._project) & (table.c.id == number)
            self._connection.execute(update(table).where(this).values(**values))

    def _next_revision(self) -> int:
        # One for the whole transaction: nobody sees it half done.
        if self._revision is None:
            table = tables.projects
            this = table.c.key == self._project
            self._connection.execute(update(table).where(this).values(revision=table.c.revision + 1))
            self._revision = self._connection.scalar(select(table.c.revision).where(this))
            if self._revision is None:
                raise LookhereError(f"Expected the key of a known project, got {self._project}.")
        return self._revision


def _new_row(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    (number,) = connection.execute(insert(table).values(**values)).inserted_primary_key or (0,)
    return int(number)


def _task(row: Row[Any]) -> Task:
    return Task(row.id, row.image, row.known_label)


def _order(item: Annotation) -> tuple[datetime, bool, str]:
    # Of two states of one moment, the same one stays whichever came first.
    return (item.updated_at, item.skipped, json.dumps(_content(item), sort_keys=True))


def _content(item: Annotation) -> dict[str, Any]:
    return {
        "annotator": item.annotator,
        "editor": item.editor,
        "region": base64.b64encode(zlib.compress(item.region)).decode() if item.region is not None else None,
        "clicks": [_click_to_json(click) for click in item.clicks],
        "rejected": [_click_to_json(click) for click in item.rejected],
        "label": item.label,
        "label_origin": item.label_origin,
        "ground_truth": item.ground_truth,
    }


def _annotation(row: Row[Any]) -> Annotation:
    content = json.loads(row.content)
    return Annotation(
        id=row.id,
        task=row.task,
        annotator=content["annotator"],
        editor=content.get("editor"),
        region=zlib.decompress(base64.b64decode(content["region"])) if content.get("region") else None,
        updated_at=row.updated_at,
        clicks=tuple(_clicks_from_json(content["clicks"])),
        rejected=tuple(_clicks_from_json(content["rejected"])),
        label=content["label"],
        label_origin=Origin(content["label_origin"]) if content["label_origin"] else None,
        skipped=row.skipped,
        ground_truth=content["ground_truth"],
    )


def _click_to_json(click: Click) -> list[Any]:
    return [click.x, click.y, click.role, click.origin, click.agreement]


def _clicks_from_json(items: Iterable[Sequence[Any]]) -> Iterator[Click]:
    for x, y, role, origin, agreement in items:
        yield Click(x, y, ClickRole(role), Origin(origin), agreement)
