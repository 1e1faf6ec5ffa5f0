"""Extra layers above the last layers of the encoder, side by side or one into the next.

Shapes: B batch, L length, D model width, N heads or branches, A width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["Block", "HierarchicalPooling", "ParallelPooling"]

_INIT_STD = 0.02
_BRANCHES = 4


class Block(nn.Module):
    """One more layer as BERT's: attention and a feed-forward part, the norm after each sum."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Build it for states of `width` D, a multiple of `num_heads` N."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm_after = nn.LayerNorm(width)
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(linear.weight, std=_INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L, D]; real tokens attend to real tokens.

        Args:
            hidden: [B, L, D].
            mask: bool [B, L].
        """
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(hidden).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        lowest = torch.finfo(scores.dtype).min
        shares = scores.masked_fill(~mask[:, None, None, :], lowest).softmax(dim=-1)
        read = (shares @ value).transpose(1, 2).flatten(2)
        hidden = self.norm(hidden + self.out(read))
        return self.norm_after(hidden + self.down(nn.functional.gelu(self.up(hidden))))


class ParallelPooling(Pooling):
    """An extra layer above each of the last `number` layers; the mean of their cls states."""

    card = MethodCard(
        name="parallel",
        kind="pool",
        summary="An extra layer above each of the last 4 layers; the mean of what they say.",
        paper="Improving BERT Performance for Aspect-Based Sentiment Analysis (P-SUM)",
        year=2020,
        citation="Karimi, Rossi, Prati 2020, arXiv:2010.11731",
        equation="v = 1/n sum_i f_i(H_i)[cls], i = K-n+1..K; f_i a layer of its own",
        needs="Training: the extra layers start at random.",
        cost="n layers more, in parameters and time.",
        expected_effect="One to two points over BERT on aspect sentiment.",
        expected_source="Karimi et al. 2020, tables 3 and 4, quoted from memory.",
        when_to_use="Where size does not matter and the last layers hold different things.",
        when_not_to_use="To be small or fast.",
        siblings="hierarchical gives each layer's result to the next below.",
        departures=(
            "One head reads the mean; the paper has a head a branch and sums their losses, which "
            "is the same prediction where heads are linear and share weights."
        ),
    )
    number_is = "layers"
    random_at_first = True
    reads_layers = True
    reads_tokens = True
    adds_above = False

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        most = shape.num_layers
        count = min(_BRANCHES, most) if number is None else self.in_range(number, 1, most)
        self.blocks = nn.ModuleList([Block(shape.width, shape.num_heads) for _ in range(count)])

    def read(self, states: States) -> Tensor:
        """Return the tokens' states after the last layers, the last one first, [B, N, L, D]."""
        if len(states.layers) <= len(self.blocks):
            raise IndexError(f"{len(states.layers) - 1} layers for {len(self.blocks)} branches")
        return torch.stack(states.layers[: -len(self.blocks) - 1 : -1], dim=1)

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D]."""
        padding = ~mask.unsqueeze(-1)
        outputs: list[Tensor] = []
        for place, block in enumerate(self.blocks):
            hidden = read[:, place].masked_fill(padding, 0.0)
            if self.adds_above and outputs:
                hidden = hidden + outputs[-1]
            outputs.append(block(hidden, mask))
        return torch.stack([self.cls_of(output, mask) for output in outputs]).mean(dim=0)

    def number_for(self, num_layers: int) -> int | None:
        """Return as many branches, as far as there are layers for them."""
        return None if self.number is None else min(self.number, num_layers)


class HierarchicalPooling(ParallelPooling):
    """Extra layers from the top down, each adding what the one above gave; mean of their cls."""

    card = MethodCard(
        name="hierarchical",
        kind="pool",
        summary="As parallel, from the top down: each extra layer also reads the one above.",
        paper="Improving BERT Performance for Aspect-Based Sentiment Analysis (H-SUM)",
        year=2020,
        citation="Karimi, Rossi, Prati 2020, arXiv:2010.11731",
        equation="g_K = f_K(H_K), g_i = f_i(H_i + g_{i+1}); v = 1/n sum_i g_i[cls]",
        needs="Training: the extra layers start at random.",
        cost="n layers more, in parameters and time, one after the other.",
        expected_effect="One to two points over BERT on aspect sentiment.",
        expected_source="Karimi et al. 2020, tables 3 and 4, quoted from memory.",
        when_to_use="As parallel.",
        when_not_to_use="To be small or fast.",
        siblings="parallel has no connections between the branches.",
        departures="As parallel.",
    )
    adds_above = True
