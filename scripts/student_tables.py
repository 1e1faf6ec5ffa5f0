"""Tables of students: by size and by what they learned from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layout import markdown_table, over_seeds

from bertwright.files import read_json

__all__ = ["transfer_table"]

RECIPES = {
    "control": "labels alone (control)",
    "control-3x": "control, 3 times the epochs",
    "soft": "soft targets",
    "soft-3x": "soft targets, 3 times the epochs",
    "hidden": "soft targets, hidden states",
    "relations": "soft targets, relations",
    "theseus": "Theseus",
    "layer-drop": "LayerDrop, then cut",
    "gradual": "soft targets, pruned gradually",
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
}


def transfer_table(results: Path) -> str:
    """One table a set: test accuracy by what a student learned from and by its size."""
    parts = []
    for folder in sorted((results / "transfer").glob("*")):
        found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        for path in sorted(folder.glob("*-s*.json")):
            run = read_json(path)
            if "recipe" in run:
                found.setdefault(run["recipe"], {}).setdefault(run["size"], []).append(run)
        sizes = [size for size in SIZES if any(size in of_size for of_size in found.values())]
        rows = [
            [
                words,
                *(
                    over_seeds([one["test"]["score"] for one in found[recipe].get(size, ())])
                    for size in sizes
                ),
            ]
            for recipe, words in RECIPES.items()
            if recipe in found
        ]
        if rows:
            teacher = read_json(folder / "teacher-s0.json")["test"]["score"]
            header = ["learned from", *(SIZES[size] for size in sizes)]
            title = f"**{folder.name}**, accuracy on test; the teacher has {100 * teacher:.1f}"
            parts.append(f"{title}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)
