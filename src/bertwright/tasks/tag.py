"""Tagging: entities (or other spans of words) in a text, as IOB2 tags of its words.

Shapes: F features, R rows, B batch, L length, T tags, W words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.encode import IGNORED, Inputs, RowEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError, UsageError
from bertwright.models.heads import TokenHead
from bertwright.models.heads.crf import viterbi_numpy
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.classify import softmax
from bertwright.tasks.metrics import entity_metrics, entity_statistics, spans_of
from bertwright.tasks.tag_pieces import TagEncoder
from bertwright.tasks.tag_rows import TAG_SCHEMA

__all__ = ["Tag"]

OUTSIDE = "O"


@dataclass(frozen=True, kw_only=True)
class Tag(Task):
    """A tag for the first piece of each word: cross-entropy, or a linear-chain CRF."""

    name: ClassVar[str] = "tag"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "macro_f1")
    schema: ClassVar[RowSchema] = TAG_SCHEMA
    inputs: ClassVar[tuple[str, ...]] = ("text", "word_start", "word_end")
    shown: ClassVar[tuple[str, ...]] = ("text",)
    encoder: ClassVar[RowEncoder] = TagEncoder()
    tunes_on_rows: ClassVar[bool] = True

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one output a tag, for each token.

        Raises:
            UsageError: the tag O is not among them.
        """
        if OUTSIDE not in labels:
            raise UsageError(f"the tags lack {OUTSIDE!r}, which stands outside of entities")
        return Outputs(len(labels), level="token")

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Note how many words a feature has, unless the model has noted it already."""
        head = _token_head(model)
        if head.mean_counted == 0:
            pieces = train_rows.field("word_piece", np.arange(len(train_rows)))
            counted = sum(int((piece >= 0).sum()) for piece in pieces)
            head.mean_counted.fill_(counted / len(train_rows))

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each feature [B] in nats a word; see `TokenHead.per_row`.

        Without a CRF it is the sum of the words' cross-entropies, with one the negative log
        likelihood of all tags together; of a later window of a row, given the tag before it.

        Args:
            logits: [B,L,T], any float type.
            batch: has `labels` [B,L], int64: the tag at the first piece of each word, else -100;
                `before` [B], the tag of the word before the feature's own words, else -100;
                `goes_on` [B], whether words of the row follow.
            model: its head may have a CRF.
        """
        head, tags = _token_head(model), batch["labels"]
        if head.crf is not None:
            place = {"before": batch["before"], "goes_on": batch["goes_on"]}
            return head.per_row(head.crf(logits, tags, tags != IGNORED, **place))
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), tags, ignore_index=IGNORED, reduction="none"
        )
        return head.per_row(losses.sum(dim=1))

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return the CRF's scores, where there is a CRF."""
        crf = _token_head(model).crf
        if crf is None:
            return {}
        with torch.no_grad():
            start, transitions, end = (scores.cpu().tolist() for scores in crf.scores())
        return {"crf": {"start": start, "transitions": transitions, "end": end}}

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return how many entities of each type a row has right, predicted and gold, [R,3K]."""
        if "labels" not in encoded.targets or encoded.labels is None:
            raise DataError("the rows have no tags to judge by")
        names, inputs = encoded.labels.names, encoded.inputs()
        predicted = [
            [names[tag] for tag in tags]
            for tags, _ in _tags_of_rows(logits, inputs, names, decoding)
        ]
        gold = [[names[tag] for tag in tags] for tags in inputs.rows["tags"]]
        return entity_statistics(predicted, gold, _types(names))

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return precision, recall and F1 over entities, and macro-F1; see `entity_metrics`."""
        return entity_metrics(statistics)

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"entities": [{"text", "type", "start", "end", "score"}]}` a row.

        `start` and `end` are character offsets in the text (end exclusive), `score` is the least
        probability of the entity's tags.
        """
        rows = inputs.rows
        answers = []
        for (tags, sureness), text, starts, ends in zip(
            _tags_of_rows(logits, inputs, labels, decoding),
            rows["text"],
            rows["word_start"],
            rows["word_end"],
            strict=True,
        ):
            entities = []
            for kind, first, after in spans_of([labels[tag] for tag in tags]):
                start, end = int(starts[first]), int(ends[after - 1])
                score = float(min(sureness[first:after]))
                entities.append(
                    {
                        **{"text": text[start:end], "type": kind},
                        **{"start": start, "end": end, "score": score},
                    }
                )
            answers.append({"entities": entities})
        return answers

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the entities with their types, and the least sure one's score."""
        entities = answer["entities"]
        words = ", ".join(f"{e['text']} [{e['type']}]" for e in entities)
        return words or "(none)", min((e["score"] for e in entities), default=None)

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the entities of each row."""
        assert encoded.labels is not None
        rows = encoded.inputs().rows
        columns = (rows[name] for name in ("tags", "text", "word_start", "word_end"))
        found = []
        for tags, text, starts, ends in zip(*columns, strict=True):
            spans = spans_of([encoded.labels.name_of(tag) for tag in tags])
            words = [f"{text[starts[a] : ends[b - 1]]} [{kind}]" for kind, a, b in spans]
            found.append(", ".join(words) or "(none)")
        return found


def _token_head(model: TaskModel) -> TokenHead:
    assert isinstance(model.head, TokenHead)
    return model.head


def _types(names: Sequence[str]) -> list[str]:
    return sorted({name.partition("-")[2] for name in names if name != OUTSIDE})


def _tags_of_rows(
    outputs: RowOutputs, inputs: Inputs, names: Sequence[str], decoding: Mapping[str, Any]
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the tag of each word of each row, and its probability by softmax.

    The words of all windows of a row are one chain. A word without a piece of its own shares the
    piece of the word before it (a vocabulary may join them), and goes on with that word's entity.
    """
    crf = decoding.get("crf")
    parts = ("start", "transitions", "end")
    scores = () if crf is None else tuple(np.asarray(crf[part]) for part in parts)
    outside = names.index(OUTSIDE)
    inside = [
        names.index(f"I-{name[2:]}") if f"I-{name[2:]}" in names else place
        for place, name in enumerate(names)
    ]
    word_pieces = inputs.fields["word_piece"]
    for positions in inputs.features_of_rows():
        places = [np.asarray(word_pieces[position], dtype=np.int64) for position in positions]
        seen = np.concatenate(places) >= 0
        tags, sureness = np.full(len(seen), outside), np.ones(len(seen))
        if seen.any():
            emissions = np.concatenate(
                [
                    outputs[position][of_window[of_window >= 0]]
                    for position, of_window in zip(positions, places, strict=True)
                ]
            )
            best = _best_tags(emissions, scores)
            tags[seen] = best
            sureness[seen] = softmax(emissions)[np.arange(len(best)), best]
        for word in np.flatnonzero(~seen).tolist():
            if word > 0:
                tags[word] = inside[tags[word - 1]]
                sureness[word] = sureness[word - 1]
        yield tags.tolist(), sureness.tolist()


def _best_tags(emissions: np.ndarray, scores: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the tag of each word [W] from its outputs [W,T], and the CRF's scores if any."""
    if not scores:
        return emissions.argmax(axis=-1)
    mask = np.ones((1, len(emissions)), dtype=bool)
    return np.array(viterbi_numpy(emissions[None], mask, *scores)[0])
