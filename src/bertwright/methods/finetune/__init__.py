"""Fine-tuning: what changes how an encoder is trained on labels."""

from __future__ import annotations

__all__: list[str] = []
