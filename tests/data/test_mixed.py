"""Rows of several tasks: how many of each an epoch takes, and which rows make which batch."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bertwright.data.mixed as mixed
from bertwright.data.encode import Target
from bertwright.data.load import load_rows
from bertwright.data.mixed import HEAD, SAMPLINGS, MixedRows, rows_of_epoch
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import ConfigError, DataError, UnknownChoiceError
from bertwright.tasks.embed_rows import EMBED_SCHEMA, TextsEncoder
from bertwright.training.config import TrainingConfig
from bertwright.training.steps import StepPlan
from tiny import tiny_tokenizer

BUDGET = {"batch_tokens": 200, "batch_size": 4}
OTHERS = ("sqrt", "temperature", "annealed")
counts_strategy = st.lists(st.integers(1, 10_000), min_size=1, max_size=6)


def part_of(num_rows: int, *, per_row: int = 1, together: bool = False, name: str = "") -> Any:
    """Rows of which only what a plan looks at is there; their numbers have gaps."""
    nothing: Any = None
    num_features = num_rows * per_row
    return EncodedRows(
        rows=nothing,
        dataset=nothing,
        lengths=np.random.default_rng(num_rows).integers(1, 40, num_features).astype(np.int32),
        row_numbers=np.repeat(3 * np.arange(num_rows) + 1, per_row),
        targets={"labels": nothing},
        pad_token_id=0,
        max_length=64,
        labels=None,
        fingerprint=name or f"{num_rows} {per_row} {together}",
        num_truncated=0,
        together=together,
    )


def mixed_of(*counts: int, **options: Any) -> MixedRows:
    return MixedRows({f"t{i}": part_of(count) for i, count in enumerate(counts)}, **options)


def plan(rows: MixedRows, epoch: int = 0, **options: Any) -> list[list[int]]:
    return [batch.tolist() for batch in rows.plan(**(BUDGET | {"epoch": epoch} | options))]


def owners_of(rows: MixedRows) -> list[tuple[int, int]]:
    """Return (part, number of the row in its source) of each feature."""
    return [
        (place, int(number))
        for place, part in enumerate(rows.parts.values())
        for number in part.row_numbers
    ]


def plain_shares(counts, sampling, epoch, num_epochs, temperature):
    """The same as `rows_of_epoch`, in a loop."""
    if sampling == "proportional":
        return list(counts)
    powers = []
    for count in counts:
        if sampling == "sqrt":
            powers.append(count**0.5)
        elif sampling == "temperature":
            powers.append(count ** (1 / temperature))
        else:
            last = -(-num_epochs // 1) - 1
            powers.append(count ** (1 - 0.8 * epoch / last if last else 1.0))
    shares = [sum(counts) * power / sum(powers) for power in powers]
    return [share if share >= 1 else 1 for share in shares]


@settings(deadline=None)
@given(
    counts=counts_strategy,
    sampling=st.sampled_from(SAMPLINGS),
    num_epochs=st.sampled_from([1, 1.5, 2, 3, 7.25, 20]),
    place=st.floats(0, 1),
    temperature=st.floats(1, 20),
)
def test_shares_are_those_of_a_plain_loop(counts, sampling, num_epochs, place, temperature):
    epoch = int(place * (-(-num_epochs // 1) - 1))
    options = {"epoch": epoch, "num_epochs": num_epochs, "temperature": temperature}
    found = rows_of_epoch(counts, sampling, **options)
    expected = plain_shares(counts, sampling, **options)
    assert all(type(number) is int and number >= 1 for number in found)
    assert np.abs(np.subtract(found, expected)).max() <= 0.5 + 1e-6
    assert abs(sum(found) - sum(counts)) <= len(counts)
    if sampling == "proportional":
        assert found == counts
    order = np.argsort(counts, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all(), "more rows never get a smaller share"


def test_shares_by_hand():
    def share(sampling, **options):
        return rows_of_epoch([900, 100], sampling, **{"epoch": 0, "num_epochs": 3, **options})

    assert share("proportional") == [900, 100]
    assert share("sqrt") == [750, 250]
    assert share("temperature", temperature=2) == [750, 250]
    assert share("temperature", temperature=1) == [900, 100]
    assert share("temperature", temperature=1e9) == [500, 500]
    # exponents 1, 0.6 and 0.2 in the three epochs
    assert share("annealed") == [900, 100]
    assert share("annealed", epoch=1) == [789, 211]
    assert share("annealed", epoch=2) == [608, 392]
    assert share("annealed", epoch=2, num_epochs=2.5) == [608, 392], "half an epoch is an epoch"
    assert share("annealed", num_epochs=1) == [900, 100]
    assert share("annealed", epoch=9) == [608, 392], "not beyond the last"


@settings(deadline=None)
@given(counts=counts_strategy, num_epochs=st.integers(2, 12))
def test_annealed_shares_grow_more_equal(counts, num_epochs):
    def largest(epoch):
        found = rows_of_epoch(counts, "annealed", epoch=epoch, num_epochs=num_epochs)
        return max(found) / sum(found)

    shares = [largest(epoch) for epoch in range(num_epochs)]
    assert rows_of_epoch(counts, "annealed", epoch=0, num_epochs=num_epochs) == counts
    slack = len(counts) / sum(counts)
    assert all(late <= early + slack for early, late in itertools.pairwise(shares))


def test_what_cannot_be_is_refused():
    misspelt: Any = "anealed"
    with pytest.raises(UnknownChoiceError, match="did you mean 'annealed'"):
        rows_of_epoch([1], misspelt, epoch=0, num_epochs=1)
    with pytest.raises(UnknownChoiceError, match="--sampling"):
        mixed_of(3, 4, sampling="equal")
    with pytest.raises(ConfigError, match="--temperature 0.5: must be at least 1"):
        mixed_of(3, 4, temperature=0.5)
    with pytest.raises(DataError, match="t1 has no rows"):
        mixed_of(3, 0)


def test_without_shuffle_each_feature_comes_once_one_task_after_the_other():
    rows = MixedRows({"a": part_of(7), "b": part_of(5, per_row=3, together=True)}, sampling="sqrt")
    batches = plan(rows, shuffle=False)
    everyone = sorted(itertools.chain.from_iterable(batches))
    assert everyone == list(range(22)) == list(range(len(rows)))
    tasks = [{place >= 7 for place in batch} for batch in batches]
    assert tasks == sorted(tasks, key=list) and {len(of) for of in tasks} == {1}
    assert batches == plan(rows, epoch=3, seed=9, shuffle=False)
    inside = [rows.parts["a"].lengths[place] for batch in batches for place in batch if place < 7]
    assert inside == sorted(inside, reverse=True), "the longest first, as parts do it by themselves"


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=4),
    per_row=st.integers(1, 3),
    together=st.booleans(),
    sampling=st.sampled_from(SAMPLINGS),
    num_epochs=st.integers(1, 7),
    seed=st.integers(0, 5),
)
def test_batches_of_any_sampling(counts, per_row, together, sampling, num_epochs, seed):
    """Batches are of one task; rows are whole, never twice in one, and used alike over epochs."""
    parts = {f"t{i}": part_of(c, per_row=per_row, together=together) for i, c in enumerate(counts)}
    rows = MixedRows(parts, sampling=sampling, num_epochs=num_epochs, temperature=3.0)
    owners, used = owners_of(rows), Counter(dict.fromkeys(range(len(rows)), 0))
    for epoch in range(num_epochs):
        batches = plan(rows, epoch, seed=seed)
        options = {"epoch": epoch, "num_epochs": num_epochs, "temperature": 3.0}
        wanted = rows_of_epoch(counts, sampling, **options)
        taken = Counter(owners[place][0] for batch in batches for place in batch)
        assert [taken[part] for part in range(len(counts))] == [n * per_row for n in wanted]
        for batch in batches:
            assert len({owners[place][0] for place in batch}) == 1
            assert len(set(batch)) == len(batch), "a row is in a batch at most once"
            sizes = Counter(owners[place] for place in batch)
            assert len(sizes) <= BUDGET["batch_size"]
            if together:
                assert set(sizes.values()) == {per_row}
                assert (np.diff(batch).reshape(-1)[: per_row - 1] == 1).all()
        used.update(place for batch in batches for place in batch)
        for place in range(len(counts)):
            of_part = [used[i] for i, (part, _) in enumerate(owners) if part == place]
            assert max(of_part) - min(of_part) <= 1
            if sampling == "proportional":
                assert set(of_part) == {epoch + 1}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_plan_depends_on_seed_and_epoch_alone(sampling):
    options = {"sampling": sampling, "num_epochs": 6}
    first, again = mixed_of(40, 11, **options), mixed_of(40, 11, **options)
    forward = [plan(first, epoch) for epoch in range(6)]
    backward = [plan(again, epoch) for epoch in reversed(range(6))][::-1]
    assert forward == backward, "an epoch is the same whichever was planned before it"
    assert len({str(batches) for batches in forward}) == 6
    assert plan(first, 2, seed=1) != forward[2]
    epochs = [[place for batch in batches for place in batch] for batches in forward]
    tasks = [place < 40 for place in epochs[0]]
    assert tasks != sorted(tasks) and tasks != sorted(tasks, reverse=True), "tasks are mixed"


def test_a_row_that_is_drawn_often_is_spread_over_batches():
    """Two rows of 200 features in all: sqrt takes them many times over in an epoch."""
    parts = {"many": part_of(198), "few": part_of(2, per_row=3, together=True)}
    rows = MixedRows(parts, sampling="sqrt")
    batches = [batch for batch in plan(rows, batch_size=32) if min(batch) >= 198]
    assert len(batches) >= 9 and all(len(batch) <= 6 for batch in batches)
    counted = Counter(place for batch in batches for place in batch)
    assert max(counted.values()) - min(counted.values()) <= 1 and min(counted.values()) >= 9


def test_rows_are_named_with_their_task():
    rows = MixedRows({"a": part_of(3, per_row=2, name="a"), "b": part_of(2, name="b")})
    assert rows.row_names(np.array([0, 3, 5, 6, 7])) == [
        *("1 of a", "4 of a", "7 of a", "1 of b", "4 of b"),
    ]


def test_features_of_a_row_are_found_in_any_order_of_the_rows():
    part = part_of(3, per_row=2, together=True)
    part = replace(part, row_numbers=np.array([9, 9, 0, 0, 4, 4]))
    batches = plan(MixedRows({"a": part}), batch_size=1)
    assert sorted(batches) == [[0, 1], [2, 3], [4, 5]]


def test_planning_is_linear_in_epochs(monkeypatch):
    calls, share = [], mixed.rows_of_epoch

    def counting(*args, **options):
        calls.append(options["epoch"])
        return share(*args, **options)

    monkeypatch.setattr(mixed, "rows_of_epoch", counting)
    rows = mixed_of(5, 3, sampling="annealed", num_epochs=50)
    for _ in range(2):
        for epoch in range(50):
            plan(rows, epoch)
    assert calls == list(range(50))


def test_a_million_rows_are_planned_in_seconds():
    rows = MixedRows({"a": part_of(1_000_000), "b": part_of(1000, per_row=2)}, sampling="sqrt")
    began = time.process_time()
    batches = rows.plan(batch_tokens=4096, batch_size=128, epoch=5)
    seconds = time.process_time() - began
    assert sum(map(len, batches)) > 1_000_000
    assert seconds < 8, "it took 20 with a Python loop over rows, and takes 1"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A task of one text with a label, and one whose rows are two texts that stay together."""
    cache = tmp_path_factory.mktemp("cache")
    words = "film food dog movie car house good bad tensor".split()
    labelled = [
        {"text": " ".join(words[: n % 9 + 1]), "label": ("x", "y")[n % 2]} for n in range(11)
    ]
    pairs = [{"text": words[n], "text_b": " ".join(words[n:])} for n in range(6)]
    tokenizer = tiny_tokenizer()
    options: Any = {"max_length": 20, "cache_dir": cache}
    return {
        "topic": tokenise(load_rows(labelled, cache_dir=cache), tokenizer, **options),
        "near": tokenise(
            load_rows(pairs, schema=EMBED_SCHEMA, cache_dir=cache),
            tokenizer,
            encoder=TextsEncoder(),
            **options,
        ),
    }


