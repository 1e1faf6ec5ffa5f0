"""The sense of a word in its context, or whether it means the same in two contexts.

Shapes: F features, R rows, B batch, L length, C labels, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.encode import IGNORED, Inputs
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError, UsageError
from bertwright.models.heads import TokenHead
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.classify import softmax
from bertwright.tasks.forward import forward_batches
from bertwright.tasks.metrics import class_metrics, class_statistics
from bertwright.tasks.sense_pieces import SenseEncoder
from bertwright.tasks.sense_rows import SENSE_SCHEMA

__all__ = ["Senses", "best_threshold", "sense_vectors", "word_means"]

TOP_SCORES = 5
DIGITS = 5
"""Of the numbers of sense vectors, as they are kept."""


def word_means(outputs: Sequence[np.ndarray], fields: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """Return the mean output over the pieces of each feature's word, float64 [F,C].

    Of a feature with two words it is the mean of the two words' means. A word without a piece does
    not count; a feature without any has zeros.

    Args:
        outputs: one [L,C] a feature.
        fields: `pieces`, and `pieces_b` where there are two words.
    """
    columns = [fields[name] for name in ("pieces", "pieces_b") if name in fields]
    means = [
        _mean_of(output, [np.asarray(pieces) for pieces in words if len(pieces)])
        for output, *words in zip(outputs, *columns, strict=True)
    ]
    return np.stack(means) if means else np.zeros((0, 0))


def _mean_of(output: np.ndarray, words: Sequence[np.ndarray]) -> np.ndarray:
    if not words:
        return np.zeros(output.shape[-1])
    return np.mean([output[pieces].mean(axis=0, dtype=np.float64) for pieces in words], axis=0)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Return t for which `scores >= t` agrees with `same` most often.

    It lies midway between two scores that occur, and 2 from -2 or 2 where all are on one side: of
    cosines it is then below or above all there can be. Of equally good ones it is the highest.

    Args:
        scores: [R], cosines.
        same: bool [R].
    """
    order = np.argsort(-scores, kind="stable")
    ranked = np.concatenate([[2.0], scores[order].astype(np.float64), [-2.0]])
    above = np.concatenate([[0], np.cumsum(same[order])])
    right = above + (~same).sum() - (np.arange(len(scores) + 1) - above)
    cuts = ranked[:-1] > ranked[1:]
    best = int(np.argmax(np.where(cuts, right, -1)))
    high, low = float(ranked[best]), float(ranked[best + 1])
    middle = (high + low) / 2
    return middle if middle > low else high


