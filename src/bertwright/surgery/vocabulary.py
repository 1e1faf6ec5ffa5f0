"""Smaller vocabularies: a tokenizer's file with only some of its pieces.

What is done here is done to the JSON of a fast tokenizer (`tokenizer.json`), for the three models
that encoders have: WordPiece (the longest piece first), BPE (merges in their order) and Unigram
(the likeliest sequence). In each, a piece that no word of a corpus came to is one that none of its
words can miss: the longest match, the merges applied and the best path stay what they were.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from bertwright.errors import UnsupportedRoleError

__all__ = ["keep_pieces", "pieces_by_id", "with_needed_pieces"]

_BYTE_PIECE = 6
"""Characters of `<0x0A>`, the pieces that stand for bytes."""


def pieces_by_id(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Return every piece by its id, those that were added to the model's own among them.

    Raises:
        UnsupportedRoleError: the tokenizer is none of the three kinds.
    """
    model = tokenizer["model"]
    if model.get("type") not in ("WordPiece", "BPE", "Unigram"):
        raise UnsupportedRoleError(
            f"the vocabulary of a {model.get('type')} tokenizer cannot be trimmed",
            hint="WordPiece, BPE and Unigram can",
        )
    if model["type"] == "Unigram":
        found = {index: piece for index, (piece, _) in enumerate(model["vocab"])}
    else:
        found = {index: piece for piece, index in model["vocab"].items()}
    return found | {added["id"]: added["content"] for added in tokenizer["added_tokens"]}


def with_needed_pieces(
    tokenizer: Mapping[str, Any],
    used: Iterable[int],
    *,
    characters: bool = True,
    at_least: int = 0,
) -> list[int]:
    """Return the ids that have to stay so that texts which use `used` are split as before.

    These are the pieces used, those that were added (special ones), the unknown one, what BPE
    merges on the way to a piece that is used, and what Unigram takes the price of an unknown
    character from. With `characters` also every piece of a single character or byte: then a word
    that could be written in pieces before still can, in more of them. Where these are fewer than
    `at_least`, they are filled up by the lowest ids: trainers number pieces by frequency.

    Returns:
        Ids, increasing.
    """
    model, pieces = tokenizer["model"], pieces_by_id(tokenizer)
    kept = {int(index) for index in used} | {added["id"] for added in tokenizer["added_tokens"]}
    kept |= _added_by(tokenizer.get("post_processor") or {})
    ids = {piece: index for index, piece in pieces.items()}
    unknown = model.get("unk_token")
    if unknown is not None and unknown in ids:
        kept.add(ids[unknown])
    if model["type"] == "Unigram":
        if model.get("unk_id") is not None:
            kept.add(model["unk_id"])
        kept.add(min(range(len(model["vocab"])), key=lambda index: model["vocab"][index][1]))
    if characters:
        prefix = model.get("continuing_subword_prefix") or ""
        kept |= {index for index, piece in pieces.items() if _is_single(piece, prefix)}
    others = sorted(set(pieces) - kept)
    kept |= set(others[: max(at_least - len(kept), 0)])
    if model["type"] == "BPE":
        kept |= _merged_on_the_way(model, [pieces[index] for index in kept], ids)
    return sorted(kept)


def _added_by(processor: Mapping[str, Any]) -> set[int]:
    """Return the pieces that a post-processor may add to a text."""
    found: set[int] = set()
    for inner in processor.get("processors", ()):
        found |= _added_by(inner)
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            found.add(processor[name][1])
    specials = processor.get("special_tokens")
    if isinstance(specials, dict):
        found |= {index for special in specials.values() for index in special["ids"]}
    return found


def _is_single(piece: str, prefix: str) -> bool:
    if len(piece) == _BYTE_PIECE and piece.startswith("<0x") and piece.endswith(">"):
        return True
    return len(piece.removeprefix(prefix) if prefix else piece) == 1


def _merged_on_the_way(
    model: Mapping[str, Any], pieces: Iterable[str], ids: Mapping[str, int]
) -> set[int]:
    """Return all that BPE makes while it builds these pieces out of characters."""
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise UnsupportedRoleError(f"a BPE vocabulary with a {option} cannot be trimmed")
    ranks = {pair: rank for rank, pair in enumerate(map(_pair, model["merges"]))}
    found: set[int] = set()
    for piece in pieces:
        parts = list(piece)
        while True:
            found |= {ids[part] for part in parts if part in ids}
            best = min(
                ((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts))),
                default=(len(ranks), 0),
            )
            if best[0] == len(ranks):
                break
            place = best[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return found


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def keep_pieces(tokenizer: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the tokenizer with these pieces alone, numbered anew in their order.

    Args:
        tokenizer: the JSON of a fast tokenizer; left as it is.
        kept: ids, increasing, as `with_needed_pieces` gives them.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    trimmed = copy.deepcopy(dict(tokenizer))
    model = trimmed["model"]
    if model["type"] == "Unigram":
        own = len(model["vocab"])
        model["vocab"] = [model["vocab"][old] for old in kept if old < own]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {
            piece: new_ids[old] for piece, old in model["vocab"].items() if old in new_ids
        }
    if model["type"] == "BPE":
        words = model["vocab"]
        model["merges"] = [
            merge
            for merge in model["merges"]
            if all(part in words for part in (*_pair(merge), "".join(_pair(merge))))
        ]
    trimmed["added_tokens"] = [
        {**added, "id": new_ids[added["id"]]} for added in trimmed["added_tokens"]
    ]
    if trimmed.get("padding"):
        trimmed["padding"]["pad_id"] = new_ids[trimmed["padding"]["pad_id"]]
    if trimmed.get("post_processor"):
        _renumber(trimmed["post_processor"], new_ids)
    return trimmed


def _renumber(processor: dict[str, Any], new_ids: Mapping[int, int]) -> None:
    """Give the special tokens that a post-processor adds their new ids, in place."""
    for inner in processor.get("processors", ()):
        _renumber(inner, new_ids)
    for name in ("sep", "cls"):  # of BertProcessing and RobertaProcessing: [piece, id]
        if isinstance(processor.get(name), list):
            processor[name][1] = new_ids[processor[name][1]]
    specials = processor.get("special_tokens")
    if isinstance(specials, dict):  # of TemplateProcessing
        for special in specials.values():
            special["ids"] = [new_ids[old] for old in special["ids"]]
