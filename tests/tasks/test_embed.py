from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.predictor import Predictor
from bertwright.errors import ConfigError, DataError, UsageError
from bertwright.models.task_model import ModelConfig, TaskModel, build_task_model
from bertwright.tasks import embed as embed_module
from bertwright.tasks import find_task
from bertwright.tasks.embed import contrastive_losses, label_losses, score_losses
from bertwright.tasks.embed_rows import TextsEncoder
from bertwright.tasks.metrics.ranking import RANKING_METRICS
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import evaluate_model
from bertwright.training.loop import train
from task_rows import FILLERS, WORDS
from tiny import tiny_encoder, tiny_tokenizer

TASK: Any = find_task("embed")
NO_MODEL: Any = None
SCALE = 20.0


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


# Losses


def contrastive_by_hand(rows, vectors, scale):
    """rows: (first, second[, negative]) as numbers of texts; vectors: one a text of a row."""
    seconds: dict[int, set[int]] = {}
    for row in rows:
        seconds.setdefault(row[0], set()).add(row[1])
    placed, start = [], 0
    for row in rows:
        placed.append(vectors[start : start + len(row)])
        start += len(row)
    losses = []
    for i, row in enumerate(rows):
        own = scale * dot(placed[i][0], placed[i][1])
        others = [
            scale * dot(placed[i][0], placed[j][place])
            for j, other in enumerate(rows)
            for place in range(1, len(other))
            if (j, place) != (i, 1) and other[place] not in {row[0], *seconds[row[0]]}
        ]
        losses.append(log_sum_exp([own, *others]) - own)
    return losses


def as_batch(rows, vectors, dtype=torch.float32):
    places = torch.tensor([place for row in rows for place in range(len(row))])
    ids = torch.tensor([10**18 + text for row in rows for text in row])
    return torch.tensor(np.asarray(vectors), dtype=dtype), places, ids


ROWS = st.integers(2, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 6)] * width), min_size=1, max_size=9)
)


@settings(deadline=None, max_examples=150)
@given(ROWS, st.sampled_from([1.0, 20.0, 100.0]), st.integers(0, 1000))
@example([(0, 1)], 20.0, 0)
@example([(0, 0), (1, 1), (0, 0)], 20.0, 0)  # texts alone, given twice
@example([(0, 1), (0, 2), (3, 2)], 20.0, 0)  # 2 belongs to 0, where it stands with 3 as well
@example([(0, 1, 2), (0, 2, 1), (1, 0, 3)], 20.0, 0)
def test_the_contrastive_loss_is_that_of_loops(rows, scale, seed):
    vectors = unit(np.random.default_rng(seed), sum(map(len, rows)), 5)
    expected = contrastive_by_hand(rows, vectors.tolist(), scale)
    found = contrastive_losses(*as_batch(rows, vectors, torch.float64), scale)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    narrow = contrastive_losses(*as_batch(rows, vectors), scale)
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_left_out_of_the_contrastive_loss_makes_a_difference():
    vectors = unit(np.random.default_rng(0), 6, 5)

    def losses_of(*rows):
        return contrastive_losses(*as_batch(rows, vectors), 3.0).tolist()

    apart = losses_of((0, 1), (2, 3), (4, 5))
    for rows in (((0, 1), (0, 3)), ((0, 1), (2, 1)), ((0, 1), (2, 0))):
        found = losses_of(*rows, (4, 5))
        assert found[0] < apart[0] - 1e-3 and found[2] == pytest.approx(apart[2])
    assert losses_of((0, 1), (0, 3), (0, 5)) == [0, 0, 0]
    negative, copied = losses_of((0, 1, 2), (3, 4, 5)), losses_of((0, 1, 1), (3, 4, 5))
    assert copied[0] < negative[0] - 1e-3 and copied[1] == negative[1]


