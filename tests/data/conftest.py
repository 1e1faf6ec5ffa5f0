from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from tiny import tiny_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer("bert")
