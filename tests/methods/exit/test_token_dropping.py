"""How many tokens may be left out: the promise, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.errors import ConfigError, UnsupportedFamilyError, UsageError
from bertwright.methods.exit.early_exit import EarlyExit, EarlyExitConfig
from bertwright.methods.exit.token_dropping import (
    SHARES,
    TokenDropping,
    TokenDroppingConfig,
)
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.models.agreement import agreement_bound
from bertwright.models.token_drop import TokenDrop
from bertwright.training.evaluation import compute_logits
from engines_models import make_model
from methods.cases import same_weights, tiny_rows, tiny_teacher, trained_teacher, weights


def answers(model, rows):
    return np.argmax(compute_logits(model, rows, precision="fp32"), axis=1)


@pytest.mark.parametrize("agreement", [0.7, 0.9, 0.97])
def test_the_share_is_the_last_that_the_rows_show_to_be_safe(agreement):
    model = trained_teacher()
    rows = tiny_rows(model, 150, seed=3)
    config = TokenDroppingConfig(agreement=agreement, confidence=0.9, least=1, layer=1)
    dropping, found = TokenDropping(config).apply(model, rows)
    whole, expected = answers(model, rows), None
    for share in SHARES:
        model.token_drop = TokenDrop(layer=1, share=share, least=1)
        agreeing = int((answers(model, rows) == whole).sum())
        if agreement_bound(agreeing, len(rows), 0.9) < agreement:
            break
        expected = share
    assert found.share == expected and found.num_rows == 150
    assert found.bound >= agreement or expected is None
    given = dropping.token_drop
    assert (None if given is None else given.share) == expected
    if expected is not None:
        same = (answers(dropping, rows) == whole).mean()
        assert same == found.num_agreeing / 150 >= agreement


def test_with_few_rows_nothing_is_promised_and_all_tokens_go_on():
    model = trained_teacher()
    before = weights(model)
    dropping, found = TokenDropping(TokenDroppingConfig()).apply(model, tiny_rows(model, 12))
    assert found.share is None and dropping.token_drop is None and found.num_tested == 1
    assert same_weights(weights(dropping), before) and model.token_drop is None


def test_a_given_share_needs_no_rows_and_begins_anew():
    model = tiny_teacher()
    half, found = TokenDropping(TokenDroppingConfig(share=0.5)).apply(model)
    assert found is None and half.token_drop == TokenDrop(layer=1, share=0.5)
    other, _ = TokenDropping(TokenDroppingConfig(share=0.2, layer=3, least=4)).apply(half)
    assert other.token_drop == TokenDrop(layer=3, share=0.2, least=4)


def test_what_it_cannot_do_is_refused_with_the_reason():
    model = tiny_teacher()
    rows = tiny_rows(model, 30)
    share = TokenDropping(TokenDroppingConfig(share=0.5))
    with pytest.raises(UnsupportedFamilyError, match="token dropping"):
        share.apply(tiny_teacher("xlnet"))
    with pytest.raises(UsageError, match="quantize last"):
        share.apply(simulate_int8(model))
    with pytest.raises(UsageError, match="reads inner layers"):
        share.apply(make_model(pooling="weighted-layers"))
    with pytest.raises(ConfigError, match="none is left after it"):
        TokenDropping(TokenDroppingConfig(share=0.5, layer=4)).apply(model)
    with pytest.raises(UsageError, match="give --calibration"):
        TokenDropping(TokenDroppingConfig()).apply(model)
    with pytest.raises(UsageError, match="no rows"):
        TokenDropping(TokenDroppingConfig()).apply(model, rows.select([]))
    other = tiny_teacher()
    other.task = "regress"
    with pytest.raises(UsageError, match="one label of a text"):
        TokenDropping(TokenDroppingConfig()).check(other)
    early, _ = EarlyExit(EarlyExitConfig(agreement=0.6)).apply(
        model, rows, tiny_rows(model, 30, seed=1)
    )
    with pytest.raises(UsageError, match="early exits"):
        share.apply(early)
    shorter, _ = share.apply(model)
    with pytest.raises(UsageError, match="exits read all of them"):
        EarlyExit().check(shorter)
    for wrong in ({"share": 0.0}, {"layer": 0}, {"least": 0}, {"agreement": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TokenDroppingConfig(**wrong)


def test_outputs_for_each_token_are_of_all_tokens():
    model = make_model(pooling="mean")
    model.token_drop = TokenDrop(layer=2, share=0.3, least=2)
    ids = torch.randint(5, 60, (2, 18), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states, _ = model._encode(ids, torch.ones_like(ids), None, False, False)
    assert states.last.shape[:2] == (2, 18) and states.last.isfinite().all()
