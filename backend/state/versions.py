"""Versions: immutable folders of weights and a card, and the pointer to the active one."""

from __future__ import annotations

import builtins
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from backend.domain import LookhereError, ModelVersion
from backend.state.database import Database, activations, versions

log = logging.getLogger(__name__)

CARD_FILE = "card.json"

_NAME = re.compile(r"v\d+-[0-9a-f]{8}")
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER_S = 3600.0


def is_version_name(name: str) -> bool:
    """Whether a ``model_version`` is one that we gave."""
    return _NAME.fullmatch(name) is not None


class Versions:
    """Publishes, activates and finds versions.

    A version is written into a folder beside its place, made durable, and renamed: it is there whole or not at all.

    Args:
        database: where the pointers are.
        folder: where the versions lie, a folder for each project.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._verified: dict[Path, tuple[builtins.list[tuple[str, int, int]], bool]] = {}

    def publish(self, project: int, write: Callable[[Path], object], card: Mapping[str, Any]) -> ModelVersion:
        """Publish a version; it is not active yet.

        Args:
            project: ``Project.key``.
            write: writes the version's files into a folder.
            card: what is told of it; JSON values.

        Returns:
            The version. Its name holds a number that rises and a part of a hash, so that it is never given twice, also
            when the database was begun anew.
        """
        home = self._folder / str(project)
        home.mkdir(parents=True, exist_ok=True)
        self._sweep(project)
        unfinished = home / f"{_UNFINISHED}{os.getpid()}-{time.monotonic_ns()}"
        unfinished.mkdir()
        try:
            write(unfinished)
            card = {**card, "files": {path.name: _hash(path) for path in sorted(unfinished.iterdir())}}
            created_at = datetime.now(UTC)
            digest = hashlib.sha256(json.dumps([card, created_at.isoformat()]).encode()).hexdigest()[:8]
            (unfinished / CARD_FILE).write_text(json.dumps(card, indent=1))
            for path in unfinished.iterdir():
                _sync(path)
            _sync(unfinished)
            # All that takes long is done: webhooks wait while this transaction is open.
            with self._database.begin() as connection:
                query = select(func.max(versions.c.number)).where(versions.c.project == project)
                number = (connection.scalar(query) or 0) + 1
                name = f"v{number}-{digest}"
                unfinished.rename(home / name)
                _sync(home)
                values = {"project": project, "number": number, "name": name, "created_at": created_at}
                connection.execute(insert(versions).values(card=json.dumps(card), **values))
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return ModelVersion(project, name, home / name, created_at, active=False, card=card)

    def activate(self, project: int, name: str) -> ModelVersion:
        """Make a version the one that is served.

        Raises:
            LookhereError: if there is none of that name, or its files are damaged.
        """
        version = self.get(project, name)
        if version is None or not self.verify(version):
            raise LookhereError(
                f"Expected the name of an intact version, got {name!r}; `lookhere versions` lists them."
            )
        with self._database.begin() as connection:
            values = {"project": project, "name": name, "activated_at": datetime.now(UTC)}
            connection.execute(insert(activations).values(**values))
        return self._served(version)

    def active(self, project: int) -> ModelVersion | None:
        """The version that is served: the last activated one whose files are whole, None where there is none."""
        with self._database.read() as connection:
            names = _stack(connection, project)
        for name in names:
            version = self.get(project, name)
            if version is not None and self.verify(version):
                return self._served(version)
            log.error("Version %s of project %s is damaged or gone; the one before it is served.", name, project)
        return None

    def rollback(self, project: int) -> ModelVersion:
        """Go back to the version that was active before the present one.

        Raises:
            LookhereError: if there is none.
        """
        present = self.active(project)
        with self._database.read() as connection:
            earlier = [name for name in _stack(connection, project) if present is None or name != present.name]
        for name in earlier:
            version = self.get(project, name)
            if version is not None and self.verify(version):
                self._withdraw_above(project, name)
                return self._served(version)
        raise LookhereError(f"Expected an earlier version of project {project} to go back to, found none.")

    def get(self, project: int, name: str) -> ModelVersion | None:
        """A version by its name, None where there is none."""
        this = (versions.c.project == project) & (versions.c.name == name) & ~versions.c.pruned
        with self._database.read() as connection:
            row = connection.execute(select(versions).where(this)).first()
            pointed = next(iter(_stack(connection, project)), None)
        return self._version(row, pointed) if row else None

    def list(self, project: int) -> builtins.list[ModelVersion]:
        """The versions of a project, the newest first; active is the one that is served, were a later one damaged."""
        present = (versions.c.project == project) & ~versions.c.pruned
        served = self.active(project)
        with self._database.read() as connection:
            rows = connection.execute(select(versions).where(present).order_by(versions.c.number.desc()))
            return [self._version(row, served.name if served else None) for row in rows]

    def prune(self, project: int, keep: int) -> tuple[str, ...]:
        """Remove the files of old versions.

        Args:
            project: ``Project.key``.
            keep: how many of the newest stay; the active one and the one to roll back to stay in any case.

        Returns:
            The names of those removed.
        """
        with self._database.read() as connection:
            needed = set(_stack(connection, project)[:2])
        surplus = [one for one in self.list(project)[keep:] if not one.active and one.name not in needed]
        for version in surplus:
            this = (versions.c.project == project) & (versions.c.name == version.name)
            with self._database.begin() as connection:
                connection.execute(update(versions).where(this).values(pruned=True))
            shutil.rmtree(version.folder, ignore_errors=True)
        return tuple(version.name for version in surplus)

    def verify(self, version: ModelVersion) -> bool:
        """Whether a version's files are what was published. Files that did not change are hashed once."""
        try:
            stats = [(path.name, path.stat()) for path in sorted(version.folder.iterdir())]
            stamp = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
            known_stamp, was_intact = self._verified.get(version.folder, ([], False))
            if known_stamp == stamp:
                return was_intact
            intact = all(_hash(version.folder / name) == known for name, known in version.card["files"].items())
        except OSError:
            return False
        self._verified[version.folder] = (stamp, intact)
        return intact

    def _withdraw_above(self, project: int, name: str) -> None:
        standing = (activations.c.project == project) & activations.c.withdrawn_at.is_(None)
        with self._database.begin() as connection:
            last = connection.scalar(select(func.max(activations.c.id)).where(standing & (activations.c.name == name)))
            above = standing & (activations.c.id > last)
            connection.execute(update(activations).where(above).values(withdrawn_at=datetime.now(UTC)))

    def _sweep(self, project: int) -> None:
        """Remove what a publication or a pruning that was killed left behind.

        Folders older than all that the database knows stay: they are of a database that was lost, and may come back.
        """
        this = versions.c.project == project
        with self._database.read() as connection:
            known = set(connection.scalars(select(versions.c.name).where(this & ~versions.c.pruned)))
            first = connection.scalar(select(func.min(versions.c.created_at)).where(this))
        for path in (self._folder / str(project)).iterdir():
            changed_at = path.stat().st_mtime
            unfinished = path.name.startswith(_UNFINISHED)
            unknown = is_version_name(path.name) and path.name not in known
            orphan = unknown and first is not None and changed_at > first.timestamp()
            # One that is being published at this moment is not known yet either.
            if (unfinished or orphan) and time.time() - changed_at > _ABANDONED_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)

    def _served(self, version: ModelVersion) -> ModelVersion:
        return ModelVersion(version.project, version.name, version.folder, version.created_at, True, version.card)

    def _version(self, row: Row[Any], pointed: str | None) -> ModelVersion:
        folder = self._folder / str(row.project) / row.name
        return ModelVersion(row.project, row.name, folder, row.created_at, row.name == pointed, json.loads(row.card))


def _stack(connection: Connection, project: int) -> builtins.list[str]:
    """Names of the activated versions that were not withdrawn, the last activated first, each once."""
    standing = (activations.c.project == project) & activations.c.withdrawn_at.is_(None)
    query = select(activations.c.name).where(standing).order_by(activations.c.id.desc())
    return list(dict.fromkeys(connection.scalars(query)))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
