"""What holds for all tests."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator

import pgserver
import pytest

from tests.leaks import Leaks
from tests.sites import Site, serving


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-skips", action="store_true", help="A skipped test fails the run.")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Leaks(config), "leaks")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--strict-skips") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def sites() -> Iterator[Callable[[], Site]]:
    """Starts web sites on loopback."""
    with serving() as start:
        yield start


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """A real PostgreSQL; each call gives the address of an empty database."""
    folder = tempfile.TemporaryDirectory(prefix="postgresql")
    server = pgserver.get_server(folder.name)
    numbers = itertools.count()

    def empty() -> str:
        name = f"lookhere{next(numbers)}"
        server.psql(f"CREATE DATABASE {name};")
        address: str = server.get_uri(database=name)
        return address.replace("postgresql:", "postgresql+psycopg:")

    yield empty
    server.cleanup()
    folder.cleanup()
