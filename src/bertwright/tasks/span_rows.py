"""Questions about a text whose answers stand in it: rows, windows of tokens, and spans from logits.

Shapes: N rows, F features (windows), L tokens of a window, K spans.

Offsets count characters of the context. A token's characters are its visible ones: white space at
its ends does not count (some tokenizers put the space before a word into its token), and combining
marks that the tokenizer drops belong to the token before them, so that an answer can be cut out of
the context as a person would write it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.config import require
from bertwright.data.encode import Features, Target
from bertwright.data.schema import Column, RowSchema, read_text
from bertwright.errors import DataError, EmptyTextError, FileFormatError, ModelLoadError

__all__ = [
    "SPAN_SCHEMA",
    "MergedSpans",
    "Span",
    "SpanEncoder",
    "best_spans",
    "merge_windows",
    "read_answers",
    "visible_offsets",
]

NO_OFFSET = -1
_FORM = 'give a list of {"text", "answer_start"}; an empty list where there is no answer'
_SKIP = "or leave such rows out with --on-bad-row skip"
_SHOWN = 60


# ---- rows --------------------------------------------------------------------------------------


def read_answers(value: object, column: str) -> list[tuple[str, int]]:
    """Return the answers of a question as (text, first character); none where there is no answer.

    They are a list of `{"text", "answer_start"}`, or `{"text": [...], "answer_start": [...]}`;
    `start` is read as `answer_start`. Nothing at all and empty lists mean that there is no answer.

    Raises:
        EmptyTextError: an answer is empty.
        DataError: the first character of one is no whole number.
        FileFormatError: the value has another form.
    """
    if value is None:
        return []
    if isinstance(value, Mapping):
        return _read_columns(value, column)
    if not isinstance(value, list):
        raise FileFormatError(f"{column} is not a list but {type(value).__name__}", hint=_FORM)
    answers = []
    for item in value:
        if not isinstance(item, Mapping):
            raise FileFormatError(
                f"{column} holds {type(item).__name__} in place of an answer", hint=_FORM
            )
        answers.append((_member(item, "text", column), _member(item, "answer_start", column)))
    return [_read_answer(text, start, column) for text, start in answers]


def _read_columns(value: Mapping[str, Any], column: str) -> list[tuple[str, int]]:
    texts, starts = _member(value, "text", column), _member(value, "answer_start", column)
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise FileFormatError(f"{column} has text and answer_start that are no lists", hint=_FORM)
    if len(texts) != len(starts):
        raise FileFormatError(
            f"{column} has {len(texts)} texts, but {len(starts)} answer_starts",
            hint=f"give each answer a text and an answer_start, {_SKIP}",
        )
    return [_read_answer(text, start, column) for text, start in zip(texts, starts, strict=True)]


def _member(item: Mapping[str, Any], name: str, column: str) -> Any:
    if name not in item and name == "answer_start":
        name = "start"
    if name not in item:
        what = "answer_start" if name == "start" else name
        raise FileFormatError(f"{column} has an answer without {what}", hint=_FORM)
    return item[name]


def _read_answer(text: object, start: object, column: str) -> tuple[str, int]:
    try:
        answer = read_text(text, "an answer's text")
    except EmptyTextError as error:
        raise EmptyTextError(
            error.message, hint="a question without an answer has an empty list of answers"
        ) from None
    if isinstance(start, bool) or not isinstance(start, int | np.integer):
        raise DataError(
            f"{column} has the answer_start {start!r}, which is not a whole number",
            hint="it counts the characters of the context before the answer",
        )
    return answer, int(start)


def _build(values: Mapping[str, Any]) -> dict[str, Any]:
    stored = {"question": values["question"], "context": values["context"]}
    if "answers" in values:
        for text, start in values["answers"]:
            _check_place(stored["context"], text, start)
        stored["answer_text"] = [text for text, _ in values["answers"]]
        stored["answer_start"] = [start for _, start in values["answers"]]
    return stored


def _check_place(context: str, text: str, start: int) -> None:
    """Raise unless the answer stands in the context where it is said to."""
    if not 0 <= start < len(context):
        raise DataError(
            f"answer_start {start} lies outside of the context of {len(context)} characters",
            hint=_elsewhere(context, text),
        )
    there = context[start : start + len(text)]
    if there != text:
        raise DataError(
            f"the answer {_short(text)} does not stand at {start}; {_short(there)} does",
            hint=_elsewhere(context, text),
        )


def _elsewhere(context: str, text: str) -> str:
    places: list[str] = []
    place = context.find(text)
    while place >= 0 and len(places) < 3:
        places.append(str(place))
        place = context.find(text, place + 1)
    if not places:
        return f"it stands nowhere in the context: correct it, {_SKIP}"
    more = ", ..." if place >= 0 else ""
    return f"it stands at {', '.join(places)}{more}: correct answer_start, {_SKIP}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


SPAN_SCHEMA = RowSchema(
    columns=(
        Column(role="question", noun="question", read=read_text, aliases=("query",)),
        Column(
            role="context",
            noun="context",
            read=read_text,
            aliases=("passage", "paragraph", "document"),
        ),
        Column(role="answers", noun="answer list", read=read_answers, target=True),
    ),
    stored={
        "question": pa.string(),
        "context": pa.string(),
        "answer_text": pa.list_(pa.string()),
        "answer_start": pa.list_(pa.int32()),
    },
    build=_build,
)
"""A question, a context, and answers that stand in the context."""


# ---- windows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpanEncoder:
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

    def least_length(self, tokenizer: PreTrainedTokenizerBase, *, pairs: bool) -> int:
        """Return the specials of a pair, a token of the question and one of the context."""
        return tokenizer.num_special_tokens_to_add(pair=True) + 2

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
        backend = _backend(tokenizer)
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


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the Rust tokenizer, which neither cuts nor pads from here on."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelLoadError(
            "the tokenizer cannot say where its tokens stand in a text",
            hint="give a model with a tokenizer.json",
        )
    backend.no_truncation()
    backend.no_padding()
    return backend


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


# ---- spans from logits -------------------------------------------------------------------------


class Span(NamedTuple):
    """Characters `start` to `end` (not included) of a context, and their score."""

    score: float
    start: int
    end: int


class MergedSpans(NamedTuple):
    """The answers to one question, the best first, and how they compare with giving none.

    Attributes:
        spans: K distinct spans.
        probabilities: of the spans, [K]; with `null_probability` they sum to 1.
        null_score: of giving no answer.
        null_probability: of giving no answer.
        null_minus_best: the null score minus the best span's. High is "no answer".
    """

    spans: list[Span]
    probabilities: np.ndarray
    null_score: float
    null_probability: float
    null_minus_best: float


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    offset_start: np.ndarray,
    offset_end: np.ndarray,
    *,
    n_best: int = 20,
    max_answer_tokens: int = 30,
) -> list[Span]:
    """Return the spans of one window with the highest sum of start and end logit, best first.

    All pairs of context tokens are looked at, where transformers' `utils_qa` combines the
    `n_best` starts with the `n_best` ends only. Of equal scores the earlier start, then the
    earlier end comes first. Spans whose score is minus infinity or not a number are left out.
    Spans of different tokens may have the same characters, where several tokens share one.

    Args:
        start_logits: [L].
        end_logits: [L].
        offset_start: [L] first character of each token, -1 for tokens that no span may touch.
        offset_end: [L] the character after its last.
        n_best: most spans to return.
        max_answer_tokens: most tokens of a span.

    Raises:
        ValueError: the arrays differ in shape, or a number is below 1.
    """
    firsts, lasts = np.asarray(offset_start), np.asarray(offset_end)
    starts = np.asarray(start_logits, dtype=np.float64)
    ends = np.asarray(end_logits, dtype=np.float64)
    shapes = {starts.shape, ends.shape, firsts.shape, lasts.shape}
    if len(shapes) != 1 or starts.ndim != 1:
        raise ValueError(f"logits and offsets have the shapes {sorted(shapes)}")
    if n_best < 1 or max_answer_tokens < 1:
        raise ValueError(f"n_best {n_best}, max_answer_tokens {max_answer_tokens}: at least 1")
    tokens = np.flatnonzero(firsts >= 0)
    if not len(tokens):
        return []
    inner = slice(tokens[0], tokens[-1] + 1)
    firsts, lasts = firsts[inner], lasts[inner]
    starts = np.where(firsts >= 0, starts[inner], -np.inf)
    ends = np.where(firsts >= 0, ends[inner], -np.inf)
    width = min(max_answer_tokens, len(starts))
    padded = np.append(ends, np.full(width - 1, -np.inf))
    reachable = np.lib.stride_tricks.sliding_window_view(padded, width)
    scores = (starts[:, None] + reachable).ravel()
    best = _largest(scores, n_best)
    begin, more = np.divmod(best, width)
    found = zip(scores[best], firsts[begin], lasts[begin + more], strict=True)
    return [Span(float(score), int(start), int(end)) for score, start, end in found]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest values, largest first, of equal ones the first first."""
    places = np.flatnonzero(values > -np.inf)
    if len(places) > count:
        least = np.partition(values[places], len(places) - count)[len(places) - count]
        places = places[values[places] >= least]
    return places[np.argsort(-values[places], kind="stable")][:count]


