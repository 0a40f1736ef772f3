"""A real Label Studio on loopback, run as a process of its own from its own virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import SecretStr

from backend.domain import LookhereError

PYTHON_VARIABLE = "LOOKHERE_LABEL_STUDIO_PYTHON"
"""Environment variable that names the Python in which Label Studio is installed."""
DEFAULT_PYTHON = Path(".venvs/label-studio/bin/python")
"""Where ``make install`` puts it, relative to the repository."""

_MAIN = "import sys; from label_studio.server import main; sys.exit(main())"
_DATABASE = "label_studio.sqlite3"
_TOKEN_FILE = "personal-access-token"  # noqa: S105 - the name of a file, not a token
# Settings of the person's own Label Studio must not reach this one: only these are taken over.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")
# Nothing may leave the machine.
_SILENT = {
    "COLLECT_ANALYTICS": "false",
    "FEATURE_FLAGS_OFFLINE": "true",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
}
_PATIENCE_S = 300.0  # migrations take half a minute, several times that on a busy machine


class LabelStudioStartError(LookhereError):
    """Label Studio could not be started."""


def find_python() -> Path:
    """The Python in which Label Studio is installed.

    Raises:
        LabelStudioStartError: there is none where it is expected.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    # Not resolved: a virtual environment's Python is a link, and the environment is found by the link's place.
    python = Path(named) if named else Path(__file__).parents[2] / DEFAULT_PYTHON
    if not python.is_file():
        raise LabelStudioStartError(
            f"A Python with Label Studio was expected at {python}, but there is none. Run `make install`, or set "
            f"{PYTHON_VARIABLE} to the Python of an environment with label-studio."
        )
    return python.absolute()


def migrate(folder: Path) -> None:
    """Make a data folder without users. A server that starts from a copy of it is ready in seconds.

    Args:
        folder: created where it is missing. It fits only the version of Label Studio that made it.

    Raises:
        LabelStudioStartError: Label Studio failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Each command migrates first, and this one then ends.
    done = subprocess.run(  # noqa: S603 - our own command line
        [str(find_python()), "-c", _MAIN, "version"],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise LabelStudioStartError(f"Label Studio failed to make its database in {folder}:\n{_tail(done.stdout)}")
    # The secret key, which signs sessions and tokens: each server makes its own.
    (folder / ".env").unlink(missing_ok=True)


class LabelStudioServer:
    """A Label Studio server with one user, listening on loopback only. A context manager.

    Started on a folder that it used before, it needs the same email, password and legacy token as then: Label
    Studio sets them only when it creates the user.

    Args:
        folder: its data: database, uploads, log.
        email: login of its user, who owns everything.
        password: of that user.
        legacy_token: the user's legacy token, 40 hexadecimal digits; None leaves legacy tokens disabled, as a stock
            Label Studio does.
        private_addresses: let it call backends on loopback and private addresses, which a stock one refuses.
        port: to listen on; None picks a free one.
        files: folder whose files it may serve as local files, None for none.
        seed: a folder made by :func:`migrate`, copied where ``folder`` has no database yet.
        environment: further settings, as environment variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        email: str,
        password: SecretStr,
        legacy_token: SecretStr | None = None,
        private_addresses: bool = True,
        port: int | None = None,
        files: Path | None = None,
        seed: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.email = email
        self.password = password
        self.legacy_token = legacy_token
        self.port = port or free_port()
        self._private_addresses = private_addresses
        self._files = files
        self._seed = seed
        self._further = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LabelStudioServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """The file that holds what it prints."""
        return self.folder / "label-studio.log"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            LabelStudioStartError: it is not installed, its port is taken, or it did not come up.
        """
        if self.running:
            return
        python = find_python()
        if not _is_free(self.port):
            # Label Studio would silently take the next one.
            raise LabelStudioStartError(
                f"Label Studio was to listen on port {self.port}, but that is taken. Stop what listens there, or "
                "choose another port."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._seed is not None and not (self.folder / _DATABASE).exists():
            shutil.copytree(self._seed, self.folder, dirs_exist_ok=True)
        command = [str(python), "-c", _MAIN, "start", "--no-browser", "--internal-host", "127.0.0.1"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [*command, "--port", str(self.port), "--log-level", "WARNING"],
                cwd=self.folder,
                env=self._server_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal goes to us; we stop it in order.
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it; its data stay."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def personal_access_token(self) -> SecretStr:
        """The user's personal access token, made on the first call and kept in the data folder.

        Label Studio gives it out once, and only to a logged-in browser: hence the login form.

        Raises:
            LabelStudioStartError: it does not let the user in, or has given the token to somebody else before.
        """
        kept = self.folder / _TOKEN_FILE
        if kept.exists():
            return SecretStr(kept.read_text())
        with httpx.Client(base_url=self.url, timeout=30.0, headers={"Referer": self.url}) as browser:
            browser.get("/user/login/").raise_for_status()
            login = {
                "email": self.email,
                "password": self.password.get_secret_value(),
                "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            }
            browser.post("/user/login/", data=login)
            answer = browser.post("/api/token/", headers={"X-CSRFToken": browser.cookies["csrftoken"]})
        if answer.status_code != 201:
            raise LabelStudioStartError(
                f"Label Studio was asked for a personal access token of {self.email}, but answered "
                f"{answer.status_code}. If its folder {self.folder} was made with another password, remove it and "
                "start again."
            )
        kept.touch(mode=0o600)
        kept.write_text(answer.json()["token"])
        return SecretStr(kept.read_text())

    def _server_environment(self) -> dict[str, str]:
        environment = _environment(self.folder)
        environment["LABEL_STUDIO_HOST"] = self.url
        environment["LABEL_STUDIO_USERNAME"] = self.email
        environment["LABEL_STUDIO_PASSWORD"] = self.password.get_secret_value()
        if self.legacy_token is not None:
            environment["LABEL_STUDIO_USER_TOKEN"] = self.legacy_token.get_secret_value()
            environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] = "true"  # noqa: S105 - a switch, not a token
        if self._private_addresses:
            # The one is for predictions, the other for webhooks.
            environment["ML_BLOCK_LOCAL_IP"] = "false"
            environment["SSRF_PROTECTION_ENABLED"] = "false"
        if self._files is not None:
            environment["LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED"] = "true"
            environment["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(self._files.absolute())
        return environment | self._further

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise LabelStudioStartError(f"Label Studio ended with {process.returncode}:\n{self._log_tail()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5.0).is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise LabelStudioStartError(f"Label Studio did not answer within {_PATIENCE_S:.0f} s:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return _tail(self.log.read_text(errors="replace"))


def _environment(folder: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | _SILENT | {"HOME": str(folder), "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}


def _tail(text: str, lines: int = 40) -> str:
    kept = "\n".join(text.splitlines()[-lines:])
    return re.sub(r"(?i)((?:password|token|secret)\w*\W+)\S+", r"\1***", kept)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As Label Studio's own server does: a port in TIME_WAIT counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
