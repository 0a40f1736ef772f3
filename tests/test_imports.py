"""The way of the data: imports between the rooms run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "backend"

# What each room or file of `backend/` may import of the others.
ALLOWED: dict[str, set[str]] = {
    "domain": set(),
    "settings": set(),
    "guidance": {"domain"},
    "selection": {"domain"},
    "state": {"domain", "settings"},
    "labelstudio": {"domain", "settings"},
    "inference": {"domain", "guidance"},
    "serving": {"domain", "guidance", "state", "inference"},
    "intake": {"domain", "settings", "labelstudio", "state"},
    "jobs": {"domain", "settings", "guidance", "selection", "state", "labelstudio", "inference"},
    "web": {"domain", "settings", "labelstudio", "serving", "intake", "jobs", "state"},
}
# These stand at the top and may import all.
TOP = {"cli", "demo", "bench", "_wsgi"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("backend.")}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    if here in TOP:
        return
    assert here in ALLOWED, f"the room {here} has no rule: say what it may import"
    assert imported_rooms(path) - {here} <= ALLOWED[here]


@pytest.mark.parametrize("name", ["web/server.py", "web/app.py", "serving.py", "intake.py", "labelstudio/contract.py"])
def test_the_web_process_does_not_import_torch(name: str) -> None:
    """`/health` is answered while torch is still being imported, elsewhere."""
    reached: set[Path] = set()
    waiting = [PACKAGE / name]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        tree = ast.parse(path.read_text())
        for node in tree.body:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                assert module.split(".")[0] not in {"torch", "torchvision"}, f"{path} imports {module}"
                if module.startswith("backend."):
                    base = PACKAGE.joinpath(*module.split(".")[1:])
                    waiting += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists()]
