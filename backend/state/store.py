"""The durable state of a backend, in one place."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backend.settings import Settings
from backend.state.annotations import Annotations, Events
from backend.state.database import Database
from backend.state.jobs import Jobs
from backend.state.pools import Pools
from backend.state.projects import Projects
from backend.state.versions import Versions


@dataclass(frozen=True)
class Store:
    """Everything that must survive.

    Attributes:
        folder: the data folder.
        database: where all but the versions' files is.
        projects: the projects.
        events: the event log.
        annotations: tasks and annotations.
        jobs: the queue.
        versions: the published classifiers.
        pools: what the served versions said.
    """

    folder: Path
    database: Database
    projects: Projects
    events: Events
    annotations: Annotations
    jobs: Jobs
    versions: Versions
    pools: Pools

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the state that the settings name, and make it where there is none."""
        database = Database(settings.database)
        return cls(
            folder=settings.data_dir,
            database=database,
            projects=Projects(database),
            events=Events(database),
            annotations=Annotations(database),
            jobs=Jobs(database),
            versions=Versions(database, settings.data_dir / "versions"),
            pools=Pools(settings.data_dir / "pools"),
        )

    def own_secret(self) -> bytes:
        """A random secret, made once and kept in the data folder."""
        path = self.folder / "secret"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive: of several processes that start at once, one makes it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
        return path.read_bytes()
