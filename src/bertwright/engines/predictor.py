"""Text in, label out: tokenisation, length-sorted batches, the engine, and the order restored.

Shapes: N rows, B batch, L length, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from bertwright.data.batching import pad_batch, plan_batches
from bertwright.data.tokenise import EncodedRows, TokenBatch, encode_texts, uses_token_types
from bertwright.engines.base import Batch, EngineSpec, Session
from bertwright.engines.compile import find_folder, find_spec, open_session, read_manifest
from bertwright.engines.parity import encoded_batches
from bertwright.errors import ArtifactError, UsageError
from bertwright.models.encoder import load_tokenizer
from bertwright.progress import Progress
from bertwright.tasks import TASKS, Task

__all__ = ["Predictor"]

_CHUNK_ROWS = 8192
_PAD_MULTIPLE = 1


class Predictor:
    """A model behind an engine, with its tokenizer, task and labels.

    Many rows are sorted by length, cut into batches of a token budget, and on OpenVINO run on one
    stream a thread. A single batch uses all threads together. Not for use by several threads at
    the same time.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        spec: EngineSpec | str | None = None,
        threads: int | None = None,
        batch_tokens: int = 1024,
        batch_size: int | None = 32,
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
        self.task: Task = TASKS[facts["task"]]
        self.labels = [str(label) for label in facts["labels"]]
        self.max_length = int(facts["max_length"])
        self.tokenizer = _load_tokenizer(path)
        self.session: Session = open_session(path, self.spec, threads=threads, streams=1)
        self._parallel: Session | None = None
        self._token_types = {
            pairs: uses_token_types(self.tokenizer, pairs=pairs) for pairs in (False, True)
        }
        self.logits(["a"])

    def predict(
        self, texts: Sequence[str], texts_b: Sequence[str] | None = None, *, progress: bool = False
    ) -> list[dict[str, Any]]:
        """Return the task's answer to each text (or pair), in order.

        Args:
            texts: [N].
            texts_b: the second texts, [N].
            progress: show a bar on stderr.
        """
        return self.task.decode(self.logits(texts, texts_b, progress=progress), self.labels)

    def logits(
        self, texts: Sequence[str], texts_b: Sequence[str] | None = None, *, progress: bool = False
    ) -> np.ndarray:
        """Return logits, float32 [N, C], in the order of the texts.

        Raises:
            UsageError: a single string, or as many second texts as not first ones.
        """
        if isinstance(texts, str) or isinstance(texts_b, str):
            raise UsageError("texts must be a list of strings, not one string")
        if texts_b is not None and len(texts_b) != len(texts):
            raise UsageError(f"{len(texts)} texts, but {len(texts_b)} second texts")
        found = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        if not progress:
            for _ in self._fill(found, texts, texts_b):
                pass
            return found
        with Progress("predict", total=len(texts), unit="texts") as bar:
            for count in self._fill(found, texts, texts_b):
                bar.advance(count)
        return found

    def _fill(
        self, found: np.ndarray, texts: Sequence[str], texts_b: Sequence[str] | None
    ) -> Iterator[int]:
        """Write logits into `found`, chunk by chunk to bound memory; yield rows done."""
        for start in range(0, len(texts), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            tokens = encode_texts(
                self.tokenizer,
                texts[chunk],
                None if texts_b is None else texts_b[chunk],
                max_length=self.max_length,
                token_types=self._token_types[texts_b is not None],
            )
            yield from self._run(found[chunk], self._plan(tokens), tokens)

    def _plan(self, tokens: TokenBatch) -> list[np.ndarray]:
        return plan_batches(
            np.fromiter(map(len, tokens.input_ids), dtype=np.int64),
            batch_tokens=self.batch_tokens,
            batch_size=self.batch_size,
            seed=0,
            epoch=0,
            shuffle=False,
            pad_multiple=_PAD_MULTIPLE,
        )

    def _run(self, found: np.ndarray, plan: list[np.ndarray], tokens: TokenBatch) -> Iterator[int]:
        batches = (self._batch(tokens, positions) for positions in plan)
        session = self._session_for(len(plan))
        for positions, logits in zip(plan, session.run_many(batches), strict=True):
            found[positions] = logits
            yield len(positions)

    def _batch(self, tokens: TokenBatch, positions: np.ndarray) -> Batch:
        types = tokens.token_type_ids
        padded = pad_batch(
            [tokens.input_ids[i] for i in positions],  # type: ignore[arg-type]
            None if types is None else [types[i] for i in positions],  # type: ignore[arg-type]
            pad_token_id=int(self.tokenizer.pad_token_id),  # type: ignore[arg-type]
            pad_multiple=_PAD_MULTIPLE,
            max_length=self.max_length,
        )
        return {name: tensor.numpy() for name, tensor in padded.items()}

    def logits_encoded(self, encoded: EncodedRows) -> np.ndarray:
        """Return logits, float32 [N, C], of rows that were tokenised already, in their order."""
        found = np.zeros((len(encoded), len(self.labels)), dtype=np.float32)
        order: list[np.ndarray] = []

        def batches() -> Iterator[Batch]:
            for positions, batch in encoded_batches(
                encoded,
                batch_tokens=self.batch_tokens,
                batch_size=self.batch_size,
                pad_multiple=_PAD_MULTIPLE,
            ):
                order.append(positions)
                yield batch

        for number, logits in enumerate(self._session_for(len(encoded)).run_many(batches())):
            found[order[number]] = logits
        return found

    def _session_for(self, num_batches: int) -> Session:
        """Return the session that uses all threads for one batch, or a stream each for many."""
        streams = self.threads or _num_cores()
        if num_batches < 2 or streams < 2 or self.spec.engine != "openvino":
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


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    folder = find_folder(path)
    tokenizer = load_tokenizer(str(folder))
    if tokenizer is None:
        raise ArtifactError(f"{folder} has no tokenizer", hint="save the model with its tokenizer")
    return tokenizer
