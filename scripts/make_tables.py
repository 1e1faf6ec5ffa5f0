"""Make the tables of the README and of docs/ from results/: `make report`, or `--check` to compare.

A table is one function from the results folder to Markdown, listed in `TABLES`; in each of `PAGES`
it replaces what stands between `<!-- table:NAME -->` and `<!-- end:NAME -->`. A table whose results
are not there yet is empty.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layout import markdown_table, over_seeds
from reading_tables import (
    compare_table,
    document_vectors_table,
    frozen_or_tuned_table,
    pooling_runs_table,
    sts_poolings_table,
)
from saving_tables import (
    exit_engines_table,
    exits_table,
    int8_scores_table,
    int8_sizes_table,
    pruned_shapes_table,
    round_trips_table,
    shortened_table,
    trimmed_corpora_table,
)
from student_tables import privileged_table, static_table, transfer_table

from bertwright.compress.frontier import find_frontier
from bertwright.errors import DataError
from bertwright.files import atomic_write_text, read_json

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/tasks.md",
    "docs/poolings.md",
    "docs/frozen.md",
    "docs/compare.md",
    "docs/students.md",
    "docs/pruning.md",
    "docs/int8.md",
    "docs/exits.md",
)
MARKER = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- end:\2 -->)", re.DOTALL)


SPLITS = ("dev", "test")
TIMED_THREADS = 2
"""Runs of tasks with so many threads were alone on the machine."""
OVER_SEEDS = ("dev kept, mean (seeds)", "test kept, mean (seeds)")

MEMORY_ROWS = {
    "num_tokens": ("tokens", "{:,}"),
    "peak_mb": ("most resident memory, reading to batches", "{:.0f} MiB"),
    "peak_after_import_mb": ("of it, the libraries alone", "{:.0f} MiB"),
    "load_s": ("reading", "{:.1f} s"),
    "tokenise_s": ("tokenising, once", "{:.1f} s"),
    "tokenise_from_cache_s": ("tokenising, from the cache", "{:.2f} s"),
    "one_epoch_of_batches_s": ("an epoch of batches", "{:.1f} s"),
}


def frontier_table(results: Path) -> str:
    """One table a dataset: teacher, baseline, and the candidates that no other beats."""
    parts = []
    for path in sorted(results.glob("*/frontier.json")):
        frontier = read_json(path)
        parts.append(f"**{path.parent.name}**, {_describe(frontier)}\n\n{_frontier_rows(frontier)}")
    return "\n\n".join(parts)


def memory_table(results: Path) -> str:
    """What loading and tokenising a million rows needs."""
    path = results / "memory_million_rows.json"
    if not path.exists():
        return ""
    measured = read_json(path)
    rows = [[words, form.format(measured[key])] for key, (words, form) in MEMORY_ROWS.items()]
    return markdown_table(["one million short rows", ""], rows)


def students_table(results: Path) -> str:
    """One table a dataset: each kind of student beside its control, in the chosen engine."""
    parts = []
    for path in sorted(results.glob("*/frontier.json")):
        frontier = read_json(path)
        rows = _student_rows(frontier)
        if rows:
            header = ["students", "dev kept [95%]", "test kept [95%]", *OVER_SEEDS]
            parts.append(f"**{path.parent.name}**\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def teachers_table(results: Path) -> str:
    """Our fine-tuned teachers beside plain `transformers` code with the same epochs and rate."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for path in sorted([*results.glob("*/teacher-s*.json"), *results.glob("*/plain-s*.json")]):
        facts = read_json(path)
        options = f"{facts['epochs']:g} / {facts['lr']:g} / {facts['batch_size']}"
        groups.setdefault((facts["data"], facts["what"], options), []).append(facts)
    rows = []
    for (data, what, options), runs in sorted(groups.items()):
        scores = [over_seeds([run[f"{split}_accuracy"] for run in runs]) for split in SPLITS]
        rows.append([f"{data}, {what}", options, str(len(runs)), *scores])
    header = ["teacher", "epochs / lr / batch", "seeds", *SPLITS]
    return markdown_table(header, rows) if rows else ""


def tasks_table(results: Path) -> str:
    """Our score, time and speed of each task, beside plain library code."""
    rows = []
    for folder in sorted(results.glob("tasks/*")):
        ours, plain = (_runs(folder, who) for who in ("ours", "plain"))
        if not ours:
            continue
        first, options = ours[0], ours[0]["options"]
        metric = first["primary"]
        rows.append(
            [
                folder.name,
                f"{first['task']}, {metric}",
                f"{options['epochs']:g} / {options['lr']:g} / {options['batch_size']}",
                _score(first),
                _mean_score(ours, metric),
                plain[0]["library"] if plain else "–",
                f"{100 * plain[0]['metrics']['test'][metric]:.1f}" if plain else "–",
                _mean_score(plain, metric),
                *(_seconds(runs) for runs in (ours, plain)),
                *_speeds(folder / "speed.json"),
            ]
        )
    header = [
        *("run", "task, score", "epochs / lr / batch", "ours [95%]", "ours, mean (seeds)"),
        *("library", "its score", "its mean (seeds)", "seconds", "its seconds"),
        *("tokens/s", "its tokens/s", "ratio"),
    ]
    rows.sort(key=lambda row: (row[1], row[0]))
    return markdown_table(header, rows) if rows else ""


