"""Searches everything that a run of the tests puts out for every secret that it uses.

A secret is whatever was wrapped in a ``SecretStr``, and whatever a webhook shows. Searched are what tests print and
log, at every level; the errors that are made and the answers that are given, in this process; the files that are left
behind, databases, cards and the logs of servers among them; and the arguments of every process meanwhile. Each worker
notes what it uses and finds in the run's folder, and the process that gathers the results fails the run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from pydantic import SecretStr

from backend.domain import LookhereError
from backend.labelstudio import access

SHORTEST = 12
"""Shorter ones are no secrets but words: they would be found everywhere."""
KEPT_IN = ("secret", "password", "personal-access-token", ".env", "label_studio.sqlite3")
"""Beginnings of the names of files whose purpose is to hold a secret: ours with mode 600, and Label Studio's own."""

_PLANTED = "planted-"
_FOUND = "found-"
_GLANCE_S = 0.5


class Leaks:
    """A plugin of pytest: plants, looks, and fails the run.

    Args:
        config: of the run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._secrets: set[str] = set()
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @functools.cached_property
    def _folder(self) -> Path:
        base: Path = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        return base.parent if self._is_worker else base

    @property
    def _is_worker(self) -> bool:
        return hasattr(self._config, "workerinput")

    def pytest_sessionstart(self) -> None:
        _after(SecretStr, "__init__", lambda made, *_: self.plant(made.get_secret_value()))
        _after(
            access,
            "webhook_headers",
            lambda headers, *_: [self.plant(one.partition(".")[2]) for one in headers.values()],
        )
        _after(LookhereError, "__init__", lambda error, *_: self.look("an error", [str(error)]))
        flask.request_finished.connect(self._answered)
        logging.getLogger().addHandler(_Listener(self))
        logging.getLogger("backend").setLevel(logging.DEBUG)
        threading.Thread(target=self._watch_processes, daemon=True).start()

    def plant(self, secret: str) -> None:
        """Take part of a search from now on."""
        with self._lock:
            if len(secret) < SHORTEST or secret in self._secrets:
                return
            self._secrets.add(secret)
            self._note(_PLANTED, secret)

    def look(self, where: str, texts: Iterable[str | bytes]) -> None:
        """Note where a secret is."""
        known = [secret.encode() for secret in self._secrets]
        for text in texts:
            content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
            if any(secret in content for secret in known):
                with self._lock:
                    self._note(_FOUND, where)

    def _note(self, kind: str, line: str) -> None:
        path = self._folder / f"{kind}{os.getpid()}"
        with open(path, "a", opener=functools.partial(os.open, mode=0o600)) as file:
            file.write(f"{line}\n")

    def _answered(self, _app: flask.Flask, response: flask.Response) -> None:
        if not response.is_streamed:
            self.look(f"the answer to {flask.request.path}", [response.get_data(), str(response.headers)])

    def _watch_processes(self) -> None:
        while not self._ended.wait(_GLANCE_S):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.look(f"the arguments of process {process.parent.name}", [process.read_bytes()])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Of all workers, where there are any. A traceback quotes the test that planted the secret, and fails anyway.
        self._take_over()
        self.look(f"the output of {report.nodeid}", (text for _, text in report.sections))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._ended.set()
        if self._is_worker:
            return
        self._take_over()
        for path in self._files():
            with contextlib.suppress(OSError):
                self.look(f"the file {path.relative_to(self._folder)}", [path.read_bytes()])
        if self._found():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._is_worker:
            return
        for where in self._found():
            terminalreporter.write_line(f"LEAK: a secret stands in {where}", red=True)
        searched = sum(1 for _ in self._files())
        terminalreporter.write_line(f"{len(self._secrets)} secrets searched for in all output and {searched} files")

    def _take_over(self) -> None:
        with self._lock:
            for path in self._folder.glob(f"{_PLANTED}*"):
                self._secrets |= set(path.read_text().split("\n")) - {""}

    def _found(self) -> list[str]:
        return sorted({line for path in self._folder.glob(f"{_FOUND}*") for line in path.read_text().splitlines()})

    def _files(self) -> Iterator[Path]:
        for path in self._folder.rglob("*"):
            ours = path.parent == self._folder and path.name.startswith((_PLANTED, _FOUND))
            if not ours and not path.name.startswith(KEPT_IN) and path.is_file() and not path.is_symlink():
                yield path


class _Listener(logging.Handler):
    """Looks at what is logged, also at levels that nobody is shown."""

    def __init__(self, leaks: Leaks) -> None:
        super().__init__(logging.DEBUG)
        self._leaks = leaks
        self._formatter = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        """Look."""
        self._leaks.look(f"the log of {record.name}", [self._formatter.format(record)])


def _after(owner: Any, name: str, then: Callable[..., object]) -> None:
    """Have something done with what a function gives, or a constructor has made."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **more: Any) -> Any:
        result = original(*arguments, **more)
        then(arguments[0] if name == "__init__" else result)
        return result

    setattr(owner, name, wrapped)
