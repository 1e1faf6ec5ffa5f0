"""More rows for the student to learn from: texts without labels, and texts made of the others.

The teacher answers them, and its answers are their labels, so that every method can use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.load import load_rows
from bertwright.data.rows import Rows
from bertwright.data.tokenise import tokenise
from bertwright.data.vary import vary_text, words_of
from bertwright.files import write_json_lines
from bertwright.models.masked_words import MaskedWords
from bertwright.models.near_words import near_words
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress, console
from bertwright.registry import register_method
from bertwright.tasks import Task
from bertwright.training.evaluation import compute_logits

__all__ = [
    "TransferSet",
    "TransferSetConfig",
    "answer_rows",
    "generate_texts",
    "text_rows",
    "write_transfer_set",
]

TEXTS = ("text", "text_b")
NEAR = "near"
SHARES = ("replace", "drop", "crop", "splice")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TransferSetConfig:
    """Options of generated texts."""

    copies: int = 1
    """Variations made of each training row; those that repeat a text are left out."""
    words: str = NEAR
    """What stands in for a word. near: those with the nearest vectors in the teacher's embedding
    table, of the words of the texts; or a masked language model (a Hub name or a folder), which is
    asked where the word is one piece."""
    num_near: int = 15
    """How many words may stand in for one."""
    replace: float = 0.3
    """Probability that a word gives way to one that is near it."""
    drop: float = 0.1
    """Probability that a word is left out."""
    crop: float = 0.1
    """Probability that only a run of the text's words is left, one to five."""
    splice: float = 0.2
    """Probability that a text ends where a word is drawn, and another row's goes on from there."""

    def __post_init__(self) -> None:
        for name in SHARES:
            share = getattr(self, name)
            require(0 <= share <= 1, name, share, "between 0 and 1")
        require(self.copies >= 0, "copies", self.copies, "at least 0")
        require(self.num_near >= 1, "num_near", self.num_near, "at least 1")


CARD = MethodCard(
    name="transfer_set",
    kind="distil",
    summary="Let the student learn from more texts than have labels: the teacher answers them.",
    paper="TinyBERT: Distilling BERT for Natural Language Understanding",
    year=2020,
    citation=(
        "Jiao et al. 2020, arXiv:1909.10351; dropping and runs of words: Tang et al. 2019, "
        "arXiv:1903.12136"
    ),
    equation=(
        "X' = X + unlabelled + {vary(x_i)}, `copies` of each row; y' = the teacher's answer.\n"
        "vary: with probability splice the head of x_i and the tail of another row; each word\n"
        "replaced by one of its num_near nearest with probability replace, dropped with drop;\n"
        "with probability crop a run of 1 to 5 words of that. Of a pair each text varies by itself."
    ),
    needs="A teacher, and a task with one answer for a whole text. No labels for the texts added.",
    cost=(
        "One teacher pass over the added texts for their labels; an epoch is as many times longer "
        "as there are more rows. A masked language model runs once for each word of each row."
    ),
    expected_effect=(
        "In TinyBERT's ablation, leaving out the generated texts costs 7 points of the average of "
        "four GLUE tasks."
    ),
    expected_source="Ablation table of Jiao et al. 2020, quoted from memory: about ±0.5 points.",
    when_to_use="Where labels are few, or the student is far smaller than its teacher.",
    when_not_to_use="Where one word changes what a text means and the teacher does not know it.",
    siblings="soft_targets then also gives the teacher's whole distribution of the added texts.",
    departures=(
        "One table of near words of the corpus, and no GloVe; splicing is ours. With a masked "
        "language model the words of a text are asked for once and not for every copy."
    ),
)


@register_method(config=TransferSetConfig, card=CARD)
class TransferSet:
    """Makes the rows before training; it is not a hook."""

    def __init__(self, config: TransferSetConfig) -> None:
        self.config = config

    def apply(self, teacher: TaskModel, rows: Rows, *, seed: int) -> list[Row]:
        """Return generated rows, without labels; see `generate_texts`."""
        return generate_texts(teacher, rows.columns(TEXTS), self.config, seed=seed)


