"""How far an engine's answers are from torch's, on real rows and at the shapes that trip graphs.

Shapes: B batch, L length, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bertwright.data.batching import collate, plan_batches
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.base import Batch
from bertwright.models.task_model import TaskModel

__all__ = [
    "Parity",
    "ParityBatches",
    "as_arrays",
    "compare_logits",
    "encoded_batches",
    "label_agreement",
    "measure_parity",
    "random_parity_batches",
    "real_outputs",
    "real_parity_batches",
    "run_all",
]

_BATCH_ROWS = 16
_NUM_SINGLE = 8

Run = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Parity:
    """Differences of logits between an engine and torch in fp32."""

    max_abs: float
    """The largest, over all shapes."""
    mean_abs: float
    """Over the logits of the padded rows."""
    label_agreement: float
    """The share of the padded rows with the same most likely label."""
    snr_db: float
    """Signal to noise of the logits of the padded rows: 10 log10(sum z² / sum (z - ẑ)²)."""
    num_rows: int
    max_abs_padded: float
    max_abs_unpadded: float
    max_abs_length_1: float
    max_logit: float
    """The largest absolute logit of torch, to judge the differences by."""

    def to_json(self) -> dict[str, float]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ParityBatches:
    """Inputs to compare at: padded batches, single rows without padding, single tokens."""

    padded: Sequence[Batch]
    unpadded: Sequence[Batch]
    length_1: Sequence[Batch]


def encoded_batches(
    encoded: EncodedRows, *, batch_tokens: int, batch_size: int | None, pad_multiple: int
) -> Iterable[tuple[np.ndarray, Batch]]:
    """Yield (positions [B], batch) of all rows, longest first."""
    plan = plan_batches(
        encoded.lengths,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        seed=0,
        epoch=0,
        shuffle=False,
        pad_multiple=pad_multiple,
    )
    for positions in plan:
        yield positions, as_arrays(collate(encoded, positions, pad_multiple=pad_multiple))


def as_arrays(batch: dict) -> Batch:
    """Return the model's inputs of a collated batch as NumPy arrays."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name].numpy() for name in names if name in batch}


def _cut(batch: Batch, row: int, length: int) -> Batch:
    return {name: array[row : row + 1, :length] for name, array in batch.items()}


def _with_singles(padded: Sequence[Batch]) -> ParityBatches:
    """Take single rows from among the batches, longest and shortest alike."""
    where = [(batch, row) for batch in padded for row in range(len(batch["input_ids"]))]
    chosen = np.unique(np.linspace(0, len(where) - 1, min(_NUM_SINGLE, len(where))).astype(int))
    rows = [where[i] for i in chosen]
    unpadded = [_cut(batch, row, int(batch["attention_mask"][row].sum())) for batch, row in rows]
    return ParityBatches(padded, unpadded, [_cut(batch, row, 1) for batch, row in rows])


def real_parity_batches(encoded: EncodedRows) -> ParityBatches:
    """Return batches of real rows: taken as they come, so that most rows are padded."""
    starts = range(0, len(encoded), _BATCH_ROWS)
    padded = [
        as_arrays(collate(encoded, np.arange(s, min(s + _BATCH_ROWS, len(encoded)))))
        for s in starts
    ]
    return _with_singles(padded)


def random_parity_batches(model: TaskModel, seed: int = 0) -> ParityBatches:
    """Return batches of random token ids, for when there are no real rows."""
    generator = np.random.default_rng(seed)
    padded = []
    for longest in (5, 17, 40):
        width = min(longest, model.max_length)
        lengths = generator.integers(1, width + 1, _BATCH_ROWS)
        lengths[0] = width
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = generator.integers(0, model.encoder.config.vocab_size, mask.shape)
        padded.append({"input_ids": ids, "attention_mask": mask})
    return _with_singles(padded)


def compare_logits(reference: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return max_abs, mean_abs, label_agreement and snr_db of logits [N, C] against torch's."""
    error = logits.astype(np.float64) - reference
    noise, signal = float(np.square(error).sum()), float(np.square(reference, dtype=float).sum())
    snr = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
    return {
        "max_abs": float(np.abs(error).max()),
        "mean_abs": float(np.abs(error).mean()),
        "label_agreement": label_agreement(reference, logits),
        "snr_db": float(snr),
    }


def label_agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Return the share of rows [N, C] with the same largest output.

    Of a single output (C = 1) it is the share of its variance that is the same, 0 at least.
    """
    if reference.shape[-1] > 1:
        return float((logits.argmax(-1) == reference.argmax(-1)).mean())
    noise = float(np.square(logits - reference, dtype=float).mean())
    return max(0.0, 1 - noise / max(float(reference.var()), 1e-30))


def run_all(run: Run, batches: Iterable[Batch]) -> np.ndarray:
    """Return the logits of all rows, or real tokens, of the batches, [N, C]."""
    return np.concatenate([real_outputs(run(**batch), batch) for batch in batches])


def real_outputs(logits: np.ndarray, batch: Batch) -> np.ndarray:
    """Return [B, C] as it is, and of [B, L, C] the real tokens one after the other, [N, C]."""
    return logits if logits.ndim == 2 else logits[batch["attention_mask"].astype(bool)]


def measure_parity(reference: Run, run: Run, batches: ParityBatches) -> Parity:
    """Compare an engine with torch in fp32.

    Logits that are not finite count as the largest number there is.
    """
    parts = (batches.padded, batches.unpadded, batches.length_1)
    expected = [run_all(reference, part) for part in parts]
    found = [run_all(run, part) for part in parts]
    if not all(np.isfinite(logits).all() for logits in found):
        found = [np.where(np.isfinite(z), z, np.finfo(np.float32).max) for z in found]
    compared = [compare_logits(e, f) for e, f in zip(expected, found, strict=True)]
    worst = [part["max_abs"] for part in compared]
    return Parity(
        max_abs=max(worst),
        mean_abs=compared[0]["mean_abs"],
        label_agreement=compared[0]["label_agreement"],
        snr_db=compared[0]["snr_db"],
        num_rows=len(expected[0]),
        max_abs_padded=worst[0],
        max_abs_unpadded=worst[1],
        max_abs_length_1=worst[2],
        max_logit=float(max(np.abs(logits).max() for logits in expected)),
    )
