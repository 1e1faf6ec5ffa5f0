from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from bertwright.errors import ConfigError, UnsupportedFamilyError, UsageError
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.train import train_distilled
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.methods.quantize.qat import (
    RANGE,
    FakeQuantization,
    Qat,
    QatConfig,
    move_range,
    round_inputs,
    round_rows,
    rounding,
)
from bertwright.models.build import copy_with_factors, copy_with_layers, copy_with_widths
from bertwright.tasks import find_task
from bertwright.training.evaluation import evaluate_model
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
    trained_teacher,
    weights,
)

ENDS = (-1.0, 3.0)
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def grid_by_loops(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """S (clip(round(x / S) + Z, 0, 255) - Z), one number at a time."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    steps = [min(max(round(v / scale) + zero, 0), 255) for v in x.ravel().tolist()]
    return np.array([scale * (step - zero) for step in steps]).reshape(x.shape)


def test_inputs_are_rounded_as_the_formula_says():
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)) * 2
    found = round_inputs(x, torch.tensor(ENDS)).numpy()
    np.testing.assert_allclose(found, grid_by_loops(x.numpy(), *ENDS), atol=1e-6)
    assert 0 < np.abs(found - x.numpy()).max() and found.min() < -0.9 and found.max() > 2.9
    inside = (x.numpy() > ENDS[0]) & (x.numpy() < ENDS[1])
    assert 0 < inside.sum() < inside.size
    assert np.abs(found - x.numpy())[inside].max() <= 4 / 255 / 2 + 0.01
    symmetric = grid_by_loops(x.numpy(), -3.0, 3.0)
    assert np.abs(found - symmetric).max() > 0.1, "another grid has other numbers"


def test_zero_is_exact_and_twice_is_once():
    for ends in ((-1.0, 3.0), (-0.37, 0.11), (0.0, 5.0), (-7.3, 0.0)):
        x = torch.linspace(2 * ends[0] - 0.1, 2 * ends[1] + 0.1, 999)
        once = round_inputs(x, torch.tensor(ends))
        assert torch.equal(round_inputs(once, torch.tensor(ends)), once)
        assert round_inputs(torch.zeros(3), torch.tensor(ends)).abs().max() == 0
        assert len(once.unique()) > 250
    rows = round_rows(torch.randn(5, 7))
    torch.testing.assert_close(round_rows(rows), rows, rtol=1e-6, atol=0)


def test_gradient_is_one_on_the_grid_and_zero_where_clipped():
    x = torch.tensor([-2.0, -1.1, -0.9, 0.0, 0.013, 2.9, 3.2, 9.0], requires_grad=True)
    round_inputs(x, torch.tensor(ENDS)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    weight = torch.randn(3, 4, requires_grad=True)
    factors = torch.arange(12.0).reshape(3, 4)
    (round_rows(weight) * factors).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, factors)


def test_rows_are_rounded_as_the_formula_says():
    weight = torch.tensor([[1.27, -0.634, 0.004], [0.0, 0.0, 0.0], [-254.0, 3.0, 1.1]])
    expected = torch.tensor([[1.27, -0.63, 0.0], [0.0, 0.0, 0.0], [-254.0, 4.0, 2.0]])
    found = round_rows(weight)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    one_scale = (weight / 2).round() * 2
    assert (found - one_scale).abs().max() > 0.5, "one scale for all rows loses the small ones"
    halved = round_rows(torch.tensor([[1.26, -0.634, 0.005], [-126.0, 3.1, 0.9]]), 7)
    expected = torch.tensor([[1.26, -0.64, 0.0], [-126.0, 4.0, 0.0]])
    torch.testing.assert_close(halved, expected, atol=1e-6, rtol=1e-6)


def test_ranges_move_as_worked_out_by_hand():
    ends = move_range(torch.zeros(2), torch.tensor([[-1.0, 2.0]]), 0.9)
    assert ends.tolist() == [-1.0, 2.0]
    ends = move_range(ends, torch.tensor([[-3.0, 1.0]]), 0.9)
    assert ends.tolist() == pytest.approx([-1.2, 1.9])
    ends = move_range(ends, torch.tensor([[4.0, 5.0]]), 0.5)
    assert ends.tolist() == pytest.approx([-0.6, 3.45]), "0 is always in it"


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_a_first_batch_is_rounded_as_dynamic_int8_rounds_it(family):
    silent = {"dropout": 0.0, "attention_dropout": 0.0} if family == "distilbert" else CALM
    model = tiny_teacher(family, **silent)
    batch = inputs_of(some_batch(tiny_rows(model)))
    dynamic, exact = simulate_int8(model, embeddings=True), model(**batch).logits
    before = weights(model)
    fake = FakeQuantization(model)
    fake.let_move()
    logits = _all_training(model)(**batch).logits
    torch.testing.assert_close(logits, dynamic(**batch).logits, atol=2e-3, rtol=0)
    assert (logits - exact).abs().max() > 1e-4, "rounding changes something"
    logits.sum().backward()
    words = model.encoder.get_input_embeddings().weight
    assert words.grad is not None and words.grad.abs().max() > 0
    model.eval()
    assert torch.equal(model(**batch).logits, logits), "eval mode has the same ranges"
    ranges = fake.ranges()
    assert len(ranges.inputs) > 20 and len(ranges.tables) >= 2
    fake.remove()
    assert same_weights(weights(model), before) and torch.equal(model(**batch).logits, exact)
    assert not any("forward" in vars(module) for module in model.modules())
    model.ranges = ranges
    with rounding(model):
        assert torch.equal(model(**batch).logits, logits)
    assert torch.equal(model(**batch).logits, exact)


def _all_training(model):
    """Put linear layers in train mode and everything that drops numbers in eval mode."""
    for module in model.modules():
        module.training = type(module) is torch.nn.Linear
    return model


def test_a_range_moves_once_a_batch_and_only_in_training():
    model = tiny_teacher(**CALM)
    rows = tiny_rows(model)
    first, second = inputs_of(some_batch(rows, 6)), inputs_of(some_batch(rows, 30))
    fake = FakeQuantization(model, decay=0.5)
    fake.let_move()
    model(**first)
    assert fake.ranges().inputs == {}, "eval mode teaches nothing"
    model.train()
    model(**first)
    seen = fake.ranges()
    model(**second)
    assert fake.ranges() == seen
    fake.let_move()
    model(**second)
    assert fake.ranges() != seen
    seen = fake.ranges()
    fake.let_move(False)
    model(**first)
    assert fake.ranges() == seen


def run_qat(folder, *, config=None, model=None, **options):
    model = model or tiny_teacher()
    rows = tiny_rows(model)
    training = tiny_training(**({"epochs": 3, "checkpoint_steps": 2} | options.pop("training", {})))
    arguments = {"task": find_task("classify"), "config": training, "run_dir": folder}
    hooks = [Qat(config or QatConfig())]
    return model, train(model, rows, rows, hooks=hooks, **arguments, **options)


def test_the_score_of_the_run_is_the_score_with_rounding(tmp_path):
    model, result = run_qat(tmp_path / "run", model=trained_teacher())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    moving = [line["qat/moving"] for line in lines]
    assert moving[0] == 1 and moving[-1] == 0 and sorted(moving, reverse=True) == moving
    rows, options = tiny_rows(model), {"batch_tokens": 4096, "precision": "fp32"}
    with rounding(model):
        rounded, _ = evaluate_model(model, rows, find_task("classify"), **options)
    exact, _ = evaluate_model(model, rows, find_task("classify"), **options)
    assert rounded["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5)
    assert exact["loss"] != pytest.approx(result.metrics["loss"], rel=1e-4)
    assert not any(RANGE in name for name in model.state_dict())


def test_killed_and_resumed_with_soft_targets_it_has_the_same_weights_and_ranges(
    tmp_path, monkeypatch
):
    teacher = tiny_teacher(seed=1)
    rows = tiny_rows(teacher)

    def distil(folder, resume=False):
        student = init_student(teacher, [0, 2])
        train_distilled(
            student,
            teacher,
            rows,
            rows,
            methods=[SoftTargetsConfig(), QatConfig()],
            training=tiny_training(checkpoint_steps=1),
            run_dir=folder,
            resume=resume,
            cache_folder=tmp_path / "caches",
        )
        return student

    unbroken = distil(tmp_path / "a")
    mend = kill_at_step(monkeypatch, 5)
    with pytest.raises(KilledError):
        distil(tmp_path / "b")
    mend()
    for again in (distil(tmp_path / "b", resume=True), distil(tmp_path / "b", resume=True)):
        assert again.ranges is not None and again.ranges == unbroken.ranges
        assert same_weights(weights(again), weights(unbroken))
    assert "head.dense" in unbroken.ranges.inputs


def test_what_changes_the_model_has_no_ranges(tmp_path):
    model, _ = run_qat(tmp_path / "run", training={"max_steps": 2})
    assert model.ranges is not None and copy.deepcopy(model).ranges == model.ranges
    assert copy_with_layers(model, [0, 1]).ranges is None
    assert copy_with_widths(model, heads={0: [0, 1]}).ranges is None
    assert copy_with_factors(model, 8).ranges is None
    rows, options = tiny_rows(model), tiny_training(max_steps=1)
    arguments = {"task": find_task("classify"), "config": options, "run_dir": tmp_path / "more"}
    train(model, rows, None, **arguments)
    assert model.ranges is None
    with pytest.raises(UsageError, match="--method qat"), rounding(model):
        pass


def test_what_it_cannot_do_is_refused_with_the_reason(tmp_path):
    for family, reason in (("albert", "share"), ("xlnet", "raw"), ("mpnet", "not tried")):
        with pytest.raises(UnsupportedFamilyError, match=reason):
            FakeQuantization(tiny_teacher(family))
    with pytest.raises(UsageError, match="quantize last"):
        FakeQuantization(simulate_int8(tiny_teacher()))
    with pytest.raises(UsageError, match="word embeddings"):
        run_qat(tmp_path / "run", model=copy_with_factors(tiny_teacher(), 8))
    for wrong in ({"decay": 1.0}, {"moving_share": 0.0}, {"moving_share": 1.1}):
        with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "-")):
            QatConfig(**wrong)
