"""PyTorch itself, in fp32 or bf16: the reference that the other engines are checked against."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright.engines.base import Batch, Precision, check_right_padded
from bertwright.models.progressive import answer_at_all_exits, answer_early
from bertwright.models.task_model import TaskModel

__all__ = [
    "TorchCompiler",
    "TorchSession",
    "make_compiler",
    "missing_feature",
    "open_artifact",
    "version",
]


def make_compiler(model: TaskModel, precision: Precision) -> TorchCompiler:
    """Return what writes the model again, its weights in `precision`."""
    return TorchCompiler(model, precision)


class TorchCompiler:
    """Nothing is converted: the artifact is a model directory."""

    def __init__(self, model: TaskModel, precision: Precision) -> None:
        self._model = model
        self._precision = precision

    def groups(self) -> Sequence[str]:
        """Return no parts: nothing is quantized."""
        return []

    def write(
        self, folder: Path, *, calibration: Sequence[Batch], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Write a model directory."""
        model = self._model
        if self._precision == "bf16":
            model = copy.deepcopy(model).to(torch.bfloat16)
        model.save(folder)
        return {"quantized": []}


class TorchSession:
    """A TaskModel in eval mode.

    In fp32 one with early exits uses them. In bf16 it runs whole: what its exits promise was
    measured in fp32.
    """

    def __init__(self, model: TaskModel, precision: Precision, threads: int | None) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model: TaskModel | None = model.to(dtype).eval()
        self._threads = threads
        self.precision: str = precision

    def __call__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return logits, float32 [B, C]."""
        return self._run(self._logits, input_ids, attention_mask, token_type_ids)

    def at_all_exits(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return what each exit and, last, the whole model answer, [(E + 1) B, C]."""
        answers = self._run(answer_at_all_exits, input_ids, attention_mask, token_type_ids)
        return answers.reshape(-1, answers.shape[-1])

    def _logits(self, model: TaskModel, *inputs: Any) -> Tensor:
        early = model.exits is not None and self.precision == "fp32"
        return (answer_early(model, *inputs) if early else model(*inputs)).logits

    def _run(
        self,
        answer: Callable[..., Tensor],
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None,
    ) -> np.ndarray:
        """Return what `answer` makes of the model and its inputs, float32."""
        assert self._model is not None, "the session is closed"
        check_right_padded(attention_mask)
        with torch.inference_mode(), _using_threads(self._threads):
            types = None if token_type_ids is None else _tensor(token_type_ids)
            found = answer(self._model, _tensor(input_ids), _tensor(attention_mask), types)
            return found.float().numpy()

    def run_many(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield logits in order, one batch after the other: each uses all threads."""
        for batch in batches:
            yield self(**batch)

    def close(self) -> None:
        """Drop the model."""
        self._model = None


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))


@contextlib.contextmanager
def _using_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_artifact(
    folder: Path, facts: Mapping[str, Any], *, threads: int | None, streams: int
) -> TorchSession:
    """Load a model directory."""
    return TorchSession(TaskModel.load(folder), facts["precision"], threads)


def missing_feature(precision: Precision) -> str | None:
    """Say why bf16 would only be emulated here; None: it is real."""
    if precision != "bf16":
        return None
    features = torch.cpu.get_capabilities()
    known = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")
    if any(features.get(name) for name in known):
        return None
    return "this processor has no bfloat16 instructions, so it would be slower than fp32"


def version() -> str:
    """Return torch's version."""
    return torch.__version__
