"""The database: where it is, how it is written to, and the tables.

SQLite by default, PostgreSQL by address. Several processes use one database at once: the web process and every job.
The rule that keeps this simple is the same on both: **one writer at a time**. On SQLite that is its nature, and
``BEGIN IMMEDIATE`` makes a writer wait at the start rather than fail in the middle; elsewhere a writer locks the one
row of ``schema_version`` first. So whatever a store reads within :meth:`Database.begin` cannot change before it
commits.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DataError, OperationalError

from backend.domain import LookhereError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

_BUSY_TIMEOUT_S = 30.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Any number, the same in every process: only one of them creates the tables.
_CREATION_LOCK = 5_073_146


class StateUnavailable(LookhereError):
    """The database cannot be used just now: locked, unreachable, or its disk is full. Trying later may help."""


class Unstorable(LookhereError):
    """A value that the database cannot hold, such as a number beyond 64 bits. Trying again does not help."""


class Moment(TypeDecorator[datetime]):
    """A point in time as microseconds since 1970, UTC: exact, ordered, and the same on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Refuses a time without a zone: it would be wrong by hours, silently."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"Expected a time with a time zone, got {value!r}.")
        return (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Returns UTC."""
        del dialect
        return None if value is None else _EPOCH + timedelta(microseconds=value)


_metadata = MetaData()

# SQLite numbers rows by itself only where the key is a plain INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")


def _project_column(**options: Any) -> Column[int]:
    return Column("project", _RowId, ForeignKey("projects.key"), nullable=False, **options)


schema_version = Table("schema_version", _metadata, Column("version", Integer, nullable=False))

projects = Table(
    "projects",
    _metadata,
    Column("key", _RowId, primary_key=True),
    Column("host", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("label_config", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("projects_number", "host", "number", unique=True),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    _metadata,
    Column("id", _RowId, primary_key=True),
    Column("received_at", Moment, nullable=False),
    Column("action", Text, nullable=False),
    Column("project_number", BigInteger),
    Column("payload", Text, nullable=False),
    Column("outcome", Text),
    sqlite_autoincrement=True,
)

# A removed task or annotation stays as a row with `removed`, its tombstone. `confirmed` rows hold what the API said
# last, the others what an event claims.
tasks = Table(
    "tasks",
    _metadata,
    _project_column(primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("removed", Boolean, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("image", Text),
    Column("known_label", Text),
    Index("tasks_image", "project", "image"),
)

annotation_rows = Table(
    "annotations",
    _metadata,
    _project_column(primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("removed", Boolean, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("task", BigInteger),
    Column("updated_at", Moment),
    Column("skipped", Boolean),
    Column("content", Text),
    Index("annotations_task", "project", "task"),
    Index("annotations_revision", "project", "revision"),
)

jobs = Table(
    "jobs",
    _metadata,
    Column("id", _RowId, primary_key=True),
    _project_column(),
    Column("kind", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("cancelling", Boolean, nullable=False, default=False),
    Column("progress", Float, nullable=False, default=0.0),
    Column("message", Text, nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
    Column("log", Text, nullable=False, default=""),
    Column("requested_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("worker", Text),
    Column("beat_at", Moment),
    Column("lease_s", Float),
    sqlite_autoincrement=True,
)
# What the code promises, the database enforces: one running job per project, one waiting job per project and kind.
for _name, _columns, _where in (
    ("jobs_one_running", (jobs.c.project,), jobs.c.state == "running"),
    ("jobs_one_queued", (jobs.c.project, jobs.c.kind), jobs.c.state == "queued"),
):
    Index(_name, *_columns, unique=True, sqlite_where=_where, postgresql_where=_where)

versions = Table(
    "versions",
    _metadata,
    _project_column(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("pruned", Boolean, nullable=False, default=False),
    Column("card", Text, nullable=False),
    Index("versions_name", "project", "name", unique=True),
)

# The history of the pointer to the active version, as a stack: rolling back withdraws its top.
activations = Table(
    "activations",
    _metadata,
    Column("id", _RowId, primary_key=True),
    _project_column(),
    Column("name", Text, nullable=False),
    Column("activated_at", Moment, nullable=False),
    Column("withdrawn_at", Moment),
    Index("activations_project", "project", "id"),
    sqlite_autoincrement=True,
)


class Database:
    """A database with its tables. Safe to share between threads; a process opens its own.

    Args:
        url: SQLAlchemy address. The folder of an SQLite file is created.

    Raises:
        LookhereError: if a newer version of this software has written the database.
        StateUnavailable: if it cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._of_thread = threading.local()
        address = make_url(url)
        self._is_sqlite = address.get_backend_name() == "sqlite"
        if self._is_sqlite:
            if address.database:
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(address, connect_args={"timeout": _BUSY_TIMEOUT_S})
            _prepare_sqlite(self._engine)
            self._reading = self._engine.execution_options(reading=True)
        else:
            self._engine = create_engine(address, pool_pre_ping=True)
            self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._create_tables()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write. It is the only one until it ends, in all processes; it is on disk afterwards.

        Within another one of the same thread it is a part of that: undone alone if it fails, on disk with the whole.

        Raises:
            StateUnavailable: if the database is locked, unreachable or full; nothing was written.
            Unstorable: if a value cannot be held by the database; nothing was written.
        """
        outer = self._current()
        if outer is not None:
            with _told_to_people(), outer.begin_nested():
                yield outer
            return
        with _told_to_people(), self._engine.begin() as connection:
            if not self._is_sqlite:
                connection.execute(select(schema_version.c.version).with_for_update())
            self._of_thread.connection = connection
            try:
                yield connection
            finally:
                self._of_thread.connection = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, all of it from one moment. It waits for no writer.

        Within one that writes, of the same thread, it sees what was written there.

        Raises:
            StateUnavailable: if the database cannot be read.
            Unstorable: if a value that is asked for cannot be in the database.
        """
        outer = self._current()
        if outer is not None:
            with _told_to_people():
                yield outer
            return
        with _told_to_people(), self._reading.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _current(self) -> Connection | None:
        return getattr(self._of_thread, "connection", None)

    def _create_tables(self) -> None:
        with _told_to_people(), self._engine.begin() as connection:
            if not self._is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_CREATION_LOCK)))
            found = None
            if inspect(connection).has_table(schema_version.name):
                found = connection.scalar(select(schema_version.c.version))
            if found is None:
                _metadata.create_all(connection)
                connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
            elif found > SCHEMA_VERSION:
                raise LookhereError(
                    f"Expected a database of schema {SCHEMA_VERSION} or older, got schema {found}, which a newer "
                    "version of Lookhere has written; install that version, or name another database."
                )


@contextmanager
def _told_to_people() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise StateUnavailable(
            f"Expected to use the database, got: {error.orig}. Is its disk full, is another program holding it, or is "
            "its server down? Nothing was written; try again."
        ) from error
    # The drivers' own complaints about a value: SQLite's are Python's, PostgreSQL's are SQLAlchemy's.
    except (OverflowError, UnicodeEncodeError, DataError) as error:
        cause = error.orig if isinstance(error, DataError) else error
        raise Unstorable(f"Expected values that a database can hold, got: {cause}. Nothing was written.") from error


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver must not begin transactions by itself: it would begin them too late, before the first write.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        _use_write_ahead_log(connection)
        # With a write-ahead log, only FULL puts each commit on the disk before it returns.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading", False)
        connection.execute(text("BEGIN" if reading else "BEGIN IMMEDIATE"))


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # Switching needs the database alone and does not wait for it: processes that open a new one together collide.
    give_up_at = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return
