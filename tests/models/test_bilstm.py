"""The BiLSTM against torch's on packed sequences, against itself alone, and in two engines."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bertwright.models.heads.bilstm import BiLSTM

LENGTHS = [7, 3, 1, 5]


def make_batch(lengths, width=6, seed=0):
    """Return hidden states with noise at padding too, and the mask."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(lengths), max(lengths), width, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return hidden, mask


def as_torch_lstm(model):
    """Return torch's bidirectional LSTM of the same weights."""
    first = model.ahead[0]
    layers = len(model.ahead)
    twin = nn.LSTM(
        first.input_size, first.hidden_size, layers, batch_first=True, bidirectional=True
    )
    twin.load_state_dict(named_as_torch(model, lambda parameter: parameter.detach()))
    return twin


def named_as_torch(model, read):
    """Return read(parameter) under the name that torch's LSTM gives it."""
    values = {}
    for suffix, lstms in (("", model.ahead), ("_reverse", model.back)):
        for number, lstm in enumerate(lstms):
            for name, parameter in lstm.named_parameters():
                values[name.replace("_l0", f"_l{number}{suffix}")] = read(parameter)
    return values


def run_packed(twin, hidden, mask):
    lengths = mask.sum(dim=1)
    packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(twin(packed)[0], batch_first=True)[0]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_torch_on_packed_sequences(num_layers):
    torch.manual_seed(0)
    model = BiLSTM(6, 4, num_layers)
    twin = as_torch_lstm(model)
    hidden, mask = make_batch(LENGTHS)
    inputs = [hidden.clone().requires_grad_() for _ in range(2)]
    found = model(inputs[0], mask)
    expected = run_packed(twin, inputs[1], mask)
    assert found.shape == (4, 7, 8) and found.abs().max() > 0.1
    assert_same(found, expected)
    for output in (found, expected):
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert inputs[0].grad is not None and inputs[0].grad.abs().max() > 0.01
    assert_same(inputs[0].grad, inputs[1].grad)
    gradients = named_as_torch(model, lambda parameter: parameter.grad)
    assert len(gradients) == 8 * num_layers
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
        assert_same(gradients[name], parameter.grad)


def test_reading_the_padding_backwards_is_rejected():
    model = BiLSTM(6, 4)
    hidden, mask = make_batch(LENGTHS)
    found = model(hidden, torch.ones_like(mask)) * mask[..., None]
    with pytest.raises(AssertionError):
        assert_same(found, run_packed(as_torch_lstm(model), hidden, mask))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_padding_changes_nothing_and_gives_zero(num_layers):
    torch.manual_seed(0)
    model = BiLSTM(6, 4, num_layers).eval()
    hidden, mask = make_batch(LENGTHS)
    found = model(hidden, mask)
    assert (found[~mask] == 0).all() and (found[mask] != 0).all()
    assert torch.equal(model(hidden.masked_fill(~mask[..., None], 1e3), mask), found)
    assert torch.equal(model(hidden, mask.long()), found)
    hidden.requires_grad_()
    model(hidden, mask).square().sum().backward()
    assert hidden.grad is not None
    assert (hidden.grad[~mask] == 0).all() and (hidden.grad[mask] != 0).all()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_row_alone_and_in_any_batch(num_layers):
    torch.manual_seed(0)
    model = BiLSTM(6, 4, num_layers).eval()
    hidden, mask = make_batch(LENGTHS)
    wide = torch.cat([hidden, torch.ones(4, 9, 6)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(4, 9, dtype=torch.bool)], dim=1)
    together, wider = model(hidden, mask), model(wide, wide_mask)
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        alone = model(hidden[one, :length], mask[one, :length])
        torch.testing.assert_close(alone, together[one, :length], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone, wider[one, :length], atol=1e-6, rtol=0)


def test_dropout_is_between_layers_and_only_in_training():
    hidden, mask = make_batch(LENGTHS)
    single = BiLSTM(6, 4, 1, dropout=0.5).train()
    assert torch.equal(single(hidden, mask), single(hidden, mask))
    double = BiLSTM(6, 4, 2, dropout=0.5).train()
    assert not torch.equal(double(hidden, mask), double(hidden, mask))
    double.eval()
    assert torch.equal(double(hidden, mask), double(hidden, mask))


def to_onnx(model, example):
    """Return a function from arrays to the output of ONNX Runtime."""
    buffer = io.BytesIO()
    axes = {0: "batch", 1: "length"}
    names = ["hidden", "mask"]
    torch.onnx.export(
        model,
        example,
        buffer,
        input_names=names,
        output_names=["states"],
        dynamic_axes=dict.fromkeys([*names, "states"], axes),
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def to_openvino(model, example):
    """Return a function from arrays to the output of OpenVINO."""
    graph = openvino.convert_model(model, example_input=example)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    return lambda *arrays: compiled(list(arrays))[0]


@pytest.mark.parametrize("to_engine", [to_onnx, to_openvino])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_graphs_agree_at_other_shapes_than_the_traced_one(num_layers, to_engine):
    torch.manual_seed(0)
    model = BiLSTM(6, 4, num_layers).eval()
    hidden, mask = make_batch([8, 5])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracers warn of branches and of LSTMs in batches
        run = to_engine(model, (hidden, mask.long()))
    for lengths in ([8, 5], [1], [12, 1, 4, 9, 12], [3, 3, 2]):
        hidden, mask = make_batch(lengths, seed=1)
        with torch.no_grad():
            expected = model(hidden, mask).numpy()
        found = run(hidden.numpy(), mask.long().numpy())
        assert found.shape == expected.shape and np.abs(expected).max() > 0.05
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert (found[~mask.numpy()] == 0).all()
