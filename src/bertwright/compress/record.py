"""What a search writes down: the candidates, the teacher, and what the report shows of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.compress.artifacts import CompiledModel
from bertwright.compress.students import TrainedStudent
from bertwright.data.rows import Rows
from bertwright.evaluate.evaluate import Scores, confusion_counts, evaluation_record
from bertwright.evaluate.measure import Measurement

__all__ = ["BASELINE", "TEACHER", "candidate_record", "report_extras", "test_record"]

TEACHER = "teacher"
BASELINE = "pipeline"
NUM_BINS = 10
"""Of sureness."""


def candidate_record(
    compiled: CompiledModel, measured: Measurement, speedup: float, reference: Scores
) -> dict[str, Any]:
    """Return a candidate as frontier.json has it; kept is a share of the reference's score."""
    judged = compiled.scores.judged
    kept = judged.kept_of(reference.judged)
    test, p_value = judged.significance_against(reference.judged)
    return {
        "name": compiled.name,
        "method": compiled.method,
        "shape": compiled.shape,
        "layers": compiled.layers,
        "seed": compiled.seed,
        "parameters": compiled.parameters,
        **({"whole": compiled.whole} if compiled.whole else {}),
        **evaluation_record(compiled.scores, measured),
        "kept": kept.score,
        "kept_low": kept.low,
        "kept_high": kept.high,
        "p_value": p_value,
        "p_test": test,
        "speedup": speedup,
    }


def test_record(scores: Scores, reference: Scores | None = None) -> dict[str, Any]:
    """Return what frontier.json has of scores on the rows that judge, as a share of a reference."""
    facts = {
        "test_score": scores.score,
        "test_score_low": scores.interval.low,
        "test_score_high": scores.interval.high,
        "test_metrics": dict(scores.metrics),
        "test_num_rows": len(scores),
    }
    if reference is None:
        return facts
    kept = scores.judged.kept_of(reference.judged)
    return {
        **facts,
        "test_kept": kept.score,
        "test_kept_low": kept.low,
        "test_kept_high": kept.high,
        "test_p_value": scores.judged.significance_against(reference.judged)[1],
    }


def report_extras(
    rows: Rows,
    reference: Scores,
    chosen: Scores,
    students: Sequence[TrainedStudent],
    teacher_dir: Path,
) -> dict[str, Any]:
    """Return what the report shows and frontier.json leaves out.

    Training curves by student; of the teacher and the chosen model confusion counts, how often they
    are right by how sure they are, and the rows on which they differ.

    Args:
        rows: that were answered.
        reference: the teacher's scores on them.
        chosen: the chosen model's.
        students: of the search.
        teacher_dir: its run's curve is beside it.
    """
    curves = {s.plan.name: _read_curve(s.metrics_file) for s in students}
    teacher_curve = teacher_dir.parent / "metrics.jsonl"
    if teacher_curve.exists():
        curves = {TEACHER: _read_curve(teacher_curve), **curves}
    return {
        "curves": curves,
        "confusion": _confusion(reference, chosen),
        "calibration": _calibration(reference, chosen),
        "disagreements": _disagreements(rows, reference, chosen),
    }


def _read_curve(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _confusion(reference: Scores, chosen: Scores) -> dict[str, Any] | None:
    """Return counts [C,C] of true and given labels of both; None where answers are not labels."""
    names = reference.label_names
    ids = {name: index for index, name in enumerate(names)}
    if not names or not all(words in ids for words in (*reference.truths, *reference.answers)):
        return None

    def counts(scores: Scores) -> list[list[int]]:
        truths, answers = (
            np.array([ids[words] for words in column]) for column in (scores.truths, scores.answers)
        )
        return confusion_counts(truths, answers, len(names)).tolist()

    return {"labels": list(names), "teacher": counts(reference), "chosen": counts(chosen)}


def _calibration(reference: Scores, chosen: Scores) -> dict[str, list[dict[str, float]]] | None:
    """Return mean sureness, share right and rows, by tenths of sureness; None without any."""
    found = {}
    for name, scores in (("teacher", reference), ("chosen", chosen)):
        sure = np.array([np.nan if one is None else one for one in scores.sureness])
        if not set(scores.truths) <= set(scores.label_names) or np.isnan(sure).any():
            return None
        right = np.array(scores.answers) == np.array(scores.truths)
        tenths = np.minimum((sure * NUM_BINS).astype(int), NUM_BINS - 1)
        found[name] = [
            {
                "sure": float(sure[tenths == one].mean()),
                "right": float(right[tenths == one].mean()),
                "rows": int((tenths == one).sum()),
            }
            for one in np.unique(tenths)
        ]
    return found


def _disagreements(judging: Rows, reference: Scores, chosen: Scores) -> list[dict[str, Any]]:
    """Return the rows on which the teacher and the chosen model give different answers.

    Where answers are numbers, each has the `gap` between them, and the widest come first.
    """
    pairs = zip(reference.answers, chosen.answers, strict=True)
    rows = [row for row, (theirs, own) in enumerate(pairs) if theirs != own]
    part = judging.select(rows)
    shown = part.columns(reference.judged.task.shown)
    texts, texts_b = next(iter(shown.values())), shown.get("text_b")
    found = []
    for place, row in enumerate(rows):
        entry = {
            "text": texts[place],
            "label": reference.truths[row],
            "teacher": reference.answers[row],
            "chosen": chosen.answers[row],
            "teacher_score": reference.sureness[row],
            "chosen_score": chosen.sureness[row],
        }
        if texts_b is not None:
            entry["text_b"] = texts_b[place]
        found.append(entry)
    if reference.judged.task.answers_numbers:
        for entry in found:
            entry["gap"] = abs(float(entry["teacher"]) - float(entry["chosen"]))
        found.sort(key=lambda entry: -entry["gap"])
    return found
