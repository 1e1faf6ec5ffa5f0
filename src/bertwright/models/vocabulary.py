"""Models with a smaller vocabulary: rows of the embedding table, and the tokenizer to match."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bertwright.errors import ModelLoadError, UnsupportedRoleError, UsageError
from bertwright.models.build import copy_around
from bertwright.models.encoder import load_tokenizer
from bertwright.models.pooling import WordWeights
from bertwright.models.roles import get_roles
from bertwright.models.small import SmallConfig
from bertwright.models.task_model import TaskModel
from bertwright.surgery.kept import check_kept
from bertwright.surgery.vocabulary import keep_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "copy_with_pieces",
    "copy_with_vocabulary",
    "ids_of_pieces",
    "keep_embeddings",
    "tokenizer_facts",
]


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Return what a fast tokenizer writes in its `tokenizer.json`.

    Raises:
        ModelLoadError: there is no tokenizer, or it is not a fast one.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelLoadError(
            "the model has no fast tokenizer, so its vocabulary cannot be trimmed",
            hint="put tokenizer.json beside the model",
        )
    return json.loads(backend.to_str())


def copy_with_pieces(model: TaskModel, kept: Sequence[int]) -> TaskModel:
    """Return a copy of the model that knows only these pieces, numbered anew in their order.

    Texts that used no other piece get the same scores, bit for bit: the rows of their pieces are
    the same, and so is all else.

    Args:
        model: left as it is.
        kept: ids of pieces, increasing, as `surgery.vocabulary.with_needed_pieces` gives them.

    Raises:
        UsageError: the ids are out of range or not increasing.
        UnsupportedRoleError: the family counts positions from the padding's id, and that one would
            change.
    """
    encoder = copy.deepcopy(model.encoder)
    keep_embeddings(encoder, kept)
    tokenizer = _trimmed(model.tokenizer, kept)
    copied = copy_around(model, encoder, model.config, model.surgery.then_keep_pieces(kept))
    copied.tokenizer = tokenizer
    if isinstance(copied.pooling, WordWeights) and isinstance(model.pooling, WordWeights):
        copied.pooling.weights.copy_(model.pooling.weights[list(kept)])
    return copied


def ids_of_pieces(
    tokenizer: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase
) -> list[int] | None:
    """Return the ids that another tokenizer's pieces have in this one, in their order.

    None where they are not in it, or in another order: then the other was not trimmed from it.
    """
    own, wanted = tokenizer.get_vocab(), trimmed.get_vocab()
    ids = [own.get(piece, -1) for piece in sorted(wanted, key=wanted.__getitem__)]
    return ids if -1 not in ids and ids == sorted(ids) else None


def copy_with_vocabulary(model: TaskModel, trimmed: PreTrainedTokenizerBase) -> TaskModel:
    """Return a copy of the model that reads with a tokenizer that was trimmed from its own.

    Raises:
        UsageError: it was not trimmed from the model's.
        ModelLoadError, UnsupportedRoleError: as `copy_with_pieces`.
    """
    assert model.tokenizer is not None
    ids = ids_of_pieces(model.tokenizer, trimmed)
    if ids is None:
        raise UsageError(
            "the vocabulary is not a part of that of "
            f"{model.lineage.get('base_model', 'the encoder')}",
            hint="give a model that was made from this encoder, trimmed or not",
        )
    return copy_with_pieces(model, ids)


def keep_embeddings(encoder: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave only these rows of the word embeddings, in place; the configuration says so.

    Raises:
        UsageError, UnsupportedRoleError: as `copy_with_pieces`.
    """
    words: Any = encoder.get_input_embeddings()
    chosen = check_kept(kept, words.num_embeddings, "piece")
    new_ids = {old: new for new, old in enumerate(chosen)}
    config = encoder.config
    padding = config.pad_token_id
    if get_roles(encoder).record.position_offset and new_ids.get(padding) != padding:
        raise UnsupportedRoleError(
            f"{config.model_type} counts positions from the id of its padding, {padding}, so that "
            "one has to stay",
            hint="keep all pieces below it",
        )
    words.weight = nn.Parameter(words.weight.detach()[torch.as_tensor(chosen)].clone())
    words.num_embeddings = len(chosen)
    if words.padding_idx is not None:
        words.padding_idx = new_ids.get(words.padding_idx)
    if config.model_type == SmallConfig.model_type:
        small: Any = encoder
        small.embeddings.keep_numbers(chosen)
    config.vocab_size = len(chosen)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new_ids.get(value))


def _trimmed(
    tokenizer: PreTrainedTokenizerBase | None, kept: Sequence[int]
) -> PreTrainedTokenizerBase:
    facts = keep_pieces(tokenizer_facts(tokenizer), kept)
    assert tokenizer is not None
    new_ids = {str(old): str(new) for new, old in enumerate(kept)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name not in ("tokenizer.json", "tokenizer_config.json"):
                file.unlink()
        _write(folder / "tokenizer.json", facts)
        options = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        added = options.get("added_tokens_decoder")
        if added:
            options["added_tokens_decoder"] = {new_ids[old]: one for old, one in added.items()}
        _write(folder / "tokenizer_config.json", options)
        trimmed = load_tokenizer(folder)
    assert trimmed is not None
    for name in ("vocab_file", "merges_file", "name_or_path"):
        trimmed.init_kwargs.pop(name, None)
    return trimmed


def _write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
