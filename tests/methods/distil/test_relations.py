from __future__ import annotations

import json
import math
import random

import pytest
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.distil import teacher_cache
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.projections import (
    ProjectionReader,
    Projections,
    ProjectionShape,
    projection_shape,
)
from bertwright.methods.distil.relations import (
    RELATIONS,
    RelationsConfig,
    relation_heads,
    relation_kl,
    relation_log_probs,
    relation_losses,
)
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.teacher_cache import LiveTeacher, TeacherCache
from bertwright.methods.distil.train import ask_teacher, train_distilled
from bertwright.models.build import build_task_model, copy_with_widths
from bertwright.tasks import TASKS, find_task
from methods.cases import (
    LABELS,
    KilledError,
    inputs_of,
    kill_at_step,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    trained_teacher,
    weights,
)
from task_rows import row_of
from tiny import tiny_encoder

B, L, D_S, D_T, N = 2, 4, 6, 12, 3
LENGTHS = [4, 3]
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
KINDS = list(RELATIONS)
CONTENT_ONLY = {
    **{name: {} for name in ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "bart")},
    "mobilebert": {"initializer_range": 0.5},
    "albert": {"num_hidden_groups": 4},
}
"""Families whose attention is the product of queries and keys alone, and what they need."""
WITH_ROLES = {**CONTENT_ONLY, "mpnet": {}, "deberta-v2": {}}
WITHOUT_ROLES = ("modernbert", "xlnet", "albert")


def random_projections(width: int, seed: int) -> Projections:
    generator = torch.Generator().manual_seed(seed)
    return Projections(*(2 * torch.randn(B, L, width, generator=generator) for _ in range(3)))


