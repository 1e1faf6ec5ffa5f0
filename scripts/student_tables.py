"""Tables of students: by size and by what they learned from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layout import markdown_table, over_seeds

from bertwright.files import read_json

__all__ = ["privileged_table", "static_table", "transfer_table"]

RECIPES = {
    "control": "labels alone (control)",
    "control-3x": "control, 3 times the epochs",
    "fitted": "first layers as they are, head fitted",
    "fitted-soft": "the same, then soft targets at a fifth of the rate",
    "fitted-soft-fast": "the same, then soft targets at the full rate",
    "more-soft": "the same, with 3 texts that nobody labelled beside each row, as many steps",
    "more-soft-3x": "the same, three times the steps",
    "slow-control": "labels alone, first layers, mean of states, a fifth of the rate",
    "first-control": "labels alone, first layers, mean of states",
    "first-soft": "soft targets, first layers, mean of states",
    "soft": "soft targets",
    "soft-3x": "soft targets, 3 times the epochs",
    "hidden": "soft targets, hidden states",
    "relations": "soft targets, relations",
    "theseus": "Theseus",
    "layer-drop": "LayerDrop, then cut",
    "gradual": "soft targets, pruned gradually",
    "general-cls-soft": "soft targets, from a student of raw text, first token",
    "general-control": "labels alone, from a student of raw text, mean of states",
    "general-soft": "soft targets, from a student of raw text, mean of states",
    "generated-control": "control, 2 texts made of each row",
    "generated-soft": "soft targets, 2 texts made of each row",
    "generated-hidden": "soft targets, hidden states, 2 texts made of each row",
}
SIZES = {
    "3": "3 layers",
    "2": "2 layers",
    "1": "1 layer",
    "thin": "half of the heads, a quarter of the neurons",
    "static": "static",
    "static-ngrams": "static, pairs of pieces too",
    "static-fitted": "static, word embeddings as they are, head fitted",
    "static-words": "static, word embeddings as they are, all trained",
}


STATIC_SPECS = ("torch:fp32", "openvino:fp32", "openvino:int8")
"""Of static_runs.py."""
PRIVILEGED = {
    "privileged-teacher": "the teacher that reads the whole, 6 layers",
    "plain-teacher": "the teacher that reads the beginning, 6 layers",
    "control": "2 layers, labels alone (control)",
    "distilled": "2 layers, from the teacher that reads the beginning",
    "distilled-more": "the same, its answers to rows without labels too",
    "privileged": "2 layers, from the teacher that reads the whole",
    "privileged-more": "the same, its answers to rows without labels too",
}
"""Of privileged_runs.py."""


Found = dict[str, dict[str, list[Mapping[str, Any]]]]
"""Runs by what they learned from and by their size."""


def transfer_table(results: Path) -> str:
    """One table a set: test accuracy by what a student learned from and by its size."""
    parts = []
    for folder in sorted((results / "transfer").glob("*")):
        found = _transfer_runs(folder)
        sizes = [size for size in SIZES if any(size in of_size for of_size in found.values())]
        rows = [
            [
                words,
                *(_accuracy(found[recipe].get(size, ())) for size in sizes),
                _times_the_control(found, recipe),
            ]
            for recipe, words in RECIPES.items()
            if recipe in found
        ]
        if rows:
            teacher = read_json(folder / "teacher-s0.json")["test"]["score"]
            header = ["learned from", *(SIZES[size] for size in sizes), "processor time"]
            title = f"**{folder.name}**, accuracy on test; the teacher has {100 * teacher:.1f}"
            parts.append(f"{title}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def _transfer_runs(folder: Path) -> Found:
    found: Found = {}
    for path in sorted(folder.glob("*-s*.json")):
        run = read_json(path)
        if "recipe" in run:
            found.setdefault(run["recipe"], {}).setdefault(run["size"], []).append(run)
    return found


def _accuracy(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return `84.1 ± 0.3 (3)`: mean, deviation and seeds; of one seed its 95% interval."""
    if len(runs) == 1:
        return _with_interval(runs[0]["test"])
    scores = over_seeds([one["test"]["score"] for one in runs])
    return f"{scores} ({len(runs)})" if runs else scores


