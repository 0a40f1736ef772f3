"""Versions are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.domain import LookhereError, ModelVersion
from backend.state.store import Store
from backend.state.versions import is_version_name


@pytest.fixture
def key(store: Store) -> int:
    return store.projects.ensure("http://labels", 1).key


def publish(store: Store, key: int, content: bytes = b"weights") -> ModelVersion:
    return store.versions.publish(key, lambda folder: (folder / "w").write_bytes(content), {"clicked": 3})


def test_a_published_version_is_found_and_not_yet_served(store: Store, key: int) -> None:
    version = publish(store, key)
    assert is_version_name(version.name)
    assert store.versions.active(key) is None
    assert (version.folder / "w").read_bytes() == b"weights"
    assert store.versions.list(key)[0].card["clicked"] == 3
    store.versions.activate(key, version.name)
    active = store.versions.active(key)
    assert active is not None
    assert (active.name, active.active) == (version.name, True)


def test_equal_weights_get_another_name(store: Store, key: int) -> None:
    assert publish(store, key).name != publish(store, key).name


@pytest.mark.parametrize("damage", ["change", "remove", "remove all"])
def test_a_damaged_version_is_never_served(store: Store, key: int, damage: str) -> None:
    good, bad = publish(store, key), publish(store, key)
    for version in (good, bad):
        store.versions.activate(key, version.name)
    if damage == "change":
        (bad.folder / "w").write_bytes(b"weighty")
    else:
        (bad.folder / "w").unlink()
    if damage == "remove all":
        (bad.folder / "card.json").unlink()
        bad.folder.rmdir()
    active = store.versions.active(key)
    assert active is not None
    assert active.name == good.name
    with pytest.raises(LookhereError, match="intact"):
        store.versions.activate(key, bad.name)


def test_the_list_marks_what_is_served(store: Store, key: int) -> None:
    good, bad = publish(store, key), publish(store, key)
    for version in (good, bad):
        store.versions.activate(key, version.name)
    (bad.folder / "w").write_bytes(b"weighty")
    assert [(version.name, version.active) for version in store.versions.list(key)] == [
        (bad.name, False),
        (good.name, True),
    ]


@pytest.mark.parametrize(
    ("name", "hours_old", "stays"),
    [
        ("v2-0badc0de", 2, False),
        (".unfinished-7-7", 2, False),
        ("v2-0badc0de", 0, True),
        (".unfinished-7-7", 0, True),
        ("v2-0badc0de", 48, True),
        ("notes", 2, True),
    ],
    ids=["orphan", "unfinished", "just renamed", "being written", "of a lost database", "not ours"],
)
def test_what_a_killed_publication_left_is_removed(
    store: Store, key: int, name: str, hours_old: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = publish(store, key)
    left = known.folder.parent / name
    left.mkdir()
    begun = time.time()
    # A day has passed since the first version.
    monkeypatch.setattr("backend.state.versions.time.time", lambda: begun + 86_400)
    os.utime(left, (begun + 86_400 - 3600 * hours_old,) * 2)
    second = publish(store, key)
    assert left.exists() is stays
    assert {version.name for version in store.versions.list(key)} == {known.name, second.name}
    assert known.folder.exists()


def test_rolling_back_walks_through_the_history(store: Store, key: int) -> None:
    names = [publish(store, key).name for _ in range(3)]
    for name in names:
        store.versions.activate(key, name)
    assert store.versions.rollback(key).name == names[1]
    assert store.versions.rollback(key).name == names[0]
    with pytest.raises(LookhereError, match="earlier"):
        store.versions.rollback(key)


def test_pruning_keeps_what_is_active_and_what_to_go_back_to(store: Store, key: int) -> None:
    names = [publish(store, key).name for _ in range(5)]
    store.versions.activate(key, names[0])
    store.versions.activate(key, names[1])
    assert set(store.versions.prune(key, keep=1)) == {names[2], names[3]}
    assert store.versions.rollback(key).name == names[0]


def test_a_failed_publication_leaves_nothing(store: Store, key: int, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "w").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.versions.publish(key, write, {})
    assert store.versions.list(key) == []
    assert list((tmp_path / "versions" / str(key)).iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from backend.settings import Settings
from backend.state.store import Store
store = Store.open(Settings(data_dir=Path(sys.argv[1])))
def write(folder):
    (folder / "w").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
store.versions.publish(1, write, {})
"""


def test_a_killed_publication_is_not_there(store: Store, key: int, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.versions.list(key) == []
    assert publish(store, key).name.startswith("v1-")
