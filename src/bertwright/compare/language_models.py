"""Two language models: LSTMs that read from both sides, and a transformer that looks left.

Shapes: B batch, T pieces with begin and end, M predictions, D width, V vocabulary, S negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from bertwright.data.batching import pad_batch

__all__ = [
    "BEGIN",
    "END",
    "NUM_SPECIAL",
    "PAD",
    "UNKNOWN",
    "BiLstmLanguageModel",
    "CausalLanguageModel",
    "LanguageModel",
    "PieceVocabulary",
    "TiedSoftmax",
    "padded",
]

PAD, UNKNOWN, BEGIN, END = range(4)
NUM_SPECIAL = 4


class PieceVocabulary:
    """Padding, unknown, begin and end, then every piece of the training texts.

    A small model has no use for the rows of pieces that it never met: of 30,522 pieces 7,000 short
    texts have some 5,000.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], *, max_pieces: int) -> None:
        """Take the pieces from these texts.

        Args:
            tokenizer: a fast tokenizer of `transformers`.
            texts: the training texts.
            max_pieces: what of a text is read, begin and end included, at least 3.
        """
        self.tokenizer = tokenizer
        self.max_pieces = max_pieces
        rows = self._split(texts)
        seen = np.unique(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]))
        seen = seen[seen != (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)]
        self._new_ids = np.full(len(tokenizer), UNKNOWN, dtype=np.int64)
        self._new_ids[seen] = np.arange(len(seen)) + NUM_SPECIAL
        self.pieces: list[str] = tokenizer.convert_ids_to_tokens(seen.tolist())

    def __len__(self) -> int:
        return NUM_SPECIAL + len(self.pieces)

    @property
    def num_bytes(self) -> int:
        """Bytes of the pieces in UTF-8, with an end each."""
        return sum(len(piece.encode()) + 1 for piece in self.pieces)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int64, from begin to end; pieces not seen are unknown."""
        return [
            np.concatenate([[BEGIN], self._new_ids[np.asarray(row, dtype=np.int64)], [END]])
            for row in self._split(texts)
        ]

    def _split(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_pieces - 2,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]


def padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return ids, int64 [B, T], padded on the right, and which are real, bool [B, T]."""
    batch = pad_batch(rows, None, pad_token_id=PAD, pad_multiple=1)
    return batch["input_ids"], batch["attention_mask"].to(torch.bool)


class TiedSoftmax(nn.Module):
    """P(piece|h) = softmax(E h + b) with the rows of the input embedding E.

    In training, where V is more than twice S, the softmax is over the target and S pieces drawn
    from the training counts, each logit less ln(S q) (Bengio & Senécal 2008): its gradient is near
    that over all, at a fraction of the cost.
    """

    shares: Tensor
    corrections: Tensor

    def __init__(self, counts: Tensor, num_negatives: int) -> None:
        """Keep q, the share of each piece.

        Args:
            counts: of the pieces in the training texts, [V].
            num_negatives: S.
        """
        super().__init__()
        shares = (counts + 1.0) / (counts + 1.0).sum()
        self.num_negatives = num_negatives
        self.sampled = num_negatives > 0 and len(counts) > 2 * num_negatives
        self.bias = nn.Parameter(shares.log())
        self.register_buffer("shares", shares, persistent=False)
        corrections = (max(1, num_negatives) * shares).log()
        self.register_buffer("corrections", corrections, persistent=False)

    def forward(self, h: Tensor, targets: Tensor, embedding: Tensor) -> Tensor:
        """Return the mean of -ln P(target|h) in nats.

        Args:
            h: [M, D].
            targets: int64 [M].
            embedding: [V, D].
        """
        if not (self.training and self.sampled):
            return cross_entropy(h @ embedding.T + self.bias, targets)
        drawn = torch.multinomial(self.shares, self.num_negatives, replacement=True)
        others = h @ embedding[drawn].T + (self.bias - self.corrections)[drawn]
        others = others.masked_fill(drawn == targets[:, None], -torch.inf)
        true = (h * embedding[targets]).sum(dim=1) + (self.bias - self.corrections)[targets]
        logits = torch.cat([true[:, None], others], dim=1)
        return cross_entropy(logits, torch.zeros_like(targets))