def test_the_contrastive_loss_worked_out():
    # cosines of (1,0) with (1,0), (0,1) and of (0,1) with them, at scale 2
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    found = contrastive_losses(*as_batch([(0, 1), (2, 3)], vectors), 2.0)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-2))] * 2)
    wrong = contrastive_losses(*as_batch([(0, 1), (2, 3)], vectors), 1.0)
    assert wrong[0].item() != pytest.approx(math.log1p(math.exp(-2)))
    # the batch of one row has nothing to tell it from; its negative is something
    assert contrastive_losses(*as_batch([(0, 1)], vectors[:2]), 2.0).tolist() == [0]
    hard = contrastive_losses(*as_batch([(0, 1, 2)], vectors[:3]), 2.0)
    assert hard.tolist() == pytest.approx([math.log1p(math.exp(-2))])


@pytest.mark.filterwarnings("ignore:Importing from")
@pytest.mark.parametrize("width", [2, 3])
def test_without_copies_it_is_the_loss_of_sentence_transformers(width):
    losses: Any = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    reference = losses.MultipleNegativesRankingLoss(model=None, scale=13.0)
    rows = [tuple(range(width * i, width * (i + 1))) for i in range(8)]
    ours = as_batch(rows, unit(np.random.default_rng(1), 8 * width, 6), torch.float64)
    ours[0].requires_grad_()
    mine = contrastive_losses(*ours, 13.0).mean()
    theirs_in = ours[0].detach().clone().requires_grad_()
    unit_in = torch.nn.functional.normalize(theirs_in, dim=1)
    columns = [unit_in[place::width] for place in range(width)]
    theirs = reference.compute_loss_from_embeddings(columns, None)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-7) and mine.item() > 0.5
    theirs.backward()
    unit_mine = ours[0].detach().clone().requires_grad_()
    normalised = torch.nn.functional.normalize(unit_mine, dim=1)
    contrastive_losses(normalised, *ours[1:], 13.0).mean().backward()
    torch.testing.assert_close(unit_mine.grad, theirs_in.grad, atol=1e-7, rtol=1e-5)


def label_by_hand(vectors, groups, scale):
    losses = []
    for i, group in enumerate(groups):
        others = [j for j in range(len(groups)) if j != i]
        same = [j for j in others if groups[j] == group]
        if not same:
            losses.append(0.0)
            continue
        logits = {j: scale * dot(vectors[i], vectors[j]) for j in others}
        total = log_sum_exp(list(logits.values()))
        losses.append(sum(total - logits[j] for j in same) / len(same))
    return losses


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.sampled_from([1.0, 20.0, 100.0]),
    st.integers(0, 1000),
)
@example([3], 20.0, 0)
@example([0, 1, 2], 20.0, 0)
@example([0, 0], 20.0, 0)
def test_the_label_loss_is_that_of_loops(groups, scale, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, len(groups), 4)[rng.integers(0, len(groups), len(groups))]
    expected = label_by_hand(vectors.tolist(), groups, scale)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        given_vectors = torch.tensor(vectors, dtype=dtype, requires_grad=True)
        found = label_losses(given_vectors, torch.tensor(groups), scale)
        assert found.dtype == dtype
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)
        (gradient,) = torch.autograd.grad(found.sum(), given_vectors)
        assert bool(gradient.isfinite().all())


def test_the_label_loss_worked_out():
    vectors = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    found = label_losses(vectors, torch.tensor([5, 5, 7]), 3.0)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-3))] * 2 + [0])
    mixed = label_losses(vectors, torch.tensor([5, 7, 5]), 3.0)
    # of the texts it may be the first does not have the copy, but the third
    assert mixed.tolist() == pytest.approx([math.log1p(math.exp(3)), 0, math.log(2)])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_the_score_loss_is_that_of_loops(count, seed):
    rng = np.random.default_rng(seed)
    first, second, wanted = unit(rng, count, 4), unit(rng, count, 4), rng.uniform(size=count)
    expected = [
        (dot(a, b) - w) ** 2
        for a, b, w in zip(first.tolist(), second.tolist(), wanted.tolist(), strict=True)
    ]
    tensors = [torch.tensor(values) for values in (first, second, wanted)]
    found = score_losses(*tensors)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    # the sum, and the loss without a root, are something else
    assert not np.allclose(score_losses(tensors[0], tensors[1], 1 - tensors[2]).numpy(), expected)


