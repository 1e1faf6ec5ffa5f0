"""Batches by token budget over length buckets, with dynamic right padding.

Shape letters: B batch (rows), L length (tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertwright.config import require
from bertwright.data.encode import Target

if TYPE_CHECKING:
    from bertwright.data.tokenise import EncodedRows

__all__ = [
    "MODEL_INPUTS",
    "collate",
    "default_pad_multiple",
    "pad_batch",
    "padded_lengths",
    "padding_efficiency",
    "plan_batches",
]

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "head", "read")
"""The keys of a collated batch that the model takes; the last where it has several heads."""
_WINDOW_BATCHES = 50


def default_pad_multiple() -> int:
    """Return 8 where there is a GPU, whose matrix units want it, else 1.

    A processor computes every padded token: on short texts (11 tokens on average) multiples of 8
    cost it a fifth of the speed of training.
    """
    return 8 if torch.cuda.is_available() else 1


def padded_lengths(lengths: np.ndarray | int, pad_multiple: int) -> np.ndarray:
    """Round lengths up to multiples of `pad_multiple`."""
    return -(-np.asarray(lengths, dtype=np.int64) // pad_multiple) * pad_multiple


def plan_batches(
    lengths: np.ndarray,
    *,
    batch_tokens: int,
    batch_size: int | None = None,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    pad_multiple: int | None = None,
    groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Cut rows into batches of at most `batch_tokens` padded tokens.

    For training the rows are shuffled, cut into windows of about 50 batches, bucketed by padded
    length inside each window (rows of one bucket stay in random order), cut, and the batches are
    shuffled. Without `shuffle` the rows are taken longest first, ties in row order. Every row is in
    exactly one batch. A row longer than the budget is a batch by itself.

    With `groups` the same is done with groups of rows in place of rows: a group is in one batch,
    its rows in their order, and counts as long as its longest row, as often as it has rows.

    Args:
        lengths: tokens of each row, [N].
        batch_tokens: budget of a batch in tokens: rows times the longest row rounded up.
        batch_size: most rows (or groups) of a batch; None: only the budget counts.
        seed: with `epoch`, fixes the order.
        epoch: another epoch gives another order.
        shuffle: False for inference.
        pad_multiple: lengths are padded to multiples of this; None: `default_pad_multiple`.
        groups: the group of each row, [N]; the rows of a group stand together. None: each row is
            one.

    Returns:
        Arrays of row positions, int64.

    Raises:
        ConfigError: a budget, size or multiple below 1.
    """
    require(batch_tokens >= 1, "batch_tokens", batch_tokens, "at least 1")
    require(batch_size is None or batch_size >= 1, "batch_size", batch_size, "at least 1")
    pad_multiple = default_pad_multiple() if pad_multiple is None else pad_multiple
    require(pad_multiple >= 1, "pad_multiple", pad_multiple, "at least 1")
    lengths = np.asarray(lengths, dtype=np.int64)
    starts, counts, lengths = _group(lengths, groups)
    padded = np.maximum(padded_lengths(lengths, pad_multiple), 1)
    if not shuffle:
        order = np.argsort(-lengths, kind="stable")
        return _expand(_cut(order, padded, counts, batch_tokens, batch_size), starts, counts)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for window in np.array_split(order, _num_windows(padded * counts, batch_tokens, batch_size)):
        bucketed = window[np.argsort(-padded[window], kind="stable")]
        batches += _cut(bucketed, padded, counts, batch_tokens, batch_size)
    return _expand([batches[index] for index in rng.permutation(len(batches))], starts, counts)


