"""Starting and stopping a real Label Studio."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from backend.demo.label_studio import PYTHON_VARIABLE, LabelStudioServer, LabelStudioStartError, find_python
from backend.labelstudio.client import LabelStudioClient

pytestmark = pytest.mark.integration

EMAIL = "annotator@example.com"
PASSWORD = SecretStr("integration-password")


def test_its_data_and_its_token_outlive_a_restart(seed: Path, tmp_path: Path) -> None:
    server = LabelStudioServer(tmp_path / "data", email=EMAIL, password=PASSWORD, seed=seed)
    with server, LabelStudioClient(server.url, server.personal_access_token()) as client:
        made = httpx.post(f"{server.url}/api/projects/", json={"title": "Kept"}, headers=client.authorization()).json()
    assert not server.running
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
    with server, LabelStudioClient(server.url, server.personal_access_token()) as client:
        assert client.project(made["id"]).title == "Kept"
        kept = tmp_path / "data" / "personal-access-token"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert PASSWORD.get_secret_value() not in server.log.read_text()


def test_two_servers_of_one_seed_do_not_trust_each_others_tokens(seed: Path, label_studio: LabelStudioServer) -> None:
    assert not (seed / ".env").exists(), "the key that signs tokens is not in the seed"
    assert (label_studio.folder / ".env").exists()


def test_a_wrong_password_gets_no_token(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    stranger = LabelStudioServer(tmp_path, email=EMAIL, password=SecretStr("wrong"), port=label_studio.port)
    with pytest.raises(LabelStudioStartError, match="another password"):
        stranger.personal_access_token()


def test_a_taken_port_is_an_error_and_not_another_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LabelStudioStartError, match=f"port {port}"):
            LabelStudioServer(tmp_path, email=EMAIL, password=PASSWORD, port=port).start()


def test_a_server_that_ends_at_once_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho the database password=hunter2 is wrong\nexit 3\n")
    python.chmod(0o700)
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with pytest.raises(LabelStudioStartError, match=r"ended with 3:\nthe database password=\*\*\* is wrong"):
        LabelStudioServer(tmp_path / "data", email=EMAIL, password=PASSWORD).start()


def test_a_missing_installation_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(LabelStudioStartError, match="make install"):
        find_python()
