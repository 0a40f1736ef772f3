"""No dependency below the version in which what is known of it is mended, and a container with no rights."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def requirements(path: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {canonicalize_name(one.name): one for one in map(Requirement, filter(None, lines))}


SECURE = requirements("constraints/secure.txt")
PINNED = requirements("constraints/lookhere.txt")
DIRECT = {
    canonicalize_name(one.name): one
    for one in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
}


def lowest(requirement: Requirement) -> Version:
    return max(Version(one.version) for one in requirement.specifier if one.operator in (">=", "=="))


@pytest.mark.parametrize("name", SECURE)
def test_what_is_installed_pinned_and_asked_for_is_mended(name: str) -> None:
    assert Version(version(name)) >= lowest(SECURE[name])
    assert lowest(PINNED[name]) >= lowest(SECURE[name])
    assert name not in DIRECT or lowest(DIRECT[name]) >= lowest(SECURE[name])


def test_every_dependency_is_pinned() -> None:
    assert DIRECT.keys() <= PINNED.keys()
    assert all(one.operator == "==" for pin in PINNED.values() for one in pin.specifier)


SERVICES = yaml.safe_load((ROOT / "docker/compose.yml").read_text())["services"]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()


def test_the_container_has_no_rights_and_writes_nothing_but_its_data() -> None:
    backend = SERVICES["backend"]
    assert backend["read_only"] is True
    assert backend["user"] == "1000:1000"
    assert backend["cap_drop"] == ["ALL"]
    assert "cap_add" not in backend
    assert "privileged" not in backend
    assert backend["security_opt"] == ["no-new-privileges:true"]
    assert [mount.partition(":")[2] for mount in backend["volumes"]] == ["/data"]
    assert [mount.partition(":")[0] for mount in backend["tmpfs"]] == ["/tmp"]  # noqa: S108 - the container's own
    commands = [line.split() for line in DOCKERFILE.splitlines()]
    assert [words[1] for words in commands if words[:1] == ["USER"]] == ["1000:1000"]
    after_user = DOCKERFILE.partition("\nUSER ")[2]
    assert "\nRUN" not in after_user
    for line in ("LOOKHERE_DATA_DIR=/data", "TORCH_HOME=/data/torch", "HOME=/tmp", "MPLCONFIGDIR=/tmp/matplotlib"):
        assert line in after_user


def test_the_container_starts_with_a_secret_or_not_at_all() -> None:
    environment = SERVICES["backend"]["environment"]
    assert environment["LOOKHERE_SECRET"].startswith("${LOOKHERE_SECRET:?")
    assert not any("SECRET" in line or "API_KEY" in line for line in DOCKERFILE.splitlines())
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_builder_sees_no_secrets() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in allowed if line and not line.startswith("#")] == [
        "*",
        "!backend",
        "!constraints",
        "!pyproject.toml",
        "!README.md",
    ]
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
