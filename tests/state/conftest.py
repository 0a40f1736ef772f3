"""A database on disk, as in production: of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.settings import Settings
from backend.state.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "postgresql":
        # In the environment, for the processes that a test starts.
        monkeypatch.setenv("LOOKHERE_DATABASE_URL", request.getfixturevalue("postgresql")())
    opened = Store.open(Settings(data_dir=tmp_path))
    yield opened
    opened.database.close()
