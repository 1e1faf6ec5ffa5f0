from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data import (
    collate,
    load_rows,
    pad_batch,
    padding_efficiency,
    plan_batches,
    tokenise,
)
from bertwright.errors import ConfigError

lengths_strategy = st.lists(st.integers(1, 200), min_size=1, max_size=300).map(np.array)


def padded_cost(lengths, batch, multiple):
    longest = max(int(lengths[i]) for i in batch)
    return len(batch) * ((longest + multiple - 1) // multiple * multiple)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_strategy,
    batch_tokens=st.integers(1, 2000),
    batch_size=st.one_of(st.none(), st.integers(1, 40)),
    shuffle=st.booleans(),
    multiple=st.sampled_from([1, 8, 16]),
    epoch=st.integers(0, 5),
)
def test_every_row_once_and_within_budget(
    lengths, batch_tokens, batch_size, shuffle, multiple, epoch
):
    batches = plan_batches(
        lengths,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        seed=1,
        epoch=epoch,
        shuffle=shuffle,
        pad_multiple=multiple,
    )
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or padded_cost(lengths, batch, multiple) <= batch_tokens
        assert batch_size is None or len(batch) <= batch_size
    real = int(lengths.sum())
    padded = sum(padded_cost(lengths, batch, multiple) for batch in batches)
    assert padding_efficiency(lengths, batches, multiple) == pytest.approx(real / padded)


