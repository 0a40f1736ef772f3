"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
