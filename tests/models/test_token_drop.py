"""Leaving tokens out on the way, against an encoder that is given the tokens that stay."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import CheckpointError, ConfigError, UsageError
from bertwright.models.build import copy_with_layers, copy_with_widths
from bertwright.models.export import export_transformers
from bertwright.models.in_parts import FAMILIES_IN_PARTS, embed, mask_for_layers
from bertwright.models.task_model import TaskModel
from bertwright.models.token_drop import TokenDrop, attention_received
from bertwright.models.vocabulary import copy_with_pieces
from engines_models import inputs_of, make_model

LENGTHS = [12, 7, 3, 1, 9, 20, 15, 2]


def tensors(lengths=LENGTHS, width=None):
    return {k: torch.from_numpy(v) for k, v in inputs_of(lengths, width=width).items()}


def dropping(family="bert", pooling="cls", layer=2, share=0.5, least=2):
    model = make_model(family, pooling=pooling)
    model.token_drop = TokenDrop(layer=layer, share=share, least=least)
    return model


def states_of(model, inputs):
    with torch.no_grad():
        return model.encoder(**inputs).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES_IN_PARTS)
def test_those_that_go_on_are_run_as_if_there_were_no_others(family):
    """One text at a time, by hand: the upper layers see the chosen tokens and nothing else."""
    model = dropping(family, pooling="mean")
    roles = model.roles
    for length in (20, 9, 4):
        inputs = tensors([length])
        with torch.no_grad():
            lower, entered = embed(roles, inputs["input_ids"], None), None
            mask = mask_for_layers(roles, lower, inputs["attention_mask"])
            for layer in roles.layers[:2]:
                entered = lower
                lower = roles.hidden_of(roles.run_layers([layer], (lower, mask), {}))
            received = attention_received(roles, 1, entered, inputs["attention_mask"])[0]
            received[0] = torch.inf
            count = max(2, -(-length // 2))
            chosen = received.argsort(descending=True)[:count]
            upper = lower[:, chosen]
            mask = mask_for_layers(roles, upper, torch.ones(1, count, dtype=torch.long))
            for layer in roles.layers[2:]:
                upper = roles.hidden_of(roles.run_layers([layer], (upper, mask), {}))
            assert_close(model(**inputs).logits, model.head(upper.mean(dim=1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES_IN_PARTS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_all_of_them_are_the_whole_model(family, pooling):
    whole = make_model(family, pooling=pooling)
    inputs = tensors()
    with torch.no_grad():
        expected = whole(**inputs).logits
        whole.token_drop = TokenDrop(layer=1, share=1.0)
        assert_close(whole(**inputs).logits, expected, atol=1e-5, rtol=0)
        whole.token_drop = TokenDrop(layer=1, share=0.3, least=2)
        assert (whole(**inputs).logits - expected).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lstm", "conv1d"])
def test_a_text_has_the_same_answer_alone_and_in_any_batch(pooling):
    model = dropping(pooling=pooling)
    batch = tensors(width=31)
    with torch.no_grad():
        together = model(**batch).logits
        for row, length in enumerate(LENGTHS):
            alone = {name: one[row : row + 1, :length] for name, one in batch.items()}
            assert_close(model(**alone).logits[0], together[row], atol=1e-5, rtol=0)


def test_the_attention_received_is_that_of_the_layer():
    model = make_model()
    inputs = tensors()
    with torch.no_grad():
        model.encoder.set_attn_implementation("eager")
        maps = model.encoder(**inputs, output_attentions=True).attentions[0]
        states = embed(model.roles, inputs["input_ids"], None)
        found = attention_received(model.roles, 0, states, inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    expected = (maps * real[:, None, :, None]).sum(dim=(1, 2))
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert_close(found.sum(dim=1), 4.0 * real.sum(dim=1), atol=1e-4, rtol=0)


def test_counts_are_rounded_up_and_bounded():
    drop = TokenDrop(layer=1, share=0.3, least=4)
    lengths = torch.tensor([1, 3, 4, 10, 20, 31, 512])
    assert drop.count(lengths).tolist() == [1, 3, 4, 4, 6, 10, 154]


def test_whoever_asks_for_inner_states_gets_all_tokens():
    model, whole = dropping(), make_model()
    inputs = tensors()
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True)
        expected = whole(**inputs, output_hidden_states=True)
    assert_close(found.logits, expected.logits)
    assert len(found.hidden_states) == 5
    torch.manual_seed(0)
    trained = model.train()(**inputs).logits
    torch.manual_seed(0)
    assert_close(trained, whole.train()(**inputs).logits)


def test_a_narrower_model_does_it_too_and_a_shallower_one_does_not():
    model = dropping()
    assert copy_with_widths(model, heads={0: [0]}).token_drop == model.token_drop
    assert copy_with_pieces(model, list(range(100))).token_drop == model.token_drop
    assert copy_with_layers(model, [0, 1, 2]).token_drop is None


def test_it_is_saved_and_what_is_damaged_is_refused(tmp_path):
    model = dropping(share=0.25)
    model.save(tmp_path / "m")
    inputs = tensors()
    loaded = TaskModel.load(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.token_drop == model.token_drop
    file = tmp_path / "m/bertwright.json"
    manifest = json.loads(file.read_text())
    for wrong in (
        {"layer": 2},
        {"layer": 0, "share": 0.5},
        {"layer": 4, "share": 0.5},
        {"layer": 2, "share": 0.5, "x": 1},
    ):
        file.write_text(json.dumps({**manifest, "token_drop": wrong}))
        with pytest.raises(CheckpointError, match="damaged"):
            TaskModel.load(tmp_path / "m")
    with pytest.raises(UsageError, match="transformers would not"):
        export_transformers(model, tmp_path / "stock")
    for wrong in ({"layer": 0}, {"share": 0.0}, {"share": 1.5}, {"least": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TokenDrop(**{"layer": 1, "share": 0.5, **wrong})


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_leave_out_the_same_tokens(engine, pooling, tmp_path):
    from bertwright.engines import onnx_engine, openvino_engine

    model = dropping(pooling=pooling)
    module = {"onnxruntime": onnx_engine, "openvino": openvino_engine}[engine]
    facts = module.make_compiler(model, "fp32").write(tmp_path, calibration=[], kept=())
    session = module.open_artifact(tmp_path, {**facts, "precision": "fp32"}, threads=1, streams=1)
    for lengths in (LENGTHS, [20], [1], [5, 5]):
        with torch.no_grad():
            expected = model(**tensors(lengths)).logits.numpy()
        np.testing.assert_allclose(session(**inputs_of(lengths)), expected, atol=1e-3)