def test_a_batch_is_the_tasks_own_with_its_name_and_places_among_all(real):
    rows = MixedRows(real)
    assert len(rows) == 23 and rows.lengths.tolist() == [
        *real["topic"].lengths.tolist(),
        *real["near"].lengths.tolist(),
    ]
    seen = set()
    for indices in rows.plan(**BUDGET):
        batch = rows.collate(indices)
        name, start = ("topic", 0) if indices[0] < 11 else ("near", 11)
        own = real[name].collate(indices - start)
        assert batch[HEAD] == name and batch["indices"].tolist() == indices.tolist()
        assert batch.keys() == {*own, HEAD}
        for key in own.keys() - {"indices", "rows"}:
            assert torch.equal(batch[key], own[key])
        assert batch["rows"].tolist() == own["rows"].tolist()
        assert batch["rows"].tolist() == rows.row_numbers[indices].tolist()
        seen.add(name)
    assert seen == {"topic", "near"}
    assert "labels" in rows.collate(np.array([10])) and "places" in rows.collate(np.array([11]))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rows_that_stay_together_are_whole_in_the_steps_of_a_run(real, sampling):
    rows = MixedRows(real, sampling=sampling, num_epochs=5)
    config = TrainingConfig(batch_size=4, batch_tokens=60, epochs=5)
    found = 0
    for step in StepPlan(rows, config).steps_after(0):
        for indices in step.batches:
            batch = rows.collate(indices)
            if batch[HEAD] == "near":
                found += 1
                pairs = batch["rows"].reshape(-1, 2)
                assert (pairs[:, 0] == pairs[:, 1]).all()
                assert len(set(pairs[:, 0].tolist())) == len(pairs) <= 4
                assert batch["places"].tolist() == [0, 1] * len(pairs)
    assert found >= 5


