"""Rows of every task whose answers are told by one of their words."""

from __future__ import annotations

import random
from typing import Any

FILLERS = "the a is was very really not always".split()
WORDS = {"food": ["food", "dog", "house"], "film": ["film", "movie", "book"]}


def row_of(task: str, rng: random.Random) -> dict[str, Any]:
    """Return a row whose answer is told by the words in it."""
    kind = rng.choice(sorted(WORDS))
    word, filler = rng.choice(WORDS[kind]), rng.choices(FILLERS, k=rng.randint(2, 9))
    place = rng.randint(0, len(filler))
    words = [*filler[:place], word, *filler[place:]]
    text = " ".join(words)
    if task == "classify":
        return {"text": text, "label": kind}
    if task in ("multilabel", "powerset"):
        return {"text": text, "label": ["film", "seen"] if kind == "film" else ["food"]}
    if task == "regress":
        return {"text": text, "label": 10.0 if kind == "film" else 20.0}
    if task == "tag":
        tags = ["O"] * len(words)
        tags[place] = f"B-{kind}"
        return {"tokens": words, "tags": tags}
    if task == "embed":
        other = rng.choice(sorted(WORDS))
        words_b = [*rng.choices(FILLERS, k=rng.randint(1, 5)), rng.choice(WORDS[other])]
        return {"text": text, "text_b": " ".join(words_b), "score": float(kind == other)}
    if task == "rerank":
        right, count = rng.randint(0, 3), rng.randint(2, 4)
        kinds = ["film" if place == right % count else "food" for place in range(count)]
        return {
            "query": "the good film",
            "candidates": [
                " ".join([*rng.choices(FILLERS, k=rng.randint(1, 9)), rng.choice(WORDS[kind])])
                for kind in kinds
            ],
            "relevance": [float(kind == "film") for kind in kinds],
        }
    start = len(" ".join([*filler[:place], ""]))
    if task == "senses":
        other = next(rng.choice(WORDS[name]) for name in WORDS if name != kind)
        pair = {"text": f"{text} and {other}", "start": start, "end": start + len(word)}
        return {**pair, "label": kind}
    assert task == "span"
    return {
        "question": f"the {kind}",
        "context": text,
        "answers": [{"text": word, "answer_start": start}],
    }
