"""What the teacher says about each row: asked live, or computed once and memory-mapped.

Shape letters: B batch, L length, D model width, N heads, C classes, R rows of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from bertwright.data.batching import collate, plan_batches
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import FileFormatError
from bertwright.files import atomic_dir, cache_dir, read_json, write_json
from bertwright.models.hashing import settings_of, weights_hash
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel, TaskOutput
from bertwright.progress import Progress

__all__ = [
    "LiveTeacher",
    "TeacherCache",
    "TeacherSource",
    "as_teacher_source",
    "teacher_hash",
]

FORMAT_VERSION = 2
FLOAT16_MAX = 65504.0
Batch = Mapping[str, Any]


@runtime_checkable
class TeacherSource(Protocol):
    """Anything that can say what the teacher gives for a batch of `data.batching.collate`."""

    labels: list[str]
    num_layers: int
    num_heads: int
    hidden_size: int

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, C] or [B, L, C], float32, no gradient."""
        ...

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, L, D] after `layer` layers (0: the embeddings); padding is undefined."""
        ...

    def attention(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, N, L, L] of layer `layer` (from 1), queries before keys."""
        ...


def as_teacher_source(teacher: TeacherSource | TaskModel) -> TeacherSource:
    """Return `teacher` itself, or a `LiveTeacher` around a model."""
    return LiveTeacher(teacher) if isinstance(teacher, TaskModel) else teacher


class LiveTeacher:
    """Runs the teacher on each batch: in eval mode, fp32, without gradients, once a batch.

    Give the same `LiveTeacher` to several hooks and they share that one pass.
    """

    def __init__(self, model: TaskModel, *, hidden: bool = False, attentions: bool = False) -> None:
        roles = get_roles(model.encoder)
        self.model = model
        self.labels = list(model.labels)
        self.num_layers = roles.num_layers
        self.num_heads = roles.num_heads
        self.hidden_size = roles.hidden_size
        self._wants_hidden = hidden
        self._wants_attentions = attentions
        self._ids: Tensor | None = None
        self._output: TaskOutput | None = None

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, C]."""
        return self._run(batch).logits.float()

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, L, D] after `layer` layers."""
        if not self._wants_hidden:
            self._wants_hidden, self._ids = True, None
        states = self._run(batch).hidden_states
        assert states is not None
        return states[layer].float()

    def attention(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, N, L, L] of layer `layer` (from 1)."""
        if not self._wants_attentions:
            self._wants_attentions, self._ids = True, None
        maps = self._run(batch).attentions
        assert maps is not None
        return maps[layer - 1].float()

    def _run(self, batch: Batch) -> TaskOutput:
        ids = batch["input_ids"]
        if self._output is None or self._ids is not ids:
            self._output = run_teacher(
                self.model, batch, hidden=self._wants_hidden, attentions=self._wants_attentions
            )
            self._ids = ids
        return self._output


def run_teacher(
    model: TaskModel, batch: Batch, *, hidden: bool = False, attentions: bool = False
) -> TaskOutput:
    """Run the teacher on a batch as a teacher must be run: eval mode, fp32, no gradients.

    The model's own mode (train or eval) is as before afterwards.
    """
    device = next(model.parameters()).device
    with _evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return model(
            batch["input_ids"].to(device),
            batch["attention_mask"].to(device),
            None if batch.get("token_type_ids") is None else batch["token_type_ids"].to(device),
            output_hidden_states=hidden,
            output_attentions=attentions,
        )


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def teacher_hash(model: TaskModel) -> str:
    """Return a hash of every weight, of the encoder's config and of what stands on it."""
    return weights_hash(model, {**settings_of(model.encoder.config), "pooling": str(model.config)})


