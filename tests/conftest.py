"""What every test shares: no network, one thread, caches of its own, and where real data lies.

The environment is set before any test module is imported (the Hugging Face libraries read it at
import) and is inherited by xdist's workers and by every process a test starts.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment of the whole test run, once, in the process that starts it."""
    if hasattr(config, "workerinput"):
        return
    home = tempfile.mkdtemp(prefix="bertwright-tests-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ.update(
        BERTWRIGHT_CACHE=f"{home}/bertwright",
        HF_HOME=f"{home}/huggingface",
        MPLCONFIGDIR=f"{home}/matplotlib",
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    )
    selected = config.getoption("markexpr", default="")
    if "network" not in selected or "not network" in selected:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Compute on one thread, so that parallel test processes do not fight over the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function from a dataset's name to its folder; the test is skipped without it.

    Looked for in `$BERTWRIGHT_DATA`, then in `shared/data` in and beside the repository.
    """

    def locate(name: str) -> Path:
        given = os.environ.get("BERTWRIGHT_DATA")
        places = [Path(given)] if given else []
        places += [REPOSITORY / "shared" / "data", REPOSITORY.parent / "shared" / "data"]
        for place in places:
            if (place / name).is_dir():
                return place / name
        pytest.skip(f"dataset {name!r} is not here; set BERTWRIGHT_DATA to the folder that has it")

    return locate


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dicts, or raw lines) to a JSON Lines file, packed if its name says so."""

    def write(rows: Iterable[Mapping[str, Any] | str], name: str = "rows.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        data = "".join(f"{line}\n" for line in lines).encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write