def test_gradients_are_those_of_differences():
    rng = np.random.default_rng(2)
    rows = [(0, 1, 2), (0, 3, 1), (4, 4, 5), (6, 1, 2)]
    vectors, places, ids = as_batch(rows, unit(rng, 12, 4), torch.float64)
    vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: contrastive_losses(v, places, ids, 5.0), vectors)
    groups = torch.tensor([0, 0, 1, 2, 2, 2, 3, 0, 1, 1, 4, 5])
    assert torch.autograd.gradcheck(lambda v: label_losses(v, groups, 5.0), vectors)
    wanted = torch.tensor([0.1, 0.9, 0.4])
    assert torch.autograd.gradcheck(lambda v: score_losses(v[:3], v[3:6], wanted), vectors)
    total = contrastive_losses(vectors, places, ids, 5.0).sum()
    (gradient,) = torch.autograd.grad(total, vectors)
    assert gradient.abs().max() > 0.1


@pytest.mark.parametrize("kind", ["all the same", "opposite", "zeros"])
@pytest.mark.parametrize("scale", [1e-3, 20.0, 1e6])
def test_losses_and_gradients_are_finite_whatever_the_vectors(kind, scale):
    one = torch.nn.functional.normalize(torch.ones(8, 3), dim=1)
    signs = torch.tensor([1.0, -1] * 4)[:, None]
    vectors = {"all the same": one, "opposite": one * signs, "zeros": one * 0}[kind]
    vectors.requires_grad_()
    places, ids = torch.tensor([0, 1] * 4), torch.tensor([0, 1, 2, 3, 4, 4, 0, 5])
    for losses in (
        contrastive_losses(vectors, places, ids, scale),
        contrastive_losses(vectors[:2], places[:2], ids[:2], scale),
        label_losses(vectors, ids, scale),
        label_losses(vectors[:1], ids[:1], scale),
        score_losses(vectors[::2], vectors[1::2], torch.ones(4)),
    ):
        (gradient,) = torch.autograd.grad(losses.sum(), vectors)
        assert bool(losses.isfinite().all()) and bool((losses >= 0).all())
        assert bool(gradient.isfinite().all())


# Rows through the task

SCORED = [
    {"text": "a film", "text_b": "the film", "score": 5},
    {"text": "a dog", "text_b": "the film", "score": 0},
    {"text": "a cat", "text_b": "the dog", "score": 2},
]
PAIRS = [{name: row[name] for name in ("text", "text_b")} for row in SCORED]
TRIPLETS = [{**row, "negative": "house"} for row in PAIRS]
LABELLED = [{"text": row["text"], "label": str(row["score"] > 1)} for row in SCORED]
ALONE = [{"text": row["text"]} for row in SCORED]


def encode(rows, *, twice=False):
    rows = load_rows(rows, schema=TASK.schema)
    return tokenise(rows, tiny_tokenizer(), encoder=TextsEncoder(twice=twice), max_length=20)


def tiny_model(**config) -> Any:
    encoder, tokenizer = tiny_encoder("bert")
    return build_task_model(
        encoder,
        task="embed",
        labels=[],
        config=ModelConfig(**config),
        tokenizer=tokenizer,
        max_length=20,
        outputs=TASK.outputs([]),
    )


@pytest.mark.parametrize(
    ("rows", "by", "primary"),
    [
        (SCORED, "similarity", "spearman"),
        (PAIRS, "ranking", "mrr"),
        (TRIPLETS, "ranking", "mrr"),
        (LABELLED, "ranking", "mrr"),
    ],
)
def test_the_rows_tell_how_it_is_judged(rows, by, primary):
    encoded = encode(rows)
    task = TASK.judging(encoded)
    assert (task.by, task.primary) == (by, primary)
    assert task.judging(encoded) == task and find_task(task.spec) == task
    vectors = unit(np.random.default_rng(0), len(encoded), 4)
    found = task.metrics(task.judge(vectors, encoded, {}))
    names = {"similarity": {"spearman", "pearson"}, "ranking": set(RANKING_METRICS)}[by]
    assert set(found) == names and names <= set(TASK.metric_names)
    assert all(math.isfinite(value) for value in found.values())
    assert len(task.judge(vectors, encoded, {})) == len(rows) == len(task.describe_truth(encoded))


