"""Int8 that costs too much is repaired or refused: made-up figures, and a model with outliers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bertwright.data.tokenise import EncodedRows
from bertwright.engines.compile import Artifact, compile_model
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.opening import open_session
from bertwright.engines.repair import Trial, repair
from bertwright.errors import ParityError, UsageError
from bertwright.models.task_model import TaskModel
from engines_models import make_model

GROUPS = ["embeddings", "layer 0", "layer 1", "head"]


def costs(damage: dict[str, float]) -> tuple[Callable[[tuple[str, ...]], Trial], list]:
    """Return an attempt whose loss is the damage of what is not spared, and a log of calls."""
    calls: list[tuple[str, ...]] = []

    def attempt(kept: tuple[str, ...]) -> Trial:
        calls.append(kept)
        lost = sum(points for group, points in damage.items() if group not in kept)
        return Trial(kept=kept, drop_points=lost, error=lost)

    return attempt, calls


def test_nothing_is_spared_when_nothing_is_lost() -> None:
    attempt, calls = costs({"layer 0": 0.4})
    assert repair(attempt, GROUPS, tolerance_points=0.5).kept == ()
    assert calls == [()]


def test_the_worst_part_is_spared() -> None:
    attempt, calls = costs({"layer 1": 7.0, "layer 0": 0.2})
    trial = repair(attempt, GROUPS, tolerance_points=0.5)
    assert trial.kept == ("layer 1",) and trial.drop_points == pytest.approx(0.2)
    assert len(calls) == 1 + len(GROUPS)


def test_the_two_worst_parts_are_spared_together() -> None:
    attempt, _ = costs({"layer 1": 7.0, "head": 3.0, "layer 0": 0.2})
    assert repair(attempt, GROUPS, tolerance_points=0.5).kept == ("layer 1", "head")


def test_refused_with_the_figures() -> None:
    attempt, calls = costs(dict.fromkeys(GROUPS, 2.0))
    with pytest.raises(ParityError, match=r"nothing spared: \+8.00 points lost") as caught:
        repair(attempt, GROUPS, tolerance_points=0.5)
    assert "+2.00" in str(caught.value)
    assert tuple(GROUPS) not in {tuple(sorted(c, key=GROUPS.index)) for c in calls}


def add_outlier(model: TaskModel, layer: int, size: float) -> None:
    """Scale one value channel up and its use down: the function stays, its range does not."""
    value = model.roles.part(layer, "value")
    output = model.roles.part(layer, "attention_output")
    with torch.no_grad():
        value.weight[3] *= size
        value.bias[3] = (value.bias[3] + 1.0) * size
        output.weight[:, 3] /= size


@pytest.fixture(scope="module")
def with_outlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model("bert")
    add_outlier(model, 1, 1000.0)
    path = tmp_path_factory.mktemp("outlier") / "model"
    model.save(path)
    return path


def test_outlier_is_found_and_spared(
    with_outlier: Path, encode: Callable[..., EncodedRows], tmp_path: Path
) -> None:
    rows = encode(TaskModel.load(with_outlier), 96)
    artifact = compile_model(
        with_outlier,
        "onnxruntime:int8",
        tmp_path / "out",
        parity=rows.select(range(32)),
        dev=rows,
        tolerance_points=5.0,
        threads=1,
    )
    assert "layer 1" in artifact.kept_in_high_precision
    assert artifact.score["drop_points"] <= 5.0
    assert artifact.score["torch"] == pytest.approx(1.0, abs=0.02)
    drop = [artifact.score[key] for key in ("drop_low", "drop_points", "drop_high")]
    assert drop == sorted(drop) and drop[0] < drop[2] and artifact.score["num_rows"] == 96
    assert artifact.quantized, "what was not spared is quantized"
    assert not any("layer.1/" in name for name in artifact.quantized)
    session = open_session(tmp_path / "out", threads=1)
    assert session.precision == "int8"


def test_refused_model_leaves_nothing_behind(
    with_outlier: Path, encode: Callable[..., EncodedRows], tmp_path: Path, monkeypatch
) -> None:
    rows = encode(TaskModel.load(with_outlier), 96)
    monkeypatch.setattr("bertwright.engines.onnx_engine.OnnxCompiler.groups", lambda self: ["head"])
    with pytest.raises(ParityError, match="points of score"):
        compile_model(
            with_outlier, "onnxruntime:int8", tmp_path / "out", dev=rows, parity=rows, threads=1
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_openvino_int8(
    family: str,
    saved: Callable[..., Path],
    encode: Callable[..., EncodedRows],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = encode(TaskModel.load(saved(family)), 96)
    points = 6.0 if exact_weight_bits() == 8 else 12.0  # steps twice as large
    artifact = compile_model(
        saved(family),
        "openvino:int8",
        tmp_path / "out",
        calibration=rows.select(range(32)),
        parity=rows.select(range(32)),
        dev=rows,
        tolerance_points=points,
        threads=1,
    )
    assert artifact.score["drop_points"] <= points and artifact.score["rows"] == "dev"
    assert artifact.parity["max_abs"] > 1e-4, "int8 rounds"
    assert artifact.parity["snr_db"] > 15
    assert len(artifact.quantized) >= 10
    assert artifact.facts["weight_bits"] == exact_weight_bits()
    assert Artifact.load(tmp_path / "out") == artifact
    session = open_session(tmp_path / "out", threads=1)
    assert session.precision == "int8"
    assert capfd.readouterr().out == "", "stdout is for answers"


def test_openvino_int8_spares_what_it_is_told(
    saved: Callable[..., Path], encode: Callable[..., EncodedRows], tmp_path: Path
) -> None:
    from bertwright.engines.openvino_engine import OpenVinoCompiler
    from bertwright.engines.parity import real_parity_batches

    model = TaskModel.load(saved())
    compiler = OpenVinoCompiler(model, "int8")
    assert compiler.groups() == ["embeddings", *(f"layer {i}" for i in range(4)), "head"]
    batches = real_parity_batches(encode(model)).padded[:2]
    plain = compiler.write(tmp_path, calibration=batches, kept=())["quantized"]
    spared = compiler.write(tmp_path, calibration=batches, kept=("layer 2",))["quantized"]
    assert any("layer.2." in name for name in plain)
    assert not any("layer.2." in name for name in spared)
    assert any("layer.1." in name for name in spared)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_takes_the_embedding_tables_and_can_spare_them(
    engine: str, saved: Callable[..., Path], encode: Callable[..., EncodedRows], tmp_path: Path
) -> None:
    from bertwright.engines.base import EngineSpec, load_engine
    from bertwright.engines.parity import real_parity_batches

    model = TaskModel.load(saved())
    compiler = load_engine(EngineSpec(engine, "int8")).make_compiler(model, "int8")
    batches = real_parity_batches(encode(model)).padded[:2]
    sizes = {}
    for kept in ((), ("embeddings",)):
        facts = compiler.write(tmp_path, calibration=batches, kept=kept)
        found = [name for name in facts["quantized"] if "_embeddings/" in name]
        assert len(found) == (0 if kept else 3) and len(facts["quantized"]) > 12
        sizes[kept] = sum(file.stat().st_size for file in tmp_path.glob("model.*"))
    tables = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    more = {"onnxruntime": 3, "openvino": 1}[engine]
    gained = sizes["embeddings",] - sizes[()]
    assert 0.6 * more < gained / sum(tables) < 1.1 * more, "bytes a number of the tables"


def test_openvino_int8_needs_calibration(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calibrated"):
        compile_model(saved(), "openvino:int8", tmp_path / "out")
