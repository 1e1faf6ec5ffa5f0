"""The command line: parse, call, print. No logic lives here."""

from __future__ import annotations

__all__: list[str] = []
