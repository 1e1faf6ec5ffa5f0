"""Words whose vectors in an encoder's embedding table are near each other.

Shapes: W words, D width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["near_words", "word_vectors"]

_WORDS_AT_A_TIME = 1024


def near_words(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: list[str],
    *,
    num_near: int = 15,
) -> dict[str, list[str]]:
    """Return the words nearest to each one, of the same list, by the cosine of their vectors.

    Args:
        encoder: its table of word embeddings is read; nothing is run.
        tokenizer: the encoder's.
        words: each once; a word is not its own neighbour.
        num_near: K, fewer where there are fewer words.

    Returns:
        word -> up to K words, the nearest first.
    """
    vectors = F.normalize(word_vectors(encoder, tokenizer, words), dim=1)
    count = min(num_near, len(words) - 1)
    if count < 1:
        return {word: [] for word in words}
    found: dict[str, list[str]] = {}
    for begin in range(0, len(words), _WORDS_AT_A_TIME):
        part = vectors[begin : begin + _WORDS_AT_A_TIME]
        cosines = part @ vectors.T
        rows = torch.arange(len(part))
        cosines[rows, begin + rows] = -torch.inf
        for row, places in enumerate(cosines.topk(count, dim=1).indices.tolist()):
            found[words[begin + row]] = [words[place] for place in places]
    return found


def word_vectors(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> Tensor:
    """Return the mean of the embeddings of each word's pieces, float32 [W, D]; zeros for none."""
    table: Any = encoder.get_input_embeddings()
    pieces: Any = tokenizer(list(words), add_special_tokens=False)["input_ids"] if words else []
    counts = torch.tensor([len(ids) for ids in pieces], dtype=torch.long)
    rows = torch.repeat_interleave(torch.arange(len(words)), counts)
    ids = torch.tensor([id_ for one in pieces for id_ in one], dtype=torch.long)
    with torch.no_grad():
        found = table(ids.to(next(table.parameters()).device)).float().cpu()
    sums = torch.zeros(len(words), found.shape[1]).index_add_(0, rows, found)
    return sums / counts.clamp_min(1)[:, None]