@settings(max_examples=80, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), min_size=1, max_size=80),
    batch_tokens=st.integers(1, 2000),
    batch_size=st.one_of(st.none(), st.integers(1, 12)),
    shuffle=st.booleans(),
    multiple=st.sampled_from([1, 8]),
    seed=st.integers(0, 5),
)
def test_groups_are_whole_in_order_and_within_budget(
    groups, batch_tokens, batch_size, shuffle, multiple, seed
):
    sizes = [len(group) for group in groups]
    lengths = np.concatenate(groups)
    names = np.random.default_rng(seed).permutation(1000)[: len(groups)]
    batches = plan_batches(
        lengths,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        seed=seed,
        epoch=0,
        shuffle=shuffle,
        pad_multiple=multiple,
        groups=np.repeat(names, sizes),
    )
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    owners, starts = np.repeat(np.arange(len(groups)), sizes), np.cumsum([0, *sizes])
    for batch in batches:
        inside = list(dict.fromkeys(owners[batch].tolist()))
        whole = [np.arange(starts[group], starts[group + 1]) for group in inside]
        assert batch.tolist() == np.concatenate(whole).tolist()
        padded = len(batch) * max(multiple * -(-int(lengths[batch].max()) // multiple), 1)
        assert len(inside) == 1 or padded <= batch_tokens
        assert batch_size is None or len(inside) <= batch_size


def test_groups_by_hand():
    lengths, groups = np.array([2, 5, 1, 9, 3, 3]), np.array([7, 7, 2, 2, 4, 4])
    batches = plan(lengths, shuffle=False, batch_tokens=20, batch_size=None, pad_multiple=1,
                   groups=groups)  # fmt: skip
    assert [b.tolist() for b in batches] == [[2, 3], [0, 1, 4, 5]]
    alone = plan(lengths, shuffle=False, batch_tokens=20, batch_size=None, pad_multiple=1)
    assert [b.tolist() for b in alone] == [[3, 1], [4, 5, 0, 2]]
    first, second = plan(lengths, groups=groups), plan(lengths, groups=groups)
    assert flat(first) == flat(second)
    assert plan(np.array([], dtype=int), shuffle=False, groups=np.array([], dtype=int)) == []


def test_efficiency_by_hand():
    # [3, 5] pads to 2 x 8, [9] to 1 x 16: 17 real of 32
    batches = [np.array([0, 1]), np.array([2])]
    assert padding_efficiency(np.array([3, 5, 9]), batches, 8) == 17 / 32
    assert padding_efficiency(np.array([3, 5, 9]), batches, 1) == 17 / 19


def plan(lengths, seed=0, epoch=0, **options):
    options = {"batch_tokens": 1024, "batch_size": 32, **options}
    return plan_batches(lengths, seed=seed, epoch=epoch, **options)


def flat(batches):
    return np.concatenate(batches).tolist()


def test_the_order_follows_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(5, 60, 3000)
    assert flat(plan(lengths)) == flat(plan(lengths))
    others = [plan(lengths, epoch=1), plan(lengths, seed=1), plan(lengths, seed=1, epoch=1)]
    assert len({tuple(flat(b)) for b in [plan(lengths), *others]}) == 4


def test_training_batches_are_mixed_and_yet_padded_little():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 0.5, 8000), 4, 128).astype(int)
    batches = plan(lengths)
    random_batches = np.array_split(rng.permutation(8000), len(batches))
    mixed = padding_efficiency(lengths, batches, 8)
    assert mixed > 0.8
    assert mixed > padding_efficiency(lengths, random_batches, 8) + 0.3
    # Neither position in the file nor length says where in the epoch a row comes.
    place = np.empty(8000)
    place[np.concatenate(batches)] = np.arange(8000)
    assert abs(np.corrcoef(place, np.arange(8000))[0, 1]) < 0.05
    means = np.array([lengths[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2
    # The rows that share a batch with row 0 are others each epoch.
    partners = []
    for epoch in range(8):
        (batch,) = (b for b in plan(lengths, epoch=epoch) if 0 in b)
        partners.append(set(batch.tolist()) - {0})
    shared = [len(a & b) for i, a in enumerate(partners) for b in partners[:i]]
    assert min(map(len, partners)) > 3
    assert np.mean(shared) < 0.1 * np.mean(list(map(len, partners)))


def test_without_shuffle_longest_come_first_in_row_order():
    lengths = np.array([3, 9, 3, 17, 9])
    batches = plan(lengths, shuffle=False, batch_tokens=32, batch_size=None, pad_multiple=8)
    assert [b.tolist() for b in batches] == [[3], [1, 4], [0, 2]]
    assert flat(plan(lengths, shuffle=False, epoch=3)) == flat(plan(lengths, shuffle=False))


def test_a_row_above_the_budget_is_alone():
    batches = plan(np.array([100, 5, 5]), batch_tokens=16, batch_size=None)
    assert sorted(len(b) for b in batches) == [1, 2]
    assert [0] in [b.tolist() for b in batches]


def test_no_rows_no_batches():
    assert flat(plan(np.array([5]))) == [0]
    assert [b for b in plan(np.array([], dtype=int)) if len(b)] == []
    assert plan(np.array([], dtype=int), shuffle=False) == []


@pytest.mark.parametrize("option", ["batch_tokens", "batch_size", "pad_multiple"])
def test_sizes_are_checked(option):
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} 0"):
        plan(np.array([1, 2]), **{option: 0})


def test_pad_batch_by_hand():
    ids = [np.array([2, 5, 3], np.int32), np.array([2, 3], np.int32)]
    types = [np.array([0, 1, 1], np.int8), np.array([0, 1], np.int8)]
    batch = pad_batch(ids, types, pad_token_id=7, pad_multiple=4)
    assert batch["input_ids"].tolist() == [[2, 5, 3, 7], [2, 3, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_padding_stops_at_the_longest_row_a_model_takes():
    ids = [np.array([1, 1, 1, 1, 1])]
    for max_length, width in ((6, 6), (4, 5), (99, 8)):
        batch = pad_batch(ids, None, pad_token_id=0, pad_multiple=8, max_length=max_length)
        assert batch["input_ids"].shape == (1, width)


def test_a_processor_pads_to_the_longest_row_and_a_gpu_to_multiples_of_8(monkeypatch):
    ids = [np.array([1, 1, 1, 1, 1])]
    for has_gpu, width in ((False, 5), (True, 8)):
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        assert pad_batch(ids, None, pad_token_id=0)["input_ids"].shape == (1, width)


@pytest.mark.parametrize("pairs", [False, True])
def test_collate_agrees_with_the_tokenizers_own_padding(tokenizer, pairs):
    texts = ["the good film", "bad", "a dog and a cat in the house", "never"]
    others = ["good", "a very slow old car", "no", "yes or no"]
    source = [
        {"text": a, **({"text_b": b} if pairs else {}), "label": i % 2}
        for i, (a, b) in enumerate(zip(texts, others, strict=True))
    ]
    encoded = tokenise(load_rows(source), tokenizer).select([3, 1, 2])
    batch = collate(encoded, [2, 0, 1], pad_multiple=8)
    order = [2, 3, 1]
    expected = tokenizer(
        [texts[i] for i in order],
        [others[i] for i in order] if pairs else None,
        padding=True,
        pad_to_multiple_of=8,
        return_tensors="pt",
    )
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert ("token_type_ids" in batch) == pairs
    if pairs:
        assert torch.equal(batch["token_type_ids"], expected["token_type_ids"])
        assert batch["token_type_ids"].sum() > 0
    assert batch["labels"].tolist() == [0, 1, 1]
    assert batch["rows"].tolist() == order
    assert batch["indices"].tolist() == [2, 0, 1]
    assert batch["rows"].dtype == batch["indices"].dtype == np.int64


def test_unlabelled_rows_give_no_labels(tokenizer):
    encoded = tokenise(load_rows([{"text": "good"}], need_label=False), tokenizer)
    assert "labels" not in collate(encoded, [0])


@pytest.mark.slow
def test_padding_is_low_on_real_data(shared_data, tokenizer):
    rows = load_rows(shared_data("sst2") / "train_sentences.jsonl")
    lengths = np.array([len(text.split()) + 2 for text in rows.texts()])
    assert padding_efficiency(lengths, plan(lengths, batch_tokens=2048), 8) > 0.8
