"""Early exits in int8: each stage quantized, and a threshold that its own answers ask for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta

from bertwright.data.tokenise import EncodedRows
from bertwright.engines.artifact import Artifact
from bertwright.engines.base import EngineSpec, load_engine
from bertwright.engines.compile import compile_model
from bertwright.engines.parity import encoded_batches
from bertwright.engines.stages import EarlySession, StagesCompiler
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import ParityError, UsageError
from bertwright.methods.exit.early_exit import EarlyExitConfig, calibrate_exits, fit_exits
from bertwright.models.exits import sureness
from bertwright.models.task_model import TaskModel
from early_models import ENGINES, LAYERS, opened
from engines_models import make_model

ROWS = 120


@pytest.fixture(scope="module")
def fitted(encode: Callable[..., EncodedRows]) -> tuple[TaskModel, EncodedRows]:
    model = make_model("bert").eval()
    options = EarlyExitConfig(layers=LAYERS, agreement=0.8, confidence=0.9)
    model.exits = fit_exits(model, encode(model, count=300, seed=1), options)
    rows = encode(model, count=ROWS)
    model.exits.threshold = calibrate_exits(model, model.exits, rows).threshold
    return model, rows


@pytest.fixture
def model(fitted: tuple[TaskModel, EncodedRows]) -> TaskModel:
    """Return one that promises little of what a few rows can show; a test may change it."""
    return copy.deepcopy(fitted[0])


@pytest.fixture
def rows(fitted: tuple[TaskModel, EncodedRows]) -> EncodedRows:
    return fitted[1]


def answers_to(session: EarlySession, rows: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    """Return what each exit and the whole model answer, [E + 1, N, C], and the session [N, C]."""
    parts, early = [], []
    for _, batch in encoded_batches(rows, batch_tokens=512, batch_size=16, pad_multiple=8):
        found = session.at_all_exits(**batch)
        parts.append(found.reshape(3, -1, found.shape[-1]))
        early.append(session(**batch))
    return np.concatenate(parts, axis=1), np.concatenate(early)


def agreeing(answers: np.ndarray, threshold: float) -> int:
    """Return how many rows are answered as by the whole model, one row after the other."""
    same = 0
    for row in range(answers.shape[1]):
        for one in answers[:, row]:
            if sureness(torch.from_numpy(one[None]), "probability").item() >= threshold:
                break
        same += int(one.argmax() == answers[-1, row].argmax())
    return same


@pytest.mark.parametrize("engine", ENGINES)
def test_the_threshold_is_what_its_own_answers_ask_for(
    engine: str, tmp_path: Path, model: TaskModel, rows: EncodedRows
) -> None:
    session = opened(model, engine, tmp_path, precision="int8", rows=rows)
    artifact = Artifact.load(tmp_path / "out")
    said = artifact.facts["exits"]
    assert session.threshold == said["threshold"] != model.exits.threshold
    answers, early = answers_to(session, rows)
    same = agreeing(answers, said["threshold"])
    assert same == said["calibrated"]["num_agreeing"] and said["calibrated"]["num_rows"] == ROWS
    assert beta.ppf(0.1, same, ROWS - same + 1) >= 0.8
    lower = agreeing(answers, said["threshold"] - 0.1)
    assert beta.ppf(0.1, lower, ROWS - lower + 1) < 0.8, "a lower one would break the promise"
    assert np.abs(early - answers[-1]).max() > 0.1, "rows leave"
    assert said["calibrated"]["average_layers"] < model.roles.num_layers
    reference = TorchSession(model, "fp32", 1)
    expected = np.concatenate(
        [
            reference.at_all_exits(**batch).reshape(3, -1, answers.shape[-1])
            for _, batch in encoded_batches(rows, batch_tokens=512, batch_size=16, pad_multiple=8)
        ],
        axis=1,
    )
    off = np.abs(answers - expected).mean(axis=(1, 2)) / expected.std(axis=(1, 2))
    assert 0 < off.max() < 0.2, "near torch's at each exit, and not the same"
    stages = {name.partition(": ")[0] for name in artifact.quantized}
    assert stages == {"stage-1", "stage-2", "stage-3"}
    assert json.loads((tmp_path / "out" / "artifact.json").read_text())["spec"].endswith("int8")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_is_spared_in_its_stage(
    engine: str, tmp_path: Path, model: TaskModel, rows: EncodedRows
) -> None:
    spec = EngineSpec.parse(f"{engine}:int8")
    compiler = StagesCompiler(load_engine(spec, compiling=True), model, "int8")
    assert compiler.groups() == ["embeddings", *(f"layer {n}" for n in range(4)), "head"]
    calibration = [
        batch for _, batch in encoded_batches(rows, batch_tokens=64, batch_size=1, pad_multiple=1)
    ][:16]

    def layers_in_int8(kept: tuple[str, ...]) -> Mapping[str, set[int]]:
        names = compiler.write(tmp_path, calibration=calibration, kept=kept)["quantized"]
        return {
            f"stage-{stage}": {
                layer
                for layer in range(4)
                if any(
                    name.startswith(f"stage-{stage}: ")
                    and f".layer.{layer}." in name.replace("/", ".")
                    for name in names
                )
            }
            for stage in (1, 2, 3)
        }

    assert layers_in_int8(()) == {"stage-1": {0}, "stage-2": {1, 2}, "stage-3": {3}}
    assert layers_in_int8(("layer 1",)) == {"stage-1": {0}, "stage-2": {2}, "stage-3": {3}}


def test_a_table_of_four_bits(tmp_path: Path, model: TaskModel, rows: EncodedRows) -> None:
    opened(
        model,
        "onnxruntime",
        tmp_path,
        precision="int8",
        rows=rows,
        table_bits=4,
    )
    assert Artifact.load(tmp_path / "out").facts["table_bits"] == 4


def test_nobody_leaves_where_nobody_left(
    tmp_path: Path, model: TaskModel, rows: EncodedRows
) -> None:
    model.exits.threshold = None
    session = opened(model, "onnxruntime", tmp_path, precision="int8", rows=rows)
    answers, early = answers_to(session, rows)
    assert session.threshold is None and np.array_equal(early, answers[-1])


def test_a_promise_that_cannot_be_kept_is_refused(
    tmp_path: Path, model: TaskModel, rows: EncodedRows
) -> None:
    model.exits.agreement = 0.99
    with pytest.raises(ParityError, match=r"sure to leave 0.99 of the answers.*by 120 rows"):
        opened(model, "onnxruntime", tmp_path, precision="int8", rows=rows)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spec", ["openvino:int8", "onnxruntime:int8"])
def test_rows_are_needed(spec: str, tmp_path: Path, model: TaskModel, rows: EncodedRows) -> None:
    model.save(tmp_path / "model")
    with pytest.raises(UsageError, match="threshold has to be found anew") as caught:
        compile_model(tmp_path / "model", spec, tmp_path / "out", calibration=rows)
    assert "--eval-data" in str(caught.value.hint) and not (tmp_path / "out").exists()


def test_torch_in_other_precisions_is_refused(
    tmp_path: Path, model: TaskModel, rows: EncodedRows
) -> None:
    model.save(tmp_path / "model")
    with pytest.raises(UsageError, match="torch runs them in fp32"):
        compile_model(tmp_path / "model", "torch:bf16", tmp_path / "out", dev=rows)
