"""The cost of ordering is measured on pools as large as was asked."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from backend.cli import main


def test_it_times_each_pool(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["bench", "ordering", "--tasks", "300,600", "--out", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "ordering.json").read_text())["pools"]
    assert [pool["tasks"] for pool in found] == [300, 600]
    assert all(pool["seconds"] > 0 and pool["memory_mb"] > 0 for pool in found)
    assert [path.name for path in tmp_path.iterdir()] == ["ordering.json"], "the pools are removed"