def test_the_rows_have_to_allow_it():
    with pytest.raises(DataError, match="no scores, second texts or labels"):
        TASK.judging(encode(ALONE))
    with pytest.raises(DataError, match="no scores to judge by"):
        find_task("embed:by=similarity").judging(encode(PAIRS))
    with pytest.raises(DataError, match="no scores, second texts or labels"):
        find_task("embed:by=ranking").judging(encode(ALONE))
    ranked = find_task("embed:by=ranking").judging(encode(SCORED))
    assert ranked.primary == "mrr"
    for rows in (SCORED, PAIRS, LABELLED, ALONE):
        encoded = encode(rows)
        with pytest.raises(DataError, match="have no"):
            TASK.judge(np.zeros((len(encoded), 2)), encoded.without_targets(), {})


def test_options():
    assert TASK.spec == "embed" and find_task("embed:scale=30").spec == "embed:scale=30.0"
    both: Any = find_task("embed:scale=30.0,by=ranking")
    assert (both.scale, both.by, both.primary) == (30.0, "ranking", "mrr")
    assert find_task(both.spec) == both
    with pytest.raises(ConfigError, match=r"embed:scal=3.*scal"):
        find_task("embed:scal=3")
    for wrong in ("scale=0", "scale=-1", "scale=inf", "scale=nan", "scale=much", "by=label"):
        with pytest.raises(UsageError):
            find_task(f"embed:{wrong}")


def loss_of(rows, task=TASK, *, model: Any = None, twice=False, dtype=torch.float32):
    encoded = encode(rows, twice=twice)
    batch = encoded.collate(np.arange(len(encoded)))
    vectors = torch.tensor(unit(np.random.default_rng(3), len(encoded), 4)).to(dtype)
    return task.per_example_loss(vectors, batch, model), vectors, batch


def test_each_form_has_its_loss_on_every_text_of_the_row():
    for rows, width in ((PAIRS, 2), (TRIPLETS, 3)):
        found, vectors, batch = loss_of(rows, find_task("embed:scale=7"))
        losses = contrastive_losses(vectors, batch["places"], batch["text_ids"], 7.0)
        assert found.tolist() == losses.repeat_interleave(width).tolist() and losses.max() > 0.1
    found, vectors, batch = loss_of(LABELLED)
    assert found.tolist() == label_losses(vectors, torch.tensor([1, 0, 1]), 20.0).tolist()
    model = tiny_model()
    TASK.prepare(model, encode(SCORED))
    found, vectors, _ = loss_of(SCORED, model=model)
    cosines = (vectors[::2] * vectors[1::2]).sum(dim=1)
    expected = (cosines - torch.tensor([1, 0, 0.4])).square().repeat_interleave(2)
    torch.testing.assert_close(found, expected)
    for rows in (PAIRS, LABELLED, SCORED):
        found, *_ = loss_of(rows, model=model, dtype=torch.bfloat16)
        assert found.dtype == torch.float32 and bool(found.isfinite().all())


def test_a_text_alone_is_told_from_the_others_by_its_second_view():
    rows = [*ALONE, ALONE[0]]
    found, vectors, _ = loss_of(rows, twice=True)
    by_hand = contrastive_by_hand([(0, 0), (1, 1), (2, 2), (0, 0)], vectors.tolist(), SCALE)
    np.testing.assert_allclose(found[::2].numpy(), by_hand, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="to give a loss"):
        loss_of(ALONE)


def test_the_range_of_the_scores_is_that_of_the_first_training_rows():
    model = tiny_model()
    assert torch.isnan(model.head.score_low)
    TASK.prepare(model, encode(PAIRS))
    assert torch.isnan(model.head.score_low)
    with pytest.raises(DataError, match="all pairs have the score 5"):
        TASK.prepare(model, encode([{**row, "score": 5} for row in PAIRS]))
    TASK.prepare(model, encode(SCORED))
    TASK.prepare(model, encode([{**row, "score": 100 + row["score"]} for row in SCORED]))
    assert (model.head.score_low.item(), model.head.score_high.item()) == (0, 5)


