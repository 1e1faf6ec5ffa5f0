"""Questions with windows of their contexts as features, which know where their tokens stand.

Shapes: L tokens of a window.

Offsets count characters of the context. A token's characters are its visible ones: white space at
its ends does not count (some tokenizers put the space before a word into its token), and combining
marks that the tokenizer drops belong to the token before them, so that an answer can be cut out of
the context as a person would write it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.config import require
from bertwright.data.encode import Features, RowEncoder, Target, require_rust_tokenizer

__all__ = ["SpanEncoder", "visible_offsets"]

NO_OFFSET = -1


@dataclass(frozen=True)
class SpanEncoder(RowEncoder):
    """A question and a window of its context as a pair; several windows where it is long.

    The pair is built as the tokenizer builds pairs. A question is cut to `max_question_tokens`,
    and further where a third of the room would not be left for the context. Windows have all the
    room that is left and consecutive ones share `stride_tokens`, but at most two thirds of their
    length, so that no token is read more than about three times. Nothing of a context is lost.

    Targets are the places of the first answer's first and last token where a window holds the
    whole answer, otherwise twice the place of the null token: the class token, which stands first,
    or last (XLNet). The extras `offset_start` and `offset_end` say which characters of the context
    a token stands for, [L], -1 for tokens that are not of the context or stand for white space
    alone; `null_position` is the place of the null token.
    """

    stride_tokens: int = 64
    max_question_tokens: int = 64

    def __post_init__(self) -> None:
        require(self.stride_tokens >= 0, "stride_tokens", self.stride_tokens, "at least 0")
        given = self.max_question_tokens
        require(given >= 1, "max_question_tokens", given, "at least 1")

    @property
    def key(self) -> str:
        """Names it and its options."""
        return f"span {self.stride_tokens} {self.max_question_tokens}"

    @property
    def targets(self) -> Mapping[str, Target]:
        """The places of the answer's first and last token."""
        return {"start_positions": Target(pa.int64()), "end_positions": Target(pa.int64())}

    @property
    def extras(self) -> Mapping[str, pa.DataType]:
        """Which characters of the context each token stands for, and the null token's place."""
        return {
            "offset_start": pa.list_(pa.int32()),
            "offset_end": pa.list_(pa.int32()),
            "null_position": pa.int32(),
        }

    def makes_pairs(self, columns: Collection[str]) -> bool:
        """Yes: a question and a window of its context."""
        return True

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[Any]],
        *,
        max_length: int,
        token_types: bool,
    ) -> Features:
        """Return the windows of a batch of rows.

        Contexts that occur several times are tokenised once. `lengths` counts the question tokens
        that were cut off.

        Args:
            tokenizer: of the model.
            rows: columns `question`, `context` and, with answers, `answer_text`, `answer_start`.
            max_length: most tokens of a window, specials included.
            token_types: return token types.

        Raises:
            ModelLoadError: the tokenizer cannot say where its tokens stand in a text.
        """
        backend = require_rust_tokenizer(tokenizer)
        frame = _Frame.of(tokenizer, backend)
        room = max_length - frame.num_specials
        questions = backend.encode_batch_fast(list(rows["question"]), add_special_tokens=False)
        contexts = _tokenise_contexts(backend, rows["context"])
        answers = _first_answers(rows)
        windows = _Collected(frame)
        for row, text in enumerate(rows["context"]):
            question, context = questions[row].ids, contexts[text]
            kept = question[: min(self.max_question_tokens, room - max(room // 3, 1))]
            answer = None if answers is None else context.tokens_of(answers[row])
            for window in self._windows(len(context.ids), room - len(kept)):
                windows.add(row, kept, context, window, answer, len(question) - len(kept))
        return windows.features(token_types=token_types, targets=answers is not None)

    def _windows(self, num_tokens: int, room: int) -> list[tuple[int, int]]:
        """Return the first token of each window and the one after its last."""
        overlap = min(self.stride_tokens, 2 * room // 3)
        starts = range(0, max(num_tokens - overlap, 1), room - overlap)
        return [(start, min(start + room, num_tokens)) for start in starts]


def _first_answers(rows: Mapping[str, Sequence[Any]]) -> list[tuple[int, int] | None] | None:
    """Return where each row's first answer begins and ends; None without the columns."""
    if "answer_start" not in rows:
        return None
    pairs = zip(rows["answer_text"], rows["answer_start"], strict=True)
    return [
        (starts[0], starts[0] + len(texts[0])) if len(starts) else None for texts, starts in pairs
    ]


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer puts before, between and after two texts, as ids and as token types."""

    ids: tuple[list[int], list[int], list[int]]
    types: tuple[list[int], list[int], list[int]]
    text_types: tuple[int, int]
    null: int
    """Place of the null token; negative ones count from the end."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, backend: Any) -> _Frame:
        """Find it out from a pair of texts."""
        probe = backend.encode("a", "b")
        parts = probe.sequence_ids
        question, context = parts.index(0), parts.index(1)
        question_end, context_end = question + parts.count(0), context + parts.count(1)

        def around(values: list[int]) -> tuple[list[int], list[int], list[int]]:
            return values[:question], values[question_end:context], values[context_end:]

        ids, types = probe.ids, probe.type_ids
        return cls(
            ids=around(ids),
            types=around(types),
            text_types=(types[question], types[context]),
            null=_null_place(around(ids), tokenizer.cls_token_id),
        )

    @property
    def num_specials(self) -> int:
        """How many tokens are not of the texts."""
        return sum(map(len, self.ids))

    def wrap(self, question: list[int], context: list[int]) -> list[int]:
        """Return the ids of a pair."""
        before, between, after = self.ids
        return [*before, *question, *between, *context, *after]

    def wrap_types(self, num_question: int, num_context: int) -> list[int]:
        """Return the token types of a pair."""
        before, between, after = self.types
        question, context = self.text_types
        return [
            *before, *[question] * num_question, *between, *[context] * num_context, *after,
        ]  # fmt: skip


def _null_place(around: tuple[list[int], list[int], list[int]], cls_id: Any) -> int:
    before, _, after = around
    if cls_id in before:
        return before.index(cls_id)
    return after.index(cls_id) - len(after) if cls_id in after else 0


@dataclass(frozen=True)
class _Context:
    """A whole context as tokens, and the characters each stands for; -1 for white space alone."""

    ids: list[int]
    starts: np.ndarray
    ends: np.ndarray

    def tokens_of(self, answer: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return the first and the last token of these characters; None where there are none."""
        if answer is None:
            return None
        inside = np.flatnonzero((self.ends > answer[0]) & (self.starts < answer[1]))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _tokenise_contexts(backend: Any, texts: Iterable[str]) -> dict[str, _Context]:
    distinct = list(dict.fromkeys(texts))
    encodings = backend.encode_batch(distinct, add_special_tokens=False)
    return {
        text: _Context(encoding.ids, *visible_offsets(text, encoding.offsets))
        for text, encoding in zip(distinct, encodings, strict=True)
    }


def visible_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first visible character of each token and the one after its last, [L] and [L].

    White space at the ends of a token is left out, and combining marks after it that no token
    holds are taken in; both are -1 where nothing is left.

    Args:
        text: what was tokenised.
        offsets: [L] the characters of each token as the tokenizer has them, in order.
    """
    starts, ends = np.array(offsets, dtype=np.int32).reshape(-1, 2).T
    letters = set(text)
    spaces = _where(text, [letter for letter in letters if letter.isspace()])
    starts = np.minimum(_run_ends(spaces)[starts], ends)
    ends = np.maximum(_run_starts(spaces)[ends], starts)
    if marks := [letter for letter in letters if unicodedata.category(letter).startswith("M")]:
        following = np.append(starts[1:], len(text))
        ends = np.minimum(_run_ends(_where(text, marks))[ends], np.maximum(ends, following))
    visible = starts < ends
    return np.where(visible, starts, NO_OFFSET), np.where(visible, ends, NO_OFFSET)


def _where(text: str, letters: list[str]) -> np.ndarray:
    """Return which characters of a text are among these, bool."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return np.isin(codes, [ord(letter) for letter in letters])


def _run_ends(mask: np.ndarray) -> np.ndarray:
    """Return for each place, the end included, the first at or after it that is not set."""
    places = np.append(np.where(mask, len(mask), np.arange(len(mask))), len(mask))
    return np.minimum.accumulate(places[::-1])[::-1]


def _run_starts(mask: np.ndarray) -> np.ndarray:
    """Return for each place, the end included, the first from which all before it are set."""
    places = np.append(0, np.where(mask, 0, np.arange(1, len(mask) + 1)))
    return np.maximum.accumulate(places)


class _Collected:
    """The windows of a batch of rows, one by one."""

    def __init__(self, frame: _Frame) -> None:
        self._frame = frame
        self._ids: list[list[int]] = []
        self._types: list[list[int]] = []
        self._lengths: list[int] = []
        self._sources: list[int] = []
        self._extras: dict[str, list[Any]] = {
            "offset_start": [],
            "offset_end": [],
            "null_position": [],
        }
        self._targets: dict[str, list[Any]] = {"start_positions": [], "end_positions": []}

    def add(
        self,
        row: int,
        question: list[int],
        context: _Context,
        window: tuple[int, int],
        answer: tuple[int, int] | None,
        num_cut: int,
    ) -> None:
        low, high = window
        ids = self._frame.wrap(question, context.ids[low:high])
        first = len(ids) - len(self._frame.ids[2]) - (high - low)
        null = self._frame.null % len(ids)
        self._ids.append(ids)
        self._types.append(self._frame.wrap_types(len(question), high - low))
        self._lengths.append(len(ids) + num_cut)
        self._sources.append(row)
        self._extras["null_position"].append(null)
        for name, values in (("offset_start", context.starts), ("offset_end", context.ends)):
            offsets = np.full(len(ids), NO_OFFSET, dtype=np.int32)
            offsets[first : first + high - low] = values[low:high]
            self._extras[name].append(offsets)
        held = answer is not None and low <= answer[0] and answer[1] < high
        places = [token - low + first for token in answer] if answer and held else [null, null]
        for values, place in zip(self._targets.values(), places, strict=True):
            values.append(place)

    def features(self, *, token_types: bool, targets: bool) -> Features:
        return Features(
            input_ids=self._ids,
            token_type_ids=self._types if token_types else None,
            lengths=np.array(self._lengths, dtype=np.int64),
            sources=self._sources,
            fields=self._extras | (self._targets if targets else {}),
        )
