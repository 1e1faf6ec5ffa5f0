"""Word embeddings of two factors: a small table, and a projection to the width of the encoder.

The module is an `nn.Embedding` of the small table, so what is done to the rows of a table
(trimming, resizing, a row for padding) is done to it alike. Where a configuration of `transformers`
can say the shape, the encoder's own modules take the factors; elsewhere the configuration has
`embedding_rank`, and `load_encoder` makes the module before it reads the weights.

Shapes: V pieces, D width of the embeddings, R rank, B batch, L length.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bertwright.errors import CheckpointError, UnsupportedRoleError, UsageError
from bertwright.surgery.factors import factorise

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "FactorisedEmbedding",
    "factorise_embeddings",
    "factorise_to_saved",
    "saved_rank",
    "word_table",
]

KEY = "embedding_rank"
"""In an encoder's configuration."""


class FactorisedEmbedding(nn.Embedding):
    """A table [V, R] whose rows are projected to D."""

    def __init__(self, small: Tensor, projection: Tensor, padding_idx: int | None = None) -> None:
        """Hold the factors.

        Args:
            small: [V, R].
            projection: [R, D].
            padding_idx: a row that is not trained, as `nn.Embedding` has it.
        """
        super().__init__(*small.shape, padding_idx=padding_idx, _weight=small)
        self.projection = _projecting(projection)

    def forward(self, input: Tensor) -> Tensor:
        """Return vectors [B, L, D] for ids [B, L]."""
        return self.projection(super().forward(input))


def _projecting(projection: Tensor) -> nn.Linear:
    """Return the linear map that multiplies by `projection` [R, D]."""
    rank, width = projection.shape
    made = nn.Linear(rank, width, bias=False, device="meta", dtype=projection.dtype)
    made.weight = nn.Parameter(projection.T.contiguous())
    return made


def word_table(encoder: PreTrainedModel) -> Tensor:
    """Return the table [V, D] that the word embeddings amount to; factors are multiplied.

    Raises:
        UnsupportedRoleError: they cannot be told by a table of their own, with the reason.
    """
    words: Any = encoder.get_input_embeddings()
    if encoder.config.model_type == "bart":
        raise UnsupportedRoleError(
            "bart keeps its word embeddings whole: they are scaled, and shared with the decoder "
            "that it is saved with",
            hint="trim its vocabulary instead",
        )
    if type(words) not in (nn.Embedding, FactorisedEmbedding):
        raise UnsupportedRoleError(f"the word embeddings are a {type(words).__name__}, not a table")
    table = words.weight.detach()
    if isinstance(words, FactorisedEmbedding):
        table = table @ words.projection.weight.detach().T
    if _is_stock_form(encoder):
        projection = _deberta_embeddings(encoder).embed_proj
        if projection is not None:
            table = table @ projection.weight.detach().T
    return table


def factorise_embeddings(
    encoder: PreTrainedModel, rank: int, weights: Tensor | None = None
) -> PreTrainedModel:
    """Return a copy of `encoder` whose word embeddings are two factors.

    deberta-v2 that adds neither positions nor token types to its words has a place for a projection
    of its own (`embedding_size`), and what is saved of it loads in stock `transformers`.

    Args:
        encoder: left as it is. Factors that it has already are multiplied first.
        rank: R, 1 to min(V, D); for that deberta-v2 below D.
        weights: of the pieces [V], as for `surgery.factors.factorise`.

    Raises:
        UsageError: the rank or the weights do not fit the table.
        UnsupportedRoleError: the family keeps its table, with the reason.
    """
    copied = copy.deepcopy(encoder)
    small, projection = factorise(word_table(copied), rank, weights)
    padding_idx = _padding_idx(copied)
    if _is_stock_form(copied):
        _put_in_deberta(copied, small, projection, padding_idx)
    else:
        copied.set_input_embeddings(FactorisedEmbedding(small, projection, padding_idx))
        setattr(copied.config, KEY, rank)
    return copied


def _put_in_deberta(
    encoder: PreTrainedModel, small: Tensor, projection: Tensor, padding_idx: int | None
) -> None:
    rank, width = projection.shape
    if rank == width:
        raise UsageError(
            f"deberta-v2 projects its word embeddings only where they are narrower than {width}",
            hint=f"choose a rank below {width}",
        )
    table = nn.Embedding(*small.shape, padding_idx=padding_idx, _weight=small)
    encoder.set_input_embeddings(table)
    embeddings = _deberta_embeddings(encoder)
    embeddings.embed_proj = _projecting(projection)
    embeddings.embedding_size = encoder.config.embedding_size = rank


def _padding_idx(encoder: PreTrainedModel) -> int | None:
    words: Any = encoder.get_input_embeddings()
    return words.padding_idx


def _deberta_embeddings(encoder: PreTrainedModel) -> Any:
    return encoder.get_submodule("embeddings")


def _is_stock_form(encoder: PreTrainedModel) -> bool:
    """Tell whether nothing stands between the word embeddings and a projection of the family."""
    if encoder.config.model_type != "deberta-v2":
        return False
    embeddings = _deberta_embeddings(encoder)
    return embeddings.position_embeddings is None and embeddings.token_type_embeddings is None


def saved_rank(config: PreTrainedConfig) -> Any:
    """Return the rank that a configuration says of its word embeddings; None: they are a table."""
    return getattr(config, KEY, None)


def factorise_to_saved(encoder: PreTrainedModel) -> None:
    """Give a new encoder, in place, word embeddings of the rank that its configuration has.

    Raises:
        CheckpointError: it is no rank.
    """
    rank, words = saved_rank(encoder.config), word_table(encoder)
    if type(rank) is not int or not 1 <= rank <= min(words.shape):
        raise CheckpointError(
            f"{KEY} in config.json is {rank!r}, which is no rank of a table of "
            f"{words.shape[0]} x {words.shape[1]}"
        )
    small, projection = words.new_zeros(len(words), rank), words.new_zeros(rank, words.shape[1])
    module = FactorisedEmbedding(small, projection, _padding_idx(encoder))
    encoder.set_input_embeddings(module)
