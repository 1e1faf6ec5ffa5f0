"""What the page shows of the answers: what is taken for what, and where two models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["confusion_view", "disagreement_view"]

MAX_MATRIX_LABELS = 12
"""With more labels a confusion matrix cannot be read; the most confused pairs are shown then."""
MAX_PAIRS = 15
MAX_LABEL_CHANGES = 10
MAX_DISAGREEMENTS = 40
"""Rows shown of each kind of disagreement."""


def confusion_view(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page shows of confusion counts: matrices, or with many labels pairs."""
    if not confusion:
        return None
    labels = [str(label) for label in confusion["labels"]]
    teacher, chosen = confusion["teacher"], confusion["chosen"]
    if len(labels) <= MAX_MATRIX_LABELS:
        sides = [("Teacher", teacher), ("Chosen model", chosen)]
        return {
            "labels": labels,
            "matrices": [
                {"title": title, "rows": [_shaded_row(i, row) for i, row in enumerate(counts)]}
                for title, counts in sides
            ],
        }
    size = range(len(labels))
    pairs = [
        {
            "label": labels[i],
            "predicted": labels[j],
            "teacher": teacher[i][j],
            "chosen": chosen[i][j],
        }
        for i in size
        for j in size
        if i != j and (teacher[i][j] or chosen[i][j])
    ]
    pairs.sort(key=lambda p: (-max(p["teacher"], p["chosen"]), -p["chosen"], p["label"]))
    changes = [
        {
            "label": labels[i],
            "rows": sum(teacher[i]),
            "teacher": teacher[i][i],
            "chosen": chosen[i][i],
        }
        for i in size
        if teacher[i][i] != chosen[i][i]
    ]
    changes.sort(key=lambda c: (c["chosen"] - c["teacher"], c["label"]))
    most = max((max(p["teacher"], p["chosen"]) for p in pairs), default=1)
    return {
        "labels": labels,
        "matrices": None,
        "pairs": pairs[:MAX_PAIRS],
        "num_pairs": len(pairs),
        "most": most,
        "losses": [c for c in changes if c["chosen"] < c["teacher"]][:MAX_LABEL_CHANGES],
        "num_losses": sum(c["chosen"] < c["teacher"] for c in changes),
        "num_gains": sum(c["chosen"] > c["teacher"] for c in changes),
    }


def _shaded_row(index: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    total = sum(counts) or 1
    return [
        {"count": count, "share": count / total, "right": column == index}
        for column, count in enumerate(counts)
    ]


def disagreement_view(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """Return rows with other answers, grouped by who is right; numbers by how far apart."""
    if rows is None:
        return None
    kinds: dict[str, list[dict[str, Any]]] = {"lost": [], "gained": [], "both": [], "far": []}
    for row in rows:
        right_t, right_c = row["teacher"] == row["label"], row["chosen"] == row["label"]
        kind = "far" if "gap" in row else "lost" if right_t else "gained" if right_c else "both"
        kinds[kind].append({"text_b": None, "teacher_score": None, "chosen_score": None, **row})
    titles = {
        "lost": "The teacher was right, the chosen model is wrong",
        "gained": "The chosen model is right, the teacher was wrong",
        "both": "Both are wrong, in different ways",
        "far": "The farthest apart come first",
    }
    groups = [
        {
            "title": titles[kind],
            "count": len(found),
            "rows": found[:MAX_DISAGREEMENTS],
            "judged": kind != "far",
        }
        for kind, found in kinds.items()
        if found
    ]
    return {"count": len(rows), "groups": groups}
