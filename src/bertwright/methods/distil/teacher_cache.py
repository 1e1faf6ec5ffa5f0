"""What the teacher says about each row, computed once and memory-mapped.

Shape letters: B batch, L length, D model width, N heads, C classes, R rows of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bertwright.data.batching import collate, plan_batches
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import FileFormatError
from bertwright.files import atomic_dir, cache_dir, read_json, write_json
from bertwright.methods.distil.projections import (
    ProjectionReader,
    Projections,
    ProjectionShape,
    heads_of,
    projection_shape,
)
from bertwright.methods.distil.teacher_source import (
    Batch,
    LiveTeacher,
    TeacherSource,
    as_teacher_source,
    run_teacher,
)
from bertwright.models.hashing import settings_of, weights_hash
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress

__all__ = [
    "LiveTeacher",
    "TeacherCache",
    "TeacherSource",
    "as_teacher_source",
    "teacher_hash",
]

FORMAT_VERSION = 4
FLOAT16_MAX = 65504.0


def teacher_hash(model: TaskModel) -> str:
    """Return a hash of every weight, of the encoder's config and of what stands on it."""
    return weights_hash(model, {**settings_of(model.encoder.config), "pooling": str(model.config)})


class TeacherCache:
    """The teacher's outputs for every row of an `EncodedRows`, in memory-mapped files.

    Logits are float32. Hidden states, attention maps and projections are float16 without padding,
    unless a value is too large for that; then all are float32. Make one with `build`, or `open` a
    folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        facts = read_json(self.folder / "cache.json")
        if facts.get("format_version") != FORMAT_VERSION:
            raise FileFormatError("a teacher cache of another version", path=self.folder)
        self.labels: list[str] = facts["labels"]
        self.num_layers: int = facts["num_layers"]
        self.heads: tuple[int, ...] = tuple(facts["heads"])
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
        layers = facts["projection_layers"]
        self._projections = {n: self._open(f"projections_{n}") for n in layers}
        self._projection_heads = dict(zip(layers, facts["projection_heads"], strict=True))

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
        projection_layers: Sequence[int] = (),
        folder: str | Path | None = None,
        batch_tokens: int = 8192,
    ) -> TeacherCache:
        """Open the cache of this teacher and this data; compute it first where there is none.

        Args:
            teacher: run in eval mode, in fp32, over length-sorted batches.
            encoded: the tokenised rows.
            hidden_layers: which hidden states to keep, 0 (embeddings) to the number of layers.
            attention_layers: which attention maps to keep, from 1; they take 2·N·n² bytes a row.
            projection_layers: of which layers to keep queries, keys and values, from 1.
            folder: the parent folder (default: `teacher` in bertwright's cache). Within it the
                name is made from the weights, the data and what is kept: a change of any of them
                is another cache, and a damaged cache is computed again.
            batch_tokens: padded tokens of a batch.

        Raises:
            DiskFullError: no room; nothing is left behind.
            UnsupportedRoleError: the teacher has no projections of their own, with the reason.
        """
        keep = {
            "hidden_layers": sorted(set(hidden_layers)),
            "attention_layers": sorted(set(attention_layers)),
            "projection_layers": sorted(set(projection_layers)),
        }
        shapes = {n: projection_shape(teacher.encoder, n) for n in keep["projection_layers"]}
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
            "heads": list(heads_of(teacher.encoder)),
            "hidden_size": roles.hidden_size,
            "projection_heads": [shape.num_heads for shape in shapes.values()],
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

    def projections(self, batch: Batch, layer: int) -> Projections:
        """Return queries, keys and values of layer `layer` (from 1), each [B, L, D].

        Raises:
            KeyError: this layer was not kept when the cache was built.
        """
        return Projections(*self._unpacked(self._projections[layer], batch).unbind(dim=2))

    def projection_shape(self, layer: int) -> ProjectionShape:
        """Return how many heads, and how wide, the projections of layer `layer` (from 1) are.

        Raises:
            KeyError: this layer was not kept when the cache was built.
        """
        return ProjectionShape(self._projection_heads[layer], self._projections[layer].shape[2])

    def _unpacked(self, source: np.ndarray, batch: Batch) -> Tensor:
        """Return [B, L, ...] of what is stored token after token, zeros at padding."""
        mask = batch["attention_mask"].bool().cpu()
        out = torch.zeros(*mask.shape, *source.shape[1:])
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
            n: growing(f"attention_{n}", (squares, heads_of(teacher.encoder)[n - 1]), dtype)
            for n in attention_layers
        }
        projections = {
            n: growing(
                f"projections_{n}", (tokens, 3, projection_shape(teacher.encoder, n).width), dtype
            )
            for n in keep["projection_layers"]
        }
        reader = ProjectionReader(teacher.encoder, projections)
        bar = open_files.enter_context(Progress("ask the teacher", total=len(order), unit="rows"))
        for indices in batches:
            batch = collate(encoded, indices)
            with reader:
                output = run_teacher(
                    teacher, batch, hidden=bool(hidden), attentions=bool(attention)
                )
            mask = batch["attention_mask"].bool()
            both = mask.unsqueeze(2) & mask.unsqueeze(1)
            logits.append(output.logits.float()[mask] if by_token else output.logits.float())
            for n, file in hidden.items():
                assert output.hidden_states is not None
                file.append(output.hidden_states[n].float()[mask])
            for n, file in attention.items():
                assert output.attentions is not None
                file.append(output.attentions[n - 1].float().permute(0, 2, 3, 1)[both])
            for n, file in projections.items():
                file.append(torch.stack(reader.take(n), dim=2).float()[mask])
            bar.advance(len(indices))
