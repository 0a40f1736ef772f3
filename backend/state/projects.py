"""The Label Studio projects that use this backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, insert, select, update

from backend.domain import LookhereError, Project
from backend.state.database import Database
from backend.state.database import projects as table


class Projects:
    """The known projects.

    Args:
        database: where they stand.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(self, host: str, number: int, label_config: str | None = None, title: str = "") -> Project:
        """Make a project known, and take over what is new about it. Writes only where something is new.

        Args:
            host: origin and path of its Label Studio.
            number: Label Studio's project id.
            label_config: XML; None leaves the known one.
            title: empty leaves the known one.
        """
        known = self.find(host, number)
        if known is not None and not _news(known, label_config, title):
            return known
        host = host.rstrip("/")
        with self._database.begin() as connection:
            row = connection.execute(select(table).where(table.c.host == host, table.c.number == number)).one_or_none()
            if row is None:
                connection.execute(
                    insert(table).values(
                        host=host, number=number, label_config=label_config or "", title=title, options="{}", revision=0
                    )
                )
            elif news := _news(_project(row), label_config, title):
                connection.execute(update(table).where(table.c.key == row.key).values(news))
            row = connection.execute(select(table).where(table.c.host == host, table.c.number == number)).one()
            return _project(row)

    def get(self, key: int) -> Project:
        """The project of a key.

        Raises:
            LookhereError: if there is none.
        """
        project = self.find_key(key)
        if project is None:
            raise LookhereError(f"Expected the key of a known project, got {key}.")
        return project

    def find_key(self, key: int) -> Project | None:
        """The project of a key, None if there is none."""
        with self._database.read() as connection:
            row = connection.execute(select(table).where(table.c.key == key)).one_or_none()
        return _project(row) if row else None

    def find(self, host: str, number: int) -> Project | None:
        """The project of a Label Studio and its project id, None if it is not known."""
        with self._database.read() as connection:
            row = connection.execute(
                select(table).where(table.c.host == host.rstrip("/"), table.c.number == number)
            ).one_or_none()
        return _project(row) if row else None

    def all(self) -> list[Project]:
        """Every known project, the oldest first."""
        with self._database.read() as connection:
            return [_project(row) for row in connection.execute(select(table).order_by(table.c.key))]

    def options(self, key: int) -> dict[str, Any]:
        """What was kept about a project with :meth:`set_options`; empty where nothing was.

        Args:
            key: ``Project.key``.
        """
        with self._database.read() as connection:
            text = connection.scalar(select(table.c.options).where(table.c.key == key))
        options: dict[str, Any] = json.loads(text or "{}")
        return options

    def set_options(self, key: int, options: Mapping[str, Any]) -> None:
        """Keep something about a project; other options stay.

        Args:
            key: ``Project.key``.
            options: names to JSON values; None forgets an option.

        Raises:
            LookhereError: if there is no such project.
        """
        with self._database.begin() as connection:
            text = connection.scalar(select(table.c.options).where(table.c.key == key))
            if text is None:
                raise LookhereError(f"Expected the key of a known project, got {key}.")
            merged = {name: value for name, value in {**json.loads(text), **options}.items() if value is not None}
            connection.execute(update(table).where(table.c.key == key).values(options=json.dumps(merged)))


def _news(known: Project, label_config: str | None, title: str) -> dict[str, str]:
    news = {}
    if label_config is not None and label_config != known.label_config:
        news["label_config"] = label_config
    if title and title != known.title:
        news["title"] = title
    return news


def _project(row: Row[Any]) -> Project:
    return Project(row.key, row.host, row.number, row.label_config, row.title)
