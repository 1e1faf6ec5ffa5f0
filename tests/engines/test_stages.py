"""Models with early exits in engines that run graphs: the same rows leave, with torch's logits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bertwright.engines.artifact import Artifact
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.stages import EarlySession, stages_of
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import ArtifactError, ParityError, UnsupportedFamilyError, UsageError
from bertwright.models.exits import Exits
from bertwright.models.in_parts import FAMILIES_IN_PARTS
from bertwright.models.progressive import answer_early
from bertwright.models.task_model import TaskModel
from early_models import ENGINES, LAYERS, make_early, opened
from engines_models import make_model
from tiny import FAMILY_NAMES


def layers_run(model: TaskModel, batch: dict[str, np.ndarray]) -> list[int]:
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    with torch.no_grad():
        return answer_early(model, **tensors).layers.tolist()


@dataclass(frozen=True)
class Opened:
    """The bert of `make_early`, compiled once for the tests that change nothing about it."""

    reference: TorchSession
    batch: dict[str, np.ndarray]
    session: EarlySession
    artifact: Path


@pytest.fixture(scope="module", params=ENGINES)
def early(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    model, batch = make_early()
    folder = tmp_path_factory.mktemp("early")
    session = opened(model, request.param, folder)
    return Opened(TorchSession(model, "fp32", 1), batch, session, folder / "out")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES_IN_PARTS)
def test_every_family_leaves_as_in_torch(family: str, engine: str, tmp_path: Path) -> None:
    model, batch = make_early(family)
    assert set(layers_run(model, batch)) == {*LAYERS, model.roles.num_layers}
    session, reference = opened(model, engine, tmp_path), TorchSession(model, "fp32", 1)
    found = session(**batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(**batch), atol=2e-4, rtol=1e-4)
    whole = reference.at_all_exits(**batch)[-len(found) :]
    assert np.abs(found - whole).max() > 0.5, "leaving early must matter"
    np.testing.assert_allclose(
        session.at_all_exits(**batch), reference.at_all_exits(**batch), atol=2e-4, rtol=1e-4
    )
    narrow = {
        name: array[:1, : int(batch["attention_mask"][0].sum())] for name, array in batch.items()
    }
    np.testing.assert_allclose(session(**narrow), reference(**narrow), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("threshold", "part"), [(None, -1), (0.0, 0)])
def test_nobody_and_everybody(threshold: float | None, part: int, tmp_path: Path) -> None:
    model, batch = make_early(layers=(2,))
    model.exits.threshold = threshold
    session, reference = opened(model, "onnxruntime", tmp_path), TorchSession(model, "fp32", 1)
    answers = session.at_all_exits(**batch).reshape(2, len(batch["input_ids"]), -1)
    np.testing.assert_allclose(session(**batch), answers[part], atol=1e-6)
    np.testing.assert_allclose(session(**batch), reference(**batch), atol=2e-4, rtol=1e-4)


def test_the_measure_of_sureness_is_the_models(tmp_path: Path) -> None:
    """The others' is the probability."""
    model, batch = make_early()
    by_probability = TorchSession(model, "fp32", 1)(**batch)
    model.exits.measure, model.exits.threshold = "entropy", 0.3
    session, reference = opened(model, "onnxruntime", tmp_path), TorchSession(model, "fp32", 1)
    np.testing.assert_allclose(session(**batch), reference(**batch), atol=2e-4, rtol=1e-4)
    assert np.abs(session(**batch) - by_probability).max() > 0.1


def test_streams_give_the_same_in_the_same_order(early: Opened) -> None:
    rows = [
        {name: array[start : start + 1 + start % 4] for name, array in early.batch.items()}
        for start in range(16)
    ]
    expected = [early.session(**one) for one in rows]
    several = open_session(early.artifact, threads=2, streams=2)
    for found, one in zip(several.run_many(iter(rows)), expected, strict=True):
        np.testing.assert_allclose(found, one, atol=1e-5)
    several.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_uneven_heads_and_a_pooling_that_asks_for_the_ids(engine: str, tmp_path: Path) -> None:
    model, batch = make_early(uneven=True, pooling="tfidf")
    weights = model.pooling.weights
    weights.copy_(torch.rand(len(weights), generator=torch.Generator().manual_seed(1)) + 0.1)
    session, reference = opened(model, engine, tmp_path), TorchSession(model, "fp32", 1)
    np.testing.assert_allclose(session(**batch), reference(**batch), atol=2e-4, rtol=1e-4)
    if engine == "onnxruntime":
        stages = Artifact.load(tmp_path / "out").facts["stages"]
        assert all("Attention" in stage["fused"] for stage in stages), "each with its own heads"
    weights.fill_(1.0)
    assert np.abs(session.at_all_exits(**batch) - reference.at_all_exits(**batch)).max() > 1e-3


def test_token_types_matter(early: Opened) -> None:
    ids = np.array([[2, 20, 3, 21, 22, 3]])
    mask, types = np.ones_like(ids), np.array([[0, 0, 0, 1, 1, 1]])
    found = early.session.at_all_exits(ids, mask, types)
    np.testing.assert_allclose(found, early.reference.at_all_exits(ids, mask, types), atol=2e-4)
    assert np.abs(found - early.session.at_all_exits(ids, mask)).max() > 1e-3


def test_left_padding_is_refused(early: Opened) -> None:
    with pytest.raises(ValueError, match="right"):
        early.session(np.array([[0, 2, 3]]), np.array([[0, 1, 1]]))


@pytest.mark.parametrize("family", sorted(set(FAMILY_NAMES) - set(FAMILIES_IN_PARTS)))
def test_other_families_have_no_stages(family: str) -> None:
    model = make_model(family)
    width = 2 * model.roles.hidden_size
    model.exits = Exits((1,), torch.zeros(1, 3, width), torch.zeros(1, 3))
    with pytest.raises(UnsupportedFamilyError, match="cannot be stopped between"):
        stages_of(model)


def test_a_pooling_of_inner_layers_is_refused(tmp_path: Path) -> None:
    model, _ = make_early(pooling="concat-last:2", layers=(1,))
    model.save(tmp_path / "model")
    with pytest.raises(UsageError, match="reads states of inner layers") as caught:
        compile_model(tmp_path / "model", "openvino:fp32", tmp_path / "out")
    assert "torch:fp32" in str(caught.value.hint) and not (tmp_path / "out").exists()


def test_an_exit_that_a_graph_computes_wrongly_is_noticed(tmp_path: Path, monkeypatch) -> None:
    """No row of the parity check need leave there for it."""
    model, _ = make_early()
    model.exits.threshold = None
    model.save(tmp_path / "model")
    right = Exits.logits
    monkeypatch.setattr(
        Exits,
        "logits",
        lambda self, layer, read: right(self, layer, read) + torch.jit.is_tracing() * (layer == 3),
    )
    with pytest.raises(ParityError, match="differ from torch's"):
        compile_model(tmp_path / "model", "onnxruntime:fp32", tmp_path / "out")


def test_a_damaged_stage_is_noticed(tmp_path: Path) -> None:
    opened(make_early()[0], "onnxruntime", tmp_path)
    facts = json.loads((tmp_path / "out" / "artifact.json").read_text())["facts"]
    assert [one["folder"] for one in facts["stages"]] == ["stage-1", "stage-2", "stage-3"]
    file = tmp_path / "out" / "stage-2" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"stage-2.*damaged"):
        Artifact.load(tmp_path / "out")
