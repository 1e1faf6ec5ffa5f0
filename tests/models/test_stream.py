"""Narrower states: the same as a mask in naive loops, saved and loaded bit for bit, or refused."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel

from bertwright.errors import CheckpointError, UnsupportedRoleError, UsageError
from bertwright.models.build import (
    build_task_model,
    copy_with_factors,
    copy_with_layers,
    copy_with_width,
    copy_with_widths,
)
from bertwright.models.encoder import load_encoder, save_encoder
from bertwright.models.export import export_transformers
from bertwright.models.outputs import Outputs
from bertwright.models.replay import replay_surgery
from bertwright.models.roles import get_roles
from bertwright.models.stream import NORMS, WRITERS, embedding_parts, keep_width
from bertwright.models.task_model import ModelConfig, TaskModel
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

BY_WIDTH = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
D = 32
KEPT = [d for d in range(D) if d % 3 != 1]


def encoder_of(family, **more):
    """Return a bare encoder with norms that are not all alike, and a batch."""
    encoder, tokenizer = tiny_encoder(family, **more)
    encoder, _ = load_encoder(encoder)
    generator = torch.Generator().manual_seed(5)
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data = 0.5 + torch.rand(len(module.weight), generator=generator)
            module.bias.data = 0.3 * torch.randn(len(module.bias), generator=generator)
    return encoder, tiny_batch(tokenizer)


@torch.no_grad()
def run(encoder, batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return encoder(**inputs).last_hidden_state * batch["attention_mask"].unsqueeze(-1)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


class MaskedNorm(nn.Module):
    """A norm over some dimensions, number by number; 0 elsewhere."""

    def __init__(self, norm, kept):
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, states):
        out = torch.zeros_like(states)
        for b in range(states.shape[0]):
            for t in range(states.shape[1]):
                values = {d: float(states[b, t, d]) for d in self.kept}
                mean = sum(values.values()) / len(values)
                spread = sum((x - mean) ** 2 for x in values.values()) / len(values)
                for d, x in values.items():
                    unit = (x - mean) / math.sqrt(spread + self.norm.eps)
                    out[b, t, d] = unit * float(self.norm.weight[d]) + float(self.norm.bias[d])
        return out


def masked(encoder, kept):
    """Return a copy of full width in which only these dimensions are ever other than 0."""
    copied = copy.deepcopy(encoder)
    roles = get_roles(copied)
    for index in range(roles.num_layers):
        for role in NORMS:
            roles.set_part(index, role, MaskedNorm(roles.part(index, role), kept))
    for parent, name, module in list(embedding_parts(copied)):
        if isinstance(module, nn.LayerNorm):
            setattr(parent, name, MaskedNorm(module, kept))
        elif isinstance(module, nn.Linear):
            gone = [d for d in range(D) if d not in kept]
            module.weight.data[gone] = 0
            module.bias.data[gone] = 0
    return copied


@pytest.mark.parametrize(
    ("family", "more"), [*((f, {}) for f in BY_WIDTH), ("electra", {"embedding_size": D})]
)
def test_taken_out_is_what_a_mask_does_and_is_saved(family, more, tmp_path):
    encoder, batch = encoder_of(family, **more)
    before = run(encoder, batch)
    narrow = keep_width(encoder, KEPT)
    got = run(narrow, batch)
    assert got.shape[-1] == len(KEPT) == narrow.config.hidden_size
    reference = run(masked(encoder, KEPT), batch)
    assert float(reference[..., [1, 4]].abs().max()) == 0
    assert_close(got, reference[..., KEPT], atol=5e-5, rtol=1e-4)
    assert (got - before[..., KEPT]).abs().max() > 1e-2, "a norm of all dimensions is another"
    assert torch.equal(run(encoder, batch), before), "the original stays"

    save_encoder(narrow, tmp_path / "encoder")
    loaded, _ = load_encoder(tmp_path / "encoder")
    assert torch.equal(run(loaded, batch), got)
    assert loaded.config.attention_width == D and loaded.config.hidden_size == len(KEPT)
    with pytest.raises((RuntimeError, ValueError)):
        AutoModel.from_pretrained(tmp_path / "encoder")


def test_parameters_are_gone_wherever_the_states_are():
    encoder, _ = encoder_of("bert")
    gone = D - len(KEPT)
    config = encoder.config
    tables = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    a_layer = 4 * D + 2 * 48 + 2 + 4  # heads in and out, FFN in and out, their biases, two norms
    expected = gone * (tables + 2 + 4 * a_layer)
    assert count(encoder) - count(keep_width(encoder, KEPT)) == expected


def test_all_dimensions_are_the_encoder():
    encoder, batch = encoder_of("bert")
    same = keep_width(encoder, range(D))
    assert torch.equal(run(same, batch), run(encoder, batch))
    assert not hasattr(same.config, "attention_width")


def planted(encoder, centred):
    """Kill what is not kept: nothing writes it. Centred: what is written has mean 0 over it."""
    gone = [d for d in range(D) if d not in KEPT]
    roles = get_roles(encoder)
    writers = [(m.weight, 1) for _, _, m in embedding_parts(encoder) if isinstance(m, nn.Embedding)]
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
    for index in range(roles.num_layers):
        for role in WRITERS:
            part = roles.part(index, role)
            writers += [(part.weight, 0), (part.bias, 0)]
    for parameter, dim in writers:
        rows = parameter.data if dim == 0 else parameter.data.T
        rows[gone] = 0
        if centred:
            rows[KEPT] -= rows[KEPT].mean(dim=0, keepdim=True)
    for norm in norms:
        norm.weight.data[gone] = 0
        norm.bias.data[gone] = 0
        if centred:
            norm.weight.data[KEPT] = 1
            norm.bias.data[KEPT] = 0
    return encoder


def test_dead_dimensions_are_missed_by_the_norms_alone():
    encoder, batch = encoder_of("bert")
    full = run(planted(encoder, centred=True), batch)
    assert float(full[..., [1, 4]].abs().max()) == 0 and full.abs().max() > 0.5
    narrow = keep_width(encoder, KEPT)
    assert (run(narrow, batch) - full[..., KEPT]).abs().max() > 0.05
    for module in narrow.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data *= math.sqrt(D / len(KEPT))
    assert_close(run(narrow, batch), full[..., KEPT], atol=1e-5, rtol=1e-4)


def test_a_mean_that_is_not_0_is_spread_over_dead_dimensions_too():
    encoder, batch = encoder_of("bert")
    full = run(planted(encoder, centred=False), batch)
    narrow = keep_width(encoder, KEPT)
    for module in narrow.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data *= math.sqrt(D / len(KEPT))
    assert (run(narrow, batch) - full[..., KEPT]).abs().max() > 0.01


@pytest.mark.parametrize("family", sorted(set(FAMILY_NAMES) - set(BY_WIDTH)))
def test_a_family_that_cannot_says_why(family):
    encoder, _ = tiny_encoder(family)
    with pytest.raises(UnsupportedRoleError, match=f"{family} keeps the width"):
        keep_width(encoder, [0, 1])


@pytest.mark.parametrize(
    ("kept", "says"), [([], "no dimension"), ([D], "no dimension 32"), ([1, 0], "increasing")]
)
def test_what_is_not_there_cannot_be_kept(kept, says):
    with pytest.raises(UsageError, match=says):
        keep_width(encoder_of("bert")[0], kept)


def test_electra_needs_its_projection_to_be_told():
    with pytest.raises(UnsupportedRoleError, match="no projection"):
        keep_width(encoder_of("electra")[0], range(16))


def task_model(family="bert", *, task="classify", **options):
    encoder, tokenizer = tiny_encoder(family)
    outputs = options.pop("outputs", None)
    return build_task_model(
        encoder,
        task=task,
        labels=["a", "b", "c"],
        tokenizer=tokenizer,
        config=ModelConfig(**options),
        outputs=outputs,
        max_length=32,
    )


@torch.no_grad()
def logits_of(model):
    batch = tiny_batch(model.tokenizer)
    return model(batch["input_ids"], batch["attention_mask"]).logits


@pytest.mark.parametrize(
    "options",
    [
        {"family": "bert"},
        {"family": "roberta", "head": "linear"},
        {"family": "electra", "head": "mlp", "head_layers": 2, "pooling": "mean-max"},
        {"family": "distilbert", "pooling": "concat-last:2", "head_bags": 2},
        {"pooling": "weighted-layers:3"},
        {"task": "tag", "outputs": Outputs(3, level="token")},
        {"task": "embed", "outputs": Outputs(3, kind="vectors"), "pooling": "mean"},
    ],
    ids=str,
)
def test_heads_read_what_is_left(options, tmp_path):
    model = task_model(**options)
    narrow = copy_with_width(model, KEPT)
    logits = logits_of(narrow)
    assert logits.isfinite().all() and logits.std() > 0
    narrow.save(tmp_path / "m")
    assert torch.equal(logits_of(TaskModel.load(tmp_path / "m")), logits)
    with pytest.raises(UnsupportedRoleError):
        export_transformers(narrow, tmp_path / "stock")


def test_a_linear_head_reads_the_kept_features_of_each_block():
    model = task_model(head="linear", pooling="mean-max")
    narrow = copy_with_width(model, KEPT)
    columns = [*KEPT, *(D + d for d in KEPT)]
    assert torch.equal(narrow.head.out.weight, model.head.out.weight[:, columns])
    assert torch.equal(narrow.head.out.bias, model.head.out.bias)


def test_a_stock_head_keeps_its_strongest_features():
    model = task_model()
    generator = torch.Generator().manual_seed(3)
    weak = torch.randperm(D, generator=generator)[: D - len(KEPT)]
    model.head.out.weight.data = torch.randn(3, D, generator=generator) + 2
    model.head.out.weight.data[:, weak] = 0
    narrow = copy_with_width(model, KEPT)
    strong = [d for d in range(D) if d not in weak.tolist()]
    assert torch.equal(narrow.head.out.weight, model.head.out.weight[:, strong])
    assert torch.equal(narrow.head.dense.weight, model.head.dense.weight[strong][:, KEPT])
    pooled = torch.randn(4, D, generator=generator)
    pooled[:, [d for d in range(D) if d not in KEPT]] = 0
    with torch.no_grad():
        assert_close(narrow.head(pooled[:, KEPT]), model.head(pooled), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pooling": "attention"}, "pooling attention"),
        ({"pooling": "lstm"}, "pooling lstm"),
        ({"task": "tag", "outputs": Outputs(3, level="token"), "head_lstm": 8}, "LSTM"),
        ({"head": "nearest"}, "fitted"),
    ],
    ids=str,
)
def test_what_has_learned_the_width_is_refused(options, says):
    with pytest.raises(UnsupportedRoleError, match=says):
        copy_with_width(task_model(**options), KEPT)


def test_with_other_surgery_before_and_after_it_is_saved_and_replayed(tmp_path):
    model = task_model()
    narrow = copy_with_widths(model, heads={1: [2], 3: [0, 1, 3]}, neurons={0: range(9)})
    narrow = copy_with_width(copy_with_factors(narrow, 20), range(0, D, 2))
    narrow = copy_with_width(narrow, [*range(9), 11])
    narrow = copy_with_layers(copy_with_factors(narrow, 7), [0, 1, 3])
    logits = logits_of(narrow)
    narrow.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    assert torch.equal(logits_of(loaded), logits)
    assert loaded.roles.hidden_size == 10 and loaded.encoder.config.attention_width == D
    replayed = replay_surgery(model.encoder, loaded.surgery).state_dict()
    state = loaded.encoder.state_dict()
    assert replayed.keys() == state.keys()
    assert all(torch.equal(replayed[name], state[name]) for name in state)


@pytest.mark.parametrize("width", [0, 16, 33, "32", True])
def test_a_damaged_width_is_explained(width, tmp_path):
    encoder, _ = encoder_of("bert")
    save_encoder(keep_width(encoder, KEPT), tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | {"attention_width": width}))
    with pytest.raises(CheckpointError, match="attention_width"):
        load_encoder(tmp_path)
