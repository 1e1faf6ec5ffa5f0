"""Several vectors of each text in one pass of an encoder: any poolings, after any layers.

Shapes: N features, B batch, L length, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError
from bertwright.models.heads import VectorHead
from bertwright.models.pooling import EncoderShape, Pooling, States, WordWeights, build_pooling
from bertwright.models.pooling.words import weightless_ids
from bertwright.models.task_model import TaskModel, TaskOutput
from bertwright.tasks.forward import forward_batches

__all__ = ["Extractor", "Wanted"]

BATCH_TOKENS = 4096
CHUNK_ROWS = 4096
"""Sorted by length among themselves; what is kept in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One vector of a text."""

    pooling: str
    """As in --pooling."""
    layer: int | None = None
    """Of the encoder cut after so many layers; None: of the whole one."""

    @property
    def name(self) -> str:
        """`mean`, or `mean@4` after 4 layers."""
        return self.pooling if self.layer is None else f"{self.pooling}@{self.layer}"


class Extractor:
    """Computes the wanted vectors; dropout off, no gradients."""

    def __init__(
        self,
        model: TaskModel,
        wanted: Sequence[Wanted],
        *,
        normalize: bool = False,
        precision: Literal["fp32", "bf16"] = "fp32",
        read: Callable[[list[str]], Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Build the poolings.

        Args:
            model: its encoder is used; where its own pooling is asked for by its name, that too,
                with the linear layer that a model for vectors may have above it.
            wanted: each once.
            normalize: bring the vectors to length 1.
            precision: of the matrix products.
            read: returns those of the named tensors that the encoder's checkpoint has (a pooler).

        Raises:
            ConfigError: a pooling is random without training, a layer is one that the encoder does
                not have, or the same is asked for twice.
        """
        self.model = model
        self.normalize = normalize
        self.precision = precision
        self.poolings: dict[str, Pooling] = {}
        self._wanted = {one.name: one for one in wanted}
        if len(self._wanted) < len(wanted):
            raise ConfigError("the same vector is asked for twice", hint="give each once")
        own = None if model.pooling is None else model.pooling.spec
        for name, one in self._wanted.items():
            if one.layer is None and one.pooling == own and model.pooling is not None:
                self.poolings[name] = model.pooling
                continue
            pooling = build_pooling(one.pooling, _cut(model.encoder_shape, one.layer))
            if pooling.random_at_first and not (read and pooling.start(read)):
                raise ConfigError(
                    f"--pooling {one.pooling} is random until it is trained",
                    hint="give a model that was trained with it (finetune --pooling), or take "
                    "another: bertwright methods",
                )
            self.poolings[name] = pooling.eval()

    @property
    def widths(self) -> dict[str, int]:
        """The width of each vector, by name."""
        dense = self._dense
        return {
            name: dense.out_features if dense is not None and self._is_own(name) else pooling.width
            for name, pooling in self.poolings.items()
        }

    @property
    def _dense(self) -> nn.Linear | None:
        """The linear layer above the model's own pooling, if it is a model for vectors with one."""
        head = self.model.head
        return head.dense if isinstance(head, VectorHead) else None

    def _is_own(self, name: str) -> bool:
        return self.poolings[name] is self.model.pooling

    @property
    def fits_texts(self) -> bool:
        """Whether a pooling is to be fitted to texts first."""
        return bool(self._fitted())

    def _fitted(self) -> dict[str, WordWeights]:
        return {
            name: pooling
            for name, pooling in self.poolings.items()
            if isinstance(pooling, WordWeights) and not self._is_own(name)
        }

    def fit(self, encoded: EncodedRows) -> None:
        """Fit the poolings that weigh words to these texts; not the model's own."""
        texts = encoded.tokens(np.arange(len(encoded)))
        special = weightless_ids(self.model.tokenizer)
        for name, pooling in self._fitted().items():

            def vectors_of(drawn: np.ndarray, name: str = name) -> np.ndarray:
                return self._vectors(encoded.select(drawn), [name], normalize=False)[name]

            pooling.fit(texts, special, vectors_of)

    def chunks(self, encoded: EncodedRows) -> Iterator[dict[str, np.ndarray]]:
        """Yield the vectors by name, fp32 [n, W], of runs of features, in their order."""
        for begin in range(0, len(encoded), CHUNK_ROWS):
            yield self.vectors(encoded.select(range(begin, min(begin + CHUNK_ROWS, len(encoded)))))

    def vectors(self, encoded: EncodedRows) -> dict[str, np.ndarray]:
        """Return the vectors of all features by name, fp32 [N, W]."""
        return self._vectors(encoded, list(self.poolings), normalize=self.normalize)

    def _vectors(
        self, encoded: EncodedRows, names: Sequence[str], *, normalize: bool
    ) -> dict[str, np.ndarray]:
        found = {name: np.zeros((len(encoded), self.widths[name]), np.float32) for name in names}
        device = next(self.model.parameters()).device
        for pooling in self.poolings.values():
            pooling.to(device)
        for positions, batch, output in forward_batches(
            self.model,
            encoded,
            batch_tokens=BATCH_TOKENS,
            bf16=self.precision == "bf16",
            output_hidden_states=True,
        ):
            for name, vectors in self._pool(batch, output, names).items():
                vectors = nn.functional.normalize(vectors, dim=-1) if normalize else vectors
                found[name][positions] = vectors.cpu().numpy()
        return found

    @torch.no_grad()
    def _pool(
        self, batch: Mapping[str, Tensor], output: TaskOutput, names: Collection[str]
    ) -> dict[str, Tensor]:
        """Return the vectors [B, W] of a batch by name, in fp32."""
        assert output.hidden_states is not None
        layers = tuple(state.float() for state in output.hidden_states)
        mask, ids = batch["attention_mask"].bool(), batch["input_ids"]
        found = {}
        for name in names:
            if self._is_own(name):
                assert output.pooled is not None
                pooled = output.pooled.float()
                found[name] = pooled if self._dense is None else self._dense(pooled)
                continue
            layer = self._wanted[name].layer
            seen = layers if layer is None else layers[: layer + 1]
            found[name] = self.poolings[name](States(layers=seen, mask=mask, ids=ids))
        return found


def _cut(shape: EncoderShape, layer: int | None) -> EncoderShape:
    if layer is None:
        return shape
    if not 1 <= layer <= shape.num_layers:
        raise ConfigError(f"--layer {layer}: the encoder has the layers 1 to {shape.num_layers}")
    return replace(shape, num_layers=layer)