def test_outputs_are_put_back_by_task_whatever_the_order_of_batches(real):
    rows = MixedRows(real)
    batches = rows.plan(**BUDGET, shuffle=False)
    orders = [range(len(batches)), reversed(range(len(batches)))]
    orders.append(np.random.default_rng(0).permutation(len(batches)).tolist())
    for order in orders:
        gathered = rows.gathered()
        for place in order:
            positions = batches[place]
            mask = rows.collate(positions)["attention_mask"].numpy()
            numbers = np.stack([positions, -positions], axis=1).astype(np.float32)
            if positions[0] < 11:
                gathered.add(positions, numbers, mask)
            else:  # as of a task with outputs a token
                gathered.add(positions, np.repeat(numbers[:, None], mask.shape[1], 1), mask)
        found = gathered.in_order()
        assert list(found) == ["topic", "near"]
        assert found["topic"].tolist() == [[i, -i] for i in range(11)]
        assert len(found["near"]) == 12
        for place, tokens in enumerate(found["near"]):
            assert tokens.tolist() == [[11 + place, -11 - place]] * rows.lengths[11 + place]


def test_the_fingerprint_tells_parts_order_names_and_options_apart(real):
    def fingerprint(parts=real, **options):
        return MixedRows(parts, **options).fingerprint

    topic, near = real["topic"], real["near"]
    found = [
        fingerprint(),
        fingerprint({"near": near, "topic": topic}),
        fingerprint({"topic": near, "near": topic}),
        fingerprint({"other": topic, "near": near}),
        fingerprint({"topic": topic}),
        fingerprint({"topic": topic.select(range(10)), "near": near}),
        fingerprint(sampling="sqrt"),
        fingerprint(num_epochs=2),
        fingerprint(temperature=3.0),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint() == found[0] == fingerprint(dict(real))


def test_targets_are_named_by_task(real):
    rows = MixedRows(real)
    assert "topic/labels" in rows.targets and "near/places" in rows.targets
    assert all(isinstance(target, Target) for target in rows.targets.values())
