"""Encoders without attention against plain loops.

Shapes: B batch, L length, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from bertwright.errors import UnsupportedFamilyError, UnsupportedRoleError
from bertwright.models.export import export_transformers
from bertwright.models.roles import get_roles
from bertwright.models.small import SmallConfig
from bertwright.models.small.encoder import SmallEncoder, hash_runs
from bertwright.models.task_model import ModelConfig, TaskModel

IDS = torch.tensor([[3, 9, 4, 9, 4, 7], [5, 9, 4, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


def small(kind: str, **options) -> SmallEncoder:
    torch.manual_seed(0)
    encoder = SmallEncoder(
        SmallConfig(**{"kind": kind, "vocab_size": 11, "hidden_size": 6, **options})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return encoder.eval()


def states(encoder, ids=IDS, mask=MASK) -> np.ndarray:
    with torch.no_grad():
        return encoder(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()


def numbers_of(length: int, num_buckets: int, vocabulary: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(num_buckets, (length, vocabulary), generator=generator)


def test_equal_runs_have_equal_buckets_and_others_mostly_not():
    numbers = numbers_of(2, 100_003)
    found = hash_runs(IDS, numbers, 100_003)
    assert found[0, 2] == found[0, 4] == found[1, 2], "9 4"
    pairs = torch.cartesian_prod(torch.arange(60), torch.arange(60))
    buckets = hash_runs(pairs, numbers, 100_003)[:, 1]
    assert buckets.min() >= 0 and buckets.max() < 100_003
    assert len(set(buckets.tolist())) > 0.95 * len(pairs)
    swapped = hash_runs(pairs.flip(1), numbers, 100_003)[:, 1]
    differs = pairs[:, 0] != pairs[:, 1]
    assert (buckets[differs] != swapped[differs]).float().mean() > 0.99, "order counts"


def test_a_run_of_three_is_worked_out_by_hand():
    numbers = numbers_of(3, 97)
    last, before, first = numbers.tolist()
    assert int(hash_runs(IDS, numbers[:2], 97)[0, 1]) == (last[9] + before[3]) % 97
    assert int(hash_runs(IDS, numbers, 97)[0, 2]) == (last[4] + before[9] + first[3]) % 97
    assert int(hash_runs(IDS, numbers, 97)[0, 0]) == last[3]


def test_static_states_are_sums_of_three_tables():
    options = {"ngram_longest": 3, "ngram_buckets": 23, "max_position_embeddings": 8}
    encoder = small("static", **options)
    tables = [
        table.weight.detach().numpy()
        for table in (
            encoder.embeddings.word_embeddings,
            encoder.embeddings.run_embeddings,
            encoder.embeddings.position_embeddings,
        )
    ]
    numbers = encoder.embeddings.run_numbers
    runs = [hash_runs(IDS, numbers[:n], 23).numpy() for n in (2, 3)]
    wanted = np.zeros((2, 6, 6))
    for b in range(2):
        for i in range(6):
            wanted[b, i] = tables[0][IDS[b, i]] + tables[2][i]
            wanted[b, i] += sum(tables[1][run[b, i]] for run in runs)
    np.testing.assert_allclose(states(encoder), wanted, atol=1e-6)
    without = small("static", ngram_longest=3, max_position_embeddings=8)
    assert without.embeddings.run_embeddings is None
    assert np.abs(states(without) - wanted).max() > 0.05


def test_a_convolution_is_a_sum_over_neighbours_and_padding_is_silent():
    encoder = small("cnn", num_hidden_layers=1)
    layer = encoder.layers[0]
    weight = layer.convolution.weight.detach().numpy()  # [out, in, kernel]
    hidden = encoder.embeddings(IDS).detach()
    quiet = layer.norm(hidden).detach().numpy() * MASK.numpy()[..., None]
    wanted = hidden.numpy().copy()
    for b in range(2):
        for i in range(6):
            total = layer.convolution.bias.detach().numpy().copy()
            for k, j in enumerate((i - 1, i, i + 1)):
                if 0 <= j < 6:
                    total = total + weight[:, :, k] @ quiet[b, j]
            wanted[b, i] += np.maximum(total, 0)
    np.testing.assert_allclose(states(encoder), wanted, atol=1e-5)


def test_an_lstm_layer_is_the_packed_one_of_torch():
    encoder = small("lstm", num_hidden_layers=1)
    layer = encoder.layers[0]
    packed = torch.nn.LSTM(6, 3, batch_first=True, bidirectional=True)
    own = layer.lstm.state_dict()
    packed.load_state_dict(
        {
            f"{name}{end}": own[f"{way}.0.{name}"]
            for way, end in (("ahead", ""), ("back", "_reverse"))
            for name in (f"{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        }
    )
    hidden = encoder.embeddings(IDS).detach()
    lengths = MASK.sum(dim=1)
    sequence = torch.nn.utils.rnn.pack_padded_sequence(
        layer.norm(hidden), lengths, batch_first=True
    )
    read, _ = torch.nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    wanted = (hidden + layer.out(read)).detach().numpy()
    real = MASK.bool().numpy()
    np.testing.assert_allclose(states(encoder)[real], wanted[real], atol=1e-5)


@pytest.mark.parametrize("kind", ["static", "cnn", "lstm"])
def test_padding_never_leaks(kind):
    encoder = small(kind, num_hidden_layers=2, ngram_longest=2, ngram_buckets=19)
    together = states(encoder)[1, :3]
    alone = states(encoder, IDS[1:, :3], MASK[1:, :3])[0]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.abs(together).max() > 0.1


@pytest.mark.parametrize("kind", ["static", "cnn", "lstm"])
def test_saved_it_is_loaded_bit_for_bit_and_by_auto_model(kind, tmp_path):
    encoder = small(kind, num_hidden_layers=1, ngram_longest=2, ngram_buckets=19)
    config = ModelConfig(pooling="mean", head="linear")
    model = TaskModel(encoder, task="classify", labels=["a", "b"], config=config)
    model.eval().save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    assert torch.equal(loaded(IDS, MASK).logits.detach(), model(IDS, MASK).logits.detach())
    auto = AutoModel.from_pretrained(tmp_path / "m" / "encoder").eval()
    np.testing.assert_array_equal(states(auto), states(encoder))
    hidden = model(IDS, MASK, output_hidden_states=True).hidden_states
    assert len(hidden) == len(encoder.layers) + 1


def test_what_it_has_not_is_refused_with_a_reason(tmp_path):
    encoder = small("cnn", num_hidden_layers=1)
    roles = get_roles(encoder)
    for ask in (lambda: roles.part(0, "query"), lambda: roles.attention(0)):
        with pytest.raises(UnsupportedRoleError):
            ask()
    model = TaskModel(
        encoder, task="classify", labels=["a"], config=ModelConfig(pooling="mean", head="linear")
    )
    with pytest.raises(UnsupportedRoleError):
        model(IDS, MASK, output_attentions=True)
    with pytest.raises(UnsupportedFamilyError, match="no classification head"):
        export_transformers(model, tmp_path / "stock")
    assert roles.max_length is None and not roles.uses_token_types
    assert get_roles(small("static", max_position_embeddings=8)).max_length == 8