class TeacherCache:
    """The teacher's outputs for every row of an `EncodedRows`, in memory-mapped files.

    Logits are float32. Hidden states and attention maps are float16 without padding, unless a
    value is too large for that; then all are float32. Make one with `build`, or `open` a folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        facts = read_json(self.folder / "cache.json")
        if facts.get("format_version") != FORMAT_VERSION:
            raise FileFormatError("a teacher cache of another version", path=self.folder)
        self.labels: list[str] = facts["labels"]
        self.num_layers: int = facts["num_layers"]
        self.num_heads: int = facts["num_heads"]
        self.hidden_size: int = facts["hidden_size"]
        self.key: str = facts["key"]
        self.level: str = facts["level"]
        self._slots = self._open("slots")
        self._lengths = self._open("lengths")
        self._starts = _starts(self._lengths)
        self._square_starts = _starts(self._lengths**2)
        self._logits = self._open("logits")
        self._hidden = {n: self._open(f"hidden_{n}") for n in facts["hidden_layers"]}
        self._attention = {n: self._open(f"attention_{n}") for n in facts["attention_layers"]}

    def __len__(self) -> int:
        return len(self._slots)

    @classmethod
    def build(
        cls,
        teacher: TaskModel,
        encoded: EncodedRows,
        *,
        hidden_layers: Sequence[int] = (),
        attention_layers: Sequence[int] = (),
        folder: str | Path | None = None,
        batch_tokens: int = 8192,
    ) -> TeacherCache:
        """Open the cache of this teacher and this data; compute it first where there is none.

        Args:
            teacher: run in eval mode, in fp32, over length-sorted batches.
            encoded: the tokenised rows.
            hidden_layers: which hidden states to keep, 0 (embeddings) to the number of layers.
            attention_layers: which attention maps to keep, from 1; they take 2·N·n² bytes a row.
            folder: the parent folder (default: `teacher` in bertwright's cache). Within it the
                name is made from the weights, the data and what is kept: a change of any of them
                is another cache, and a damaged cache is computed again.
            batch_tokens: padded tokens of a batch.

        Raises:
            DiskFullError: no room; nothing is left behind.
        """
        keep = {
            "hidden_layers": sorted(set(hidden_layers)),
            "attention_layers": sorted(set(attention_layers)),
        }
        facts = {
            "format_version": FORMAT_VERSION,
            "teacher": teacher_hash(teacher),
            "data": encoded.fingerprint,
            "lengths": hashlib.sha256(np.ascontiguousarray(encoded.lengths).data).hexdigest(),
            **keep,
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        parent = Path(folder) if folder is not None else cache_dir() / "teacher"
        place = parent / key
        with contextlib.suppress(FileFormatError, OSError, ValueError, KeyError):
            return cls(place)
        roles = get_roles(teacher.encoder)
        facts |= {
            "key": key,
            "labels": list(teacher.labels),
            "level": teacher.outputs.level,
            "num_layers": roles.num_layers,
            "num_heads": roles.num_heads,
            "hidden_size": roles.hidden_size,
        }
        dtypes = [np.float16, np.float32] if any(keep.values()) else [np.float32]
        for dtype in dtypes:
            try:
                with atomic_dir(place) as temporary:
                    _write_outputs(teacher, encoded, keep, temporary, batch_tokens, dtype)
                    write_json(temporary / "cache.json", facts)
                break
            except _TooLargeForFloat16Error:
                continue
        return cls(place)

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, C], or [B, L, C] with zeros at padding where there are outputs a token."""
        if self.level == "token":
            return self._unpacked(self._logits, batch)
        slots = self._slots[_indices(batch)]
        return torch.from_numpy(np.ascontiguousarray(self._logits[slots]))

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, L, D] after `layer` layers; zeros at padding.

        Raises:
            KeyError: this layer was not kept when the cache was built.
        """
        return self._unpacked(self._hidden[layer], batch)

    def _unpacked(self, source: np.ndarray, batch: Batch) -> Tensor:
        """Return [B, L, ...] of what is stored token after token, zeros at padding."""
        mask = batch["attention_mask"].bool().cpu()
        out = torch.zeros(*mask.shape, source.shape[1])
        slots = self._slots[_indices(batch)]
        pieces = [source[self._starts[s] : self._starts[s + 1]] for s in slots]
        out[mask] = torch.from_numpy(np.concatenate(pieces).astype(np.float32, copy=False))
        return out

    def attention(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, N, L, L] of layer `layer` (from 1); zeros where query or key is padding.

        Raises:
            KeyError: this layer was not kept when the cache was built.
        """
        source = self._attention[layer]
        mask = batch["attention_mask"].bool().cpu()
        length = mask.shape[1]
        out = torch.zeros(mask.shape[0], length, length, source.shape[1])
        both = mask.unsqueeze(2) & mask.unsqueeze(1)
        slots = self._slots[_indices(batch)]
        pieces = [source[self._square_starts[s] : self._square_starts[s + 1]] for s in slots]
        out[both] = torch.from_numpy(np.concatenate(pieces).astype(np.float32, copy=False))
        return out.permute(0, 3, 1, 2)

    def _open(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _indices(batch: Batch) -> np.ndarray:
    return np.asarray(batch["indices"])


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class _TooLargeForFloat16Error(Exception):
    """A value would become infinite in float16."""


class _Growing:
    """A .npy file of known shape, written piece by piece.

    Written rather than mapped, so that a full disk is an error and not a crash.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: Tensor) -> None:
        if self._dtype == np.float16 and bool((values.abs() > FLOAT16_MAX).any()):
            raise _TooLargeForFloat16Error
        array = values.cpu().numpy().astype(self._dtype, copy=False)
        self._file.write(np.ascontiguousarray(array).data)

    def close(self) -> None:
        self._file.close()


def _write_outputs(
    teacher: TaskModel,
    encoded: EncodedRows,
    keep: Mapping[str, Sequence[int]],
    folder: Path,
    batch_tokens: int,
    dtype: type[np.generic],
) -> None:
    """Write the teacher's outputs into `folder`, in the order of length-sorted batches.

    `slots.npy` [R] says where in that order each row is, `lengths.npy` how long each slot's row.
    """
    batches = plan_batches(
        encoded.lengths, batch_tokens=batch_tokens, seed=0, epoch=0, shuffle=False
    )
    order = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
    slots = np.empty(len(order), dtype=np.int64)
    slots[order] = np.arange(len(order))
    lengths = np.asarray(encoded.lengths, dtype=np.int64)[order]
    np.save(folder / "slots.npy", slots)
    np.save(folder / "lengths.npy", lengths)

    tokens, squares = int(lengths.sum()), int((lengths**2).sum())
    roles = get_roles(teacher.encoder)
    hidden_layers, attention_layers = keep["hidden_layers"], keep["attention_layers"]
    with contextlib.ExitStack() as open_files:

        def growing(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> _Growing:
            return open_files.enter_context(
                contextlib.closing(_Growing(folder / f"{name}.npy", shape, dtype))
            )

        by_token = teacher.outputs.level == "token"
        num_outputs = tokens if by_token else len(order)
        logits = growing("logits", (num_outputs, teacher.outputs.count), np.float32)
        hidden = {
            n: growing(f"hidden_{n}", (tokens, roles.hidden_size), dtype) for n in hidden_layers
        }
        attention = {
            n: growing(f"attention_{n}", (squares, roles.num_heads), dtype)
            for n in attention_layers
        }
        bar = open_files.enter_context(Progress("ask the teacher", total=len(order), unit="rows"))
        for indices in batches:
            batch = collate(encoded, indices)
            output = run_teacher(teacher, batch, hidden=bool(hidden), attentions=bool(attention))
            mask = batch["attention_mask"].bool()
            both = mask.unsqueeze(2) & mask.unsqueeze(1)
            logits.append(output.logits.float()[mask] if by_token else output.logits.float())
            for n, file in hidden.items():
                assert output.hidden_states is not None
                file.append(output.hidden_states[n].float()[mask])
            for n, file in attention.items():
                assert output.attentions is not None
                file.append(output.attentions[n - 1].float().permute(0, 2, 3, 1)[both])
            bar.advance(len(indices))