def merge_windows(
    spans: Iterable[Iterable[tuple[float, int, int]]],
    null_scores: Sequence[float] | np.ndarray,
    *,
    n_best: int = 20,
) -> MergedSpans:
    """Return the best spans of a question from those of its windows.

    A span that several windows propose (they overlap) counts once, with its best score. The null
    score is the least of all windows: each of them has to find that the answer is not there. The
    baseline published with BERT for SQuAD 2.0 and transformers' `utils_qa` take it the same way.
    Probabilities are the softmax of the scores of the spans returned and the null score. Of equal
    scores the earlier start, then the earlier end comes first.

    Where no window has a span, `null_minus_best` is 0.0: nothing is answered whatever the
    threshold, and a finite number keeps such rows out of the way when one is tuned.

    Args:
        spans: of each window, as `best_spans` returns them.
        null_scores: of each window, the start logit plus the end logit of its null token.
        n_best: most spans to return.

    Raises:
        ValueError: there is no window, or n_best is below 1.
    """
    if not len(null_scores) or n_best < 1:
        raise ValueError(f"{len(null_scores)} windows and n_best {n_best}: at least 1 of each")
    scores: dict[tuple[int, int], float] = {}
    for window in spans:
        for score, start, end in window:
            scores[start, end] = max(score, scores.get((start, end), -np.inf))
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:n_best]
    best = [Span(score, start, end) for (start, end), score in ordered]
    null = float(min(null_scores))
    values = np.array([null, *(span.score for span in best)])
    weights = np.exp(values - values.max())
    weights /= weights.sum()
    return MergedSpans(
        spans=best,
        probabilities=weights[1:],
        null_score=null,
        null_probability=float(weights[0]),
        null_minus_best=null - best[0].score if best else 0.0,
    )
