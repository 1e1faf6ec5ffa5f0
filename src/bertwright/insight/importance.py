"""Which heads, layers and neurons matter, as shades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["importance_view"]


def importance_view(importance: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return shares of the largest figure of each kind, layer by layer from the first.

    Args:
        importance: `layers` [K], and where the family has them `heads` [K][N] and `neurons` [K],
            the mean over the neurons of a layer.
    """
    if not importance or not importance.get("layers"):
        return None
    heads: Sequence[Sequence[float]] = importance.get("heads") or ()
    most = max((value for layer in heads for value in layer), default=0.0)
    columns = {
        name: _shares(importance[name]) for name in ("layers", "neurons") if importance.get(name)
    }
    return {
        "columns": list(columns),
        "num_heads": max(map(len, heads), default=0),
        "rows": [
            {
                "layer": number + 1,
                "columns": [values[number] for values in columns.values()],
                "heads": [value / most if most else 0.0 for value in heads[number]]
                if heads
                else [],
            }
            for number in range(len(importance["layers"]))
        ],
    }


def _shares(values: Sequence[float]) -> list[float]:
    most = max(values)
    return [value / most if most else 0.0 for value in values]
