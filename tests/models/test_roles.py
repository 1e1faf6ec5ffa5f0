"""Roles name the right modules: each family is recomputed by hand from its parts.

Shapes: B batch, L length, D model width, N heads.
"""

from __future__ import annotations

import contextlib
import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu
from transformers import AutoModel, BertConfig, BertForMaskedLM, GPT2Config, GPT2Model

from bertwright.errors import UnsupportedFamilyError, UnsupportedRoleError, UsageError
from bertwright.models.depth import make_shallower
from bertwright.models.encoder import load_encoder, save_encoder
from bertwright.models.families import FAMILIES, ROLES
from bertwright.models.replay import replay_surgery
from bertwright.models.roles import get_roles
from bertwright.surgery.plan import SurgeryPlan
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

# Settings under which a layer is the plain post-norm block of 2017.
PLAIN = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "electra": {},
    "distilbert": {},
    "mobilebert": {
        "use_bottleneck": False,
        "num_feedforward_networks": 1,
        "hidden_act": "gelu",
        "intra_bottleneck_size": 32,
    },
    "albert": {"num_hidden_groups": 4, "hidden_act": "gelu"},
    "mpnet": {},
    "deberta-v2": {"relative_attention": False, "pos_att_type": []},
    "bart": {},
}


def random_encoder(family, **overrides):
    """Return an encoder in which every parameter matters: no zero bias, no norm weight of one."""
    encoder, tokenizer = tiny_encoder(family, **overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return encoder, tokenizer


@contextlib.contextmanager
def recording(**modules):
    """Yield a dict that gets, by name, (first input, output) of each module when it runs."""
    seen, handles = {}, []
    for name, module in modules.items():

        def note(module, args, kwargs, output, name=name):
            hidden = args[0] if args else kwargs["hidden_states"]
            seen[name] = (hidden, output[0] if isinstance(output, tuple) else output)

        handles.append(module.register_forward_hook(note, with_kwargs=True))
    yield seen
    for handle in handles:
        handle.remove()


def assert_close(actual, expected, tolerance=1e-5):
    assert torch.isfinite(actual).all() and actual.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def run(encoder, batch):
    options = get_roles(encoder).forward_options
    with torch.no_grad():
        return encoder(**batch, **options).last_hidden_state


def attention_by_hand(encoder, query, key, value, mask):
    """softmax(QKᵀ/√(D/N) + bias) V for one layer, from the projections' outputs [B, L, D]."""
    num_heads = get_roles(encoder).num_heads
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if encoder.config.model_type == "mpnet":
        scores = scores + encoder.encoder.compute_position_bias(query)
    scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("swap", [None, ("key", "value"), ("attention_norm", "ffn_norm")])
@pytest.mark.parametrize("family", PLAIN)
def test_a_layer_recomputed_from_its_parts_equals_the_model(family, swap):
    encoder, tokenizer = random_encoder(family, **PLAIN[family])
    batch = tiny_batch(tokenizer)
    roles = get_roles(encoder)
    parts = {role: roles.part(2, role) for role in ROLES}
    assert len({id(part) for part in parts.values()}) == len(ROLES)
    if swap:
        first, second = swap
        parts[first], parts[second] = parts[second], parts[first]
    with recording(layer=roles.layers[2]) as seen:
        run(encoder, batch)
    x, layer_output = seen["layer"]
    with torch.no_grad():
        query, key, value = (parts[role](x) for role in ("query", "key", "value"))
        context = attention_by_hand(encoder, query, key, value, batch["attention_mask"])
        h = parts["attention_norm"](parts["attention_output"](context) + x)
        by_hand = parts["ffn_norm"](parts["ffn_out"](gelu(parts["ffn_in"](h))) + h)
    real = batch["attention_mask"].bool()
    if swap is None:
        assert_close(by_hand[real], layer_output[real])
    else:
        assert (by_hand[real] - layer_output[real]).abs().max() > 1e-2


def test_modernbert_layer_is_the_sum_of_its_named_parts():
    encoder, tokenizer = random_encoder("modernbert")
    roles = get_roles(encoder)
    names = ("attention_norm", "attention_output", "ffn_norm", "ffn_out")
    parts = {role: roles.part(2, role) for role in names}
    with recording(layer=roles.layers[2], **parts) as seen:
        run(encoder, tiny_batch(tokenizer))
    x, layer_output = seen["layer"]
    middle = x + seen["attention_output"][1]
    assert torch.equal(seen["attention_norm"][0], x)
    assert_close(seen["ffn_norm"][0], middle)
    assert_close(layer_output, middle + seen["ffn_out"][1])
    assert "Wqkv" in str(roles.supports("query")) and "gate" in str(roles.supports("ffn_in"))


def test_xlnet_layer_ends_with_its_named_ffn():
    encoder, tokenizer = random_encoder("xlnet", ff_activation="gelu")
    roles = get_roles(encoder)
    parts = {r: roles.part(2, r) for r in ROLES if roles.supports(r) is None}
    with recording(layer=roles.layers[2], **parts) as seen:
        run(encoder, tiny_batch(tokenizer, padding_side="left"))
    h = seen["attention_norm"][1]
    with torch.no_grad():
        inner = parts["ffn_out"](gelu(parts["ffn_in"](h)))
        assert_close(parts["ffn_norm"](inner + h), seen["layer"][1])
    with pytest.raises(UnsupportedRoleError, match="raw parameter"):
        roles.part(0, "query")


def test_what_depends_on_the_configuration_has_a_reason():
    albert = get_roles(tiny_encoder("albert")[0])
    assert "shares" in str(albert.supports("query"))
    grouped = get_roles(tiny_encoder("albert", inner_group_num=2)[0])
    assert "group of 2" in str(grouped.supports("query"))
    mobilebert = get_roles(tiny_encoder("mobilebert")[0])
    assert "2 feed-forward" in str(mobilebert.supports("ffn_in"))
    assert mobilebert.supports("query") is None
    with pytest.raises(UnsupportedRoleError, match="shares"):
        albert.part(0, "ffn_in")


def test_unknown_roles_layers_and_families_are_refused():
    encoder, _ = tiny_encoder("bert")
    roles = get_roles(encoder)
    with pytest.raises(UnsupportedRoleError, match="unknown role"):
        roles.part(0, "qeury")
    with pytest.raises(UsageError, match="no layer 4"):
        roles.part(4, "query")
    with pytest.raises(UsageError, match="no layer -1"):
        roles.part(-1, "query")
    gpt = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    with pytest.raises(UnsupportedFamilyError, match="gpt2"):
        get_roles(gpt)
    with pytest.raises(UnsupportedFamilyError):
        get_roles(nn.Linear(2, 2))
    masked_lm = BertForMaskedLM(
        BertConfig(
            num_hidden_layers=1,
            hidden_size=8,
            num_attention_heads=2,
            intermediate_size=8,
            vocab_size=9,
        )
    )
    with pytest.raises(UnsupportedFamilyError, match="bare"):
        get_roles(masked_lm)
    assert get_roles(load_encoder(masked_lm)[0]).num_layers == 1


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_sizes_are_the_configurations(family):
    encoder, _ = tiny_encoder(family)
    roles = get_roles(encoder)
    assert set(FAMILIES) == {*FAMILY_NAMES, "bertwright-small"}
    assert (roles.family, roles.num_layers, roles.hidden_size, roles.num_heads) == (
        family,
        4,
        32,
        4,
    )
    assert encoder.get_input_embeddings() in list(roles.embeddings.modules())
    assert roles.max_length in ((None,) if family in ("xlnet", "deberta-v2") else (128,))
    assert roles.cls_at_end == (family == "xlnet")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_longest_input_runs_and_a_longer_one_does_not(family):
    encoder, tokenizer = tiny_encoder(family)
    limit = get_roles(encoder).max_length
    ids = torch.full((1, limit or 200), tokenizer.convert_tokens_to_ids("good"))
    assert torch.isfinite(run(encoder, {"input_ids": ids})).all()
    if limit is not None and family != "modernbert":
        longer = torch.cat([ids, ids[:, :1]], dim=1)
        with pytest.raises((IndexError, RuntimeError)):
            run(encoder, {"input_ids": longer})


class Group(nn.Module):
    """Several layers in the place of one, as BERT-of-Theseus puts them."""

    def __init__(self, roles, layers, order=None):
        super().__init__()
        self.inner = nn.ModuleList(layers)
        self.order = order or list(range(len(layers)))
        self.roles = roles

    def forward(self, *args, **kwargs):
        return self.roles.run_layers([self.inner[i] for i in self.order], args, kwargs)


@pytest.mark.parametrize("attn", ["default", "eager"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_groups_in_the_place_of_layers_equal_the_model(family, attn):
    overrides = {"num_hidden_groups": 4} if family == "albert" else {}
    encoder, tokenizer = random_encoder(family, **overrides)
    if attn == "eager":
        encoder.set_attn_implementation("eager")
    batch = tiny_batch(tokenizer)
    expected = run(encoder, batch)
    roles = get_roles(encoder)
    layers = roles.layers
    roles.set_layers([Group(roles, layers[:1]), Group(roles, layers[1:])])
    assert encoder.config.num_hidden_layers == roles.num_layers == 2
    real = batch["attention_mask"].bool()
    assert_close(run(encoder, batch)[real], expected[real])
    single = {name: values[1:2, :5] for name, values in batch.items()}
    one = run(encoder, single)
    roles.set_layers(layers)
    assert_close(one, run(encoder, single))
    roles.set_layers([Group(roles, layers[:1]), Group(roles, layers[1:], order=[1, 0, 2])])
    assert (run(encoder, batch)[real] - expected[real]).abs().max() > 1e-3


def test_a_layer_copied_from_elsewhere_follows_the_encoders_kind_of_attention():
    encoder, tokenizer = random_encoder("bert")
    batch = tiny_batch(tokenizer)
    expected = run(encoder, batch)
    roles = get_roles(encoder)
    strangers = [copy.deepcopy(layer) for layer in roles.layers]
    assert strangers[0].attention.self.config is not encoder.config
    roles.set_layers(strangers)
    assert strangers[0].attention.self.config is encoder.config
    assert torch.equal(run(encoder, batch), expected)


def by_hand_shallower(encoder, indices):
    """Make a new model of fewer layers from a configuration, and copy the weights by name."""
    config = copy.deepcopy(encoder.config)
    family = config.model_type
    prefix = FAMILIES[family].layers
    config.num_hidden_layers = len(indices)
    if family == "modernbert":
        config.layer_types = [config.layer_types[i] for i in indices]
    model = AutoModel.from_config(config)
    if family == "bart":
        model = model.get_encoder()
    if family != "albert":
        state = {}
        for name, tensor in encoder.state_dict().items():
            match = re.match(rf"{re.escape(prefix)}\.(\d+)\.(.*)", name)
            if match is None:
                state[name] = tensor
            elif int(match[1]) in indices:
                state[f"{prefix}.{indices.index(int(match[1]))}.{match[2]}"] = tensor
    else:
        state = encoder.state_dict()
    for name in ("pooler", "pooler_activation"):
        if hasattr(model, name):
            setattr(model, name, None)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("pooler")}
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_shallower_equals_a_hand_made_one_and_loads_as_stock(family, tmp_path):
    encoder, tokenizer = random_encoder(family)
    batch = tiny_batch(tokenizer)
    before = run(encoder, batch)
    indices = [0, 2]
    smaller = make_shallower(encoder, indices)
    assert get_roles(smaller).num_layers == 2
    got = run(smaller, batch)
    assert_close(got, run(by_hand_shallower(encoder, indices), batch), 1e-6)
    assert torch.equal(run(encoder, batch), before)
    assert get_roles(encoder).num_layers == 4
    if family != "albert":
        assert (got - run(by_hand_shallower(encoder, [0, 1]), batch)).abs().max() > 1e-3

    save_encoder(smaller, tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    loaded = loaded.get_encoder() if family == "bart" else loaded
    assert torch.equal(run(loaded.eval(), batch), got)

    replayed = replay_surgery(encoder, SurgeryPlan().then_keep_layers(indices))
    assert torch.equal(run(replayed, batch), got)


def test_modernbert_keeps_its_first_layer_or_says_why():
    encoder, _ = tiny_encoder("modernbert")
    with pytest.raises(UnsupportedRoleError, match="layer 0"):
        make_shallower(encoder, [1, 3])
    smaller = make_shallower(encoder, [0, 1, 3])
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert smaller.config.layer_types == kinds
    roles = get_roles(smaller)
    with pytest.raises(UnsupportedRoleError, match="stay first"):
        roles.set_layers(roles.layers[::-1])
    assert smaller.config.layer_types == kinds, "a refused change must leave no trace"


def test_albert_shares_what_it_shared_and_refuses_what_it_cannot_run():
    encoder, tokenizer = random_encoder("albert", num_hidden_groups=2)
    roles = get_roles(encoder)
    first, second = roles.layers[0], roles.layers[2]
    assert roles.layers == [first, first, second, second]
    smaller = make_shallower(encoder, [0, 2])
    assert smaller.config.num_hidden_groups == 2
    assert len({id(layer) for layer in get_roles(smaller).layers}) == 2
    with pytest.raises(UnsupportedRoleError, match="equally often"):
        roles.set_layers([first, second, first])
    assert encoder.config.num_hidden_layers == 4
    assert run(smaller, tiny_batch(tokenizer)).shape[-1] == 32


def test_a_deberta_convolution_is_respected():
    encoder, tokenizer = random_encoder("deberta-v2", conv_kernel_size=3)
    roles = get_roles(encoder)
    with pytest.raises(UnsupportedRoleError, match="convolution"):
        roles.set_layers([Group(roles, roles.layers)])
    smaller = make_shallower(encoder, [0, 3])
    batch = tiny_batch(tokenizer)
    assert_close(run(smaller, batch), run(by_hand_shallower(encoder, [0, 3]), batch), 1e-6)


def test_no_layers_are_refused():
    roles = get_roles(tiny_encoder("bert")[0])
    with pytest.raises(UsageError):
        roles.set_layers([])
    with pytest.raises(UsageError):
        roles.run_layers([], (torch.zeros(1, 1, 32),), {})
