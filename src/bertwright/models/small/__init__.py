"""Encoders without attention, for budgets that no transformer meets.

`AutoConfig` knows them from here, `AutoModel` from `models/small/encoder.py`: importing that takes
seconds, so it is left to whoever makes or loads one.
"""

from bertwright.models.small.config import SmallConfig

__all__ = ["SmallConfig"]