def test_without_a_range_the_loss_takes_that_of_the_batch():
    known, unknown = tiny_model(), tiny_model()
    TASK.prepare(known, encode(SCORED))
    found, *_ = loss_of(SCORED, model=unknown)
    torch.testing.assert_close(found, loss_of(SCORED, model=known)[0])
    found, *_ = loss_of(SCORED[:1], model=unknown)
    assert bool(found.isfinite().all())


# Judging


@settings(deadline=None, max_examples=15)
@given(st.integers(3, 40), st.integers(0, 1000))
def test_similarity_is_scipys_correlation(count, seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"text": f"a {i}", "text_b": f"b {i}", "score": float(score)}
        for i, score in enumerate(rng.integers(0, 4, count))
    ]
    rows[0]["score"] = 9.0
    encoded = encode(rows)
    vectors = unit(rng, len(encoded), 3).astype(np.float32)
    cosines = [dot(vectors[2 * i].tolist(), vectors[2 * i + 1].tolist()) for i in range(count)]
    scores = [row["score"] for row in rows]
    task = TASK.judging(encoded)
    statistics = task.judge(vectors, encoded, {})
    np.testing.assert_allclose(statistics, np.stack([cosines, scores], axis=1), atol=1e-6)
    found = task.metrics(statistics)
    assert found["spearman"] == pytest.approx(stats.spearmanr(cosines, scores)[0], abs=1e-9)
    assert found["pearson"] == pytest.approx(stats.pearsonr(cosines, scores)[0], abs=1e-6)
    assert task.row_scores(statistics) is None


def ranked_by_hand(query, candidates, relevant):
    """Statistics of one query in loops; candidates: vectors by name, all cosines differ."""
    order = sorted(candidates, key=lambda name: -dot(query, candidates[name]))
    ranks = [rank for rank, name in enumerate(order) if name in relevant]
    if not ranks:
        return [0.0] * 8
    gains = [[float(name in relevant) for name in order]]
    scores = [[float(-rank) for rank in range(len(order))]]
    return [
        1 / (1 + ranks[0]),
        ndcg_score(gains, scores, k=10) if len(order) > 1 else 1.0,
        *(sum(rank < depth for rank in ranks) / len(ranks) for depth in (1, 5, 10)),
        *(float(ranks[0] < depth) for depth in (1, 5, 10)),
    ]


def word_vectors(rng, encoded):
    """One vector a text, the same wherever it stands, as [F,E] and by its number."""
    ids = encoded.field("text_ids", np.arange(len(encoded))).tolist()
    table = {number: unit(rng, 4) for number in sorted(set(ids))}
    return np.stack([table[number] for number in ids]), ids, table


@settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(0, 1000))
@example([(0, 1), (1, 2), (0, 3)], 0)  # a first text that is a second one elsewhere
@example([(0, 0), (0, 1), (2, 0)], 0)
@example([(0, 1, 2), (3, 2, 0)], 0)
def test_ranks_of_second_texts_are_those_of_loops(rows, seed):
    names = ("text", "text_b", "negative")
    source = [{n: f"{text}" for n, text in zip(names, row, strict=False)} for row in rows]
    encoded = encode(source)
    vectors, ids, table = word_vectors(np.random.default_rng(seed), encoded)
    width = len(rows[0])
    firsts, seconds = ids[::width], ids[1::width]
    pool = {ids[i] for i in range(len(ids)) if i % width}
    expected = []
    for first in firsts:
        relevant = {s for f, s in zip(firsts, seconds, strict=True) if f == first}
        kept = {n: table[n].tolist() for n in pool if n != first or first in relevant}
        expected.append(ranked_by_hand(table[first].tolist(), kept, relevant))
    statistics = TASK.judge(vectors, encoded, {})
    np.testing.assert_allclose(statistics, expected, atol=1e-9)
    scores = TASK.row_scores(statistics)
    assert scores.mean() == pytest.approx(TASK.metrics(statistics)["mrr"])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(0, 1000))
