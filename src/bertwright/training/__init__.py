"""The training loop, its hooks, and what they stand on.

Import from the modules: `training.config` alone is light, the others need torch.
"""

from __future__ import annotations

__all__: list[str] = []
