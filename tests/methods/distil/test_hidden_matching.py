"""What hidden matching compares, when, and what it refuses; its losses have a file of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from bertwright.errors import ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.distil import teacher_cache
from bertwright.methods.distil.hidden_losses import attention_mse, hidden_cosine
from bertwright.methods.distil.hidden_matching import (
    MORE_TERMS,
    HiddenMatching,
    HiddenMatchingConfig,
    disable_attention_dropout,
    make_projection,
    match_layers,
    matched_pairs,
)
from bertwright.methods.distil.projections import ProjectionReader, heads_of
from bertwright.methods.distil.soft_targets import SoftTargets, SoftTargetsConfig
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.teacher_cache import LiveTeacher, TeacherCache
from bertwright.methods.distil.train import ask_teacher, train_distilled
from bertwright.models.build import copy_with_widths
from bertwright.registry import parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.hooks import Hook
from bertwright.training.loop import train
from methods.cases import (
    KilledError,
    inputs_of,
    kill_at_step,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    weights,
)
from tiny import FAMILY_NAMES


def test_unmatched_layers_leave_the_pairs():
    assert matched_pairs(HiddenMatchingConfig(layers=(0, 3)), 2, 4) == ((2, 3),)


def test_projection_is_seeded_and_touches_no_global_state():
    first, second = make_projection(312, 768, 3), make_projection(312, 768, 3)
    assert first.weight.shape == (768, 312) and first.bias is None
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, make_projection(312, 768, 4).weight)
    assert first.weight.std().item() == pytest.approx(312**-0.5, rel=0.02)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_attention_dropout_is_off_in_every_family(family):
    rate = {
        "distilbert": "attention_dropout",
        "modernbert": "attention_dropout",
        "bart": "attention_dropout",
        "xlnet": "dropout",
    }.get(family, "attention_probs_dropout_prob")
    model = tiny_teacher(family, **{rate: 0.5})
    batch = some_batch(tiny_rows(model))
    real = batch["attention_mask"].bool()

    def largest_gap() -> float:
        model.train()
        with torch.no_grad():
            maps = model(**inputs_of(batch), output_attentions=True).attentions
        assert maps is not None and len(maps) == 4
        sums = torch.stack([m.sum(dim=3) for m in maps])  # [K, B, N, L]
        return (sums - 1).abs()[real[None, :, None, :].expand_as(sums)].max().item()

    assert largest_gap() > 0.1
    before = disable_attention_dropout(model.encoder)
    assert largest_gap() < 1e-4
    assert before and all(rate == 0.5 for _, _, rate in before)


def test_options_out_of_range():
    with pytest.raises(ConfigError, match="--attention-weight"):
        HiddenMatchingConfig(hidden_weight=0)
    with pytest.raises(ConfigError, match="--hidden-weight"):
        HiddenMatchingConfig(hidden_weight=-1)


def test_the_last_layer_is_left_to_the_task():
    def pairs(num_layers_s, **options):
        config = HiddenMatchingConfig(last_layer=False, **options)
        return [g for _, g in matched_pairs(config, num_layers_s, 12)]

    assert pairs(6) == [2, 4, 6, 8, 10]  # PKD-Skip
    assert pairs(6, layers="last") == [7, 8, 9, 10, 11]  # PKD-Last
    assert pairs(3, layers=(4, 0, 12)) == [4]
    with pytest.raises(ConfigError, match="last_layer=false"):
        pairs(1)


class Watch(Hook):
    """Keeps what a hook made of the loss of each batch."""

    order = 41

    def __init__(self):
        self.seen = []

    def on_loss(self, state):
        self.seen.append(
            (state.batch, state.output, state.per_example_loss.detach(), dict(state.losses))
        )


def one_step(student, config, teacher, folder, rows, *hooks, **training):
    watch = Watch()
    train(
        student,
        rows,
        None,
        task=find_task("classify"),
        config=tiny_training(**({"max_steps": 1} | training)),
        hooks=[HiddenMatching(config, teacher), watch, *hooks],
        run_dir=folder,
    )
    return watch.seen


@pytest.mark.parametrize("family", ["bert", "xlnet"])
def test_pkd_compares_the_classification_token_wherever_the_family_has_it(family, tmp_path):
    teacher = tiny_teacher(family)
    rows = tiny_rows(teacher)
    config = HiddenMatchingConfig(
        tokens="cls", last_layer=False, hidden_loss="cosine", hidden_weight=3.0, share=1.0
    )
    student = init_student(tiny_teacher(family, seed=1), [0, 1])
    batch, output, loss, _ = one_step(student, config, teacher, tmp_path, rows)[0]
    hidden_t = LiveTeacher(teacher).hidden(batch, 2)
    expected = []
    for b, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        place = length - 1 if family == "xlnet" else 0
        cosine = torch.cosine_similarity(output.hidden_states[1][b, place], hidden_t[b, place], 0)
        expected.append(3.0 * (1 - cosine.item()))
    assert loss.tolist() == pytest.approx(expected, rel=1e-4) and min(expected) > 1e-3
    everywhere = hidden_cosine(output.hidden_states[1], hidden_t, batch["attention_mask"])
    assert not torch.allclose(3.0 * everywhere, loss, rtol=1e-2)


def test_scores_are_those_of_the_two_models_without_padding(tmp_path):
    teacher, student = tiny_teacher(), init_student(tiny_teacher(seed=1), [0, 1])
    rows = tiny_rows(teacher)
    config = HiddenMatchingConfig(
        hidden_weight=0.0, attention_weight=2.0, attention_loss="scores", share=1.0
    )
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = init_student(student, [0, 1])
    batch, _, loss, logged = one_step(student, config, teacher, tmp_path, rows)[0]
    expected = torch.zeros(len(loss))
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        alone = {name: values[row : row + 1, :length] for name, values in inputs_of(batch).items()}
        scores = []
        for model, layers in ((before, (1, 2)), (teacher, (2, 4))):
            with torch.no_grad(), ProjectionReader(model.eval().encoder, layers) as reader:
                model(**alone)
            for layer in layers:
                query, key, _ = (
                    x[0].view(length, 4, 8).transpose(0, 1) for x in reader.take(layer)
                )
                scores.append(query @ key.transpose(1, 2) / 8**0.5)
        for s, t in ((scores[0], scores[2]), (scores[1], scores[3])):
            expected[row] += (s - t).square().mean()  # 2.0 times the mean of two pairs
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    assert loss.min() > 1e-4
    assert logged["hidden_matching/attention"].item() == pytest.approx(loss.mean().item())
    with_maps = HiddenMatching(HiddenMatchingConfig(attention_weight=1.0), teacher)
    assert with_maps.needs_attentions
    assert not HiddenMatching(config, teacher).needs_attentions
    assert not sum(len(module._forward_hooks) for module in student.modules())


PLAIN = ["bert", "roberta", "electra", "distilbert", "mobilebert", "bart"]


@pytest.mark.parametrize("family", PLAIN)
def test_scores_are_matched_in_every_family_that_has_no_more_terms(family, tmp_path):
    teacher = tiny_teacher(family)
    rows = tiny_rows(teacher, 16)
    config = HiddenMatchingConfig(
        hidden_weight=0.0, attention_weight=1.0, attention_loss="scores", share=1.0
    )
    student = init_student(tiny_teacher(family, seed=1), [0, 1])
    _, _, loss, _ = one_step(student, config, teacher, tmp_path, rows)[0]
    assert loss.isfinite().all() and loss.min() > 1e-12


@pytest.mark.parametrize("family", [*MORE_TERMS, "modernbert", "xlnet", "albert"])
def test_families_with_more_terms_are_refused_before_the_teacher_runs(
    family, tmp_path, monkeypatch
):
    monkeypatch.setattr(teacher_cache, "run_teacher", lambda *a, **k: pytest.fail("it ran"))
    teacher = tiny_teacher(family)
    config = HiddenMatchingConfig(attention_weight=1.0, attention_loss="scores")
    reason = {"modernbert": "fuses", "xlnet": "raw", "albert": "shares"}.get(family, "relative")
    rows = tiny_rows(teacher)
    with pytest.raises(UnsupportedRoleError, match=reason):
        ask_teacher(teacher, init_student(teacher, [0, 1]), rows, [config], cache_folder=tmp_path)
    maps = HiddenMatchingConfig(attention_weight=1.0)
    assert match_layers(maps, teacher.encoder, LiveTeacher(teacher))


def test_scores_come_from_the_cache_and_maps_from_a_live_teacher(tmp_path):
    teacher = tiny_teacher()
    rows, student = tiny_rows(teacher), init_student(teacher, [0, 1])
    config = HiddenMatchingConfig(attention_weight=1.0, attention_loss="scores")
    source = ask_teacher(teacher, student, rows, [config], cache_folder=tmp_path)
    assert isinstance(source, TeacherCache) and source.heads == (4, 4, 4, 4)
    assert sorted(source._projections) == sorted(source._hidden) == [2, 4]
    live = ask_teacher(
        teacher,
        student,
        rows,
        [config, HiddenMatchingConfig(attention_weight=1.0)],
        cache_folder=tmp_path,
    )
    assert isinstance(live, LiveTeacher)


def test_heads_are_compared_pair_by_pair():
    teacher = tiny_teacher()
    uneven = copy_with_widths(teacher, heads={1: [2], 3: [0, 1, 3]})
    assert heads_of(uneven.encoder) == LiveTeacher(uneven).heads == (4, 1, 4, 3)
    student = init_student(uneven, [1, 3])
    maps = HiddenMatchingConfig(attention_weight=1.0)
    assert match_layers(maps, student.encoder, LiveTeacher(uneven)) == ((1, 2), (2, 4))
    with pytest.raises(UsageError, match="1 attention heads in layer 1, the teacher 4 in layer 2"):
        match_layers(maps, student.encoder, LiveTeacher(teacher))
    only = HiddenMatchingConfig(attention_weight=1.0, layers=(0, 3))
    with pytest.raises(UsageError, match="3 attention heads in layer 2"):
        match_layers(only, student.encoder, LiveTeacher(uneven))


def test_maps_of_a_teacher_with_uneven_heads_are_cached(tmp_path):
    uneven = copy_with_widths(tiny_teacher(), heads={1: [2], 3: [0, 1, 3]})
    rows = tiny_rows(uneven, 12)
    cache = TeacherCache.build(uneven, rows, attention_layers=[2, 4], folder=tmp_path)
    batch = some_batch(rows)
    for layer, heads in ((2, 1), (4, 3)):
        maps, live = cache.attention(batch, layer), LiveTeacher(uneven).attention(batch, layer)
        assert maps.shape[1] == heads
        zeros = torch.zeros(len(maps))
        gap = attention_mse(maps, live, batch["attention_mask"])
        torch.testing.assert_close(gap, zeros, atol=1e-6, rtol=0)


def test_share_trains_the_layers_first_and_the_answers_afterwards(tmp_path):
    teacher = tiny_teacher()
    rows, student = tiny_rows(teacher), init_student(tiny_teacher(seed=1), [0, 1])
    config = HiddenMatchingConfig(share=0.5)
    soft = SoftTargets(SoftTargetsConfig(alpha=1.0), teacher)
    seen = one_step(student, config, teacher, tmp_path, rows, soft, max_steps=4)
    for _, _, loss, logged in seen[:2]:
        assert loss.mean().item() == pytest.approx(logged["hidden_matching/hidden"].item())
    for _, _, loss, logged in seen[2:]:
        assert "hidden_matching/hidden" not in logged
        assert loss.mean().item() == pytest.approx(logged["soft_targets/soft"].item())
    other = init_student(tiny_teacher(seed=1), [0, 1])
    both = one_step(other, HiddenMatchingConfig(), teacher, tmp_path / "b", rows, soft, max_steps=4)
    assert all("hidden_matching/hidden" in logged for _, _, _, logged in both)
    assert both[0][2].mean() > seen[0][2].mean()


def test_the_head_rests_while_the_layers_train(tmp_path):
    teacher = tiny_teacher()
    rows, student = tiny_rows(teacher), init_student(tiny_teacher(seed=1), [0, 1])
    before = weights(student)
    one_step(student, HiddenMatchingConfig(share=0.5), teacher, tmp_path, rows, max_steps=1)
    after = weights(student)
    heads = [name for name in before if name.startswith("head.")]
    assert heads and all(torch.equal(before[name], after[name]) for name in heads)
    assert not same_weights(before, after)
    one_step(student, HiddenMatchingConfig(), teacher, tmp_path / "b", rows, max_steps=1)
    assert not any(torch.equal(before[name], weights(student)[name]) for name in heads)


@pytest.mark.parametrize("killed_at", [2, 5])
def test_two_stages_killed_and_resumed_equal_unbroken(killed_at, tmp_path, monkeypatch):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)

    def run(folder, resume=False):
        student = init_student(teacher, [0, 1])
        train_distilled(
            student,
            teacher,
            rows,
            rows,
            methods=[
                SoftTargetsConfig(),
                HiddenMatchingConfig(attention_weight=1.0, attention_loss="scores", share=0.5),
            ],
            training=tiny_training(max_steps=8, checkpoint_steps=1),
            run_dir=tmp_path / folder,
            cache_folder=tmp_path / "caches",
            resume=resume,
        )
        return weights(student)

    unbroken = run("a")
    mend = kill_at_step(monkeypatch, killed_at)
    with pytest.raises(KilledError):
        run("b")
    mend()
    assert same_weights(run("b", resume=True), unbroken)
    lines = [json.loads(x) for x in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    matched = ["hidden_matching/attention" in line for line in lines if "loss" in line]
    assert matched[0] and not matched[-1]


def test_patience_has_no_place_beside_a_stage_that_trains_no_answers(tmp_path):
    teacher = tiny_teacher()
    with pytest.raises(ConfigError, match="--patience 1"):
        one_step(
            init_student(teacher, [0, 1]),
            HiddenMatchingConfig(share=0.5),
            teacher,
            tmp_path,
            tiny_rows(teacher),
            patience=1,
        )


def test_nothing_inside_can_be_matched_where_there_is_nothing():
    for counts in ((0, 4), (2, 0)):
        with pytest.raises(UsageError, match="no layers"):
            matched_pairs(HiddenMatchingConfig(), *counts)
    with pytest.raises(ConfigError, match="--share"):
        HiddenMatchingConfig(share=1.5)


def test_the_documents_recipes_can_be_used():
    page = Path(__file__).parents[3] / "docs" / "students.md"
    specs = re.findall(r'--method "([^"]+)"', page.read_text(encoding="utf-8"))
    configs = [parse_method_spec(spec) for spec in specs]
    found = [c for c in configs if isinstance(c, HiddenMatchingConfig)]
    distilbert, pkd, tinybert = (matched_pairs(config, 6, 12) for config in found)
    assert distilbert == ((6, 12),)
    assert [g for _, g in pkd] == [2, 4, 6, 8, 10] and found[1].tokens == "cls"
    assert [g for _, g in tinybert] == [2, 4, 6, 8, 10, 12] and found[2].embeddings
