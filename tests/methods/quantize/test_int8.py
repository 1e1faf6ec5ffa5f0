from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from bertwright.errors import UsageError
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.quantize.int8 import (
    Int8,
    Int8Config,
    compute_sqnr_db,
    dequantize,
    int8_linear,
    measure_weight_errors,
    quantize_asymmetric,
    quantize_symmetric,
    simulate_int8,
)
from bertwright.methods.replace.theseus import apply_theseus
from bertwright.models.build import build_task_model
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.training.loop import train
from methods.cases import tiny_rows, tiny_teacher, tiny_training
from tiny import tiny_batch, tiny_encoder


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_model() -> TaskModel:
    encoder, tokenizer = tiny_encoder("bert")
    return build_task_model(
        encoder, task="classify", labels=["a", "b", "c"], max_length=32, tokenizer=tokenizer
    )


def test_hand_computed_symmetric():
    quantized = quantize_symmetric(torch.tensor([[-1.27, 0.0, 0.635, 0.014]]))
    assert quantized.values.tolist() == [[-127, 0, 64, 1]]  # 63.5 rounds to even
    assert quantized.scale.item() == pytest.approx(0.01)
    assert quantized.zero_point.item() == 0


def test_hand_computed_asymmetric():
    # min -1, max 4.1: S = 5.1 / 255 = .02, Z = 50.
    quantized = quantize_asymmetric(torch.tensor([-1.0, 0.0, 0.5, 4.1]))
    assert quantized.values.tolist() == [0, 50, 75, 255]
    assert quantized.scale.item() == pytest.approx(0.02)
    assert quantized.zero_point.item() == 50


@pytest.mark.parametrize("quantize", [quantize_symmetric, quantize_asymmetric])
def test_error_is_at_most_half_a_step_zero_is_exact_and_twice_is_once(quantize):
    x = random_tensor(6, 40)
    x[0, :5] = 0
    quantized = quantize(x)
    back = dequantize(quantized)
    limit = quantized.scale / 2 * (2.001 if quantize is quantize_asymmetric else 1.001)
    assert bool(((x - back).abs() <= limit).all())
    assert (back != x).any()
    assert torch.equal(back[0, :5], torch.zeros(5))
    torch.testing.assert_close(dequantize(quantize(back)), back, atol=1e-6, rtol=0)


def test_positive_only_input_keeps_zero_in_range():
    quantized = quantize_asymmetric(torch.tensor([3.0, 5.0]))
    assert quantized.zero_point.item() == 0
    assert quantized.scale.item() == pytest.approx(5 / 255)


def test_constant_zero_does_not_divide_by_zero():
    for quantize in (quantize_symmetric, quantize_asymmetric):
        assert torch.equal(dequantize(quantize(torch.zeros(3, 4))), torch.zeros(3, 4))


@pytest.mark.parametrize("per_row", [False, True])
def test_integer_product_equals_float_product_of_the_rounded(per_row):
    x, weight = random_tensor(5, 24) + 0.7, random_tensor(9, 24, seed=1)
    bias = random_tensor(9, seed=2)
    q_x = quantize_asymmetric(x, per_row=per_row)
    q_w = quantize_symmetric(weight, "per-channel")
    out = int8_linear(q_x, q_w, bias)
    expected = dequantize(q_x) @ dequantize(q_w).T + bias
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    without_correction = (
        q_x.scale * q_w.scale.reshape(1, -1) * (q_x.values.float() @ q_w.values.float().T) + bias
    )
    assert not torch.allclose(without_correction, expected, atol=0.1)
    assert compute_sqnr_db(x @ weight.T + bias, out) > 30


def test_integer_product_by_loops():
    x, weight = random_tensor(2, 3), random_tensor(2, 3, seed=1)
    q_x, q_w = quantize_asymmetric(x), quantize_symmetric(weight, "per-channel")
    out = int8_linear(q_x, q_w)
    for b in range(2):
        for o in range(2):
            total = 0
            for i in range(3):
                total += (int(q_x.values[b, i]) - int(q_x.zero_point)) * int(q_w.values[o, i])
            expected = float(q_x.scale) * float(q_w.scale[o, 0]) * total
            assert out[b, o].item() == pytest.approx(expected, rel=1e-5)


