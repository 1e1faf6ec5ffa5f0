"""Random states for the tests of poolings."""

from __future__ import annotations

import torch

from bertwright.models.pooling import EncoderShape, Pooling, States, build_pooling

__all__ = ["SHAPE", "SPECS", "pooling_of", "random_states", "row_of"]

SHAPE = EncoderShape(width=12, num_layers=6, num_heads=3, vocab_size=30)
SPECS = (
    *("cls", "pooler", "mean", "max", "mean-max", "conv1d:5", "dense:7", "tfidf", "sif"),
    *("cls-layer", "cls-layer:2", "concat-last", "concat-last:3"),
    *("weighted-layers", "weighted-layers:3", "lstm:5", "gru:4", "attention", "attention:6"),
    *("wk", "wk:2", "parallel", "parallel:2", "hierarchical:3"),
)
"""Every pooling, with and without a number."""


def pooling_of(spec: str, shape: EncoderShape = SHAPE, seed: int = 0) -> Pooling:
    """Return a pooling in eval mode, its parameters random, its weights of words too."""
    torch.manual_seed(seed)
    pooling = build_pooling(spec, shape).eval()
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for name, buffer in pooling.named_buffers():
        buffer.copy_(torch.rand(buffer.shape) + 0.1)
        if name == "direction":
            buffer /= buffer.norm()
    return pooling


def random_states(*lengths: int, seed: int = 0, shape: EncoderShape = SHAPE) -> States:
    """Return states of rows of these lengths, padded on the right with numbers that are none."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths))
    mask = torch.arange(size[1]) < torch.tensor(lengths)[:, None]
    layers = tuple(
        torch.randn(*size, shape.width, generator=generator).masked_fill(
            ~mask.unsqueeze(-1), torch.nan
        )
        for _ in range(shape.num_layers + 1)
    )
    ids = torch.randint(0, shape.vocab_size, size, generator=generator)
    return States(layers=layers, mask=mask, ids=ids)


def row_of(states: States, row: int) -> States:
    """Return one row, without its padding."""
    real = states.mask[row]
    return States(
        layers=tuple(layer[row, real][None] for layer in states.layers),
        mask=states.mask[row, real][None],
        ids=states.ids[row, real][None],
    )
