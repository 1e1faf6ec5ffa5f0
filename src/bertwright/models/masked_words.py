"""Words that a masked language model would write in the place of a text's words.

Shapes: K choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from bertwright.errors import ModelLoadError
from bertwright.models.encoder import load_tokenizer, quiet_transformers, resolve_source

__all__ = ["MaskedWords"]

_COPIES_AT_A_TIME = 64


class MaskedWords:
    """A masked language model, asked for the words that fit in the place of one."""

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 128
    ) -> None:
        """Wrap a model with a head for masked tokens, and its tokenizer.

        Raises:
            ModelLoadError: the tokenizer has no mask.
        """
        if not isinstance(tokenizer.mask_token, str):
            raise ModelLoadError("the tokenizer has no token for a mask")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.mask = tokenizer.mask_token
        self.max_length = max_length
        self.words = {id_: piece for piece, id_ in tokenizer.get_vocab().items() if piece.isalnum()}
        """Pieces that are words by themselves, by id."""

    @classmethod
    def load(cls, source: str) -> MaskedWords:
        """Load a Hub name or a folder whose checkpoint has the head.

        Raises:
            ModelLoadError: there is none, or it lacks the head.
        """
        where = resolve_source(source)
        tokenizer = load_tokenizer(where)
        try:
            with quiet_transformers():
                model, info = AutoModelForMaskedLM.from_pretrained(
                    where,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelLoadError(f"cannot load {source!r} to fill in words: {reason}") from error
        missing = sorted(info["missing_keys"])
        if missing or tokenizer is None:
            lacks = f"the weight {missing[0]!r}" if missing else "a tokenizer"
            raise ModelLoadError(
                f"{source} cannot fill in words: it lacks {lacks}",
                hint="name a checkpoint with its head for masked tokens, or leave words=near",
            )
        return cls(model, tokenizer)

    def choices(self, words: Sequence[str], num_choices: int = 15) -> dict[str, list[str]]:
        """Return the words that fit in the place of each word of a text, the likeliest first.

        Only words that are one piece are asked for, each where it stands last; the others are left
        out, as are words beyond the model's length.

        Args:
            words: those of the text.
            num_choices: K, the likeliest of the vocabulary that are asked; those among them that
                are no whole word, and the word itself, are left out.
        """
        lowered = [word.lower() for word in words]
        places = self._places(lowered)
        found: dict[str, list[str]] = {}
        for begin in range(0, len(places), _COPIES_AT_A_TIME):
            asked = places[begin : begin + _COPIES_AT_A_TIME]
            copies = [[*lowered[:place], self.mask, *lowered[place + 1 :]] for place in asked]
            for row, likely in self._likely(copies, num_choices):
                word = lowered[asked[row]]
                fitting = [self.words[id_] for id_ in likely if id_ in self.words]
                found[word] = [other for other in fitting if other != word]
        return found

    def _places(self, words: Sequence[str]) -> list[int]:
        """Return where the words are that are one piece."""
        if not words:
            return []
        pieces = self.tokenizer(list(words), add_special_tokens=False)["input_ids"]
        assert isinstance(pieces, list)
        return [
            place
            for place, ids in enumerate(pieces)
            if isinstance(ids, list) and len(ids) == 1 and ids[0] in self.words
        ]

    def _likely(
        self, copies: Sequence[Sequence[str]], count: int
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield (which copy, the K likeliest ids at its mask); not those cut before their mask."""
        batch = self.tokenizer(
            [list(copy) for copy in copies],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            logits = self.model(**batch).logits
        rows, columns = torch.where(batch["input_ids"] == self.tokenizer.mask_token_id)
        best = logits[rows, columns].topk(min(count, logits.shape[2]), dim=1).indices
        yield from zip(rows.tolist(), best.tolist(), strict=True)