def test_ranks_of_labels_are_those_of_loops(groups, seed):
    encoded = encode([{"text": f"a {i}", "label": f"l{g}"} for i, g in enumerate(groups)])
    vectors, *_ = word_vectors(np.random.default_rng(seed), encoded)
    expected = []
    for i, group in enumerate(groups):
        others = {j: vectors[j].tolist() for j in range(len(groups)) if j != i}
        relevant = {j for j in others if groups[j] == group}
        expected.append(ranked_by_hand(vectors[i].tolist(), others, relevant))
    np.testing.assert_allclose(TASK.judge(vectors, encoded, {}), expected, atol=1e-9)


@pytest.mark.parametrize("labelled", [False, True])
def test_many_queries_are_judged_as_few(labelled, monkeypatch):
    rng = np.random.default_rng(4)
    if labelled:
        rows = [{"text": f"a {i}", "label": f"{rng.integers(30)}"} for i in range(600)]
    else:
        rows = [{"text": f"a {rng.integers(400)}", "text_b": f"b {i % 450}"} for i in range(600)]
    encoded = encode(rows)
    vectors, *_ = word_vectors(rng, encoded)
    found = TASK.judge(vectors, encoded, {})
    assert found.shape == (600, 8) and 0 < found[:, 0].mean() < 1
    for size in (10_000, 7, 599):
        monkeypatch.setattr(embed_module, "QUERIES_AT_ONCE", size)
        np.testing.assert_allclose(TASK.judge(vectors, encoded, {}), found, atol=1e-9)


def test_some_rows_of_another_order_are_judged_as_they_are():
    encoded = encode(SCORED)
    vectors = unit(np.random.default_rng(5), 6, 4)
    order = np.array([4, 5, 0, 1])
    part = TASK.judge(vectors[order], encoded.select(order), {})
    assert part.tolist() == TASK.judge(vectors, encoded, {})[[2, 0]].tolist()
    assert TASK.describe_truth(encoded.select(order)) == ["2", "5"]


def test_the_truth_in_words():
    assert TASK.describe_truth(encode(SCORED)) == ["5", "0", "2"]
    assert TASK.describe_truth(encode(TRIPLETS)) == ["the film", "the film", "the dog"]
    assert TASK.describe_truth(encode(LABELLED)) == ["True", "False", "True"]
    assert TASK.describe_truth(encode(ALONE)) == ["", "", ""]


# Models


def topic_rows(form, count, seed=0):
    """Texts on food or films; what belongs together is on the same."""
    rng = random.Random(seed)

    def text(kind):
        return " ".join([*rng.choices(FILLERS, k=rng.randint(1, 6)), rng.choice(WORDS[kind])])

    rows = []
    for _ in range(count):
        kind = rng.choice(["film", "food"])
        other = "food" if kind == "film" else "film"
        row: dict[str, Any] = {"text": text(kind)}
        if form == "scored":
            score = rng.choice([0.0, 5.0])
            row |= {"text_b": text(kind if score else other), "score": score}
        elif form == "labels":
            row |= {"label": kind}
        elif form in ("pairs", "triplets"):
            row |= {"text_b": text(kind)}
        if form == "triplets":
            row |= {"negative": text(other)}
        rows.append(row)
    return rows


def train_on(form, tmp_path, *, eval_form="scored", eval_rows: Any = None, task=TASK, **options):
    model = tiny_model(**options)
    eval_rows = encode(topic_rows(eval_form, 60, seed=1) if eval_rows is None else eval_rows)
    config = TrainingConfig(epochs=8, lr=3e-3, batch_size=16, precision="fp32", evals_per_epoch=1)
    before, _ = evaluate_model(model, eval_rows, task, precision="fp32")
    result = train(
        model,
        encode(topic_rows(form, 96), twice=True),
        eval_rows,
        task=task,
        config=config,
        run_dir=tmp_path,
    )
    return model, before, result


@pytest.mark.parametrize("form", ["scored", "triplets", "labels"])
def test_each_form_teaches_what_belongs_together(form, tmp_path):
    model, before, result = train_on(form, tmp_path)
    assert result.primary == "spearman"
    assert result.metrics["spearman"] > max(0.5, before["spearman"] + 0.1)
    assert torch.isnan(model.head.score_low) == (form != "scored")