def test_scales_per_channel_are_better_where_channels_differ():
    weight = random_tensor(16, 64) * torch.logspace(-2, 1, 16).unsqueeze(1)
    errors = {
        granularity: (weight - dequantize(quantize_symmetric(weight, granularity))).square().mean()
        for granularity in ("per-channel", "per-tensor")
    }
    assert 0 < errors["per-channel"] < errors["per-tensor"] / 2


def test_scales_per_row_are_better_where_rows_differ():
    x = random_tensor(8, 32) * torch.logspace(-2, 1, 8).unsqueeze(1)
    whole = (x - dequantize(quantize_asymmetric(x))).square().mean()
    rows = (x - dequantize(quantize_asymmetric(x, per_row=True))).square().mean()
    assert 0 < rows < whole / 2


def test_sqnr():
    x = np.array([3.0, 4.0])
    exact = torch.tensor(x)
    assert compute_sqnr_db(exact, torch.tensor([3.0, 4.5])) == pytest.approx(20.0)  # 25 / .25
    assert compute_sqnr_db(exact, exact) == math.inf


def test_simulation_rounds_a_copy_and_stays_close():
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounded = simulate_int8(model)
    batch = tiny_batch(model.tokenizer)  # type: ignore[arg-type]
    with torch.no_grad():
        exact, approximate = model(**batch).logits, rounded(**batch).logits
        again = copy.deepcopy(rounded)(**batch).logits
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(exact, approximate)
    assert compute_sqnr_db(exact, approximate) > 20
    assert torch.equal(approximate, again)


def test_a_model_that_rounds_is_not_rounded_again_or_trained(tmp_path):
    rounded = simulate_int8(tiny_teacher())
    with pytest.raises(UsageError, match="rounds already"):
        simulate_int8(rounded)
    options = {"task": find_task("classify"), "config": tiny_training(), "run_dir": tmp_path / "r"}
    with pytest.raises(UsageError, match="cannot be trained"):
        train(rounded, tiny_rows(rounded), None, **options)
    assert not (tmp_path / "r").exists()


def test_keep_leaves_modules_exact():
    model = tiny_model()
    kept = simulate_int8(model, keep=("encoder", "head"))
    batch = tiny_batch(model.tokenizer)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(kept(**batch).logits, model(**batch).logits)
    partly = simulate_int8(model, keep=("encoder.encoder.layer.0",), activations=False)
    layers, layers_before = partly.roles.layers, model.roles.layers
    same = [
        all(torch.equal(a, b) for a, b in zip(x.parameters(), y.parameters(), strict=True))
        for x, y in zip(layers, layers_before, strict=True)
    ]
    assert same == [True, False, False, False]


def test_embeddings_are_rounded_when_asked():
    model = tiny_model()
    words = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(Int8().apply(model).state_dict()[words], model.state_dict()[words])
    rounded = Int8(Int8Config(embeddings=True)).apply(model)
    assert not torch.equal(rounded.state_dict()[words], model.state_dict()[words])


def test_weight_errors_name_the_worst_first():
    model = tiny_model()
    with torch.no_grad():
        model.roles.part(2, "ffn_out").weight[0, 0] = 50.0  # type: ignore[index,operator]
    errors = measure_weight_errors(model, "per-tensor")
    assert errors[0].module == "encoder.encoder.layer.2.output.dense"
    assert errors[0].sqnr_db < errors[-1].sqnr_db
    assert all(math.isfinite(error.sqnr_db) for error in errors)


def test_quantized_models_are_refused_by_what_changes_them():
    rounded = simulate_int8(tiny_model())
    with pytest.raises(UsageError, match="has been quantized"):
        init_student(rounded, [0, 1])
    with pytest.raises(UsageError, match="has been quantized"):
        apply_theseus(rounded, 2)
