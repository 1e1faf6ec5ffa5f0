"""Several heads on one encoder: a model for training, and the folder that it is saved in.

The folder holds `encoder/` and the tokenizer once, and `heads/NAME/` for each head. Such a folder
of a head is a saved model like any other: it is loaded, measured and exported by its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bertwright.errors import ModelLoadError, UnknownChoiceError
from bertwright.files import atomic_dir, read_json, write_json
from bertwright.models.encoder import (
    HEADS_FOLDER,
    find_model_dir,
    quiet_transformers,
    save_encoder,
)
from bertwright.models.roles import Roles
from bertwright.models.task_model import FORMAT_VERSION, TaskModel, TaskOutput

__all__ = ["MultiModel", "head_folder", "head_names"]


class MultiModel(nn.Module):
    """Models that share one encoder, told apart by the head's name."""

    def __init__(self, parts: Mapping[str, TaskModel]) -> None:
        """Join models; all get the encoder of the first.

        Args:
            parts: by the name of the head; their encoders are of one shape.
        """
        super().__init__()
        first = next(iter(parts.values()))
        for part in parts.values():
            part.encoder = first.encoder
        self.encoder = first.encoder
        self.heads = nn.ModuleList(part.learned_parts for part in parts.values())
        """By place: a name such as "type" could not be one of a `ModuleDict`."""
        self._parts = (dict(parts),)
        """In a tuple, so that the parts are no modules of this one: their weights are, once."""

    @property
    def parts(self) -> dict[str, TaskModel]:
        """The model of each head."""
        return self._parts[0]

    @property
    def roles(self) -> Roles:
        """Where the encoder keeps its parts."""
        return next(iter(self.parts.values())).roles

    @property
    def decoding(self) -> dict[str, dict[str, Any]]:
        """What the tasks tuned, by head; each head's model has its own."""
        return {name: part.decoding for name, part in self.parts.items()}

    @decoding.setter
    def decoding(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        for name, part in self.parts.items():
            part.decoding = dict(values[name])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        head: str,
        **wanted: Any,
    ) -> TaskOutput:
        """Run the model of one head; see `TaskModel.forward`."""
        return self.parts[head](input_ids, attention_mask, token_type_ids, **wanted)

    def save(self, path: str | Path, lineage: Mapping[str, Any]) -> None:
        """Write the folder, whole or not at all."""
        first = next(iter(self.parts.values()))
        with atomic_dir(path) as folder:
            save_encoder(self.encoder, folder / "encoder")
            if first.tokenizer is not None:
                with quiet_transformers():
                    first.tokenizer.save_pretrained(folder)
            for name, part in self.parts.items():
                (folder / HEADS_FOLDER / name).mkdir(parents=True)
                part.write_head(folder / HEADS_FOLDER / name)
            facts = {"format_version": FORMAT_VERSION, "heads": list(self.parts)}
            write_json(folder / "bertwright.json", {**facts, "lineage": dict(lineage)})


def head_names(path: str | Path) -> Sequence[str]:
    """Return the heads of a model folder or run; none where it has but one, without a name."""
    folder = find_model_dir(path)
    facts = {} if folder is None else read_json(folder / "bertwright.json")
    return facts.get("heads", ()) if isinstance(facts, dict) else ()


def head_folder(path: str | Path, head: str | None) -> Path:
    """Return the folder of one head of the model at `path`; `path` itself where it has no several.

    Raises:
        UnknownChoiceError: it has no such head.
        ModelLoadError: it has several and none is named; or one is named and it has no several, or
            is no saved model.
    """
    folder, names = find_model_dir(path), head_names(path)
    if head is None:
        if names:
            raise ModelLoadError(
                f"{path} has several heads: {', '.join(names)}",
                hint=f"say which with --head NAME, or give its folder, {folder}/heads/NAME",
            )
        return Path(path)
    if folder is None:
        raise ModelLoadError(
            f"--head {head}: {path} is not a saved model",
            hint="give the --out folder of a multitask that has ended",
        )
    if not names:
        raise ModelLoadError(f"--head {head}: {path} has one head only", hint="leave --head out")
    if head not in names:
        raise UnknownChoiceError("head", head, names)
    return folder / HEADS_FOLDER / head
