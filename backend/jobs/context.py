"""What every job works with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from backend.domain import LookhereError, Project, Task
from backend.labelstudio import access
from backend.labelstudio.access import BasicAuth
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.images import ImageStore
from backend.labelstudio.links import heat_link, sign
from backend.settings import Settings
from backend.state.store import Store

log = logging.getLogger(__name__)

_FETCHES_AT_ONCE = 8

Report = Callable[[float, str], None]
"""Told the progress in [0, 1] and a line for people."""


@dataclass(frozen=True)
class Context:
    """The settings, the state and the way to Label Studio, for one process."""

    settings: Settings
    store: Store

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the state that the settings name."""
        return cls(settings, Store.open(settings))

    def of(self, project: Project) -> Self:
        """The same for one project: with its Label Studio server, its credential, and its own settings."""
        settings = self.store.settings_of(project, self.settings)
        if settings not in self._of_settings:
            self._of_settings[settings] = type(self)(settings, self.store)
        return self._of_settings[settings]

    @cached_property
    def _of_settings(self) -> dict[Settings, Self]:
        # Kept, since a client keeps its access token and its connections.
        return {}

    @cached_property
    def client(self) -> LabelStudioClient | None:
        """The way to Label Studio; None while no credential is set."""
        if self.settings.label_studio_api_key is None:
            return None
        return LabelStudioClient(self.settings.label_studio_url, self.settings.label_studio_api_key)

    @cached_property
    def images(self) -> ImageStore:
        """The cache of the tasks' images."""
        return ImageStore(self.settings, self.client.authorization if self.client else dict)

    @cached_property
    def secret(self) -> bytes:
        """What opens this backend: the setting, or a random one kept in the data folder."""
        if self.settings.secret is not None:
            return self.settings.secret.get_secret_value().encode()
        return self.store.own_secret()

    def heat_link(self, project: Project) -> Callable[[str], str]:
        """Gives, for the data field of a project's image, the link of the heat map beside it."""
        signature = sign(self.secret, project.key)
        return lambda field: heat_link(self.settings.public_url, project.key, signature, field)

    def basic_auth(self, project: Project) -> BasicAuth:
        """User and password with which Label Studio asks about a project."""
        return access.basic_auth(self.secret, project.key)

    def webhook_headers(self, project: Project) -> dict[str, str]:
        """The headers with which Label Studio tells of a project's events."""
        return access.webhook_headers(self.secret, project.key)

    def fetch(self, project: Project, task: Task) -> Path:
        """The path of a task's image on this machine.

        Raises:
            LookhereError: if it cannot be had.
        """
        return self.of(project).images.fetch(task.image, task.id)

    def fetch_all(self, project: Project, tasks: Sequence[Task]) -> list[Path | None]:
        """The paths of many tasks' images, in order; None, with a warning, where one cannot be had."""

        def fetched(task: Task) -> Path | None:
            try:
                return self.fetch(project, task)
            except LookhereError as error:
                log.warning("Task %s of project %s is left out: %s", task.id, project.number, error)
                return None

        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as threads:
            return list(threads.map(fetched, tasks))
