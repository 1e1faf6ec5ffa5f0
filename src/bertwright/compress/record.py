"""What a search writes down: the candidates, the teacher, and what the report shows of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.compress.artifacts import CompiledModel
from bertwright.compress.students import TrainedStudent
from bertwright.data.sources import Rows
from bertwright.evaluate.evaluate import Scores, confusion_counts, evaluation_record
from bertwright.evaluate.measure import Measurement
from bertwright.evaluate.significance import kept_interval, mcnemar_exact

__all__ = ["BASELINE", "TEACHER", "candidate_record", "report_extras", "test_record"]

TEACHER = "teacher"
BASELINE = "pipeline"


def candidate_record(
    compiled: CompiledModel, measured: Measurement, speedup: float, reference: Scores
) -> dict[str, Any]:
    """Return a candidate as frontier.json has it; kept is a share of the reference's score."""
    kept = kept_interval(compiled.scores.correct, reference.correct)
    return {
        "name": compiled.name,
        "method": compiled.method,
        "layers": compiled.layers,
        "seed": compiled.seed,
        "parameters": compiled.parameters,
        **evaluation_record(compiled.scores, measured),
        "kept": kept.score,
        "kept_low": kept.low,
        "kept_high": kept.high,
        "p_value": mcnemar_exact(compiled.scores.correct, reference.correct).p,
        "speedup": speedup,
    }


def test_record(scores: Scores, reference: Scores) -> dict[str, Any]:
    """Return what frontier.json has of a candidate's scores on the test rows."""
    kept = kept_interval(scores.correct, reference.correct)
    return {
        "test_score": scores.score,
        "test_score_low": scores.interval.low,
        "test_score_high": scores.interval.high,
        "test_metrics": dict(scores.metrics),
        "test_num_rows": len(scores.labels),
        "test_kept": kept.score,
        "test_kept_low": kept.low,
        "test_kept_high": kept.high,
        "test_p_value": mcnemar_exact(scores.correct, reference.correct).p,
    }


def report_extras(
    dev: Rows,
    reference: Scores,
    chosen: CompiledModel,
    students: Sequence[TrainedStudent],
    teacher_dir: Path,
) -> dict[str, Any]:
    """Return what the report shows and frontier.json leaves out.

    Training curves by student, confusion counts of the teacher and the chosen model, and the dev
    rows on which these two differ.
    """
    names = reference.label_names
    curves = {s.plan.name: _read_curve(s.metrics_file) for s in students}
    teacher_curve = teacher_dir.parent / "metrics.jsonl"
    if teacher_curve.exists():
        curves = {TEACHER: _read_curve(teacher_curve), **curves}
    return {
        "curves": curves,
        "confusion": {
            "labels": list(names),
            "teacher": confusion_counts(
                reference.labels, reference.predictions, len(names)
            ).tolist(),
            "chosen": confusion_counts(
                chosen.scores.labels, chosen.scores.predictions, len(names)
            ).tolist(),
        },
        "disagreements": _disagreements(dev, reference, chosen.scores),
    }


def _read_curve(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _disagreements(dev: Rows, reference: Scores, chosen: Scores) -> list[dict[str, Any]]:
    """Return the dev rows on which the teacher and the chosen model give different labels."""
    names = reference.label_names
    rows = np.flatnonzero(reference.predictions != chosen.predictions)
    sure_t, sure_s = _confidence(reference.logits), _confidence(chosen.logits)
    part = dev.select(rows)
    texts, texts_b = part.texts(), part.texts_b()
    found = []
    for place, row in enumerate(rows.tolist()):
        entry = {
            "text": texts[place],
            "label": names[int(reference.labels[row])],
            "teacher": names[int(reference.predictions[row])],
            "chosen": names[int(chosen.predictions[row])],
            "teacher_score": float(sure_t[row]),
            "chosen_score": float(sure_s[row]),
        }
        if texts_b is not None:
            entry["text_b"] = texts_b[place]
        found.append(entry)
    return found


def _confidence(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted.max(axis=-1) / shifted.sum(axis=-1)
