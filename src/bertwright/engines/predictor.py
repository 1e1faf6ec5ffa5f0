"""Text in, label out: tokenisation, length-sorted batches, the engine, and the order restored.

Shapes: N rows, B batch, L length, C classes.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from bertwright.data.batching import collate, pad_batch, plan_batches
from bertwright.data.encode import Features, Inputs, uses_token_types
from bertwright.data.gather import Gathered, RowOutputs
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.engines.base import Batch, EngineSpec, Session
from bertwright.engines.opening import find_folder, find_spec, open_session, read_manifest
from bertwright.engines.parity import as_arrays
from bertwright.errors import ArtifactError, UsageError
from bertwright.models.encoder import encoder_home, load_tokenizer
from bertwright.progress import Progress
from bertwright.tasks import Task, find_task

__all__ = ["BATCH_SIZE", "BATCH_TOKENS", "Predictor"]

BATCH_TOKENS, BATCH_SIZE = 1024, 64
"""Most padded tokens and most rows of a batch, unless others are asked for."""

_CHUNK_ROWS = 8192
_PAD_MULTIPLE = 1


class Predictor:
    """A model behind an engine, with its tokenizer, task and labels.

    Many rows are sorted by length, cut into batches of a token budget, and but for torch run on
    one stream a thread. A single batch uses all threads together. Not for use by several threads at
    the same time.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        spec: EngineSpec | str | None = None,
        threads: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        batch_size: int | None = BATCH_SIZE,
    ) -> None:
        """Open the model and run it once.

        Args:
            path: artifact, model or run directory.
            spec: engine and precision; None: what an artifact is for, or torch:fp32.
            threads: processor threads; None: as the engine chooses.
            batch_tokens: most padded tokens of a batch.
            batch_size: most rows of a batch; None: only the tokens count.

        Raises:
            ModelLoadError: there is no model, or it has no tokenizer.
            ArtifactError: the artifact is damaged.
            UsageError: the engine or precision does not fit the folder.
        """
        self.path = Path(path)
        self.spec = EngineSpec.parse(spec) if isinstance(spec, str) else spec or find_spec(path)
        self.threads = threads
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        facts = read_manifest(path)
        self.task: Task = find_task(facts["task"])
        self.labels = [str(label) for label in facts["labels"]]
        self.max_length = int(facts["max_length"])
        self.decoding: Mapping[str, Any] = facts["decoding"]
        self.tokenizer = _load_tokenizer(path)
        self.session: Session = open_session(path, self.spec, threads=threads, streams=1)
        self._parallel: Session | None = None
        self._token_types: dict[bool, bool] = {}
        self.warm_up()

    def warm_up(self) -> None:
        """Run one short row, so that the first real one is not slower than the others."""
        self._outputs(np.array([1]), lambda positions: _one_token(self.tokenizer))

    def predict(
        self, texts: Sequence[str], texts_b: Sequence[str] | None = None, *, progress: bool = False
    ) -> list[dict[str, Any]]:
        """Return the task's answer to each text (or pair), in order.

        Args:
            texts: [N].
            texts_b: the second texts, [N].
            progress: show a bar on stderr.

        Raises:
            UsageError: a single string, or as many second texts as not first ones.
        """
        return self.predict_rows(_as_columns(texts, texts_b), progress=progress)

    def predict_rows(
        self, rows: Mapping[str, Sequence[Any]], *, progress: bool = False
    ) -> list[dict[str, Any]]:
        """Return the task's answer to each row, in order.

        Args:
            rows: what the task's schema stores of a row, by column, without targets.
            progress: show a bar on stderr.
        """
        num_rows = len(next(iter(rows.values())))
        answers: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            bar = Progress("predict", total=num_rows, unit="rows") if progress else None
            if bar is not None:
                stack.enter_context(bar)
            for start in range(0, num_rows, _CHUNK_ROWS):
                chunk = {name: column[start : start + _CHUNK_ROWS] for name, column in rows.items()}
                with _without_collecting():
                    features = self._features(chunk)
                    outputs = self._run(features, bar)
                    inputs = Inputs.of(chunk, features)
                    answers += self.task.decode(outputs, inputs, self.labels, self.decoding)
        return answers

    def count_tokens(self, rows: Mapping[str, Sequence[Any]]) -> int:
        """Return the tokens that the model reads of these rows: special ones counted, cut rows."""
        return sum(map(len, self._features(rows).input_ids))

    def logits(self, texts: Sequence[str], texts_b: Sequence[str] | None = None) -> RowOutputs:
        """Return the outputs of texts, float32: [N, C], or [length, C] of each feature.

        Raises:
            UsageError: a single string, or as many second texts as not first ones.
        """
        return self._run(self._features(_as_columns(texts, texts_b)))

    def _features(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        pairs = self.task.encoder.makes_pairs(rows)
        if pairs not in self._token_types:
            self._token_types[pairs] = uses_token_types(self.tokenizer, pairs=pairs)
        return self.task.encoder.encode(
            self.tokenizer,
            rows,
            max_length=self.max_length,
            token_types=self._token_types[pairs],
        )

    def _run(self, features: Features, bar: Progress | None = None) -> RowOutputs:
        ids, types = features.input_ids, features.token_type_ids

        def pad(positions: np.ndarray) -> Batch:
            padded = pad_batch(
                [ids[i] for i in positions],  # type: ignore[arg-type]
                None if types is None else [types[i] for i in positions],  # type: ignore[arg-type]
                pad_token_id=int(self.tokenizer.pad_token_id),  # type: ignore[arg-type]
                pad_multiple=_PAD_MULTIPLE,
                max_length=self.max_length,
            )
            return {name: tensor.numpy() for name, tensor in padded.items()}

        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return self._outputs(lengths, pad, bar)

    def encode(self, rows: Rows) -> EncodedRows:
        """Tokenise rows as this model takes them (from the cache, if that was done before)."""
        return tokenise(rows, self.tokenizer, encoder=self.task.encoder, max_length=self.max_length)

    def logits_encoded(self, encoded: EncodedRows) -> RowOutputs:
        """Return the outputs, float32, of rows that were tokenised already, in their order."""

        def pad(positions: np.ndarray) -> Batch:
            return as_arrays(collate(encoded, positions, pad_multiple=_PAD_MULTIPLE))

        return self._outputs(encoded.lengths, pad)

    def _outputs(
        self,
        lengths: np.ndarray,
        pad: Callable[[np.ndarray], Batch],
        bar: Progress | None = None,
    ) -> RowOutputs:
        """Run all features in batches of like length; `pad` makes the batch of some of them."""
        plan = plan_batches(
            lengths,
            batch_tokens=self.batch_tokens,
            batch_size=self.batch_size,
            seed=0,
            epoch=0,
            shuffle=False,
            pad_multiple=_PAD_MULTIPLE,
        )
        masks: deque[np.ndarray] = deque()

        def batches() -> Iterator[Batch]:
            for positions in plan:
                batch = pad(positions)
                masks.append(batch["attention_mask"])
                yield batch

        found = Gathered(len(lengths))
        session = self._session_for(len(plan))
        for positions, outputs in zip(plan, session.run_many(batches()), strict=True):
            found.add(positions, outputs, masks.popleft())
            if bar is not None:
                bar.advance(len(positions))
        return found.in_order()

    def _session_for(self, num_batches: int) -> Session:
        """Return the session that uses all threads for one batch, or a stream each for many."""
        streams = self.threads or _num_cores()
        if num_batches < 2 or streams < 2 or self.spec.engine == "torch":
            return self.session
        if self._parallel is None:
            self._parallel = open_session(
                self.path, self.spec, threads=self.threads, streams=streams
            )
        return self._parallel

    def close(self) -> None:
        """Free the engine's memory."""
        self.session.close()
        if self._parallel is not None:
            self._parallel.close()


def _as_columns(texts: Sequence[str], texts_b: Sequence[str] | None) -> dict[str, Sequence[str]]:
    if isinstance(texts, str) or isinstance(texts_b, str):
        raise UsageError("texts must be a list of strings, not one string")
    if texts_b is None:
        return {"text": texts}
    if len(texts_b) != len(texts):
        raise UsageError(f"{len(texts)} texts, but {len(texts_b)} second texts")
    return {"text": texts, "text_b": texts_b}


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the collector of cycles off meanwhile: many objects are made here, and no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _one_token(tokenizer: PreTrainedTokenizerBase) -> Batch:
    ids = np.full((1, 1), int(tokenizer.pad_token_id), dtype=np.int64)  # type: ignore[arg-type]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    folder = find_folder(path)
    tokenizer = load_tokenizer(str(encoder_home(folder)))
    if tokenizer is None:
        raise ArtifactError(f"{folder} has no tokenizer", hint="save the model with its tokenizer")
    return tokenizer
