"""Encoders without attention, for budgets that no transformer meets.

`AutoConfig` knows them from here, `AutoModel` when `models/encoder.py` loads one: importing
`models/small/encoder.py` takes seconds, so it is left to whoever makes or loads one.
"""

from bertwright.models.small.config import SmallConfig

__all__ = ["SmallConfig"]
