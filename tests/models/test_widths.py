"""Narrower layers: the same as gates at zero, saved and loaded bit for bit, or a reason why not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel

from bertwright.errors import CheckpointError, UnsupportedRoleError, UsageError
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.depth import make_shallower
from bertwright.models.encoder import load_encoder, save_encoder
from bertwright.models.replay import replay_surgery
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import (
    make_narrower,
    why_heads_stay,
    why_neurons_stay,
    widths_of,
)
from bertwright.surgery.plan import SurgeryPlan
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

BY_HEADS = [
    *("bert", "roberta", "xlm-roberta", "electra", "distilbert"),
    *("mobilebert", "deberta-v2", "bart"),
]
BY_NEURONS = [*BY_HEADS, "mpnet", "xlnet"]
NEURONS = {0: [0, 2, 3, 7], 2: [1, 5, 6, 9, 11]}


def encoder_of(family):
    """Return an encoder whose parts can be told apart by layer (what two networks a layer need)."""
    more = {"num_feedforward_networks": 1} if family == "mobilebert" else {}
    if family == "deberta-v2":
        more = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    encoder, tokenizer = tiny_encoder(family, **more)
    return encoder.eval(), tiny_batch(tokenizer)


@torch.no_grad()
def run(encoder, batch):
    roles = get_roles(encoder)
    names = ("input_ids", "attention_mask")
    inputs = {name: batch[name] for name in names}
    states = encoder(**inputs, **roles.forward_options).last_hidden_state
    return states * batch["attention_mask"].unsqueeze(-1)


def gated(encoder, heads, neurons):
    """Return a copy in which the inputs of output projections are zero but for what is kept."""
    copied = copy.deepcopy(encoder)
    roles = get_roles(copied)

    def gate(linear: nn.Module, keep):
        def hook(module, args):
            open_ = torch.zeros(args[0].shape[-1])
            open_[keep] = 1.0
            return (args[0] * open_,)

        linear.register_forward_pre_hook(hook)

    for layer, kept in heads.items():
        size = roles.part(layer, "query").out_features // roles.num_heads
        keep = [head * size + place for head in kept for place in range(size)]
        gate(roles.part(layer, "attention_output"), keep)
    for layer, kept in neurons.items():
        gate(roles.part(layer, "ffn_out"), list(kept))
    return copied


@pytest.mark.parametrize("family", BY_NEURONS)
def test_taken_out_is_what_a_gate_at_zero_does(family, tmp_path):
    encoder, batch = encoder_of(family)
    before = run(encoder, batch)
    heads = {1: [0], 3: [1, 3]} if family in BY_HEADS else {}
    narrow = make_narrower(encoder, heads=heads, neurons=NEURONS)
    got = run(narrow, batch)
    assert_close(got, run(gated(encoder, heads, NEURONS), batch), atol=2e-6, rtol=1e-5)
    assert (got - before).abs().max() > 1e-4
    assert torch.equal(run(encoder, batch), before), "the original stays"
    widths = widths_of(narrow)
    assert widths.neurons[0] == 4 and widths.neurons[2] == 5
    assert (widths.heads is None) == (family not in BY_HEADS)

    save_encoder(narrow, tmp_path / "encoder")
    loaded, _ = load_encoder(tmp_path / "encoder")
    assert torch.equal(run(loaded, batch), got)
    assert widths_of(loaded) == widths
    with pytest.raises((RuntimeError, ValueError)):
        AutoModel.from_pretrained(tmp_path / "encoder")

    plan = SurgeryPlan().then_narrow(heads, NEURONS)
    replayed = replay_surgery(encoder, SurgeryPlan.from_json(plan.to_json()))
    assert torch.equal(run(replayed, batch), got)


@pytest.mark.parametrize("family", BY_NEURONS)
def test_what_the_configuration_can_say_loads_in_stock_transformers(family, tmp_path):
    encoder, batch = encoder_of(family)
    kept = range(1, 9)
    even = make_narrower(encoder, neurons=dict.fromkeys(range(4), kept))
    save_encoder(even, tmp_path)
    stock = AutoModel.from_pretrained(tmp_path).eval()
    stock = stock.get_encoder() if family == "bart" else stock
    assert torch.equal(run(stock, batch), run(even, batch))
    assert not hasattr(even.config, "layer_widths")


@pytest.mark.parametrize("family", sorted(set(FAMILY_NAMES) - set(BY_NEURONS)))
def test_a_family_that_cannot_says_why(family):
    encoder, _ = tiny_encoder(family)
    roles = get_roles(encoder)
    assert why_neurons_stay(roles) and why_heads_stay(roles)
    with pytest.raises(UnsupportedRoleError, match=f"{family} keeps its neurons"):
        make_narrower(encoder, neurons={0: [0]})


def test_shared_tables_of_positions_keep_heads():
    encoder, _ = tiny_encoder("mpnet")
    with pytest.raises(UnsupportedRoleError, match="relative positions"):
        make_narrower(encoder, heads={0: [0]})


def test_narrow_twice_and_then_shallower():
    encoder, batch = encoder_of("bert")
    twice = make_narrower(make_narrower(encoder, neurons={0: [1, 4, 6]}), neurons={0: [0, 2]})
    assert torch.equal(run(twice, batch), run(make_narrower(encoder, neurons={0: [1, 6]}), batch))
    shallow = make_shallower(make_narrower(encoder, heads={2: [1]}), [0, 2])
    assert widths_of(shallow).heads == (4, 1)
    assert shallow.config.layer_widths["heads"] == [4, 1]
    even = make_shallower(make_narrower(encoder, heads={2: [1]}), [0, 1])
    assert not hasattr(even.config, "layer_widths"), "what was uneven is gone"


@pytest.mark.parametrize(
    ("heads", "neurons", "says"),
    [
        ({0: []}, {}, "no head would be left"),
        ({0: [4]}, {}, "no head 4"),
        ({0: [1, 0]}, {}, "increasing"),
        ({9: [0]}, {}, "no layer 9"),
        ({}, {0: [10**6]}, "no neuron 1000000"),
    ],
)
def test_what_is_not_there_cannot_be_kept(heads, neurons, says):
    encoder, _ = tiny_encoder("bert")
    with pytest.raises(UsageError, match=says):
        make_narrower(encoder, heads=heads, neurons=neurons)


def test_a_task_model_is_saved_and_its_students_are_narrow_too(tmp_path):
    encoder, batch = encoder_of("bert")
    _, tokenizer = tiny_encoder("bert")
    narrow = make_narrower(encoder, heads={1: [1]}, neurons={3: range(5)})
    model = build_task_model(narrow, task="classify", labels=["a", "b"], tokenizer=tokenizer)
    inputs = (batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        logits = model(*inputs).logits
        model.save(tmp_path / "m")
        assert torch.equal(TaskModel.load(tmp_path / "m")(*inputs).logits, logits)
    student = copy_with_layers(model, [1, 3])
    assert widths_of(student.encoder).heads == (1, 4)
    student.save(tmp_path / "s")
    assert widths_of(TaskModel.load(tmp_path / "s").encoder) == widths_of(student.encoder)


@pytest.mark.parametrize("widths", [{"heads": [1]}, {"heads": [9] * 4, "neurons": None}, 3])
def test_damaged_widths_are_explained(widths, tmp_path):
    encoder, _ = encoder_of("bert")
    narrow = make_narrower(encoder, heads={0: [0]})
    narrow.config.layer_widths = widths
    save_encoder(narrow, tmp_path)
    with pytest.raises(CheckpointError, match="layer_widths"):
        load_encoder(tmp_path)
