"""Frozen encoders: what stands on them reads each text once, and is trained on that.

Shapes: N features, B batch, L length.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from bertwright.data.cache import cache_root, open_folder, publish_folder, scratch_folder
from bertwright.data.reads import ReadsWriter, StoredReads
from bertwright.data.tokenise import EncodedRows
from bertwright.models.hashing import settings_of, weights_hash
from bertwright.models.pooling import States
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress
from bertwright.tasks.forward import forward_batches

__all__ = ["freeze", "with_reads"]

FORMAT_VERSION = 1
BATCH_TOKENS = 4096


def freeze(model: TaskModel) -> None:
    """Take the encoder out of training; pooling, head and scale stay in it."""
    model.encoder.requires_grad_(False)


def with_reads(
    models: Sequence[TaskModel],
    encoded: EncodedRows,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    folder: str | Path | None = None,
) -> list[EncodedRows]:
    """Return the same features with what each model reads of them: its encoder is not run again.

    It is computed once, without dropout, and kept in the cache: for these weights of the encoder,
    this pooling, these features and this precision. Models of one encoder are read in one pass.

    Args:
        models: of the same encoder, each with a pooling of its own that has been fitted, if it is
            one that is (`Objective.prepare`).
        encoded: N features.
        precision: of the encoder's matrix products; what is stored is fp32.
        folder: of the cache; without it the user's own.

    Raises:
        DiskFullError: no room; nothing is left behind.
    """
    root = cache_root("reads", folder)
    facts = [_facts(model, encoded, precision) for model in models]
    places = [root / _key(one) for one in facts]
    missing = {
        place: (model, one)
        for place, model, one in zip(places, models, facts, strict=True)
        if open_folder(place) is None
    }
    if missing:
        _read(missing, encoded, root, bf16=precision == "bf16")
    return [replace(encoded, reads=StoredReads(place)) for place in places]


def _read(
    wanted: Mapping[Path, tuple[TaskModel, dict[str, Any]]],
    encoded: EncodedRows,
    root: Path,
    *,
    bf16: bool,
) -> None:
    """Compute the readings of several models in one pass, and publish them."""
    with contextlib.ExitStack() as scratch:
        writers = {
            place: ReadsWriter(
                scratch.enter_context(scratch_folder(root)),
                count=len(encoded),
                by_token=model.reads_tokens,
            )
            for place, (model, _) in wanted.items()
        }
        whole = False
        try:
            first = next(iter(wanted.values()))[0]
            for positions, states in _states(first, encoded, bf16=bf16):
                for place, (model, _) in wanted.items():
                    writers[place].add(positions, model.read(states), states.mask)
            whole = True
        finally:
            for writer in writers.values():
                writer.close(whole=whole)
        for place, (_, facts) in wanted.items():
            publish_folder(writers[place].folder, place, facts)


def _facts(model: TaskModel, encoded: EncodedRows, precision: str) -> dict[str, Any]:
    """Return all that the readings depend on."""
    return {
        "format_version": FORMAT_VERSION,
        "encoder": _hash_reader(model),
        "features": encoded.fingerprint,
        "lengths": hashlib.sha256(np.ascontiguousarray(encoded.lengths).data).hexdigest(),
        "precision": precision,
    }


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _hash_reader(model: TaskModel) -> str:
    """Return a hash of all that the readings depend on: not of what is trained on them."""
    reader = nn.Module()
    reader.encoder = model.encoder
    spec = None
    if model.pooling is not None:
        spec = model.pooling.spec
        for name, buffer in model.pooling.named_buffers():
            reader.register_buffer(name.replace(".", "_"), buffer)
    return weights_hash(reader, {**settings_of(model.encoder.config), "pooling": spec})


def _states(
    model: TaskModel, encoded: EncodedRows, *, bf16: bool
) -> Iterator[tuple[np.ndarray, States]]:
    """Yield (positions, the encoder's states in fp32) of batches, each feature once."""
    with Progress("read the texts once", total=len(encoded), unit="texts") as bar:
        for positions, batch, output in forward_batches(
            model, encoded, batch_tokens=BATCH_TOKENS, bf16=bf16, output_hidden_states=True
        ):
            assert output.hidden_states is not None
            layers = tuple(layer.float() for layer in output.hidden_states)
            mask = batch["attention_mask"].bool()
            yield positions, States(layers, mask, batch["input_ids"])
            bar.advance(len(positions))
