"""The durable state of a backend, in one place."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backend.domain import JobKind, LookhereError
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

    def ask_for_training(self, project: int) -> None:
        """Ask for a training on all that the project knows by now.

        Args:
            project: ``Project.key``.
        """
        self.projects.set_options(project, {"asked_revision": self.annotations.latest_revision(project)})
        self.jobs.request(project, JobKind.TRAIN)

    def training_is_due(self, project: int, train_after: int) -> bool:
        """Whether so many annotations are new or changed since a training was asked for.

        Args:
            project: ``Project.key``.
            train_after: how many make a training due.
        """
        asked = int(self.projects.options(project).get("asked_revision", 0))
        return self.annotations.fresh_annotations(project, asked) >= train_after

    def own_secret(self) -> bytes:
        """A random secret, made once and kept in the data folder.

        Raises:
            LookhereError: if its file has been emptied.
        """
        path = self.folder / "secret"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".secret-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(32).encode())
            # Of several processes that start at once one makes it, and none ever reads a half of it.
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
            Path(name).unlink()
        secret = path.read_bytes().strip()
        if not secret:
            raise LookhereError(f"Expected a secret in {path}, got an empty file; remove it, and a new one is made.")
        return secret
