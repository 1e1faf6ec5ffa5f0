"""Encoders without attention, for budgets that no transformer meets.

`AutoModel` and `AutoConfig` know them once this is imported.
"""

from transformers import AutoConfig, AutoModel

from bertwright.models.small.config import SmallConfig
from bertwright.models.small.encoder import SmallEncoder

__all__ = ["SmallConfig", "SmallEncoder"]

AutoConfig.register(SmallConfig.model_type, SmallConfig)
AutoModel.register(SmallConfig, SmallEncoder)