def sense_vectors(vectors: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the mean of the vectors of each label, brought to length 1, float64 [C,D].

    A label without any, or whose vectors cancel out, has zeros.

    Args:
        vectors: of length 1, [R,D].
        labels: [R].
        num_labels: C.
    """
    sums = np.zeros((num_labels, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    return _unit(sums)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True, kw_only=True)
class Senses(Task):
    """One of the senses of a word in a text, or whether it means the same in two texts."""

    name: ClassVar[str] = "senses"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    schema: ClassVar[RowSchema] = SENSE_SCHEMA
    inputs: ClassVar[tuple[str, ...]] = (
        *("text", "start", "end", "word"),
        *("text_b", "start_b", "end_b"),
    )
    how: Literal["classify", "nearest"] = "classify"
    """Train a classifier of the word's tokens, or train nothing and compare their states: with the
    mean of each sense's, or of two texts with each other."""
    inventory: bool = False
    """Consider only the senses that the same word had in training, where it had any."""

    @property
    def encoder(self) -> SenseEncoder:  # type: ignore[override]
        """A row is a feature; for comparing each text is."""
        return SenseEncoder(apart=self._compares)

    @property
    def training_encoder(self) -> SenseEncoder:
        """The same, and a word has to have a piece."""
        return SenseEncoder(apart=self._compares, strict=True)

    @property
    def tunes_on_rows(self) -> bool:  # type: ignore[override]
        """Whether there may be a threshold to tune."""
        return self._compares

    @property
    def trains(self) -> bool:
        """Whether there is a classifier."""
        return not self._compares

    @property
    def _compares(self) -> bool:
        return self.how == "nearest"

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one output a label for each token, or each token's state as a vector."""
        if self._compares:
            return Outputs(0, kind="vectors", level="token")
        return Outputs(len(labels), level="token")

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Note which senses the words have, and the vectors of the senses, where they are asked.

        Raises:
            UsageError: pairs with an inventory, or with other than two labels to compare for; a
                CRF.
        """
        pairs = train_rows.rows.has_pairs
        if pairs and self.inventory:
            raise UsageError(
                "an inventory is for words in one text, and the rows have two",
                hint="leave inventory out",
            )
        if pairs and self._compares and len(model.labels) != 2:
            raise UsageError(
                "nearest tells two labels of pairs apart (the same or not), and there are "
                f"{len(model.labels)}",
                hint="use how=classify",
            )
        if isinstance(model.head, TokenHead):
            if model.head.crf is not None:
                raise UsageError("--head-crf is for tags, not for senses", hint="leave it out")
            labels = train_rows.field("labels", np.arange(len(train_rows)))
            counted = sum(int((of_feature != IGNORED).sum()) for of_feature in labels)
            model.head.mean_counted.fill_(counted / len(train_rows))
        model.decoding = {}
        if self.inventory:
            model.decoding["inventory"] = _inventory(train_rows, model.labels)
        if self._compares and not pairs:
            vectors = _unit(_word_outputs(model, train_rows))
            labels = np.asarray(train_rows.inputs().rows["label"])
            means = sense_vectors(vectors, labels, len(model.labels))
            model.decoding["senses"] = {
                model.labels[label]: means[label].round(DIGITS).tolist()
                for label in np.unique(labels).tolist()
            }

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each feature [B].

        Of a classifier it is the cross-entropy, in nats, of the mean logits over the word's pieces
        (0 where it has none). Where states are compared nothing is trained, and it is 1 - cosine to
        the vector of the right sense; of pairs, the squared error of (cosine + 1) / 2 to 1 where
        the words mean the same, else to 0 (0 for all as long as it is not known which label says
        so). A sense that was not trained on has neither output nor vector, and the loss is 0.

        Args:
            logits: [B,L,C], or vectors [B,L,D], any float type.
            batch: has `labels` [B,L], int64: the label at the pieces, else -100; `weights` [B,L] of
                the mean; `rows` [B].
            model: knows the sense vectors, or which label is "the same".
        """
        means = torch.einsum("bl,blc->bc", batch["weights"], logits.float())
        labels = batch["labels"].amax(dim=1)
        if not self._compares:
            labels = labels.where(labels < means.shape[1], IGNORED)
            return F.cross_entropy(means, labels, ignore_index=IGNORED, reduction="none")
        vectors = F.normalize(means, dim=-1)
        rows = np.asarray(batch["rows"])
        if len(rows) % 2 == 0 and (rows[::2] == rows[1::2]).all():
            return _pair_losses(vectors, labels, model)
        senses = model.decoding.get("senses")
        if senses is None:
            return torch.zeros(len(labels), device=logits.device)
        labels = labels.where(labels < len(model.labels), IGNORED)
        known = torch.from_numpy(_array_of(senses, model.labels)).to(vectors)
        cosines = (vectors * known[labels.clamp(min=0)]).sum(dim=-1)
        return torch.where(labels >= 0, 1 - cosines, 0.0)

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return what was learnt from the training rows, and of pairs that are compared two more.

        `threshold` is the cosine from which on two words mean the same, the best for accuracy on
        the rows; `same` is the label that says so: the one whose rows have the higher mean cosine.
        """
        learnt = ("inventory", "senses")
        kept = {name: model.decoding[name] for name in learnt if name in model.decoding}
        if not self._compares or logits is None or encoded is None or not encoded.rows.has_pairs:
            return kept
        inputs = encoded.inputs()
        cosines, labels = _cosines(logits, inputs), np.asarray(inputs.rows["label"])
        same = max(np.unique(labels).tolist(), key=lambda label: cosines[labels == label].mean())
        threshold = best_threshold(cosines, labels == same)
        return {**kept, "threshold": threshold, "same": model.labels[same]}

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the predicted and the true id of each row, [R,2]."""
        if "labels" not in encoded.targets or encoded.labels is None:
            raise DataError("the rows have no senses to judge by")
        inputs, names = encoded.inputs(), encoded.labels.names
        ids = {name: index for index, name in enumerate(names)}
        answers = self._answers(logits, inputs, names, decoding)
        predicted = np.array([ids[next(iter(scores))] for scores in answers], dtype=np.int64)
        return class_statistics(predicted, np.asarray(inputs.rows["label"]))

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return accuracy and macro-F1; see `class_metrics`."""
        found = class_metrics(statistics)
        return {name: found[name] for name in self.metric_names}

    def row_scores(self, statistics: np.ndarray) -> np.ndarray:
        """Return 1 for each row that is right and 0 for each that is wrong, [R]."""
        return (statistics[:, 0] == statistics[:, 1]).astype(np.float64)

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"label", "score", "scores", "word", "start", "end"}` a row.

        `scores` has the five most likely labels with their probabilities, among those considered;
        or with the cosines of the word and their sense. Of pairs that are compared it has the
        answer alone, with the cosine of the two words. Pairs have `start_b` and `end_b` too.

        Raises:
            UsageError: nothing was learnt yet to compare with.
        """
        rows = inputs.rows
        places = [name for name in ("start", "end", "start_b", "end_b") if name in rows]
        columns = [rows[name] for name in places]
        answers = self._answers(logits, inputs, labels, decoding)
        return [
            {
                **{"label": next(iter(scores)), "score": next(iter(scores.values()))},
                **{"scores": scores, "word": word},
                **{name: int(value) for name, value in zip(places, of_row, strict=True)},
            }
            for scores, word, *of_row in zip(answers, rows["word"], *columns, strict=True)
        ]

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the label, and its probability if it has one."""
        return answer["label"], None if self._compares else answer["score"]

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the label of each row."""
        assert encoded.labels is not None
        return [encoded.labels.name_of(int(i)) for i in encoded.inputs().rows["label"]]

    def _answers(
        self,
        outputs: RowOutputs,
        inputs: Inputs,
        names: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, float]]:
        """Return the best labels of each row with their scores, the best first."""
        words = inputs.rows["word"]
        if not len(words):
            return []
        if self._compares and len(outputs) == 2 * len(words):
            return _compared(_cosines(outputs, inputs), names, decoding)
        scores = word_means(outputs, inputs.fields)
        open_to = np.ones(scores.shape[1], dtype=bool)
        if self._compares:
            if "senses" not in decoding:
                raise UsageError("the model has no sense vectors", hint="make it with finetune")
            scores = _unit(scores) @ _array_of(decoding["senses"], names).T
            open_to = np.array([name in decoding["senses"] for name in names])
        return list(self._ranked(scores, open_to, words, names, decoding))

    def _ranked(
        self,
        scores: np.ndarray,
        open_to: np.ndarray,
        words: Sequence[str],
        names: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> Iterator[dict[str, float]]:
        """Yield the best of the labels that are considered for each row.

        Args:
            scores: logits or cosines, [R,C].
            open_to: which labels may be answers, bool [C].
            words: [R].
            names: of the labels, [C].
            decoding: may have an inventory.
        """
        inventory = decoding.get("inventory", {}) if self.inventory else {}
        ids = {name: index for index, name in enumerate(names)}
        everything: np.ndarray = np.flatnonzero(open_to)
        for of_row, word in zip(scores, words, strict=True):
            considered = everything
            if word in inventory:
                considered = np.array([ids[name] for name in inventory[word]])
            values = of_row[considered] if self._compares else softmax(of_row[considered])
            best = np.argsort(-values, kind="stable")[:TOP_SCORES]
            yield {names[int(considered[place])]: float(values[place]) for place in best.tolist()}


def _inventory(rows: EncodedRows, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the labels that each word has in these rows, in the order of the labels."""
    columns = rows.inputs().rows
    found: dict[str, set[int]] = {}
    for word, label in zip(columns["word"], columns["label"], strict=True):
        found.setdefault(word, set()).add(int(label))
    return {word: [names[i] for i in sorted(ids)] for word, ids in sorted(found.items())}


def _word_outputs(model: TaskModel, encoded: EncodedRows) -> np.ndarray:
    """Return the model's mean output over each feature's word, dropout off, float32 [F,C]."""
    found: list[np.ndarray] = [np.zeros(0)] * len(encoded)
    for positions, batch, output in forward_batches(model, encoded):
        means = torch.einsum("bl,blc->bc", batch["weights"], output.logits.float())
        for position, mean in zip(positions.tolist(), means.cpu().numpy(), strict=True):
            found[position] = mean
    return np.stack(found)


def _cosines(outputs: RowOutputs, inputs: Inputs) -> np.ndarray:
    """Return the cosine of the two words of each row, from their features, float64 [R]."""
    vectors = _unit(word_means(outputs, inputs.fields))
    return (vectors[::2] * vectors[1::2]).sum(axis=1)


def _compared(
    cosines: np.ndarray, names: Sequence[str], decoding: Mapping[str, Any]
) -> list[dict[str, float]]:
    """Return the answer to each pair, with its cosine."""
    if "threshold" not in decoding:
        raise UsageError(
            "the model has no threshold for the cosine",
            hint="make it with finetune, and rows to evaluate on",
        )
    same = decoding["same"]
    other = next(name for name in names if name != same)
    return [
        {same if cosine >= decoding["threshold"] else other: cosine} for cosine in cosines.tolist()
    ]


def _pair_losses(vectors: Tensor, labels: Tensor, model: TaskModel) -> Tensor:
    """Return the losses of pairs that stand one after the other, the same for both, [B]."""
    same = model.decoding.get("same")
    if same is None:
        return torch.zeros(len(labels), device=vectors.device)
    cosines = (vectors[::2] * vectors[1::2]).sum(dim=-1)
    wanted = (labels[::2] == model.labels.index(same)).float()
    return ((cosines + 1) / 2 - wanted).square().repeat_interleave(2)


_ARRAYS: list[tuple[Any, np.ndarray]] = []
"""The sense vectors that were asked for last, with the arrays made of them."""


def _array_of(senses: Mapping[str, list[float]], names: Sequence[str]) -> np.ndarray:
    """Return the vectors of the labels, zeros where there is none, [C,D]; quick the second time."""
    for known, array in _ARRAYS:
        if known is senses:
            return array
    array = np.zeros((len(names), len(next(iter(senses.values())))))
    for row, name in zip(array, names, strict=True):
        row[:] = senses.get(name, 0.0)
    _ARRAYS[:] = [(senses, array), *_ARRAYS[:3]]
    return array
