"""Frontiers that no search made: for looking at the report and for testing it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def make_frontier(*, met: bool = True, seed: int = 0, keep: float = 0.98) -> dict[str, Any]:
    """Return a frontier of 3 methods x 3 depths x 4 engines, with plausible figures."""
    generator = np.random.default_rng(seed)
    teacher_score = 0.874
    rates = {("torch", "fp32"): 1.5, ("onnxruntime", "int8"): 3.2, ("openvino", "bf16"): 2.6}
    rates |= {("openvino", "int8"): 4.9}
    loss = {"theseus": 0.006, "distil": 0.004, "control": 0.02}

    def evaluated(score: float, rate: float, engine: str, precision: str, size: float) -> dict:
        half = 1.96 * math.sqrt(score * (1 - score) / 872)
        return {
            "task": "classify",
            "num_rows": 872,
            "metrics": {"accuracy": score, "macro_f1": score - 0.003, "mcc": 2 * score - 1},
            "primary": "accuracy",
            "score": score,
            "score_low": score - half,
            "score_high": score + half,
            "engine": engine,
            "precision": precision,
            "throughput_texts_s": rate,
            "throughput_tokens_s": rate * 23,
            "latency_p50_ms": 1900 / rate,
            "latency_p95_ms": 3100 / rate,
            "size_mb": size,
            "peak_memory_mb": 420 + size * 2,
        }

    candidates = []
    for method, drop in loss.items():
        for layers in (3, 2, 1):
            base = teacher_score - drop * (1 + (4 - layers) ** 2 / 2)
            for (engine, precision), factor in rates.items():
                score = base + generator.normal(0, 0.002) - (0.002 if precision == "int8" else 0)
                rate = 370 * factor * (6 / layers) ** 0.85 * generator.uniform(0.95, 1.05)
                size = (12 + layers * 1.8) * (4 if precision != "int8" else 1.1)
                tail = f"{engine}-{precision}"
                candidates.append(
                    {
                        **evaluated(score, rate, engine, precision, size),
                        "name": f"{method}-{layers}L-{tail}",
                        "method": method,
                        "layers": layers,
                        "parameters": 12_000_000 + layers * 1_774_464,
                        "kept": score / teacher_score,
                        "kept_low": score / teacher_score - 0.011,
                        "kept_high": score / teacher_score + 0.011,
                        "speedup": rate / 370,
                        "seed": 0,
                        "p_value": float(generator.uniform(0.001, 1)),
                    }
                )
    budget = {"keep": keep, "min_speedup": 6.0, "max_latency_ms": None, "max_size_mb": 40.0}
    good = [c for c in candidates if c["kept"] >= keep and c["size_mb"] <= 40]
    chosen = max(good or candidates, key=lambda c: c["throughput_texts_s"])
    frontier: dict[str, Any] = {
        "budget": budget,
        "machine": {
            "processor": "AMD EPYC",
            "features": ["avx2", "avx512f", "avx512_vnni"],
            "cores": 2,
            "memory_gb": 24.6,
        },
        "versions": {"python": "3.11.2", "torch": "2.13.0", "openvino": "2026.4.1"},
        "command": "bertwright compress --model runs/sst2 --data train.jsonl --keep 0.98",
        "teacher": {
            **evaluated(teacher_score, 560, "torch", "fp32", 91.3),
            "name": "teacher",
            "layers": 6,
            "parameters": 22_700_000,
        },
        "baseline": evaluated(teacher_score, 370, "transformers", "fp32", 91.1),
        "candidates": candidates,
        "chosen": chosen["name"],
        "reason": f"7 of 36 candidates meet the budget; {chosen['name']} is the fastest of them.",
        "met": met,
        "dropped": {"theseus-1L-s1": "at half of its training 71.2% on 300 dev rows"},
    }
    if not met:
        nearest = max(candidates, key=lambda c: c["kept"])
        nearest["size_mb"] = 44.0
        frontier["chosen"] = nearest["name"]
        frontier["budget"] = {"keep": 0.999, "min_speedup": 20.0, "max_size_mb": 40.0}
        frontier["reason"] = "No candidate meets the budget; this one comes nearest."
        frontier["failed_constraints"] = [
            {"constraint": name, "limit": limit, "value": value, "excess": abs(value / limit - 1)}
            for name, limit, value in (
                ("keep", 0.999, nearest["kept"]),
                ("min_speedup", 20.0, nearest["speedup"]),
                ("max_size_mb", 40.0, nearest["size_mb"]),
            )
        ]
    return frontier


def make_extras(num_labels: int, *, seed: int = 0) -> dict[str, Any]:
    """Return curves, confusion and disagreements for a task of so many labels."""
    generator = np.random.default_rng(seed)
    if num_labels == 2:
        labels = ["negative", "positive"]
    else:
        labels = [f"{'card bank trip food'.split()[i % 4]}_intent_{i}" for i in range(num_labels)]
    per_label = max(12, 872 // num_labels)

    def confusion(accuracy: float) -> list[list[int]]:
        counts = np.zeros((num_labels, num_labels), dtype=int)
        for label in range(num_labels):
            wrong = generator.binomial(per_label, 1 - accuracy)
            counts[label, label] = per_label - wrong
            others = [(label + step) % num_labels for step in (1, 4, 9) if step % num_labels]
            for other in generator.choice(others, size=wrong):
                counts[label, other] += 1
        return counts.tolist()

    curves = {}
    for name, end, epochs in [("teacher", 0.874, 3)] + [
        (f"{m}-{d}L", 0.874 - 0.008 * (4 - d) - 0.01 * (m == "control"), 5)
        for m in ("theseus", "distil", "control")
        for d in (3, 2, 1)
    ]:
        rows = []
        for step in range(1, 41):
            epoch = epochs * step / 40
            row = {"step": step * 50, "epoch": epoch, "lr": 1e-4, "tokens_per_s": 9000.0}
            row["loss"] = 0.2 + 0.6 * math.exp(-epoch) + float(generator.normal(0, 0.01))
            if step % 4 == 0:
                row["eval_accuracy"] = end - 0.2 * math.exp(-1.5 * epoch)
            rows.append(row)
        curves[name] = rows
    rows = []
    for number in range(60):
        label, wrong = labels[number % num_labels], labels[(number + 1) % num_labels]
        kind = number % 5
        rows.append(
            {
                "text": f"row {number}: a film with <b>some</b> & charm, though it never quite "
                + "makes up its mind whether to be funny or sad, " * (1 + number % 3),
                "label": label,
                "teacher": wrong if kind == 3 else label,
                "chosen": label if kind == 3 else wrong,
                "teacher_score": 0.5 + 0.008 * (number % 50),
                "chosen_score": 0.5 + 0.006 * (number % 50),
            }
        )
    return {
        "curves": curves,
        "confusion": {"labels": labels, "teacher": confusion(0.87), "chosen": confusion(0.85)},
        "disagreements": rows,
        "data": {"training rows": "6,920", "evaluation rows": "872 (dev.tsv)"},
        "notes": ["Half-trained students were scored on 300 dev rows first."],
    }
