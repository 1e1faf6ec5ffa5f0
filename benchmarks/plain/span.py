"""Answers in a context: AutoModelForQuestionAnswering, windows, SQuAD's exact match and F1.

Windows of `--max-length` tokens overlap by 128; of each window the 20 best starts and ends are
paired, and the best pair of at most 30 tokens over all windows of a question is its answer.
"""

from __future__ import annotations

import argparse
import re
import string
from collections import Counter

import numpy as np
import torch
from plain import common
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

STRIDE = 128
N_BEST = 20
MOST_TOKENS = 30


def encode(rows: list[dict], tokenizer, max_length: int) -> list[dict]:
    """Return the windows: features with `row`, and `offsets` (None outside of the context)."""
    encoded = tokenizer(
        [row["question"].strip() for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=max_length,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for i, row in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True)
        windows.append(
            {
                **{k: encoded[k][i] for k in ("input_ids", "token_type_ids")},
                "row": row,
                "offsets": [pair if part == 1 else None for pair, part in offsets],
            }
        )
    return windows


def place_answer(window: dict, row: dict) -> dict:
    """Return a feature: first and last token of the answer, the class token if it is not whole."""
    answer = row["answers"][0]
    begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    inside = [
        place
        for place, offsets in enumerate(window["offsets"])
        if offsets is not None and offsets[1] > begin and offsets[0] < end
    ]
    seen = [offsets for offsets in window["offsets"] if offsets is not None]
    whole = inside and seen[0][0] <= begin and seen[-1][1] >= end
    first, last = (inside[0], inside[-1]) if whole else (0, 0)
    feature = {k: window[k] for k in ("input_ids", "token_type_ids")}
    return {**feature, "start_positions": first, "end_positions": last}


def best_answers(windows: list[dict], logits: list[np.ndarray], rows: list[dict]) -> list[str]:
    best: dict[int, tuple[float, str]] = {}
    for window, places in zip(windows, logits, strict=True):
        offsets = window["offsets"]
        start, end = places[: len(offsets)].T
        for first in np.argsort(start)[: -N_BEST - 1 : -1]:
            for last in np.argsort(end)[: -N_BEST - 1 : -1]:
                if offsets[first] is None or offsets[last] is None:
                    continue
                if not first <= last < first + MOST_TOKENS:
                    continue
                score = float(start[first] + end[last])
                if score > best.get(window["row"], (-np.inf, ""))[0]:
                    text = rows[window["row"]]["context"][offsets[first][0] : offsets[last][1]]
                    best[window["row"]] = (score, text)
    return [best.get(i, (0.0, ""))[1] for i in range(len(rows))]


def normalise(text: str) -> str:
    """As SQuAD's published script: lower case, no punctuation, no articles, single spaces."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def token_f1(answer: str, gold: str) -> float:
    ours, theirs = normalise(answer).split(), normalise(gold).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs)) if same else 0.0


def score(answers: list[str], rows: list[dict]) -> dict[str, float]:
    golds = [[answer["text"] for answer in row["answers"]] for row in rows]
    pairs = list(zip(answers, golds, strict=True))
    exact = [normalise(a) in [normalise(g) for g in gold] for a, gold in pairs]
    f1 = [max(token_f1(a, g) for g in gold) for a, gold in pairs]
    return {"exact": float(np.mean(exact)), "f1": float(np.mean(f1))}


def main(args: argparse.Namespace) -> None:
    source, splits = common.start(args)
    tokenizer = AutoTokenizer.from_pretrained(source)
    windows = {s: encode(rows, tokenizer, args.max_length) for s, rows in splits.items()}
    train = [place_answer(window, splits["train"][window["row"]]) for window in windows["train"]]
    model = AutoModelForQuestionAnswering.from_pretrained(source)
    pad_id = tokenizer.pad_token_id
    timing = common.fit(model, train, args, pad_id)
    metrics = {}
    for split in common.SPLITS[1:]:
        logits = common.predict(
            model,
            windows[split],
            pad_id,
            output=lambda out: torch.stack([out.start_logits, out.end_logits], dim=-1),
        )
        metrics[split] = score(best_answers(windows[split], logits, splits[split]), splits[split])
    common.finish(args, "span", timing, metrics, more={"stride": STRIDE})
