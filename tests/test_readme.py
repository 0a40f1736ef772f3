"""The README says what the product does."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.cli import main
from backend.labelstudio.labelconfig import read_roles
from backend.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_table(name: str) -> None:
    description = Settings.model_fields[name].description
    assert f"| `LOOKHERE_{name.upper()}` |" in README
    assert description is not None
    assert description in README


def test_every_picture_is_there() -> None:
    for line in README.splitlines():
        if line.startswith("!["):
            assert (ROOT / line.partition("](")[2].rstrip(")")).is_file()


def test_the_label_config_beside_it_works() -> None:
    roles = read_roles((ROOT / "label_config.xml").read_text())
    assert (roles.look, roles.ignore, roles.classes) == (("Look here",), ("Ignore",), ("cat", "dog"))


@pytest.mark.parametrize("command", [name for name in main.commands if f"lookhere {name}" in README])
def test_its_commands_exist(command: str) -> None:
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_it_names_the_commands() -> None:
    for command in ("connect", "doctor", "train", "versions", "rollback", "jobs", "serve"):
        assert f"lookhere {command}" in README
        assert command in main.commands