def test_pairs_train_and_are_judged_by_scores_or_by_themselves(tmp_path):
    _, _, by_scores = train_on("pairs", tmp_path / "a")
    assert set(by_scores.metrics) == {"spearman", "pearson", "loss"}
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
    _, _, by_ranks = train_on("pairs", tmp_path / "b", eval_form="pairs")
    assert by_ranks.primary == "mrr" and set(by_ranks.metrics) == {*RANKING_METRICS, "loss"}


def test_texts_alone_train_but_are_not_judged(tmp_path):
    encoder = TASK.training_encoder
    assert encoder == TextsEncoder(twice=True) and TASK.encoder == TextsEncoder()
    model, _, result = train_on("alone", tmp_path / "a", task=find_task("embed:scale=20"))
    assert result.primary == "spearman" and math.isfinite(result.metrics["loss"])
    fresh = tiny_model()
    moved = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True)
    ]
    assert sum(moved) > 10
    with pytest.raises(DataError, match="texts alone are for training"):
        train(
            fresh,
            encode(ALONE, twice=True),
            encode(ALONE),
            task=TASK,
            config=TrainingConfig(epochs=1),
            run_dir=tmp_path / "b",
        )
    assert not (tmp_path / "b").exists()


def test_a_linear_layer_makes_the_vectors_narrower(tmp_path):
    model, before, result = train_on("scored", tmp_path, head="linear", head_hidden=8)
    assert model.outputs.count == 8 and model.head.dense.weight.shape == (8, 32)
    assert result.metrics["spearman"] > before["spearman"]
    model.save(tmp_path / "saved")
    loaded: Any = TaskModel.load(tmp_path / "saved")
    assert torch.equal(loaded.head.dense.weight, model.head.dense.weight)
    assert (loaded.head.score_low.item(), loaded.head.score_high.item()) == (0, 5)
    (answer,) = Predictor(tmp_path / "saved").predict(["the film"])
    assert len(answer["vector"]) == 8
    states = torch.randn(3, 32)
    vectors = states @ model.head.dense.weight.T + model.head.dense.bias
    torch.testing.assert_close(model.head(states), vectors / vectors.norm(dim=1, keepdim=True))


def test_heads_that_vectors_do_not_have_are_refused():
    for options in (
        {"head": "mlp", "head_layers": 1},
        {"head_lstm": 4},
        {"head": "linear", "head_crf": True},
    ):
        with pytest.raises(ConfigError, match="no hidden layers, LSTM or CRF"):
            tiny_model(**options)
    model = tiny_model()
    assert list(model.head.parameters()) == [] and model.outputs.count == 32
    assert model.config.pooling == "mean" and tiny_model(pooling="cls").config.pooling == "cls"
    assert model.head(torch.zeros(2, 32)).tolist() == torch.zeros(2, 32).tolist()


def test_a_text_has_a_vector_and_a_pair_a_similarity(tmp_path):
    tiny_model().save(tmp_path)
    predictor = Predictor(tmp_path, batch_size=2)
    texts, others = ["the film", "a dog", "dog dog " * 9], ["a movie", "the house", "a"]
    alone = predictor.predict([*texts, *others])
    assert all(set(answer) == {"vector"} for answer in alone)
    vectors = np.array([answer["vector"] for answer in alone])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    pairs = predictor.predict(texts, others)
    assert json.loads(json.dumps(pairs)) == pairs
    assert all(set(answer) == {"similarity"} for answer in pairs)
    found = [answer["similarity"] for answer in pairs]
    np.testing.assert_allclose(found, (vectors[:3] * vectors[3:]).sum(axis=1), atol=1e-5)
    assert len({round(value, 5) for value in found}) == 3
    same = predictor.predict(texts, texts)
    assert [answer["similarity"] for answer in same] == pytest.approx([1, 1, 1], abs=1e-6)
    assert TASK.describe({"similarity": 0.12345}) == ("0.123", None)
    assert TASK.describe(alone[0]) == ("vector of 32", None)


def test_a_negative_does_not_change_the_answer():
    encoded = encode(TRIPLETS)
    vectors = unit(np.random.default_rng(6), 9, 4)
    answers = TASK.decode(vectors, encoded.inputs(), [], {})
    expected = (vectors[::3] * vectors[1::3]).sum(axis=1)
    assert [answer["similarity"] for answer in answers] == pytest.approx(expected)
