"""Scripts of benchmarks/ and scripts/ are imported as modules."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope="session")
def make_tables() -> ModuleType:
    path = REPOSITORY / "scripts" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write() -> Callable[[Path, str, Any], None]:
    """Return what writes a result: the folder of all, its place there, and its values."""

    def put(results: Path, place: str, values: Any) -> None:
        path = results / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    return put