def _group(
    lengths: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each group begins, how many rows it has, and the length of its longest."""
    if groups is None or len(lengths) == 0:
        return np.arange(len(lengths)), np.ones(len(lengths), dtype=np.int64), lengths
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    counts = np.diff(starts, append=len(groups))
    return starts, counts, np.maximum.reduceat(lengths, starts)


def _expand(batches: list[np.ndarray], starts: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Return the rows of batches of groups."""
    if len(counts) == 0 or counts.max() == 1:
        return batches
    bounds = list(zip(starts.tolist(), (starts + counts).tolist(), strict=True))
    return [np.concatenate([np.arange(*bounds[group]) for group in batch]) for batch in batches]


def _num_windows(costs: np.ndarray, batch_tokens: int, batch_size: int | None) -> int:
    """Return how many windows of groups with these padded tokens each to make."""
    if len(costs) == 0:
        return 1
    rows_in_batch = max(1.0, batch_tokens / float(costs.mean()))
    if batch_size is not None:
        rows_in_batch = min(rows_in_batch, batch_size)
    return max(1, round(len(costs) / (rows_in_batch * _WINDOW_BATCHES)))


def _cut(
    order: np.ndarray,
    padded: np.ndarray,
    counts: np.ndarray,
    batch_tokens: int,
    batch_size: int | None,
) -> list[np.ndarray]:
    """Cut `order`, in which padded lengths never rise, greedily from its long end."""
    batches = []
    start = 0
    rows_before = np.concatenate([[0], np.cumsum(counts[order])])
    while start < len(order):
        most_rows = rows_before[start] + batch_tokens // int(padded[order[start]])
        stop = int(np.searchsorted(rows_before, most_rows, side="right")) - 1
        stop = max(stop, start + 1)
        if batch_size is not None:
            stop = min(stop, start + batch_size)
        batches.append(order[start:stop])
        start = stop
    return batches


def padding_efficiency(
    lengths: np.ndarray, batches: Sequence[np.ndarray], pad_multiple: int | None = None
) -> float:
    """Return the share of padded tokens that are real: sum of lengths / sum of B x L, in (0, 1]."""
    pad_multiple = default_pad_multiple() if pad_multiple is None else pad_multiple
    lengths = np.asarray(lengths, dtype=np.int64)
    real = sum(int(lengths[batch].sum()) for batch in batches)
    padded = sum(
        len(batch) * int(padded_lengths(int(lengths[batch].max()), pad_multiple))
        for batch in batches
    )
    return real / padded


def pad_batch(
    input_ids: Sequence[np.ndarray],
    token_type_ids: Sequence[np.ndarray] | None,
    *,
    pad_token_id: int,
    pad_multiple: int | None = None,
    max_length: int | None = None,
) -> dict[str, torch.Tensor]:
    """Stack rows of token ids, padded on the right.

    Args:
        input_ids: one array of ids a row.
        token_type_ids: the same shapes, or None; padded with 0.
        pad_token_id: what `input_ids` are padded with.
        pad_multiple: L is the longest row rounded up to a multiple of this (None:
            `default_pad_multiple`),
        max_length: but not above this (the longest row is never cut).

    Returns:
        `input_ids`, `attention_mask` and, if given, `token_type_ids`, int64 [B, L].
    """
    pad_multiple = default_pad_multiple() if pad_multiple is None else pad_multiple
    lengths = np.fromiter(map(len, input_ids), dtype=np.int64, count=len(input_ids))
    longest = int(lengths.max())
    width = int(padded_lengths(longest, pad_multiple))
    if max_length is not None:
        width = max(longest, min(width, max_length))
    real = np.arange(width) < lengths[:, None]
    padded = {"input_ids": _fill(real, input_ids, pad_token_id)}
    padded["attention_mask"] = torch.from_numpy(real.astype(np.int64))
    if token_type_ids is not None:
        padded["token_type_ids"] = _fill(real, token_type_ids, 0)
    return padded


def _fill(real: np.ndarray, rows: Sequence[np.ndarray], pad: int) -> torch.Tensor:
    filled = np.full(real.shape, pad, dtype=np.int64)
    filled[real] = np.concatenate(rows)
    return torch.from_numpy(filled)


def collate(
    encoded: EncodedRows, indices: Sequence[int] | np.ndarray, *, pad_multiple: int | None = None
) -> dict[str, Any]:
    """Make a batch of the rows at these positions.

    Returns:
        `input_ids`, `attention_mask` and, where the rows have them, `token_type_ids`: int64 [B, L];
        the targets (`labels`: [B], or [B, L], as the encoder says) when labelled; `rows`: source
        row numbers and `indices`: positions in `encoded`, both as NumPy int64 [B].
    """
    positions = np.asarray(indices, dtype=np.int64)
    batch: dict[str, Any] = dict(
        pad_batch(
            encoded.tokens(positions),
            encoded.token_types(positions),
            pad_token_id=encoded.pad_token_id,
            pad_multiple=pad_multiple,
            max_length=encoded.max_length,
        )
    )
    width = batch["input_ids"].shape[1]
    for name, target in encoded.targets.items():
        batch[name] = _stack(encoded.field(name, positions), target, width)
    batch["rows"] = encoded.row_numbers[positions]
    batch["indices"] = positions
    return batch


def _stack(values: np.ndarray | list[np.ndarray], target: Target, num_tokens: int) -> torch.Tensor:
    """Return numbers as [B], lists padded as [B, n]."""
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values)
    width = num_tokens if target.width == "tokens" else max(map(len, values))
    filled = np.full((len(values), width), target.pad, dtype=values[0].dtype)
    for row, value in zip(filled, values, strict=True):
        row[: len(value)] = value
    return torch.from_numpy(filled)
