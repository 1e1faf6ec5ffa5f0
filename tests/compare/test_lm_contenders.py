"""Both language models as contenders, on texts whose classes single words do not tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bertwright.compare import CONTENDERS
from bertwright.compare.lm_contenders import LmContender
from bertwright.config import config_from_strings
from bertwright.errors import ConfigError
from compare_texts import keyed_texts, ordered_texts
from tiny import tiny_tokenizer

NAMES = ["bilstm-lm", "causal-lm"]


def small(name: str, **options: Any) -> LmContender:
    contender = CONTENDERS[name]()
    assert isinstance(contender, LmContender)
    sizes = {"width": 32, "layers": 1, "lm_epochs": 2, "epochs": 12, "lr": 5e-3, "dropout": 0.0}
    return replace(contender, tokenizer=tiny_tokenizer("bert"), unknown=0.0, **{**sizes, **options})


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_words_is_learned_and_the_seed_decides(name):
    train, test = ordered_texts(400, 0), ordered_texts(100, 1)
    contender = small(name)
    model = contender.fit(train, test, num_classes=3, seed=1)
    logits = model.logits(test.texts)
    assert logits.shape == (100, 3) and logits.dtype == np.float32
    assert (logits.argmax(axis=1) == test.labels).mean() > 0.9
    again = contender.fit(train, test, num_classes=3, seed=1).logits(test.texts)
    np.testing.assert_array_equal(logits, again)
    alone = np.concatenate([model.logits([text]) for text in test.texts[:5]])
    np.testing.assert_allclose(alone, logits[:5], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_states_tell_words_apart(name):
    train, dev = keyed_texts(150, 3, 0), keyed_texts(60, 3, 1)
    contender = small(name, tune="frozen", lm_epochs=1, epochs=40, lr=3e-2)
    before, told = torch.get_rng_state(), []
    model = contender.fit(
        train, dev, num_classes=3, seed=0, progress=lambda what, share: told.append(what)
    )
    assert (model.logits(dev.texts).argmax(axis=1) == dev.labels).mean() > 0.6
    assert torch.equal(before, torch.get_rng_state())
    assert set(told) == {"language model", "classifier"}
    assert len(model.head.shares) == len(model.model.widths) and not model.head.last_only
    assert float(model.head.shares.detach().sum()) == pytest.approx(1)
    other = contender.fit(train, dev, num_classes=3, seed=2)
    assert np.abs(other.logits(dev.texts) - model.logits(dev.texts)).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_what_prediction_needs(name):
    train = keyed_texts(20, 2, 0)
    model = small(name, lm_epochs=0, epochs=1, width=8).fit(train, train, num_classes=2, seed=0)
    weights = sum(weight.numel() for weight in model.model.parameters())
    weights += sum(weight.numel() for weight in model.head.parameters())
    weights -= model.model.softmax.bias.numel()
    assert model.num_bytes == 4 * weights + sum(len(piece) + 1 for piece in model.vocabulary.pieces)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tokenizer_and_options_out_of_range_are_named(name):
    train = keyed_texts(20, 2, 0)
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        CONTENDERS[name]().fit(train, train, num_classes=2, seed=0)
    for option in ({"width": "1"}, {"dropout": "1"}, {"lr": "0"}, {"lm_minutes": "0"}):
        with pytest.raises(ConfigError, match=next(iter(option)).replace("_", "-")):
            config_from_strings(CONTENDERS[name], option, source=name)
    with pytest.raises(ConfigError, match="not an option"):
        config_from_strings(CONTENDERS[name], {"tokenizer": "here"}, source=name)
    with pytest.raises(ConfigError, match="--heads"):
        config_from_strings(CONTENDERS["causal-lm"], {"heads": "5"}, source=name)
