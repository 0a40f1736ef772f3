"""The durable state of a backend, in one place."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from backend.domain import JobKind, LookhereError, Project
from backend.settings import OwnSettings, Settings
from backend.state.annotations import Annotations, Events
from backend.state.database import Database
from backend.state.jobs import Jobs
from backend.state.pools import Pools
from backend.state.projects import Projects
from backend.state.versions import Versions

_OWN = "own."
"""What the names of a project's own settings begin with among its options."""


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

    def settings_of(self, project: Project, settings: Settings) -> Settings:
        """The settings that hold for a project: of its Label Studio server, and its own.

        Args:
            project: whose.
            settings: of the backend.
        """
        return settings.at(project.host, self.own_settings(project))

    def own_settings(self, project: Project) -> dict[str, Any]:
        """What a project has otherwise than the backend is set to, by name."""
        options = self.projects.options(project.key)
        return {name: options[_OWN + name] for name in OwnSettings.model_fields if _OWN + name in options}

    def settings_json(self, project: Project, settings: Settings) -> dict[str, Any]:
        """The settings that hold for a project, and the names of those that are its own; JSON values.

        Args:
            project: whose.
            settings: of the backend.
        """
        holding = self.settings_of(project, settings)
        return {
            "settings": {name: getattr(holding, name) for name in OwnSettings.model_fields},
            "own": sorted(self.own_settings(project)),
        }

    def change_settings(self, project: Project, changes: Mapping[str, Any], *, texts: bool = False) -> None:
        """Change settings of one project; they hold from its next job on.

        Args:
            project: whose.
            changes: by name; None for what the backend is set to.
            texts: whether they come as texts, from a command line.

        Raises:
            LookhereError: if one is unknown or not possible; then none is changed.
        """
        try:
            read = OwnSettings.read(changes, texts=texts)
        except ValueError as error:
            raise LookhereError(str(error)) from error
        self.projects.set_options(project.key, {_OWN + name: getattr(read, name) for name in changes})

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


def known_host(settings: Settings, named: str | None) -> str:
    """The address of a Label Studio server that the settings name.

    Args:
        settings: of the backend.
        named: its address; None for the first one.

    Raises:
        LookhereError: if it is none of them.
    """
    host = settings.label_studio_url if named is None else named.rstrip("/")
    if host not in settings.hosts:
        raise LookhereError(
            f"Expected one of the Label Studio servers {', '.join(settings.hosts)}, got {host!r:.200}; "
            "LOOKHERE_LABEL_STUDIO_SERVERS names further ones."
        )
    return host
