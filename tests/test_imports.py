"""Who may import whom: walks the imports of every module and holds the plan of docs/design.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "bertwright"

SMALL_MACHINES = {"errors", "files", "progress", "card", "config", "registry"}
TO_MODELS = {"data", "surgery", "models"}
TO_EVALUATE = {*TO_MODELS, "tasks", "engines", "evaluate"}
TO_COMPRESS = {*TO_EVALUATE, "training", "methods", "compress"}

# A room may import itself, the small machines, and what stands here.
MAY_IMPORT = {
    "data": set(),
    "surgery": set(),
    "models": {"surgery"},
    "tasks": {"data", "models"},
    "training": {"tasks", "data", "models"},
    "methods": {"training", "tasks", "models", "surgery", "data"},
    "engines": {"tasks", "data", "models"},
    "evaluate": {"engines", "tasks", "data", "models"},
    "compress": TO_COMPRESS,
    "serve": {"engines", "evaluate", "models", "data"},
    "scale": {"engines", "evaluate", "models", "data"},
    "insight": {"engines", "evaluate", "models", "data"},
    "features": {"tasks", "data", "models"},
    "compare": {*TO_EVALUATE - {"surgery"}, "training", "methods", "features"},
    "verbs": {*TO_COMPRESS, "serve", "scale", "insight", "features", "compare"},
}
# These know everything, and nobody imports them.
OUTSIDE = {"cli", "__init__", "__main__"}


def room_of(path: Path, package: Path) -> str:
    """Return the first part of a module's place: `data`, `cli`, `errors`, `__init__`, ..."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, room) of every import of bertwright, wherever in the file it stands.

    The package itself counts as the room `__init__`, a relative import as the room `.`, and an
    `import_module("bertwright....")` as an import.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "."
            continue
        elif isinstance(node, ast.ImportFrom):
            if node.module == "bertwright":
                names = [f"bertwright.{alias.name}" for alias in node.names]
            else:
                names = [node.module or ""]
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [str(node.args[0].value)]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "bertwright":
                known = {*SMALL_MACHINES, *MAY_IMPORT, *OUTSIDE}
                yield node.lineno, rest[0] if rest and rest[0] in known else "__init__"


def find_violations(package: Path) -> list[str]:
    """Return one line per import that the plan forbids: `file:line: who imports whom`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room = room_of(path, package)
        where = path.relative_to(package)
        if room not in {*SMALL_MACHINES, *MAY_IMPORT, *OUTSIDE}:
            found.append(f"{where}:1: {room!r} has no place in the plan")
            continue
        for line, other in imported_rooms(ast.parse(path.read_text(encoding="utf-8"))):
            if other == ".":
                found.append(f"{where}:{line}: relative import")
                continue
            if room in OUTSIDE:
                allowed = True
            elif room in SMALL_MACHINES:
                # The registry alone loads the methods, so that each can register itself.
                allowed = other in SMALL_MACHINES or (room, other) == ("registry", "methods")
            else:
                allowed = other in {room, *SMALL_MACHINES, *MAY_IMPORT[room]}
            if not allowed:
                found.append(f"{where}:{line}: {room} imports {other}")
    return found


def test_nobody_imports_what_the_plan_forbids():
    assert len(list(PACKAGE.rglob("*.py"))) > 5, "no modules were found: the walk is broken"
    assert find_violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("place", "code", "expected"),
    [
        ("data/a.py", "from bertwright.models.roles import get_roles", "data imports models"),
        ("errors.py", "from bertwright.data import load_rows", "errors imports data"),
        ("tasks/a.py", "def f():\n    import bertwright.training.loop", "tasks imports training"),
        ("engines/a.py", "from bertwright import evaluate", "engines imports evaluate"),
        ("models/a.py", "from bertwright import finetune", "models imports __init__"),
        ("verbs/a.py", "import bertwright", "verbs imports __init__"),
        ("verbs/a.py", "from bertwright.cli.main import main", "verbs imports cli"),
        ("data/a.py", "import_module('bertwright.tasks')", "data imports tasks"),
        ("models/a.py", "from .roles import get_roles", "relative import"),
        ("attic/a.py", "import torch", "'attic' has no place in the plan"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path, place, code, expected):
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    (violation,) = find_violations(tmp_path)
    assert violation.endswith(expected)
    assert violation.startswith(place)


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("methods/a.py", "from bertwright.training.hooks import Hook\nimport bertwright.errors"),
        ("methods/a.py", "from bertwright.methods.distil import x"),
        ("evaluate/a.py", "from bertwright.engines.predictor import Predictor"),
        ("verbs/a.py", "from bertwright.compress.budget import Budget"),
        ("cli/main.py", "from bertwright.verbs import VERBS\nfrom bertwright import __version__"),
        ("registry.py", "importlib.import_module('bertwright.methods')"),
    ],
)
def test_what_the_plan_allows_passes(tmp_path, place, code):
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    assert find_violations(tmp_path) == []
