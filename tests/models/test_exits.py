"""Stopping between layers: equal to the whole model where nobody leaves, to a head where all do."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from bertwright.errors import CheckpointError, UnsupportedFamilyError, UsageError
from bertwright.models.build import build_task_model, copy_with_layers, copy_with_widths
from bertwright.models.exits import EXITS, Exits, read_for_exit, refuse_exits, sureness
from bertwright.models.export import export_transformers
from bertwright.models.in_parts import FAMILIES_IN_PARTS
from bertwright.models.progressive import answer_early
from bertwright.models.task_model import ModelConfig, TaskModel
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

LABELS = ["bad", "good", "so-so"]


def model_with_exits(family="bert", *, pooling="cls", layers=(1, 2, 3), **overrides):
    encoder, tokenizer = tiny_encoder(family, **overrides)
    model = build_task_model(
        encoder,
        task="classify",
        labels=LABELS,
        config=ModelConfig(pooling=pooling),
        tokenizer=tokenizer,
        max_length=32,
    )
    random = torch.Generator().manual_seed(3)
    weight = torch.randn(len(layers), 3, 64, generator=random)
    model.exits = Exits(layers, weight, torch.randn(len(layers), 3, generator=random))
    return model.eval()


def run(model, batch, threshold):
    model.exits.threshold = threshold
    with torch.no_grad():
        return answer_early(model, **batch)


def whole(model, batch):
    with torch.no_grad():
        return model(**batch, output_hidden_states=True)


def centre_heads(model, batch):
    """Let the heads answer by how a row differs from the others: some are sure, some are not."""
    states = whole(model, batch).hidden_states
    for place, layer in enumerate(model.exits.layers):
        read = read_for_exit(states[layer], batch["attention_mask"])
        weight = model.exits.weight.data[place]
        weight *= 1.5 / (read - read.mean(0)).matmul(weight.T).std()
        model.exits.bias.data[place] = -weight @ read.mean(0)


def by_hand(model, batch, threshold):
    """One row after the other through the whole model; then the first head that is sure."""
    output = whole(model, batch)
    answers, layers = [], []
    for row in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][row].sum())
        answer, depth = output.logits[row], model.roles.num_layers
        for place, layer in reversed(list(enumerate(model.exits.layers))):
            states = output.hidden_states[layer][row, :length]
            read = torch.cat([states[0], states.sum(0) / length])
            logits = model.exits.weight[place] @ read + model.exits.bias[place]
            if logits.softmax(0).max() >= threshold:
                answer, depth = logits, layer
        answers.append(answer)
        layers.append(depth)
    return torch.stack(answers).detach(), layers


@pytest.mark.parametrize("pooling", ["cls", "mean", "weighted-layers:3"])
@pytest.mark.parametrize("family", FAMILIES_IN_PARTS)
def test_where_nobody_leaves_it_is_the_whole_model_bit_for_bit(family, pooling):
    model = model_with_exits(family, pooling=pooling)
    batch = tiny_batch(model.tokenizer)
    expected = whole(model, batch).logits
    for threshold in (None, 1.1):
        found = run(model, batch, threshold)
        assert torch.equal(found.logits, expected) and expected.std() > 0
        assert found.layers.tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("family", FAMILIES_IN_PARTS)
def test_where_all_leave_it_is_the_first_head(family):
    model = model_with_exits(family, layers=(2, 3))
    batch = tiny_batch(model.tokenizer)
    found = run(model, batch, 0.0)
    expected, _ = by_hand(model, batch, 0.0)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
    assert found.layers.tolist() == [2, 2, 2, 2]
    assert not torch.allclose(found.logits, whole(model, batch).logits, atol=1e-2)


@pytest.mark.parametrize("pooling", ["cls", "weighted-layers:3"])
@pytest.mark.parametrize("family", FAMILIES_IN_PARTS)
def test_rows_that_go_on_are_those_that_are_not_sure(family, pooling):
    model = model_with_exits(family, pooling=pooling)
    texts = ["the film was good", "no", "a fast car and a slow one", "-1", "never", "old man"]
    batch = dict(model.tokenizer(texts, padding=True, return_tensors="pt"))
    centre_heads(model, batch)
    depths = set()
    for threshold in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        found = run(model, batch, threshold)
        expected, layers = by_hand(model, batch, threshold)
        torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
        assert found.layers.tolist() == layers
        depths.add(tuple(layers))
        alone = [
            run(model, {name: one[row : row + 1] for name, one in batch.items()}, threshold)
            for row in range(len(texts))
        ]
        torch.testing.assert_close(torch.cat([a.logits for a in alone]), found.logits)
        assert torch.equal(torch.cat([a.layers for a in alone]), found.layers)
    assert any(len(set(layers)) > 2 for layers in depths), "rows leave at different places"


def test_layers_that_nobody_needs_do_not_run_and_packed_rows_do():
    model = model_with_exits(layers=(1,))
    batch = tiny_batch(model.tokenizer)
    centre_heads(model, batch)
    seen = []
    for layer in model.roles.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    run(model, batch, 0.0)
    assert seen == [4]
    sure = sorted(
        sureness(model.exits.logits(1, read), "probability").item()
        for read in read_for_exit(whole(model, batch).hidden_states[1], batch["attention_mask"])[
            :, None
        ]
    )
    seen.clear()
    run(model, batch, (sure[2] + sure[1]) / 2)
    assert seen == [4, 2, 2, 2]


@pytest.mark.parametrize("family", sorted({*FAMILY_NAMES} - {*FAMILIES_IN_PARTS}))
def test_other_families_are_refused_with_the_reason(family):
    encoder, tokenizer = tiny_encoder(family)
    model = build_task_model(encoder, task="classify", labels=LABELS, tokenizer=tokenizer)
    model.exits = Exits((1,), torch.zeros(1, 3, 64), torch.zeros(1, 3))
    with pytest.raises(UnsupportedFamilyError, match=f"a layer of {family} needs more"):
        answer_early(model, **tiny_batch(tokenizer))


def test_narrower_layers_and_token_types():
    model = model_with_exits(type_vocab_size=2)
    narrow = copy_with_widths(model, heads={0: [0, 2]}, neurons={1: list(range(8))})
    assert narrow.exits is None
    narrow.exits = model.exits
    first = tiny_batch(model.tokenizer)
    batch = {**first, "token_type_ids": torch.ones_like(first["input_ids"])}
    for one in (model.eval(), narrow.eval()):
        assert torch.equal(run(one, batch, None).logits, whole(one, batch).logits)
        assert not torch.equal(run(one, batch, None).logits, run(one, first, None).logits)


def test_how_sure_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]))
    torch.testing.assert_close(
        sureness(logits, "probability"), torch.tensor([0.5, 1 / 3], dtype=torch.float64)
    )
    entropy = 1.5 * math.log(2) / math.log(3)
    torch.testing.assert_close(
        sureness(logits, "entropy"), torch.tensor([1 - entropy, 0.0], dtype=torch.float64)
    )
    assert 1 - 1e-6 < sureness(torch.tensor([[20.0, 0.0]]), "probability").item() < 1


@pytest.mark.parametrize("measure", ["probability", "entropy"])
@pytest.mark.parametrize("threshold", [None, 0.7312345678901234])
def test_saved_and_loaded_it_is_the_same(measure, threshold, tmp_path):
    model = model_with_exits(layers=(1, 3))
    model.exits.measure = measure
    batch = tiny_batch(model.tokenizer)
    before = run(model, batch, threshold)
    for one in (copy.deepcopy(model), save_and_load(model, tmp_path / "m")):
        assert one.exits.to_json() == model.exits.to_json()
        assert (one.exits.layers, one.exits.threshold) == ((1, 3), threshold)
        after = run(one, batch, threshold)
        assert torch.equal(after.logits, before.logits) and torch.equal(after.layers, before.layers)
        assert torch.equal(whole(one, batch).logits, whole(model, batch).logits)


def save_and_load(model, place):
    model.save(place)
    return TaskModel.load(place)


def test_a_model_without_exits_is_saved_as_ever(tmp_path):
    model = model_with_exits()
    model.save(tmp_path / "with")
    names = {path.name for path in (tmp_path / "with").iterdir()}
    model.exits = None
    model.save(tmp_path / "without")
    assert names - {path.name for path in (tmp_path / "without").iterdir()} == {EXITS}
    said, plain = (
        json.loads((tmp_path / one / "bertwright.json").read_text()) for one in ("with", "without")
    )
    assert {key: said[key] for key in plain} == plain and set(said) - set(plain) == {"exits"}
    assert (tmp_path / "with" / "heads.safetensors").read_bytes() == (
        tmp_path / "without" / "heads.safetensors"
    ).read_bytes()
    assert TaskModel.load(tmp_path / "without").exits is None
    model.save(tmp_path / "with")
    assert not (tmp_path / "with" / EXITS).exists(), "exits of before are not left behind"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": [1, 4]}, "does not fit"),
        ({"layers": [1]}, "damaged"),
        ({"layers": [3, 1]}, "damaged"),
        ({"measure": "luck"}, "does not fit"),
        ({"threshold": "high"}, "damaged"),
        ({"layers": None}, "damaged"),
    ],
)
def test_damage_is_told(change, says, tmp_path):
    model_with_exits(layers=(1, 3)).save(tmp_path / "m")
    file = tmp_path / "m" / "bertwright.json"
    facts = json.loads(file.read_text())
    facts["exits"] |= change
    file.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=says):
        TaskModel.load(tmp_path / "m")


def test_missing_weights_are_told(tmp_path):
    model_with_exits().save(tmp_path / "m")
    (tmp_path / "m" / EXITS).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        TaskModel.load(tmp_path / "m")


@pytest.mark.parametrize("layers", [(), (0, 1), (2, 1), (1, 1), (1,)])
def test_heads_that_do_not_fit_are_refused(layers):
    with pytest.raises(UsageError, match="exits"):
        Exits(layers, torch.zeros(2, 3, 8), torch.zeros(2, 3))


def test_what_changes_the_layers_leaves_the_exits_behind_and_stock_refuses(tmp_path):
    model = model_with_exits()
    smaller = copy_with_layers(model, [0, 3])
    assert smaller.exits is None and isinstance(model.exits, nn.Module)
    refuse_exits(smaller, "nothing")
    with pytest.raises(UsageError, match="early exits.*run all of its layers"):
        export_transformers(model, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()