def loop_losses(projections_s, projections_t, kind, *, masked=True, whole_width=False):
    """The same in loops over rows, heads and tokens, in Python's own numbers."""

    def relation(a, b, head, query, keys):
        width = len(a[0])
        part = range(head * width // N, (head + 1) * width // N)
        scale = math.sqrt(width if whole_width else width / N)
        scores = [sum(a[query][d] * b[key][d] for d in part) / scale for key in keys]
        total = sum(math.exp(score) for score in scores)
        return [math.exp(score) / total for score in scores]

    losses = {}
    for name, (a, b) in RELATIONS[kind].items():
        losses[name] = []
        for row, n in enumerate(LENGTHS):
            keys, total = range(n if masked else L), 0.0
            for head in range(N):
                for query in range(n):
                    t, s = (
                        relation(
                            getattr(one, a)[row].tolist(),
                            getattr(one, b)[row].tolist(),
                            head,
                            query,
                            keys,
                        )
                        for one in (projections_t, projections_s)
                    )
                    total += sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
            losses[name].append(total / (N * n))
    return losses


def relations_of(projections_s, projections_t, mask=MASK, *, kind="query-key-value", num_heads=N):
    return relation_losses(projections_s, projections_t, mask, kind=kind, num_heads=num_heads)


def test_two_tokens_by_hand():
    """Token 0 sees itself three times as much as token 1: scores ln 3 and 0; token 1 sees equal."""
    states_t = torch.zeros(1, 3, 4)
    states_t[0, 0, 0] = math.sqrt(2 * math.log(3))  # one head of width 4: the scale is 2
    states_s = torch.zeros(1, 3, 2)
    states_t[0, 2], states_s[0, 2] = 7.0, -9.0  # padding
    mask = torch.tensor([[1, 1, 0]])
    log_t = relation_log_probs(states_t, states_t, mask, 1)
    log_s = relation_log_probs(states_s, states_s, mask, 1)
    expected = torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(log_t.exp()[0, 0, :2], expected)
    # (3/4 ln(3/2) + 1/4 ln(1/2)) / 2 real tokens
    torch.testing.assert_close(relation_kl(log_s, log_t, mask), torch.tensor([0.0654061]))
    # Two heads of width 2, the second without any difference: half of it at the scale sqrt 2.
    states_t[0, 0, 0] = math.sqrt(math.sqrt(2) * math.log(3))
    log_t = relation_log_probs(states_t, states_t, mask, 2)
    log_s = relation_log_probs(states_s, states_s, mask, 2)
    torch.testing.assert_close(relation_kl(log_s, log_t, mask), torch.tensor([0.0327030]))


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_loops_and_rejects_wrong_masks_and_scales(kind):
    projections_s, projections_t = random_projections(D_S, 1), random_projections(D_T, 2)
    losses = relations_of(projections_s, projections_t, kind=kind)
    expected = loop_losses(projections_s, projections_t, kind)
    unmasked = loop_losses(projections_s, projections_t, kind, masked=False)
    unsplit = loop_losses(projections_s, projections_t, kind, whole_width=True)
    assert list(losses) == list(RELATIONS[kind])
    for name, loss in losses.items():
        assert loss.shape == (B,) and (loss > 0.01).all()
        torch.testing.assert_close(loss, torch.tensor(expected[name]), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(loss, torch.tensor(unmasked[name]), rtol=1e-2)
        assert not torch.allclose(loss, torch.tensor(unsplit[name]), rtol=1e-2)


def test_the_two_kinds_share_the_values_alone():
    first, second = random_projections(D_S, 1), random_projections(D_T, 2)
    v2 = relations_of(first, second)
    v1 = relations_of(first, second, kind="attention-value")
    assert list(v2) == ["query", "key", "value"] and list(v1) == ["attention", "value"]
    assert torch.equal(v1["value"], v2["value"])
    for name in ("query", "key"):
        assert not torch.allclose(v1["attention"], v2[name], rtol=1e-2)


def orthogonal(width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator))[0]


def test_rotations_within_a_relation_head_change_nothing_and_across_heads_they_do():
    projections_s, projections_t = random_projections(D_S, 1), random_projections(D_T, 2)
    loss = relations_of(projections_s, projections_t)
    within = torch.block_diag(*(orthogonal(D_S // N, seed) for seed in range(N)))
    turned = Projections(*(states @ within for states in projections_s))
    assert (turned.value - projections_s.value).abs().max() > 0.5
    across = Projections(*(states @ orthogonal(D_S, 9) for states in projections_s))
    for name, value in relations_of(turned, projections_t).items():
        torch.testing.assert_close(value, loss[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(relations_of(across, projections_t)[name], loss[name], rtol=1e-2)
    attention = relations_of(turned, projections_t, kind="attention-value")
    assert attention["attention"].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_projections_give_zero_and_no_gradient(kind):
    one, other = random_projections(D_S, 1), random_projections(D_S, 2)
    leaves = Projections(*(states.clone().requires_grad_() for states in one))
    for target, is_zero in ((one, True), (other, False)):
        losses = relations_of(leaves, target, kind=kind)
        total = torch.stack(list(losses.values())).sum()
        gradients = torch.autograd.grad(total, leaves)
        largest = max(gradient.abs().max().item() for gradient in gradients)
        assert (abs(total.item()) < 1e-6) == is_zero
        assert (largest < 1e-6) == is_zero and math.isfinite(largest)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_neither_key_nor_query(kind):
    projections_s, projections_t = random_projections(D_S, 1), random_projections(D_T, 2)
    losses = relations_of(projections_s, projections_t, kind=kind)
    alone = relations_of(
        Projections(*(states[1:, :3] for states in projections_s)),
        Projections(*(states[1:, :3] for states in projections_t)),
        MASK[1:, :3],
        kind=kind,
    )
    spoiled_s, spoiled_t = (
        Projections(*(states.clone() for states in one)) for one in (projections_s, projections_t)
    )
    for states in (*spoiled_s, *spoiled_t):
        states[1, 3] = torch.nan
    for states in spoiled_s:
        states.requires_grad_()
    spoiled = relations_of(spoiled_s, spoiled_t, kind=kind)
    for name, loss in losses.items():
        torch.testing.assert_close(alone[name][0], loss[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(spoiled[name], loss, atol=1e-6, rtol=0)
    torch.stack(list(spoiled.values())).sum().backward()
    assert spoiled_s.value.grad is not None and spoiled_s.value.grad.isfinite().all()
    assert spoiled_s.value.grad.abs().max() > 0 and not spoiled_s.value.grad[1, 3].any()
    empty = relations_of(projections_s, projections_t, torch.zeros_like(MASK), kind=kind)
    assert all(loss.tolist() == [0.0, 0.0] for loss in empty.values())


@pytest.mark.parametrize("family", WITH_ROLES)
def test_what_is_read_is_what_the_layer_attends_with(family):
    model = tiny_teacher(family, **WITH_ROLES[family])
    batch = some_batch(tiny_rows(model))
    mask = batch["attention_mask"]
    with torch.no_grad(), ProjectionReader(model.encoder, [2, 4]) as reader:
        maps = model(**inputs_of(batch), output_attentions=True).attentions
    assert maps is not None and not hooks_on(model)
    for layer in (2, 4):
        read = reader.take(layer)
        shape = projection_shape(model.encoder, layer)
        assert shape.num_heads == 4
        for states in read:
            assert states.shape == (*mask.shape, shape.width) and states.std() > 1e-3
        own = relation_log_probs(read.query, read.key, mask, shape.num_heads).exp()
        real = mask.bool()[:, None, :, None].expand_as(own)
        gap = (own - maps[layer - 1])[real].abs().max().item()
        assert (gap < 1e-5) == (family in CONTENT_ONLY)
    with pytest.raises(KeyError):
        reader.take(2)
    with pytest.raises(KeyError):
        reader.take(1)


def hooks_on(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def fresh_student(teacher=None):
    return init_student(teacher or tiny_teacher(), [0, 1])


def narrow_student(**overrides):
    values = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, **overrides}
    encoder, tokenizer = tiny_encoder("bert", **values)
    return build_task_model(
        encoder, task="classify", labels=LABELS, max_length=32, tokenizer=tokenizer
    )


def distil(student, teacher, folder, methods, *, rows=None, **options):
    training = tiny_training(**options.pop("training", {}))
    rows = rows or tiny_rows(student)
    return train_distilled(
        student,
        teacher,
        rows,
        None,
        methods=methods,
        training=training,
        run_dir=folder / "run",
        cache_folder=folder / "caches",
        **options,
    )


def logged(folder):
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("family", WITH_ROLES)
def test_every_family_with_projections_is_distilled(family, tmp_path):
    teacher = tiny_teacher(family, **WITH_ROLES[family])
    student = fresh_student(teacher)
    rows = tiny_rows(teacher, 16)
    before = weights(student)
    for kind in KINDS:
        distil(
            student,
            teacher,
            tmp_path / kind,
            [RelationsConfig(kind=kind)],
            rows=rows,
            training={"max_steps": 1},
        )
        for name in RELATIONS[kind]:
            assert logged(tmp_path / kind)[0][f"relations/{name}"] > 1e-6
        assert not hooks_on(student) and not hooks_on(teacher)
    assert not same_weights(weights(student), before)


@pytest.mark.parametrize("family", WITHOUT_ROLES)
def test_families_without_projections_are_refused_before_the_teacher_runs(
    family, tmp_path, monkeypatch
):
    monkeypatch.setattr(teacher_cache, "run_teacher", lambda *a, **k: pytest.fail("it ran"))
    without, bert = tiny_teacher(family), tiny_teacher()
    rows = tiny_rows(without)
    for teacher, student in ((without, without), (bert, without), (without, bert)):
        with pytest.raises(UnsupportedRoleError, match=f"'query' to work on in {family}"):
            ask_teacher(teacher, student, rows, [RelationsConfig()], cache_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_can_have_it(task, tmp_path):
    rng = random.Random(0)
    rows = load_rows([row_of(task, rng) for _ in range(16)], schema=find_task(task).schema)
    labels = [] if rows.labels is None else list(rows.labels.names)
    encoder, tokenizer = tiny_encoder("bert")
    teacher = build_task_model(
        encoder,
        task=task,
        labels=labels,
        tokenizer=tokenizer,
        max_length=48,
        outputs=find_task(task).outputs(labels),
    )
    encoded = tokenise(rows, tokenizer, encoder=find_task(task).encoder, max_length=48)
    student = fresh_student(teacher)
    distil(
        student,
        teacher,
        tmp_path,
        [RelationsConfig(), SoftTargetsConfig()],
        rows=encoded,
        training={"max_steps": 2},
    )
    assert logged(tmp_path)[0]["relations/query"] > 1e-6


def relations_between(student, teacher, batch):
    """The losses of the two models' last layers on a batch, dropout off."""
    layer = student.roles.num_layers
    with torch.no_grad(), ProjectionReader(student.encoder, [layer]) as reader:
        student.eval()(**inputs_of(batch))
    target = LiveTeacher(teacher).projections(batch, 4)
    losses = relations_of(reader.take(layer), target, batch["attention_mask"], num_heads=4)
    return {name: loss.mean().item() for name, loss in losses.items()}


def test_relations_come_near_to_the_teachers_and_by_soft_targets_alone_they_do_not(tmp_path):
    teacher = trained_teacher()
    rows = tiny_rows(teacher, 96)
    batch = some_batch(rows, 32)
    training = {"epochs": 8, "lr": 5e-3, "keep_best": False}
    after = {}
    for name, methods in (("control", []), ("relations", [RelationsConfig(weight=10.0)])):
        student = narrow_student()
        before = relations_between(student, teacher, batch)
        methods = [SoftTargetsConfig(), *methods]
        distil(student, teacher, tmp_path / name, methods, rows=rows, training=training)
        after[name] = relations_between(student, teacher, batch)
    for name, loss in after["relations"].items():
        assert 0 < loss < 0.8 * before[name], name
        assert loss < 0.3 * after["control"][name], name


def test_weight_scales_the_term(tmp_path):
    teacher = tiny_teacher()
    for weight in (1.0, 2.5):
        student = fresh_student(teacher)
        config = RelationsConfig(weight=weight)
        distil(student, teacher, tmp_path / str(weight), [config], training={"max_steps": 1})
    one, more = (logged(tmp_path / name)[0] for name in ("1.0", "2.5"))
    for name in RELATIONS["query-key-value"]:
        assert more[f"relations/{name}"] == pytest.approx(2.5 * one[f"relations/{name}"], rel=1e-5)


@pytest.mark.parametrize("teacher_layer", [None, 2])
def test_cached_and_live_teachers_train_the_same_student(tmp_path, teacher_layer):
    teacher = tiny_teacher()
    # Cached numbers are rounded to 16 bits; with a smaller epsilon Adam would make a whole step of
    # that where a gradient is next to nothing.
    training = {"max_steps": 3, "adam_eps": 1e-5}
    methods = [RelationsConfig(teacher_layer=teacher_layer, num_relation_heads=8)]
    students = []
    for source in (teacher, LiveTeacher(teacher)):
        student = fresh_student(teacher)
        distil(student, source, tmp_path / str(len(students)), methods, training=training)
        students.append(weights(student))
    for name, tensor in students[0].items():
        torch.testing.assert_close(tensor, students[1][name], atol=3e-4, rtol=1e-3, msg=name)
    other = fresh_student(teacher)
    methods = [RelationsConfig(teacher_layer=1, num_relation_heads=8)]
    distil(other, teacher, tmp_path / "other", methods, training=training)
    gaps = [(tensor - students[0][name]).abs().max() for name, tensor in weights(other).items()]
    assert max(gaps) > 1e-3


def test_the_teacher_is_asked_for_what_is_compared_alone(tmp_path):
    teacher = tiny_teacher()
    student, rows = fresh_student(teacher), tiny_rows(teacher)

    def source(*methods):
        return ask_teacher(teacher, student, rows, methods, cache_folder=tmp_path)

    last = source(RelationsConfig())
    assert isinstance(last, TeacherCache)
    assert last.projection_shape(4) == ProjectionShape(4, 32)
    with pytest.raises(KeyError):
        last.projection_shape(3)
    third = source(RelationsConfig(teacher_layer=3), HiddenMatchingConfig())
    assert isinstance(third, TeacherCache) and third.projection_shape(3).width == 32
    third.hidden(some_batch(rows), 4)
    live = source(RelationsConfig(), HiddenMatchingConfig(attention_weight=1.0))
    assert isinstance(live, LiveTeacher)


def test_killed_and_resumed_is_unbroken_for_a_narrower_student_beside_other_methods(
    tmp_path, monkeypatch
):
    teacher = tiny_teacher()
    methods = [RelationsConfig(), HiddenMatchingConfig(attention_weight=1.0), SoftTargetsConfig()]
    options = {"training": {"checkpoint_steps": 1, "epochs": 1}}
    unbroken = narrow_student()
    distil(unbroken, teacher, tmp_path / "a", methods, **options)
    assert set(weights(unbroken)) == set(weights(narrow_student()))
    mend = kill_at_step(monkeypatch, 3)
    broken = narrow_student()
    with pytest.raises(KilledError):
        distil(broken, teacher, tmp_path / "b", methods, **options)
    assert not hooks_on(broken)
    mend()
    resumed = narrow_student()
    distil(resumed, teacher, tmp_path / "b", methods, resume=True, **options)
    assert same_weights(weights(resumed), weights(unbroken))


def test_a_paused_run_leaves_no_hooks_and_a_reader_opened_twice_has_them_once(tmp_path):
    teacher, student = tiny_teacher(), fresh_student()
    distil(student, teacher, tmp_path, [RelationsConfig()], pause_at=2)
    assert not hooks_on(student)
    reader = ProjectionReader(student.encoder, [2])
    assert not hooks_on(student)
    for _ in range(2):
        reader.open()  # as after a forward pass that failed
        assert hooks_on(student) == 3
    reader.close()
    assert not hooks_on(student)


def test_a_student_with_pruned_heads_has_relations_but_no_attention_to_compare(tmp_path):
    teacher = tiny_teacher()
    student = copy_with_widths(fresh_student(teacher), heads={1: [0, 1, 3]})
    assert projection_shape(student.encoder, 2) == ProjectionShape(3, 24)
    distil(student, teacher, tmp_path, [RelationsConfig()], training={"max_steps": 2})
    assert logged(tmp_path)[0]["relations/value"] > 1e-6
    with pytest.raises(UsageError, match="3 attention heads in its last layer, the teacher 4"):
        distil(student, teacher, tmp_path / "v1", [RelationsConfig(kind="attention-value")])
    with pytest.raises(ConfigError, match="--num-relation-heads 16") as caught:
        distil(student, teacher, tmp_path / "v2", [RelationsConfig(num_relation_heads=16)])
    assert "divisor of 8" in caught.value.hint


def test_relation_heads_are_the_teachers_unless_given():
    shape_s, shape_t = ProjectionShape(2, 16), ProjectionShape(4, 32)
    assert relation_heads(RelationsConfig(), shape_s, shape_t) == 4
    assert relation_heads(RelationsConfig(num_relation_heads=16), shape_s, shape_t) == 16
    with pytest.raises(ConfigError, match=r"student's queries \(16\)"):
        relation_heads(RelationsConfig(num_relation_heads=32), shape_s, shape_t)
    with pytest.raises(UsageError, match="2 attention heads"):
        relation_heads(RelationsConfig(kind="attention-value"), shape_s, shape_t)
    equal = ProjectionShape(4, 16)
    assert relation_heads(RelationsConfig(kind="attention-value"), equal, shape_t) == 4


def test_options_out_of_range(tmp_path):
    for wrong, option in (
        ({"weight": 0.0}, "--weight"),
        ({"weight": math.inf}, "--weight"),
        ({"teacher_layer": 0}, "--teacher-layer"),
        ({"num_relation_heads": 0}, "--num-relation-heads"),
        ({"num_relation_heads": 4, "kind": "attention-value"}, "--num-relation-heads"),
    ):
        with pytest.raises(ConfigError, match=option):
            RelationsConfig(**wrong)
    with pytest.raises(ConfigError, match="the teacher has 4 layers"):
        distil(fresh_student(), tiny_teacher(), tmp_path, [RelationsConfig(teacher_layer=5)])


def test_five_lines():
    projections_t, projections_s = random_projections(D_T, 1), random_projections(D_S, 2)
    projections_s.value.requires_grad_()
    losses = relations_of(projections_s, projections_t)
    torch.stack(list(losses.values())).sum(dim=0).mean().backward()
    assert projections_s.value.grad is not None
