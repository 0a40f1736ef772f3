"""The search for secrets finds them: these tests each leak one, in one way, in a run of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests.leaks import Leaks

def pytest_configure(config):
    config.pluginmanager.register(Leaks(config))
"""
LEAKING = """
import json, logging, sqlite3, subprocess, sys
import flask
from pydantic import SecretStr
from backend.domain import LookhereError
from backend.labelstudio.access import webhook_headers

SECRET = SecretStr("planted-" + "in-the-tests").get_secret_value()

def test_print():
    print(SECRET)

def test_error_output():
    print(f"Basic {SECRET}", file=sys.stderr)

def test_log_at_a_level_that_nobody_sees():
    logging.getLogger("backend.web").debug("got %s", SECRET)

def test_trace():
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("traced").exception("it broke")

def test_log_of_a_server(tmp_path):
    (tmp_path / "backend.log").write_text(f"a line with {SECRET}")

def test_card(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps({"at": SECRET}))

def test_state(tmp_path):
    with sqlite3.connect(tmp_path / "state.sqlite3") as store:
        store.execute("CREATE TABLE t (x)")
        store.execute("INSERT INTO t VALUES (?)", [SECRET])

def test_refusal():
    LookhereError(f"Expected no {SECRET}")

def test_process():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1.2)", SECRET])

def test_answer():
    app = flask.Flask("app")
    app.add_url_rule("/answer", view_func=lambda: SECRET)
    app.test_client().get("/answer")

def test_key_of_a_webhook():
    print(*webhook_headers(b"a secret", 1).values())
"""
WHERE = [
    *(f"the output of test_it.py::test_{name}" for name in ("print", "error_output", "key_of_a_webhook")),
    "the log of backend.web",
    "the log of traced",
    "test_log_of_a_server0/backend.log",
    "test_card0/card.json",
    "test_state0/state.sqlite3",
    "an error",
    "the arguments of process",
    "the answer to /answer",
]
HARMLESS = """
import sys
from pydantic import SecretStr

SECRET = SecretStr("planted-" + "in-the-tests").get_secret_value()

def test_a_file_that_is_to_hold_it(tmp_path):
    (tmp_path / "secret").write_text(SECRET)

def test_a_part_of_it():
    print(SECRET[:-1], file=sys.stderr)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_each_leak_is_found_and_fails_the_run(tmp_path: Path, workers: int) -> None:
    status, said = run(tmp_path, LEAKING, workers)
    assert "11 passed" in said, said
    assert status == pytest.ExitCode.TESTS_FAILED
    told = [line for line in said.splitlines() if line.startswith("LEAK: a secret stands in ")]
    assert [where for where in WHERE if not any(where in line for line in told)] == []
    assert "planted-" not in "\n".join(told)


def test_a_run_that_leaks_nothing_passes(tmp_path: Path) -> None:
    status, said = run(tmp_path, HARMLESS, 0)
    assert status == pytest.ExitCode.OK, said
    assert "LEAK" not in said
    assert "1 secrets searched for" in said


def run(folder: Path, tests: str, workers: int) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'base'}"]
    done = subprocess.run(
        [*command, "--numprocesses", str(workers), "test_it.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
