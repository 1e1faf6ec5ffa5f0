"""Where the speed of a chosen model comes from: one step after the other, from the baseline on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["speed_steps"]

_SHAPE = re.compile(r"(?P<layers>\d+)L(?:-h(?P<heads>\d+))?(?:-f(?P<neurons>\d+))?(?:-e[\d.]+)?")
_ENGINES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "torch"}


def speed_steps(
    chosen: Mapping[str, Any] | None,
    candidates: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any],
    baseline: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return what each step brought, on top of those before it; nothing where that is one alone.

    From the baseline to the teacher in torch, to the engine, to the precision, to the student, to
    its exits. What was not measured between two steps makes them one. `left` and `width` are shares
    of a line from the slowest to the fastest, on a logarithm.

    Args:
        chosen: the chosen candidate.
        candidates: all of them, `method`, `engine` and `precision` among what they have; `whole`
            where one stops early: the name of the model that does not.
        teacher: as measured in torch; `layers` is its depth.
        baseline: what the speed-up is a multiple of.
    """
    if chosen is None or not baseline.get("throughput_texts_s"):
        return []
    engine, precision = chosen.get("engine"), chosen.get("precision")
    of_teacher = {
        (c["engine"], c["precision"]): c for c in candidates if c.get("method") == "teacher"
    }
    way: list[tuple[str, Mapping[str, Any] | None]] = [
        ("Batches of rows of like length", of_teacher.get(("torch", "fp32")))
    ]
    if engine != "torch":
        name = _ENGINES.get(str(engine), str(engine))
        way.append((f"{name} in place of torch", of_teacher.get((engine, "fp32"))))
    if precision != "fp32":
        way.append((f"{precision} in place of fp32", of_teacher.get((engine, precision))))
    under = chosen.get("whole")
    if "teacher" not in (chosen.get("method"), under):
        name = f"{under}@{engine}:{precision}" if under else chosen["name"]
        whole = next((one for one in candidates if one["name"] == name), None)
        way.append((_smaller(chosen, teacher), whole))
    if under:
        way.append(("Stopping early", chosen))
    found: list[tuple[str, Mapping[str, Any]]] = []
    words: list[str] = []
    for what, measured in way:
        words.append(what)
        if measured is not None and measured.get("throughput_texts_s"):
            found.append(("; ".join(words), measured))
            words = []
    if len(found) < 2:
        return []
    return _with_places([("", baseline), *found])


def _smaller(chosen: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Return how a student is smaller than its teacher: `2 of 6 layers, 50% of the heads`."""
    shape = _SHAPE.fullmatch(str(chosen.get("shape", f"{chosen.get('layers')}L")))
    if shape is None:
        return f"A student without attention ({chosen['shape']})"
    parts = [f"{shape['layers']} of {teacher.get('layers', '?')} layers"]
    for what in ("heads", "neurons"):
        if shape[what]:
            parts.append(f"{shape[what]}% of the {what}")
    return ", ".join(parts)


def _with_places(steps: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    logs = [math.log(measured["throughput_texts_s"]) for _, measured in steps]
    low, span = min(logs), max(logs) - min(logs) or 1.0
    rows = []
    for number, (words, measured) in enumerate(steps):
        before = logs[number - 1] if number else logs[0]
        ends = sorted((before, logs[number]))
        rows.append(
            {
                "words": words,
                "rate": measured["throughput_texts_s"],
                "factor": math.exp(logs[number] - before) if number else None,
                "kept": measured.get("kept"),
                "left": (ends[0] - low) / span,
                "width": (ends[1] - ends[0]) / span,
                "slower": logs[number] < before,
            }
        )
    return rows