def generate_texts(
    teacher: TaskModel,
    columns: Mapping[str, Sequence[str]],
    config: TransferSetConfig,
    *,
    seed: int,
) -> list[Row]:
    """Return `copies` variations of each row, {"text": ..., "text_b": ...}, repeated ones left out.

    Args:
        teacher: its embedding table says which words are near.
        columns: the texts of the rows, and their second texts where they have any.
        config: how they vary.
        seed: the same seed gives the same texts.
    """
    words = {name: [words_of(text) for text in texts] for name, texts in columns.items()}
    near = _near_words(teacher, words, config)
    filler = MaskedWords.load(config.words) if config.words != NEAR else None
    num_rows = len(next(iter(words.values())))
    shares = {name: getattr(config, name) for name in SHARES}
    seen = set(zip(*columns.values(), strict=True))
    random = Random(seed)
    found: list[Row] = []
    with Progress("generate texts", total=num_rows, unit="rows") as bar:
        for place in range(num_rows):
            fitting = {
                name: near | filler.choices(texts[place], config.num_near) if filler else near
                for name, texts in words.items()
            }
            for _ in range(config.copies):
                other = random.randrange(num_rows)
                row = {
                    name: vary_text(texts[place], texts[other], fitting[name], random, **shares)
                    for name, texts in words.items()
                }
                key = tuple(row.values())
                if all(key) and key not in seen:
                    seen.add(key)
                    found.append(row)
            bar.advance(1)
    return found


def _near_words(
    teacher: TaskModel, words: Mapping[str, Sequence[Sequence[str]]], config: TransferSetConfig
) -> dict[str, list[str]]:
    """Return the neighbours of all words of letters or digits, in lower case."""
    known = {word.lower() for texts in words.values() for text in texts for word in text}
    assert teacher.tokenizer is not None
    return near_words(
        teacher.encoder,
        teacher.tokenizer,
        sorted(word for word in known if word.isalnum()),
        num_near=config.num_near,
    )


def answer_rows(
    teacher: TaskModel, rows: Sequence[Row], task: Task, *, cache_folder: str | Path | None = None
) -> Iterator[Row]:
    """Yield the rows with the teacher's answers as their labels.

    Args:
        teacher: run in eval mode; bf16 where the processor has it.
        rows: texts, as the task's schema has them.
        task: the teacher's.
        cache_folder: where the rows are kept in tokens; default: bertwright's own.

    Raises:
        UsageError: the answers of this task are no labels of a row.
    """
    loaded = load_rows(list(rows), schema=task.schema, need_label=False, cache_dir=cache_folder)
    encoded = tokenise(
        loaded, teacher.tokenizer, encoder=task.encoder, max_length=teacher.max_length
    )
    console.print(f"the teacher answers {len(rows):,} rows without labels")
    logits = compute_logits(teacher, encoded, batch_tokens=8192)
    answers = task.decode(logits, encoded.inputs(), teacher.labels, teacher.decoding)
    for row, answer in zip(rows, answers, strict=True):
        yield {**row, "label": task.label_in(answer)}


def write_transfer_set(
    path: Path,
    rows: Rows,
    more: Sequence[Row],
    *,
    teacher: TaskModel,
    task: Task,
    as_read: Sequence[Row] = (),
    cache_folder: str | Path | None = None,
) -> int:
    """Write the labelled rows, then the others with the teacher's answers, as JSON lines.

    Args:
        path: the file.
        rows: with labels.
        more: the texts of the others.
        teacher: what answers them.
        task: the teacher's.
        as_read: the others as the teacher reads them, where that is not as they are written.
        cache_folder: see `answer_rows`.

    Returns how many were added. Raises as `answer_rows`.
    """
    added: list[Row] = []
    if more:
        answered = answer_rows(teacher, as_read or more, task, cache_folder=cache_folder)
        added = [
            {**row, "label": given["label"]} for row, given in zip(more, answered, strict=True)
        ]
    write_json_lines(path, [*_with_names(rows), *added])
    return len(added)


def text_rows(rows: Rows) -> list[Row]:
    """Return the texts of each row, without its label."""
    return list(_as_rows(rows.columns(TEXTS)))


def _as_rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[Row]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _with_names(rows: Rows) -> Iterator[Row]:
    """Yield each row with its texts and the names of its labels."""
    labels = rows.labels
    columns = rows.columns((*TEXTS, "label"))
    if labels is not None:
        columns["label"] = [
            [labels.name_of(id_) for id_ in label]
            if isinstance(label, list)
            else labels.name_of(label)
            for label in columns["label"]
        ]
    yield from _as_rows(columns)
