"""Tables of what is read off an encoder: poolings, frozen encoders, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layout import markdown_table, mean_of, over_seeds

from bertwright.files import read_json

__all__ = [
    "compare_table",
    "document_vectors_table",
    "frozen_or_tuned_table",
    "pooling_runs_table",
    "sts_poolings_table",
]

POOLING_METRICS = {"stsb": "spearman", "clear": "pearson"}


def sts_poolings_table(results: Path) -> str:
    """Spearman on the STS sets of frozen vectors, by pooling and year."""
    path = results / "sts_poolings.json"
    if not path.exists():
        return ""
    measured = read_json(path)["spearman"]
    years = [year for year in next(iter(measured.values())) if year != "mean"]
    rows = [
        [name, *(f"{100 * found[year]:.1f}" for year in (*years, "mean"))]
        for name, found in measured.items()
    ]
    return markdown_table(["vector", *years, "mean"], rows)


def pooling_runs_table(results: Path) -> str:
    """One table a set: each pooling frozen and tuned, its time and memory, the best first."""
    parts = []
    for folder in sorted((results / "poolings").glob("*")):
        runs: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        for path in sorted(folder.glob("*-s*.json")):
            run = read_json(path)
            runs.setdefault(run["pooling"], {}).setdefault(run["mode"], []).append(run)
        metric = POOLING_METRICS[folder.name]
        untrained = _untrained(folder, metric)
        rows = [
            [
                pooling,
                *([untrained.get(pooling, "–")] if untrained else []),
                *(
                    over_seeds([run["test"][metric] for run in modes.get(mode, ())])
                    for mode in ("frozen", "tuned")
                ),
                *(
                    mean_of(modes.get("frozen", ()), "train_s", "{:.0f} s"),
                    mean_of(modes.get("frozen", ()), "peak_mb", "{:,.0f}"),
                ),
                *(
                    mean_of(modes.get("tuned", ()), "train_s", "{:.0f} s"),
                    mean_of(modes.get("tuned", ()), "peak_mb", "{:,.0f}"),
                ),
            ]
            for pooling, modes in runs.items()
        ]
        rows.sort(key=lambda row: row[2 if untrained else 1], reverse=True)
        header = [
            "pooling",
            *(["untrained"] if untrained else []),
            "frozen",
            "tuned",
            "frozen: training",
            "MiB",
            "tuned: training",
            "MiB",
        ]
        parts.append(f"**{folder.name}**, {metric} on test\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def _untrained(folder: Path, metric: str) -> dict[str, str]:
    """Return the score of each pooling that was judged without training."""
    path = folder / "untrained.json"
    if not path.exists():
        return {}
    found = read_json(path)["test"]
    return {pooling: f"{100 * scores[metric]:.1f}" for pooling, scores in found.items()}


def frozen_or_tuned_table(results: Path) -> str:
    """Test accuracy of frozen and tuned encoders by the number of training rows."""
    runs: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for path in sorted((results / "frozen_or_tuned").glob("*.json")):
        run = read_json(path)
        way = "frozen" if run["contender"].startswith("frozen") else "tuned"
        runs.setdefault((run["set"], run["rows"]), {}).setdefault(way, []).append(run)
    rows = [
        [
            f"{name}, {count:,} rows",
            *(over_seeds([run["score"] for run in ways.get(w, ())]) for w in ("frozen", "tuned")),
        ]
        for (name, count), ways in sorted(runs.items())
    ]
    header = ["rows to learn from", "frozen", "tuned"]
    return markdown_table(header, rows) if rows else ""


def document_vectors_table(results: Path) -> str:
    """Scores of vectors of documents by the same classifier, neighbours and clusters."""
    rows = [
        [
            f"{run['set']}, {run['vector']}",
            str(run["width"]),
            f"{100 * run['accuracy']:.1f} [{100 * run['low']:.1f}, {100 * run['high']:.1f}]",
            f"{100 * run['precision_at_5']:.1f}",
            f"{run['nmi']:.2f}",
            f"{run['vectors_s']:.0f} s",
            f"{run['peak_mb']:,.0f}",
        ]
        for run in map(read_json, sorted((results / "document_vectors").glob("*.json")))
    ]
    header = ["set, vector", "width", "accuracy [95%]", "P@5", "NMI", "vectors take", "MiB"]
    return markdown_table(header, rows) if rows else ""


def compare_table(results: Path) -> str:
    """One table a set: contenders by score, with time and throughput."""
    parts = []
    for path in sorted((results / "compare").glob("*.json")):
        summary = read_json(path)
        ranked = sorted(summary["contenders"], key=lambda one: -one["score"])
        rows = [
            [
                one["name"],
                f"{100 * one['score']:.1f} [{100 * one['score_low']:.1f}, "
                f"{100 * one['score_high']:.1f}]",
                f"{one['train_s']:.0f} s",
                f"{one['throughput_texts_s']:,.0f}",
                f"{one['size_mb']:.1f}",
            ]
            for one in ranked
        ]
        header = ["contender", f"{ranked[0]['primary']} [95%]", "trained in", "texts/s", "MB"]
        count = summary["rows"]
        what = f"{count['train']:,} rows to learn from, {count['test']:,} to judge"
        parts.append(f"**{path.stem}**, {what}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)
