"""Each pooling against other code: loops over rows, torch's own modules, scikit-learn, NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import BertConfig, BertModel

from bertwright.models.pooling import EncoderShape, build_pooling
from bertwright.models.pooling.words import (
    SIF_A,
    idf_weights,
    main_direction,
    sif_weights,
    weighted_mean,
)
from pooling_states import SHAPE, pooling_of, random_states, row_of

LENGTHS = (5, 1, 3, 8)


def by_row(states, vector_of):
    """Return `vector_of(layers [K+1, n, D], ids [n])` of each row, n its real tokens."""
    rows = [row_of(states, row) for row in range(len(states.mask))]
    found = [vector_of(torch.stack(row.layers)[:, 0], row.ids[0]) for row in rows]
    return torch.stack(found)


def check(spec, vector_of, **options):
    pooling, states = pooling_of(spec), random_states(*LENGTHS)
    expected = by_row(states, lambda layers, ids: vector_of(pooling, layers, ids))
    torch.testing.assert_close(pooling(states), expected, **options)


def test_conv1d_is_that_of_a_row_without_padding():
    def convolved(pooling, layers, ids):
        x = layers[-1].T[None]
        for conv in (pooling.first, pooling.second):
            x = F.conv1d(x, conv.weight, conv.bias, padding=1)
            x = x.relu() if conv is pooling.first else x
        return x[0].amax(dim=1)

    check("conv1d:5", convolved)


def test_weighted_layers_is_elmos_mixture():
    def mixed(pooling, layers, ids):
        exponents = pooling.weights.exp()
        total = sum(e * layer for e, layer in zip(exponents, layers[3:], strict=True))
        return pooling.scale * (total / exponents.sum()).mean(dim=0)

    check("weighted-layers:3", mixed)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_ones_read_from_the_first_layer_up(name):
    def read(pooling, layers, ids):
        cells = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}
        cell = cells[name](12, 5)
        own = pooling.reader.state_dict()
        cell.load_state_dict({key.removesuffix("_l0"): value for key, value in own.items()})
        state = None
        for layer in layers[1:]:
            state = cell(layer[0][None], state)
        return (state[0] if name == "lstm" else state)[0]

    check(f"{name}:5", read)


def test_attention_over_layers():
    def attended(pooling, layers, ids):
        states = layers[1:, 0]
        scores = [(state @ pooling.query).item() / 12**0.5 for state in states]
        shares = np.exp(scores) / np.exp(scores).sum()
        mean = sum(share * state for share, state in zip(shares, states, strict=True))
        return pooling.map.weight @ mean.float()

    check("attention:6", attended, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", ["parallel:3", "hierarchical:3"])
def test_branches_are_torchs_own_layers(spec):
    def referee(block):
        layer = nn.TransformerEncoderLayer(
            12, 3, dim_feedforward=48, dropout=0.0, activation="gelu", batch_first=True
        )
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.qkv.weight,
                "self_attn.in_proj_bias": block.qkv.bias,
                **{f"self_attn.out_proj.{k}": v for k, v in block.out.state_dict().items()},
                **{f"norm1.{k}": v for k, v in block.norm.state_dict().items()},
                **{f"linear1.{k}": v for k, v in block.up.state_dict().items()},
                **{f"linear2.{k}": v for k, v in block.down.state_dict().items()},
                **{f"norm2.{k}": v for k, v in block.norm_after.state_dict().items()},
            }
        )
        return layer

    def branched(pooling, layers, ids):
        found, above = [], 0.0
        for place, block in enumerate(pooling.blocks):
            hidden = layers[-1 - place] + (above if spec.startswith("h") else 0.0)
            above = referee(block)(hidden[None])[0]
            found.append(above[0])
        return torch.stack(found).mean(dim=0)

    check(spec, branched, atol=1e-4, rtol=1e-4)


def test_the_pooler_is_the_one_of_transformers(tmp_path):
    config = BertConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24,
        vocab_size=30,
    )  # fmt: skip
    bert = BertModel(config).eval()
    shape = EncoderShape(width=12, num_layers=2, num_heads=3, vocab_size=30)
    pooling = build_pooling("pooler", shape)
    tensors = bert.state_dict()
    taken = pooling.start(lambda names: {name: tensors[name] for name in names if name in tensors})
    assert taken == ["dense.weight", "dense.bias"]
    assert build_pooling("pooler", shape).start(lambda names: {}) == []
    ids = torch.randint(0, 30, (2, 5))
    output = bert(ids)
    states = random_states(5, 5, shape=shape)
    read = type(states)((output.last_hidden_state,), states.mask, ids)
    torch.testing.assert_close(pooling(read), output.pooler_output)


# ---- words -------------------------------------------------------------------------------------


def texts_of_ids(num_texts=40, vocab_size=30, seed=0):
    rng = np.random.default_rng(seed)
    draws = [rng.zipf(1.6, rng.integers(1, 20)) for _ in range(num_texts)]
    return [np.minimum(ids, vocab_size - 1).astype(np.int32) for ids in draws]


def test_idf_is_scikit_learns():
    texts = texts_of_ids()
    counts = np.stack([np.bincount(ids, minlength=30) for ids in texts])
    expected = TfidfTransformer(smooth_idf=True).fit(counts).idf_
    np.testing.assert_allclose(idf_weights(texts, 30), expected, rtol=1e-6)
    assert idf_weights(texts, 30).argmax() in np.flatnonzero((counts > 0).sum(0) == 0)


def test_sif_weights_by_hand_and_the_direction_is_the_svds():
    found = sif_weights([np.array([1, 1, 2]), np.array([3])], 5)
    np.testing.assert_allclose(
        found, [1, SIF_A / (SIF_A + 0.5), *[SIF_A / (SIF_A + 0.25)] * 2, 1], rtol=1e-6
    )
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32) + 0.7
    expected = TruncatedSVD(1, random_state=0).fit(vectors).components_[0]
    assert abs(main_direction(vectors) @ expected) == pytest.approx(1, abs=1e-5)
    assert main_direction(np.zeros((3, 4))).tolist() == [0] * 4
    assert main_direction(np.zeros((0, 4))).tolist() == [0] * 4


@pytest.mark.parametrize("spec", ["tfidf", "sif"])
def test_word_weights_by_a_loop(spec):
    def weighed(pooling, layers, ids):
        weights = pooling.weights[ids]
        mean = sum(w * h for w, h in zip(weights, layers[-1], strict=True)) / weights.sum()
        if spec == "sif":
            mean = mean - pooling.direction * float(pooling.direction @ mean)
        return mean

    check(spec, weighed)


def test_special_tokens_weigh_nothing_and_a_text_of_them_is_zeros():
    pooling = build_pooling("tfidf", SHAPE)
    pooling.fit_weights([np.array([0, 5, 6, 1]), np.array([0, 5, 1])], {0, 1})
    assert pooling.weights[:2].tolist() == [0, 0]
    assert pooling.weights[5] < pooling.weights[6] < pooling.weights[7]
    hidden, specials = torch.randn(2, 3, 12), torch.tensor([[0, 5, 1], [0, 1, 1]])
    weights = pooling.weights[specials]
    pooled = weighted_mean(hidden, weights)
    torch.testing.assert_close(pooled, torch.stack([hidden[0, 1], torch.zeros(12)]))
    doubled = weighted_mean(hidden, 2 * weights)
    torch.testing.assert_close(doubled, pooled)