def _times_the_control(found: Found, recipe: str) -> str:
    """Return the processor time of a recipe in that of the control, the mean over sizes."""
    control, times = found.get("control", {}), []
    for size, runs in found[recipe].items():
        if size in control and all(run["cpu_s"] for run in runs):
            spent = (statistics.mean(run["cpu_s"] for run in of) for of in (runs, control[size]))
            times.append(next(spent) / next(spent))
    return f"{statistics.mean(times):.1f}x" if times else "–"


def static_table(results: Path) -> str:
    """Students without attention beside TF-IDF and one layer: accuracy and throughput."""
    rows = []
    for path in sorted((results / "static").glob("*.json")):
        found = read_json(path)
        tfidf, name = found["tfidf"], found["set"]
        speeds = {one["name"]: one for one in found["speeds"]}
        teacher, pipeline = _with_interval(found["teacher"]), speeds[found["baseline"]]
        cells = [f"{name}, teacher in transformers' pipeline", teacher, "100%"]
        rows.append([*cells, *_rate_and_size(pipeline, pipeline)])
        kept = f"{100 * tfidf['score'] / found['teacher']['score']:.1f}%"
        cells = [f"{name}, TF-IDF", _with_interval(tfidf), kept]
        rows.append([*cells, *_rate_and_size(tfidf, pipeline)])
        for size, runs in found["students"].items():
            for spec in (one for one in STATIC_SPECS if f"{size}@{one}" in speeds):
                tests = [run["test"] for run in runs]
                judged = [found["int8"][size]] if spec.endswith("int8") else tests
                scores = [one["score"] for one in judged]
                accuracy = over_seeds(scores) if len(scores) > 1 else _with_interval(judged[0])
                speed = speeds[f"{size}@{spec}"]
                kept = f"{100 * statistics.mean(scores) / found['teacher']['score']:.1f}%"
                label = f"{name}, {SIZES[size]}, {spec}"
                rows.append([label, accuracy, kept, *_rate_and_size(speed, pipeline)])
    header = ["set, model", "accuracy on test", "of the teacher's", "texts/s", "times the pipeline"]
    return markdown_table([*header, "MB"], rows) if rows else ""


def privileged_table(results: Path) -> str:
    """Students of teachers that read more than they do: accuracy, and lead over the control."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for path in sorted((results / "privileged").glob("*.json")):
        run = read_json(path)
        of_set = found.setdefault(run["set"], {})
        of_set.setdefault(run["who"], {})[run["seed"]] = run["test"]["score"]
    rows = []
    for name, of_set in found.items():
        control = of_set.get("control", {})
        for who, words in PRIVILEGED.items():
            scores = of_set.get(who, {})
            leads = [scores[seed] - control[seed] for seed in scores if seed in control]
            lead = "–" if who == "control" else over_seeds(leads)
            cells = [f"{over_seeds(list(scores.values()))} ({len(scores)})", lead]
            rows += [[f"{name}, {words}", *cells]] if scores else []
    header = ["set, model", "accuracy on test", "above the control, by seed"]
    return markdown_table(header, rows) if rows else ""


def _with_interval(score: Mapping[str, Any]) -> str:
    low, high = (100 * score[f"score_{end}"] for end in ("low", "high"))
    return f"{100 * score['score']:.1f} [{low:.1f}, {high:.1f}]"


def _rate_and_size(one: Mapping[str, Any], pipeline: Mapping[str, Any]) -> list[str]:
    rate = one["throughput_texts_s"]
    times = rate / pipeline["throughput_texts_s"]
    return [f"{rate:,.0f}", f"{times:.1f}", f"{one['size_mb']:.1f}"]
