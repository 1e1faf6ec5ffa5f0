"""Tables of what int8, exits, trimming and pruned shapes save and cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layout import markdown_table

from bertwright.files import read_json

__all__ = [
    "exit_engines_table",
    "exits_table",
    "int8_scores_table",
    "int8_sizes_table",
    "pruned_shapes_table",
    "round_trips_table",
    "shortened_table",
    "trimmed_corpora_table",
]

ENGINE_NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
EXPORTS = {
    "torch-fp32": "torch fp32, the score",
    "openvino-bf16": "OpenVINO bf16",
    "openvino-int8": "OpenVINO int8, NNCF's ranges",
    "openvino-int8-repaired": "the same, repaired",
    "openvino-int8-strict": "the same, repaired until dev loses nothing",
    "openvino-int8-tables-4": "the same as it comes, word embeddings in 4 bits",
    "openvino-int8-min-max": "OpenVINO int8, ranges by min-max",
    "openvino-int8-percentile": "by percentile",
    "openvino-int8-mse": "by mse",
    "openvino-int8-mse-smooth": "by mse, smoothed",
    "onnxruntime-int8": "ONNX Runtime int8",
    "onnxruntime-int8-repaired": "the same, repaired",
    "onnxruntime-int8-strict": "the same, repaired until dev loses nothing",
    "more-torch-fp32": "trained on, torch fp32, the score",
    "more-openvino-int8": "OpenVINO int8, NNCF's ranges",
    "qat-torch-fp32": "trained on with qat, torch fp32, the score",
    "qat-openvino-int8": "OpenVINO int8, learned ranges",
}
"""Of int8_scores.py; those that end in torch-fp32 are what the ones after them lose points of."""
OWN = "torch-fp32"
LOADERS = ("stock", "onnxruntime", "openvino")
"""What opens an exported model, in the order of the columns."""
PARTS = {"vocabulary": "pieces of the vocabulary"}


def int8_sizes_table(results: Path) -> str:
    """Size on disk of a BERT-base, by engine and bits."""
    path = results / "int8_sizes.json"
    if not path.exists():
        return ""
    sizes = read_json(path)["sizes"]
    rows = []
    for engine in ("openvino", "onnxruntime"):
        names = (f"{engine}:fp32", f"{engine}:int8", f"{engine}:int8, words in 4 bits")
        cells = [f"{sizes[one]['graph_mb']:.1f}" if one in sizes else "–" for one in names]
        rows.append([engine, *cells])
    header = ["", "fp32, MB", "int8, MB", "int8, word embeddings in 4 bits, MB"]
    return markdown_table(header, rows)


def int8_scores_table(results: Path) -> str:
    """Score of each model, and the points that each export of it loses."""
    found = {path.stem: read_json(path) for path in sorted((results / "int8_scores").glob("*"))}
    if not found:
        return ""
    by_set = {
        name: {row["name"]: row for row in one["rows"]} for name, one in sorted(found.items())
    }
    rows = []
    for export, words in EXPORTS.items():
        if any(export in of_set for of_set in by_set.values()):
            rows.append([words, *(_lost(of_set, export) for of_set in by_set.values())])
    names = [f"{name}, {of_set[OWN]['primary']}" for name, of_set in by_set.items()]
    return markdown_table(["", *names], rows)


def _lost(of_set: Mapping[str, Mapping[str, Any]], export: str) -> str:
    """Return a score, or the points lost against that of the same weights in torch."""
    row = of_set.get(export)
    if row is None:
        return "–"
    if row.get("refused"):
        return "refused"
    if export.endswith(OWN):
        return f"{100 * row['score']:.1f}"
    kind = export.split("-", maxsplit=1)[0]
    own = of_set[f"{kind}-{OWN}" if f"{kind}-{OWN}" in of_set else OWN]
    lost = f"{100 * (own['score'] - row['score']):+.1f}"
    spared = len(row.get("spared", ()))
    return f"{lost} ({spared} spared)" if spared else lost


def exits_table(results: Path) -> str:
    """What was promised of exits, and what came true on test."""
    rows = []
    for path in sorted((results / "exits").glob("*.json")):
        found = read_json(path)
        whole, *speeds = found["speeds"]
        for row, speed in zip(found["rows"], speeds, strict=True):
            rows.append(
                [
                    f"{found['set']}, {row['promised']:g}",
                    f"{row['agreement']:.3f}",
                    f"{row['average_layers']:.2f}",
                    f"{100 * row['score_whole']:.1f}",
                    f"{100 * row['score_early']:.1f}",
                    f"{whole['latency_p50_ms'] / speed['latency_p50_ms']:.2f}",
                    f"{speed['throughput_texts_s'] / whole['throughput_texts_s']:.2f}",
                ]
            )
    header = ["set, promised agreement", "agreement on test", "layers run", "accuracy, whole"]
    header += ["early", "one text at a time, times as fast", "in batches"]
    return markdown_table(header, rows) if rows else ""


def exit_engines_table(results: Path) -> str:
    """What stopping early saves in the engines that run graphs, beside the whole model in int8."""
    rows = []
    for path in sorted((results / "exit_engines").glob("*.json")):
        found = read_json(path)
        speeds = {one["name"]: one for one in found["speeds"]}
        for row in found["rows"]:
            speed, whole = speeds[row["folder"]], speeds[f"{row['engine']}-whole"]
            rows.append(
                [
                    f"{found['set']}, {ENGINE_NAMES[row['engine']]}",
                    _words_of_exits(row["who"]),
                    f"{row['agreement']:.3f}",
                    f"{100 * row['score']:.1f}",
                    f"{speed['throughput_texts_s']:,.0f}",
                    f"{speed['throughput_texts_s'] / speeds['pipeline']['throughput_texts_s']:.1f}",
                    f"{speed['throughput_texts_s'] / whole['throughput_texts_s']:.2f}",
                    f"{whole['latency_p50_ms'] / speed['latency_p50_ms']:.2f}",
                ]
            )
    header = ["set, engine", "model", "same label as the whole model", "accuracy", "texts/s"]
    header += ["times the pipeline", "times the whole, in batches", "one text at a time"]
    return markdown_table(header, rows) if rows else ""


def _words_of_exits(who: str) -> str:
    """`fitted 3, 0.99` -> `first layers (3), head fitted, stopping early, 0.99`."""
    parts = [f"stopping early, {part}" if part[0].isdigit() else part for part in who.split(", ")]
    return re.sub(r"fitted (\d+)", r"first layers (\1), head fitted", ", ".join(parts))


def shortened_table(results: Path) -> str:
    """What is saved where tokens of long texts are left out, by engine: in batches / one text."""
    path = next(iter(sorted((results / "shortened").glob("*.json"))), None)
    if path is None:
        return ""
    found = read_json(path)
    speeds = {one["name"]: one for one in found["speeds"]}
    engines = [name.removesuffix("-whole") for name in speeds if name.endswith("-whole")]
    rows = []
    for row in found["rows"]:
        given = row["promised"] is None
        times = (
            _times_as_fast(speeds, engine, f"share-{row['share']:g}") if given else "–"
            for engine in engines
        )
        rows.append(
            [
                f"{row['share']:g}" + ("" if given else f", found for {row['promised']:g}"),
                f"{row['tokens_left']:.2f}",
                f"{row['agreement']:.3f}",
                f"{100 * row['score_whole']:.1f}",
                f"{100 * row['score_shorter']:.1f}",
                *times,
            ]
        )
    header = [
        f"{found['set']}, tokens that go on",
        "of all tokens",
        "same label as the whole model",
    ]
    header += ["accuracy, whole", "shorter"]
    return markdown_table([*header, *(ENGINE_NAMES.get(one, one) for one in engines)], rows)


def _times_as_fast(speeds: Mapping[str, Mapping[str, Any]], engine: str, who: str) -> str:
    """Return how many times as fast as the whole model one is, in batches / one text at a time."""
    whole, one = speeds[f"{engine}-whole"], speeds[f"{engine}-{who}"]
    together = one["throughput_texts_s"] / whole["throughput_texts_s"]
    alone = whole["latency_p50_ms"] / one["latency_p50_ms"]
    return f"{together:.2f} / {alone:.2f}"


def trimmed_corpora_table(results: Path) -> str:
    """Whole sets and the vocabularies trimmed to them."""
    rows = []
    for path in sorted((results / "trimmed_corpora").glob("*.json")):
        one = read_json(path)
        rows.append(
            [
                one["set"],
                f"{one['texts']:,}",
                f"{one['num_tokens']:,}",
                f"{one['num_scored']:,}",
                f"{one['pieces_before']:,} → {one['pieces_after']:,}",
                f"{one['size_mb_before']:.1f} → {one['size_mb']:.1f}",
            ]
        )
    header = ["set", "texts, all split as before", "pieces in them", "texts scored, all equal"]
    return markdown_table([*header, "vocabulary", "MB"], rows) if rows else ""


def pruned_shapes_table(results: Path) -> str:
    """Speed-ups of pruned BERT-base shapes beside what the operations promise."""
    rows = []
    for path in sorted((results / "pruned_shapes").glob("*.json")):
        found = read_json(path)
        for row in found["rows"]:
            if row["taken_percent"]:
                rows.append(
                    [
                        f"{row['taken_percent']}% of the {PARTS.get(found['kind'], found['kind'])}",
                        found["engine"],
                        f"{row['flops_ratio']:.2f}",
                        f"{row['throughput_ratio']:.2f}",
                        f"{row['latency_ratio']:.2f}",
                        f"{row['size_mb']:.0f}",
                    ]
                )
    header = ["taken out", "engine", "fewer operations", "throughput", "latency", "MB"]
    return markdown_table(header, rows) if rows else ""


def round_trips_table(results: Path) -> str:
    """Each method's result, of all families: loaded, in stock `transformers`, in each engine."""
    path = results / "round_trips.json"
    if not path.exists():
        return ""
    found = read_json(path)["found"]
    rows = []
    for method, of_family in sorted(found.items()):
        done = [one for one in of_family.values() if "refused" not in one]
        refusing = [name for name, one in of_family.items() if "refused" in one]
        if done:
            rows.append(
                [
                    method,
                    str(len(done)),
                    ", ".join(refusing) or "–",
                    f"{sum(one['loaded_equal'] for one in done)} of {len(done)}",
                    *(_furthest(done, place) for place in LOADERS),
                ]
            )
    header = ["method", "families", "refused by", "loaded bit for bit"]
    return markdown_table([*header, "`transformers`", "ONNX Runtime", "OpenVINO"], rows)


def _furthest(done: Sequence[Mapping[str, Any]], place: str) -> str:
    """Return the largest difference in shares of the largest logit, and how many were refused."""
    opened = [one for one in done if "refused" not in one[place]]
    refused = len(done) - len(opened)
    if not opened:
        return "refused"
    largest = max(one[place]["max_abs"] / one["max_logit"] for one in opened)
    return f"{largest:.0e} ({refused} refused)" if refused else f"{largest:.0e}"
