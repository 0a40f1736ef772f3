"""Jobs: asked for, leased to a worker, followed to an end."""

from __future__ import annotations

import builtins
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from backend.domain import Job, JobKind, JobState, LookhereError
from backend.state.database import Database
from backend.state.database import jobs as table

MOST_CRASHES = 3
"""How many of its workers may die before a job is parked as failed."""

_LINES = 200


class Jobs:
    """The queue. Any number of workers in any number of processes may share it.

    A job is leased, not given: a worker renews its lease while it works, and when a lease runs out, by the clock of
    whoever looks, another worker takes the job up. A clock that jumps, forwards or backwards, costs at most an attempt.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, project: int, kind: JobKind) -> Job:
        """Ask for a job. One that waits already serves both; one that runs does not, it may have read its data."""
        waiting = (table.c.project == project) & (table.c.kind == kind) & (table.c.state == JobState.QUEUED)
        with self._database.begin() as connection:
            row = connection.execute(select(table).where(waiting)).first()
            if row is None:
                values = {"project": project, "kind": kind, "state": JobState.QUEUED, "requested_at": _now()}
                (number,) = connection.execute(insert(table).values(**values)).inserted_primary_key or (0,)
                row = connection.execute(select(table).where(table.c.id == number)).one()
            return _job(row)

    def claim(self, worker: str, lease_s: float, project: int | None = None) -> Job | None:
        """Take the oldest job whose project has none running.

        Args:
            worker: who takes it.
            lease_s: for how many seconds, unless renewed.
            project: ``Project.key`` of the only project that may be; None for any.

        Returns:
            The job, now running; None where there is none to take.
        """
        with self._database.begin() as connection:
            _take_back_lost(connection)
            busy = select(table.c.project).where(table.c.state == JobState.RUNNING)
            free = table.c.state.in_([JobState.QUEUED, JobState.INTERRUPTED]) & table.c.project.not_in(busy)
            if project is not None:
                free &= table.c.project == project
            row = connection.execute(select(table).where(free).order_by(table.c.id).limit(1)).first()
            if row is None:
                return None
            values = {
                "state": JobState.RUNNING,
                "attempts": row.attempts + 1,
                "worker": worker,
                "beat_at": _now(),
                "lease_s": lease_s,
                "started_at": _now(),
                "progress": 0.0,
            }
            connection.execute(update(table).where(table.c.id == row.id).values(**values))
            return _job(connection.execute(select(table).where(table.c.id == row.id)).one())

    def heartbeat(self, job: int, worker: str, progress: float, message: str, lease_s: float) -> bool:
        """Renew a lease and tell the progress.

        Returns:
            Whether the worker is to go on; if not, the job was cancelled or another worker has it.
        """
        with self._database.begin() as connection:
            row = connection.execute(select(table).where(_held(job, worker))).first()
            if row is None or row.cancelling:
                return False
            values: dict[str, Any] = {"progress": progress, "beat_at": _now(), "lease_s": lease_s}
            if message != row.message:
                lines = [*row.log.splitlines(), f"{_now():%Y-%m-%d %H:%M:%S} {message}"]
                values |= {"message": message, "log": "\n".join(lines[-_LINES:])}
            connection.execute(update(table).where(table.c.id == job).values(**values))
            return True

    def finish(self, job: int, worker: str, state: JobState, error: str = "") -> bool:
        """End a job.

        Returns:
            Whether the worker still had it; if not, nothing was changed.
        """
        values: dict[str, Any] = {"state": state, "error": error, "finished_at": _now()}
        if state is JobState.SUCCEEDED:
            values["progress"] = 1.0
        with self._database.begin() as connection:
            return connection.execute(update(table).where(_held(job, worker)).values(**values)).rowcount == 1

    def interrupt(self, job: int, worker: str, *, crashed: bool = True) -> bool:
        """Give a job back, so that it is taken up again.

        Args:
            job: its number.
            worker: who had it.
            crashed: whether it died; after ``MOST_CRASHES`` of them it is failed. An orderly stop does not count.

        Returns:
            Whether the worker still had it.
        """
        with self._database.begin() as connection:
            row = connection.execute(select(table).where(_held(job, worker))).first()
            if row is None:
                return False
            _give_back(connection, row, crashed)
            return True

    def cancel(self, job: int) -> Job:
        """Cancel a job that waits, or tell the worker of one that runs; it is cancelled when that has stopped.

        Raises:
            LookhereError: if there is none of that number.
        """
        with self._database.begin() as connection:
            this = table.c.id == job
            waiting = table.c.state.in_([JobState.QUEUED, JobState.INTERRUPTED])
            ended = {"state": JobState.CANCELLED, "finished_at": _now()}
            connection.execute(update(table).where(this & waiting).values(**ended))
            connection.execute(update(table).where(this & (table.c.state == JobState.RUNNING)).values(cancelling=True))
        return self.get(job)

    def get(self, job: int) -> Job:
        """A job.

        Raises:
            LookhereError: if there is none of that number.
        """
        return _job(self._row(job))

    def log(self, job: int) -> tuple[str, ...]:
        """What a job told of its progress, line by line, with the time."""
        return tuple(self._row(job).log.splitlines())

    def list(self, project: int | None = None, limit: int = 100) -> builtins.list[Job]:
        """The jobs of a project, or of all, the newest first."""
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        if project is not None:
            query = query.where(table.c.project == project)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def _row(self, job: int) -> Row[Any]:
        with self._database.read() as connection:
            row = connection.execute(select(table).where(table.c.id == job)).first()
        if row is None:
            raise LookhereError(f"Expected the number of a job, got {job}; `lookhere jobs` lists them.")
        return row


def _held(job: int, worker: str) -> Any:
    return (table.c.id == job) & (table.c.worker == worker) & (table.c.state == JobState.RUNNING)


def _take_back_lost(connection: Connection) -> None:
    for row in connection.execute(select(table).where(table.c.state == JobState.RUNNING)).all():
        # A renewal from the future: the clock was set back, and would otherwise keep a dead worker's job for as long.
        if abs(_now() - row.beat_at) > timedelta(seconds=row.lease_s):
            _give_back(connection, row, crashed=True)


def _give_back(connection: Connection, row: Row[Any], crashed: bool) -> None:
    crashes = row.crashes + int(crashed)
    values: dict[str, Any] = {"state": JobState.INTERRUPTED, "crashes": crashes, "worker": None}
    if row.cancelling:
        values |= {"state": JobState.CANCELLED, "finished_at": _now()}
    elif crashes >= MOST_CRASHES:
        error = f"Its worker died {crashes} times; the backend's log says how. Ask for the job again to try once more."
        values |= {"state": JobState.FAILED, "finished_at": _now(), "error": error}
    connection.execute(update(table).where(table.c.id == row.id).values(**values))


def _now() -> datetime:
    return datetime.now(UTC)


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        project=row.project,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        attempts=row.attempts,
        progress=row.progress,
        message=row.message,
        error=row.error,
        requested_at=row.requested_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