def tags_table(results: Path) -> str:
    """What a CRF, and an LSTM before it, bring and cost: of all seeds the mean."""
    rows = []
    for folder in sorted(results.glob("tasks/*")):
        runs = [run for run in _runs(folder, "ours") if run["task"] == "tag"]
        timed = _timed(runs)
        if timed:
            speed = statistics.mean(run["throughput_texts_s"] for run in timed)
            seconds, scores = _seconds(runs), [run["score"] for run in runs]
            rows.append([folder.name, over_seeds(scores), str(len(runs)), seconds, f"{speed:,.0f}"])
    header = ["run", "F1 on test", "seeds", "seconds to train", "texts/s in torch"]
    return markdown_table(header, rows) if rows else ""


def _runs(folder: Path, who: str) -> list[Mapping[str, Any]]:
    """Return the runs of all seeds, the lowest seed first."""
    runs: list[Mapping[str, Any]] = [read_json(path) for path in folder.glob(f"{who}-s*.json")]
    return sorted(runs, key=lambda run: run["options"]["seed"])


def _timed(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the runs whose times count: two threads, nothing beside them."""
    return [run for run in runs if run["options"].get("threads") == TIMED_THREADS]


def _mean_score(runs: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return `80.9 ± 0.3 (2)`, or a dash where there is but one seed."""
    scores = [run["metrics"]["test"][metric] for run in runs]
    return f"{over_seeds(scores)} ({len(scores)})" if len(scores) > 1 else "–"


def _seconds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean seconds of training of the runs whose times count."""
    seconds = [run["train_seconds"] for run in _timed(runs)]
    return f"{statistics.mean(seconds):,.0f}" if seconds else "–"


def _speeds(path: Path) -> list[str]:
    """Return tokens a second of ours and of the reference, and the ratio; dashes without any."""
    if not path.exists():
        return ["–"] * 3
    speed = read_json(path)
    medians = [f"{statistics.median(speed[who]):,.0f}" for who in ("ours", "plain")]
    return [*medians, f"{speed['ratio']:.2f}x"]


def task_frontiers_table(results: Path) -> str:
    """The frontier of one set of each kind of task; see `frontier_table`."""
    return frontier_table(results / "tasks")


def senses_table(results: Path) -> str:
    """Accuracy of comparing a word's states after each layer, and of a classifier of them."""
    path = results / "tasks" / "mcl-wic-en" / "layers.json"
    if not path.exists():
        return ""
    measured = read_json(path)
    finetuned = {run["layers"]: _score(run) for run in measured["finetuned"]}
    rows = [
        [str(run["layers"]), _score(run), finetuned.get(run["layers"], "–")]
        for run in measured["nearest"]
    ]
    return markdown_table(["layers", "nearest, nothing trained [95%]", "fine-tuned [95%]"], rows)


def multitask_table(results: Path) -> str:
    """Each task's score by an encoder of its own and by the one that all share, and the tokens."""
    path = results / "tasks" / "multitask" / "three.json"
    if not path.exists():
        return ""
    measured = read_json(path)
    single, joint = measured["single"], measured["joint"]
    rows = [
        [name, single[name]["primary"], _score(single[name]), _score(joint["heads"][name])]
        for name in single
    ]
    alone = sum(run["seconds"] for run in single.values())
    rows.append(["training", "seconds", f"{alone:,.0f}", f"{joint['seconds']:,.0f}"])
    return markdown_table(["set", "score", "alone [95%]", "together [95%]"], rows)


TABLES: dict[str, Callable[[Path], str]] = {
    "frontier": frontier_table,
    "students": students_table,
    "teachers": teachers_table,
    "memory": memory_table,
    "tasks": tasks_table,
    "tags": tags_table,
    "task-frontiers": task_frontiers_table,
    "senses": senses_table,
    "multitask": multitask_table,
    "sts-poolings": sts_poolings_table,
    "pooling-runs": pooling_runs_table,
    "frozen-or-tuned": frozen_or_tuned_table,
    "document-vectors": document_vectors_table,
    "compare": compare_table,
    "transfer": transfer_table,
    "privileged": privileged_table,
    "static": static_table,
    "round-trips": round_trips_table,
    "int8-sizes": int8_sizes_table,
    "int8-scores": int8_scores_table,
    "exits": exits_table,
    "exit-engines": exit_engines_table,
    "shortened": shortened_table,
    "trimmed-corpora": trimmed_corpora_table,
    "pruned-shapes": pruned_shapes_table,
}


def _describe(frontier: Mapping[str, Any]) -> str:
    """Return `accuracy on 1,000 rows, 2 cores of <processor>`."""
    teacher, machine = frontier["teacher"], frontier.get("machine", {})
    text = f"{teacher['primary']} on {teacher['num_rows']:,} rows"
    cores = f"{machine['cores']} cores" if "cores" in machine else ""
    processor = " of ".join(filter(None, [cores, str(machine.get("processor", ""))]))
    return f"{text}, {processor}" if processor else text


def _frontier_rows(frontier: Mapping[str, Any]) -> str:
    measured = [c for c in frontier["candidates"] if not c.get("dropped")]
    best = find_frontier(measured)
    by_name = {c["name"]: c for c in measured}
    chosen = frontier["chosen"]
    names = best if chosen in best or chosen not in by_name else [*best, chosen]
    shown = sorted((by_name[name] for name in names), key=lambda c: c["speedup"])
    baseline = frontier["baseline"]
    way = "torch" if baseline.get("engine") == "torch" else "`transformers` pipeline"
    rows = [_row(f"teacher, {way}", baseline, kept=1.0, speedup=1.0)]
    for candidate in shown:
        name = candidate["name"]
        label = f"**{name}**" if name == chosen else name
        rows.append(_row(label, candidate, candidate["kept"], candidate["speedup"]))
    return markdown_table(["model", "score [95%]", "kept", "speed-up", "size, MB"], rows)


def _student_rows(frontier: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each student of the first seed, in the engine of the chosen model."""
    spec = str(frontier["chosen"]).partition("@")[2]
    students = [
        c
        for c in frontier["candidates"]
        if c["method"] != "teacher" and c["seed"] == 0 and c["name"].endswith(f"@{spec}")
    ]
    rows = []
    for c in sorted(students, key=lambda c: (-c["layers"], c["method"])):
        test = _share(c, "test_") if "test_kept" in c else "–"
        alike = [o for o in frontier["candidates"] if _kind(o) == _kind(c)]
        means = (
            f"{over_seeds([o[key] for o in alike])} ({len(alike)})"
            if len(alike) > 1 and all(key in o for o in alike)
            else "–"
            for key in ("kept", "test_kept")
        )
        rows.append([str(c["name"]), _share(c, ""), test, *means])
    return rows


def _kind(candidate: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what candidates have in common that differ in their seed alone."""
    spec = candidate["name"].partition("@")[2]
    return candidate["method"], candidate["layers"], spec


def _share(entry: Mapping[str, Any], prefix: str) -> str:
    kept, low, high = (100 * entry[f"{prefix}kept{end}"] for end in ("", "_low", "_high"))
    return f"{kept:.1f}% [{low:.1f}, {high:.1f}]"


def _row(name: str, entry: Mapping[str, Any], kept: float, speedup: float) -> list[str]:
    size = f"{entry['size_mb']:.1f}" if "size_mb" in entry else "–"
    return [name, _score(entry), f"{100 * kept:.1f}%", f"{speedup:.1f}x", size]


def _score(entry: Mapping[str, Any]) -> str:
    """Return `87.3 [86.1, 88.5]`: a score with its interval, in percent."""
    score = f"{100 * entry['score']:.1f}" if "score" in entry else "–"
    if "score_low" in entry:
        score += f" [{100 * entry['score_low']:.1f}, {100 * entry['score_high']:.1f}]"
    return score


def fill_tables(text: str, results: Path) -> str:
    """Return `text` with every marked table made anew.

    Raises:
        KeyError: a marker names a table that `TABLES` does not have.
    """

    def fill(match: re.Match[str]) -> str:
        begin, name, _, end = match.groups()
        table = TABLES[name](results)
        return f"{begin}{table}\n{end}" if table else f"{begin}{end}"

    return MARKER.sub(fill, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or with `--check` say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if outdated")
    check = parser.parse_args(argv).check
    outdated = 0
    try:
        for name in PAGES:
            outdated += (REPOSITORY / name).exists() and not _make_page(name, check=check)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return int(bool(outdated))


def _make_page(name: str, *, check: bool) -> bool:
    """Write a page's tables, or with `check` only compare; return whether it is as it should be."""
    page = REPOSITORY / name
    text = page.read_text(encoding="utf-8")
    filled = fill_tables(text, REPOSITORY / "results")
    if filled == text:
        print(f"{name} is up to date", file=sys.stderr)
    elif check:
        print(f"{name} is not made from results/: run `make report`", file=sys.stderr)
        return False
    else:
        atomic_write_text(page, filled)
        print(f"{name}: tables made from results/", file=sys.stderr)
    return True


if __name__ == "__main__":
    sys.exit(main())
