"""Encoders without attention, for budgets that no transformer meets.

`models/encoder.py` makes them known to `AutoConfig` and `AutoModel`.
"""

from bertwright.models.small.config import SmallConfig
from bertwright.models.small.encoder import SmallEncoder

__all__ = ["SmallConfig", "SmallEncoder"]