class LanguageModel(nn.Module, ABC):
    """Reads pieces into states, layer by layer, and predicts pieces from them.

    Padding is on the right and changes nothing: what is at a real piece depends on real ones alone.
    """

    direction: ClassVar[Literal["both", "left"]]
    """Which pieces the state at a piece depends on, beside the piece itself."""
    widths: Sequence[int]
    """D of the states of each layer, the embedding first."""

    def __init__(
        self, counts: Tensor, width: int, *, dropout: float, unknown: float, num_negatives: int
    ) -> None:
        """Make the embedding and the softmax.

        Args:
            counts: of the pieces in the training texts, [V].
            width: of an embedded piece.
            dropout: of states, in training.
            unknown: the share of pieces that are read as the unknown one, in training.
            num_negatives: S of the softmax; 0: it is always over all pieces.
        """
        super().__init__()
        self.embedding = nn.Embedding(len(counts), width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.softmax = TiedSoftmax(counts, num_negatives)
        self.dropout = nn.Dropout(dropout)
        self.unknown = unknown

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the states [B, T, D] of each layer.

        Args:
            ids: int64 [B, T].
            mask: which are real, bool [B, T], rows right-padded.
        """

    @abstractmethod
    def sentence_vectors(self, states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Return one vector a text for each of these layers, [B, D]."""

    @abstractmethod
    def lm_loss(self, states: Sequence[Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean loss of a prediction, in nats, from the states of these pieces."""

    def read(self, ids: Tensor) -> Tensor:
        """Return the embedded pieces; in training some are read as unknown."""
        if self.training and self.unknown > 0:
            hidden = torch.rand(ids.shape, device=ids.device) < self.unknown
            ids = ids.masked_fill(hidden & (ids >= NUM_SPECIAL), UNKNOWN)
        return self.embedding(ids)

    def next_piece_loss(self, h: Tensor, targets: Tensor, real: Tensor) -> Tensor:
        """Return the mean loss in nats of predicting the real `targets` [B, T] from h [B, T, D]."""
        return self.softmax(h[real], targets[real], self.embedding.weight)


class BiLstmLanguageModel(LanguageModel):
    """ELMo's idea: one stack of LSTMs predicts the next piece, another the piece before.

    The two share the embedding and the softmax and nothing else. Each layer above the first adds
    what it reads to its output. A state is that of both, side by side: 2D.
    """

    direction = "both"

    def __init__(
        self,
        counts: Tensor,
        width: int,
        *,
        num_layers: int = 2,
        dropout: float = 0.0,
        unknown: float = 0.0,
        num_negatives: int = 0,
    ) -> None:
        super().__init__(
            counts, width, dropout=dropout, unknown=unknown, num_negatives=num_negatives
        )
        self.onward = _lstms(width, num_layers)
        self.back = _lstms(width, num_layers)
        self.widths = (2 * width,) * (num_layers + 1)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return layers + 1 of [B, T, 2D]; the first is the embedding, twice."""
        embedded = self.read(ids)
        turn = _turned_places(mask)
        onward = self._stack(self.onward, embedded)
        back = self._stack(self.back, _take(embedded, turn))
        return [
            torch.cat([one, _take(other, turn)], dim=2)
            for one, other in zip(onward, back, strict=True)
        ]

    def _stack(self, lstms: nn.ModuleList, x: Tensor) -> list[Tensor]:
        states = [x]
        for lstm in lstms:
            out, _ = lstm(self.dropout(states[-1]))
            states.append(out if len(states) == 1 else out + states[-1])
        return states

    def sentence_vectors(self, states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Return the mean over real pieces."""
        real = mask[:, :, None].to(states[0].dtype)
        return [(layer * real).sum(dim=1) / real.sum(dim=1) for layer in states]

    def lm_loss(self, states: Sequence[Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of both directions."""
        onward, back = self.dropout(states[-1]).chunk(2, dim=2)
        real = mask[:, 1:]
        after = self.next_piece_loss(onward[:, :-1], ids[:, 1:], real)
        return (after + self.next_piece_loss(back[:, 1:], ids[:, :-1], real)) / 2


class CausalLanguageModel(LanguageModel):
    """GPT's idea: pre-norm transformer layers with learned places that look to the left alone."""

    direction = "left"

    def __init__(
        self,
        counts: Tensor,
        width: int,
        *,
        max_pieces: int,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        unknown: float = 0.0,
        num_negatives: int = 0,
    ) -> None:
        super().__init__(
            counts, width, dropout=dropout, unknown=unknown, num_negatives=num_negatives
        )
        self.places = nn.Embedding(max_pieces, width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.layers = nn.ModuleList(
            _CausalLayer(width, num_heads, dropout, num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.widths = (width,) * (num_layers + 1)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return layers + 1 of [B, T, D]; the last is normed. Real pieces never see padding."""
        x = self.dropout(self.read(ids) + self.places.weight[: ids.shape[1]])
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        states[-1] = self.norm(states[-1])
        return states

    def sentence_vectors(self, states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Return the state of the last real piece, the end, which has seen all."""
        rows, last = torch.arange(len(mask)), mask.sum(dim=1) - 1
        return [layer[rows, last] for layer in states]

    def lm_loss(self, states: Sequence[Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of the next piece."""
        return self.next_piece_loss(states[-1][:, :-1], ids[:, 1:], mask[:, 1:])


class _CausalLayer(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)
        for linear in (self.out, self.down):  # the sum of 2 num_layers such has the spread of one
            nn.init.normal_(linear.weight, std=(width * 2 * num_layers) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.out(self._attend(self.norm_attention(x))))
        return x + self.dropout(self.down(self.activation(self.up(self.norm_ffn(x)))))

    def _attend(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


def _lstms(width: int, num_layers: int) -> nn.ModuleList:
    return nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(num_layers))


def _turned_places(mask: Tensor) -> Tensor:
    """Return where each place is when the real pieces of a row are turned round, [B, T]."""
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - places, places)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Return x [B, T, D] with each row's places in another order."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
