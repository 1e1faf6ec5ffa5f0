"""The methods, one file each: what a paper proposes, as a function, a hook and a card."""

from __future__ import annotations

__all__: list[str] = []
