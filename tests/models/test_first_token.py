"""The last layer for the classification token alone: the same answers, the same gradients."""

from __future__ import annotations

import pytest
import torch

from bertwright.models.first_token import FirstTokenAlone
from bertwright.models.task_model import ModelConfig, TaskModel
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder, tiny_tokenizer

SHORTENED = ("bert", "roberta", "xlm-roberta", "electra")


def make_model(family: str, pooling: str = "cls") -> TaskModel:
    encoder, tokenizer = tiny_encoder(family)
    return TaskModel(
        encoder,
        task="classify",
        labels=["a", "b", "c"],
        config=ModelConfig(pooling=pooling),
        tokenizer=tokenizer,
        max_length=32,
    ).eval()


def answer(model: TaskModel, batch: dict, *, alone: bool) -> tuple[torch.Tensor, dict]:
    """Return the logits, and the gradient of each parameter of their squares' sum."""
    model.zero_grad()
    logits = model(**batch, answer_alone=alone).logits
    logits.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), grads


def seen_by_last_ffn(model: TaskModel, batch: dict, *, alone: bool) -> torch.Size:
    shapes = []
    place = model.roles.part(model.roles.num_layers - 1, "ffn_out")
    handle = place.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    model(**batch, answer_alone=alone)
    handle.remove()
    (shape,) = shapes
    return shape


@pytest.mark.parametrize("pooling", ["cls", "pooler"])
@pytest.mark.parametrize("family", SHORTENED)
def test_answers_and_gradients_are_those_of_all_tokens(family, pooling):
    model, batch = make_model(family, pooling), tiny_batch(tiny_tokenizer(family))
    assert batch["attention_mask"].min() == 0, "no padding in the batch"
    whole, gradients = answer(model, batch, alone=False)
    alone, others = answer(model, batch, alone=True)
    assert whole.abs().max() > 0
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == others.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    rows, length = batch["input_ids"].shape
    assert seen_by_last_ffn(model, batch, alone=False)[:2] == (rows, length)
    assert seen_by_last_ffn(model, batch, alone=True)[:2] == (rows, 1)


@pytest.mark.parametrize("family", [name for name in FAMILY_NAMES if name not in SHORTENED])
def test_other_families_compute_all_of_it(family):
    model, batch = make_model(family), tiny_batch(tiny_tokenizer(family))
    with torch.no_grad():
        assert torch.equal(
            model(**batch, answer_alone=True).logits, model(**batch, answer_alone=False).logits
        )


def test_what_reads_other_tokens_gets_them():
    model, batch = make_model("bert", "mean"), tiny_batch(tiny_tokenizer("bert"))
    with torch.no_grad():
        alone, whole = (model(**batch, answer_alone=one).logits for one in (True, False))
        states = make_model("bert")(**batch, answer_alone=True, output_hidden_states=True)
    assert torch.equal(alone, whole)
    assert states.hidden_states[-1].shape[:2] == batch["input_ids"].shape


def test_the_first_real_token_is_taken_whichever_side_the_padding_is_on():
    model = make_model("bert")
    ids = torch.tensor([[0, 0, 2, 7, 8, 3], [2, 9, 10, 11, 12, 3]])
    mask = (ids != 0).long()
    with torch.no_grad():
        whole = model(ids, mask).logits
        torch.testing.assert_close(
            model(ids, mask, answer_alone=True).logits, whole, rtol=1e-5, atol=1e-6
        )
        states = model.encoder(ids, mask).last_hidden_state
        with FirstTokenAlone(model.roles, torch.ones_like(mask)):
            wrong = model.encoder(ids, mask).last_hidden_state
    torch.testing.assert_close(wrong[1, 0], states[1, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wrong[0, 0], states[0, 2], atol=1e-3)


def test_places_are_taken_of_any_number_of_dimensions():
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    first = FirstTokenAlone(make_model("bert").roles, mask)
    states = torch.arange(12.0).view(2, 3, 2)
    assert first.first_of(states).tolist() == [[[2.0, 3.0]], [[6.0, 7.0]]]
    assert first.first_of(torch.tensor([[5, 6, 7], [8, 9, 10]])).tolist() == [[6], [8]]
