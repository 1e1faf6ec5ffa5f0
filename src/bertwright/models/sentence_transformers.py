"""The format of sentence-transformers: reading its folders and writing them.

A folder there is a list of modules: the encoder (in the folder itself or one of its own), a
pooling, a linear layer or none, and bringing the vectors to length 1. Nothing of the library is
needed. Read from sentence-transformers 2 to 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bertwright.errors import CheckpointError, ModelLoadError, UnsupportedRoleError
from bertwright.files import atomic_dir, cache_dir, read_json, write_json
from bertwright.models.build import build_task_model
from bertwright.models.encoder import load_tokenizer, quiet_transformers, save_encoder
from bertwright.models.heads import VectorHead
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.models.token_drop import refuse_token_drop
from bertwright.models.widths import refuse_uneven
from bertwright.progress import console

__all__ = [
    "export_sentence_transformers",
    "import_sentence_transformers",
    "is_sentence_transformers",
    "load_sentence_transformers",
]

MODULES_FILE = "modules.json"
TASK = "embed"
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_CLASSES = "sentence_transformers.models."
_IDENTITY = "torch.nn.modules.linear.Identity"
_POOLINGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
}
_OTHER_POOLINGS = (
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)
_DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class _Modules:
    """The parts of a folder, by kind; None where there is no such part."""

    transformer: Path
    pooling: Path
    dense: Path | None
    normalize: bool


def is_sentence_transformers(path: str | Path) -> bool:
    """Say whether the folder is one of sentence-transformers."""
    return (Path(path) / MODULES_FILE).is_file()


def load_sentence_transformers(path: str | Path) -> TaskModel:
    """Return the embedding model in a folder of sentence-transformers, in eval mode.

    Its vectors have length 1 here even where the folder leaves them as they are; cosines are the
    same.

    Raises:
        ModelLoadError: it has a part or a pooling that is not known here.
        CheckpointError: a file is missing or damaged.
    """
    path = Path(path)
    modules = _read_modules(path)
    settings = modules.transformer / "sentence_bert_config.json"
    facts = read_json(settings) if settings.is_file() else {}
    if facts.get("do_lower_case"):
        raise ModelLoadError(
            f"{settings} asks for small letters before the tokenizer",
            hint="set do_lower_case to false where the tokenizer does it",
        )
    tokenizer = load_tokenizer(str(modules.transformer)) or load_tokenizer(str(path))
    dense = None if modules.dense is None else _read_dense(modules.dense)
    head = {} if dense is None else {"head": "linear", "head_hidden": dense.out_features}
    model = build_task_model(
        modules.transformer,
        task=TASK,
        labels=[],
        config=ModelConfig(pooling=_read_pooling(modules.pooling), **head),
        max_length=1,
        tokenizer=tokenizer,
        outputs=Outputs(0, kind="vectors"),
    )
    limits = [n for n in (facts.get("max_seq_length"), model.roles.max_length) if n]
    model.max_length = min(map(int, limits), default=_DEFAULT_LENGTH)
    if dense is not None:
        assert isinstance(model.head, VectorHead)
        model.head.dense = dense
    if not modules.normalize:
        console.print(f"[yellow]{path}: vectors are brought to length 1 here[/]")
    model.lineage = {"base_model": str(path), "family": model.roles.family}
    return model.eval()


def import_sentence_transformers(path: str | Path) -> Path:
    """Return a saved model with what is in a folder of sentence-transformers, from the cache.

    Errors are those of `load_sentence_transformers`.
    """
    path = Path(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.rglob("*")):
        if file.suffix in (".json", ".safetensors", ".txt", ".model") and file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
    place = cache_dir() / "imported" / digest.hexdigest()
    if not (place / "bertwright.json").is_file():
        load_sentence_transformers(path).save(place)
    return place


def export_sentence_transformers(model_or_dir: TaskModel | str | Path, out_dir: str | Path) -> Path:
    """Write an embedding model as a folder of sentence-transformers.

    Args:
        model_or_dir: a model, its directory, or a run directory.
        out_dir: written whole or not at all; a folder that is there is replaced.

    Returns:
        `out_dir`.

    Raises:
        UnsupportedRoleError: it is no embedding model, it has a pooling that the library does not
            have, or its encoder is not what the library would take of the family's checkpoint.
    """
    model = model_or_dir if isinstance(model_or_dir, TaskModel) else TaskModel.load(model_or_dir)
    head = model.head
    if not isinstance(head, VectorHead) or model.outputs.level != "row":
        raise UnsupportedRoleError(
            f"a model for {model.task} gives no vectors of texts",
            hint="sentence-transformers takes models trained with --task embed",
        )
    refuse_uneven(model.encoder)
    refuse_token_drop(model.token_drop, "sentence-transformers")
    roles = model.roles
    if model.config.pooling not in _POOLINGS:
        raise UnsupportedRoleError(
            f"sentence-transformers has no pooling {model.config.pooling}",
            hint=f"export to onnx or openvino, or take --pooling {', '.join(_POOLINGS)}",
        )
    if roles.family == "bart" or (roles.cls_at_end and model.config.pooling == "cls"):
        raise UnsupportedRoleError(
            f"sentence-transformers reads {roles.family} models otherwise, so it would give other "
            "vectors",
            hint="export to onnx or openvino, or take --pooling mean",
        )
    with atomic_dir(out_dir) as folder:
        save_encoder(model.encoder, folder)
        if model.tokenizer is not None:
            with quiet_transformers():
                model.tokenizer.save_pretrained(folder)
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": model.max_length, "do_lower_case": False},
        )
        write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
        parts = [("Transformer", ""), ("Pooling", "1_Pooling")]
        _write_pooling(folder / "1_Pooling", model)
        if head.dense is not None:
            _write_dense(folder / "2_Dense", head.dense)
            parts.append(("Dense", "2_Dense"))
        last = f"{len(parts)}_Normalize"
        (folder / last).mkdir()
        parts.append(("Normalize", last))
        listed = [
            {"idx": i, "name": str(i), "path": place, "type": _CLASSES + kind}
            for i, (kind, place) in enumerate(parts)
        ]
        write_json(folder / MODULES_FILE, listed)
    return Path(out_dir)


def _read_modules(path: Path) -> _Modules:
    file = path / MODULES_FILE
    try:
        listed = [(str(m["type"]).rpartition(".")[2], path / m["path"]) for m in read_json(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    parts: dict[str, Path] = {}
    for kind, place in listed:
        if kind in parts or kind not in _ORDER:
            raise ModelLoadError(
                f"{file} has {'two of' if kind in parts else 'the module'} {kind}",
                hint="read here are Transformer, Pooling, Dense and Normalize, one of each",
            )
        parts[kind] = place
    order = [kind for kind in _ORDER if kind in parts]
    if order[:2] != ["Transformer", "Pooling"] or order != [kind for kind, _ in listed]:
        raise ModelLoadError(
            f"{file} has the modules {', '.join(kind for kind, _ in listed)}",
            hint=f"read here are {', '.join(_ORDER)}, in this order; the last two may be absent",
        )
    return _Modules(
        parts["Transformer"], parts["Pooling"], parts.get("Dense"), "Normalize" in parts
    )


def _read_pooling(folder: Path) -> str:
    facts: Mapping[str, Any] = read_json(folder / "config.json")
    if "pooling_mode" in facts:
        given = facts["pooling_mode"]
        names = [given] if isinstance(given, str) else list(given)
    else:
        names = [name for name, key in _POOLINGS.items() if facts.get(key)]
        names += [key for key in _OTHER_POOLINGS if facts.get(key)]
    if len(names) != 1 or names[0] not in _POOLINGS:
        raise ModelLoadError(
            f"{folder} pools by {', '.join(names) or 'nothing'}",
            hint=f"known here: {', '.join(_POOLINGS)}",
        )
    return names[0]


def _write_pooling(folder: Path, model: TaskModel) -> None:
    folder.mkdir()
    modes = {key: name == model.config.pooling for name, key in _POOLINGS.items()}
    modes |= dict.fromkeys(_OTHER_POOLINGS, False)
    width = model.roles.hidden_size
    write_json(folder / "config.json", {"word_embedding_dimension": width, **modes})


def _read_dense(folder: Path) -> nn.Linear:
    facts, weights = read_json(folder / "config.json"), folder / "model.safetensors"
    if facts.get("activation_function") != _IDENTITY:
        raise ModelLoadError(
            f"{folder} has the activation {facts.get('activation_function')}",
            hint="a Dense module is read where it is linear (Identity)",
        )
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing", hint="only safetensors are read")
    tensors = load_file(weights)
    dense = nn.Linear(facts["in_features"], facts["out_features"])
    dense.load_state_dict(
        {
            "weight": tensors["linear.weight"],
            "bias": tensors.get("linear.bias", torch.zeros(facts["out_features"])),
        }
    )
    return dense


def _write_dense(folder: Path, dense: nn.Linear) -> None:
    folder.mkdir()
    shape = {"in_features": dense.in_features, "out_features": dense.out_features, "bias": True}
    write_json(folder / "config.json", {**shape, "activation_function": _IDENTITY})
    save_file(
        {f"linear.{name}": t.contiguous() for name, t in dense.state_dict().items()},
        folder / "model.safetensors",
    )
