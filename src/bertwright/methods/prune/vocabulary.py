"""Trimming the vocabulary to what a corpus uses, and showing that nothing changed for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ParityError, UsageError
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import copy_with_pieces, tokenizer_facts
from bertwright.registry import register_method
from bertwright.surgery.vocabulary import with_needed_pieces

__all__ = [
    "VocabularyTrimming",
    "VocabularyTrimmingConfig",
    "prove_tokens_alike",
    "refuse_unknown_pieces",
    "share_of_changed_rows",
    "used_pieces",
]

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class VocabularyTrimmingConfig:
    """Options of trimming the vocabulary."""

    characters: bool = True
    """Keep every piece of a single character or byte, so that a new word is written in more pieces
    and not lost as unknown."""
    at_least: int = 0
    """Keep so many pieces: those that are needed, filled up from the beginning of the vocabulary,
    where the frequent ones stand."""

    def __post_init__(self) -> None:
        require(self.at_least >= 0, "at_least", self.at_least, "at least 0")


CARD = MethodCard(
    name="vocabulary_trimming",
    kind="prune",
    summary="Drop the pieces that a corpus does not use; its texts keep their scores, bit for bit.",
    paper="Load What You Need: Smaller Versions of Multilingual BERT",
    year=2020,
    citation="Abdaoui, Pradel, Sigel 2020, arXiv:2010.05609",
    equation="E' = E[kept], kept = used by the corpus, special, single characters, BPE's steps",
    needs="Texts of the kind that the model will meet; no labels. Role: embeddings.",
    cost="One tokenisation of the texts.",
    expected_effect=(
        "A multilingual BERT is up to 45% smaller with comparable scores on XNLI. MiniLM trimmed "
        "to its training texts: 28 and 39% smaller, 0.4 and 1.7 points less on the test texts of "
        "sst2 and clinc150. The speed is what it was."
    ),
    expected_source="Abdaoui et al. 2020, abstract, from memory. MiniLM: docs/pruning.md.",
    when_to_use="Small students, of which the word embeddings are the largest part.",
    when_not_to_use=(
        "Where new texts come from other subjects or languages: their words fall into single "
        "characters, on which the encoder was hardly trained."
    ),
    siblings="The other pruning methods make the layers smaller; int8 makes the table smaller too.",
    departures="Pieces are kept for the corpus at hand and not by their frequency in a language.",
)


@register_method(config=VocabularyTrimmingConfig, card=CARD)
class VocabularyTrimming:
    """Makes models with a smaller vocabulary; trains nothing, so it is not a hook."""

    def __init__(self, config: VocabularyTrimmingConfig) -> None:
        self.config = config

    def apply(self, model: TaskModel, *corpora: EncodedRows) -> TaskModel:
        """Return a copy of the model that knows what the tokens of these rows need.

        Raises:
            ModelLoadError: the model has no fast tokenizer.
            UnsupportedRoleError: its tokenizer or family cannot do with fewer pieces.
            UsageError: the model has been quantized.
        """
        return copy_with_pieces(model, self.kept_pieces(model, *corpora))

    def kept_pieces(self, model: TaskModel, *corpora: EncodedRows) -> list[int]:
        """Return the ids that stay, increasing; raises as `apply`."""
        refuse_quantized(model, "its vocabulary cannot be trimmed")
        refuse_unknown_pieces(model, *corpora)
        return with_needed_pieces(
            tokenizer_facts(model.tokenizer),
            used_pieces(*corpora).tolist(),
            characters=self.config.characters,
            at_least=self.config.at_least,
        )


def used_pieces(*corpora: EncodedRows) -> np.ndarray:
    """Return the ids that occur in tokenised rows, increasing."""
    found = [np.unique(np.concatenate(rows)) for one in corpora for rows, _ in _in_parts(one)]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def refuse_unknown_pieces(model: TaskModel, *corpora: EncodedRows) -> None:
    """Check that the model has a vector for every piece of these rows.

    Raises:
        UsageError: it has not: they were tokenised for a model with more pieces.
    """
    words: Any = model.encoder.get_input_embeddings()
    used = used_pieces(*corpora)
    if len(used) and used[-1] >= words.num_embeddings:
        raise UsageError(
            f"the rows have piece {used[-1]}, and the model's vocabulary has only "
            f"{words.num_embeddings}: they were tokenised for another one",
            hint="tokenise them anew with model.tokenizer, as after trimming",
        )


def _in_parts(encoded: EncodedRows) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    for begin in range(0, len(encoded), _ROWS_AT_A_TIME):
        positions = np.arange(begin, min(begin + _ROWS_AT_A_TIME, len(encoded)))
        yield encoded.tokens(positions), positions


def prove_tokens_alike(before: EncodedRows, after: EncodedRows, kept: Sequence[int]) -> int:
    """Check that every row has the same pieces under both vocabularies; return how many tokens.

    Args:
        before: rows, tokenised by the whole vocabulary.
        after: the same rows, tokenised by the trimmed one.
        kept: the old id of each new one.

    Raises:
        ParityError: a row has other pieces; names it.
    """
    changed = _changed_rows(before, after, kept)
    if len(changed):
        names = ", ".join(before.row_names(changed[:5]))
        raise ParityError(
            f"{len(changed)} of {len(before)} rows are split into other pieces: {names}",
            hint="trim to the texts that the model will meet, these among them",
        )
    return int(before.lengths.sum())


def share_of_changed_rows(before: EncodedRows, after: EncodedRows, kept: Sequence[int]) -> float:
    """Return the share of rows that the trimmed vocabulary splits into other pieces."""
    return len(_changed_rows(before, after, kept)) / max(len(before), 1)


def _changed_rows(before: EncodedRows, after: EncodedRows, kept: Sequence[int]) -> np.ndarray:
    old = np.asarray(kept)
    if len(before) != len(after):
        raise ParityError(f"{len(before)} features became {len(after)}")
    return np.array(
        [
            position
            for tokens, positions in _in_parts(before)
            for position, whole, trimmed in zip(
                positions, tokens, after.tokens(positions), strict=True
            )
            if not np.array_equal(whole, old[trimmed])
        ],
        np.int64,
    )
