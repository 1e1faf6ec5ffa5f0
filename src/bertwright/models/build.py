"""New task models: of an encoder and a new head, or of a part of a model that there is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bertwright.errors import ModelLoadError, UnsupportedRoleError, UsageError
from bertwright.models.depth import make_shallower
from bertwright.models.encoder import load_encoder, read_checkpoint_tensors
from bertwright.models.factorised import factorise_embeddings
from bertwright.models.heads import build_head
from bertwright.models.heads.narrow import narrow_head
from bertwright.models.heads.stock import StockHead, init_stock_head
from bertwright.models.outputs import Outputs
from bertwright.models.pooling import Pooling
from bertwright.models.roles import get_roles
from bertwright.models.stream import keep_width
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.models.widths import make_narrower, put_in_order
from bertwright.surgery.kept import check_kept
from bertwright.surgery.plan import SurgeryPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "build_task_model",
    "copy_around",
    "copy_in_order",
    "copy_with_factors",
    "copy_with_first",
    "copy_with_layers",
    "copy_with_width",
    "copy_with_widths",
    "refuse_fixed_layers",
]


def build_task_model(
    source: str | Path | PreTrainedModel,
    *,
    task: str,
    labels: Sequence[str],
    config: ModelConfig | None = None,
    max_length: int = 128,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    outputs: Outputs | None = None,
) -> TaskModel:
    """Load an encoder and put a new head on it, in eval mode.

    With the stock head and CLS pooling, the head's dense layer starts from the checkpoint's
    pretrained one where there is one (BERT's pooler), as `transformers` does.

    Args:
        source: as for `load_encoder`.
        task: name of the task.
        labels: label names; label i is output i.
        config: pooling and head.
        max_length: longest input in tokens, truncated by whoever tokenises.
        seed: of the head's random weights; no global random state is touched.
        tokenizer: in place of the source's own; needed with an object if texts are to be read.
        outputs: what the task asks for; None: one output a label.

    Raises:
        ModelLoadError: the source cannot be loaded, or has no tokenizer.
        UnsupportedFamilyError: the architecture is not a known one.
        ConfigError: `max_length` is more than the encoder has positions for.
    """
    config = config or ModelConfig()
    encoder, own_tokenizer = load_encoder(source)
    tokenizer = tokenizer or own_tokenizer
    if tokenizer is None and isinstance(source, str | Path):
        raise ModelLoadError(
            f"{source} has no tokenizer", hint="put tokenizer.json beside config.json"
        )
    base = str(source) if isinstance(source, str | Path) else source.config.name_or_path
    lineage: dict[str, Any] = {"base_model": base, "family": get_roles(encoder).family}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TaskModel(
            encoder,
            task=task,
            labels=labels,
            config=config,
            tokenizer=tokenizer,
            lineage=lineage,
            max_length=max_length,
            outputs=outputs,
        )

    def read(names: list[str]) -> Mapping[str, Tensor]:
        return read_checkpoint_tensors(source, names)

    if isinstance(model.head, StockHead) and model.config.pooling == "cls":
        init_stock_head(model.head, encoder.config, read)
    if model.pooling is not None:
        model.pooling.start(read)
    return model.eval()


def copy_with_layers(model: TaskModel, indices: Sequence[int]) -> TaskModel:
    """Return a shallower copy: the layers at `indices`, with embeddings, pooling and head.

    A pooling of so many layers becomes what is nearest to it in the smaller model (`spec_for`).
    What it has learned goes with it as far as it fits; where the pooled vector has another width
    than it had, the head is new.

    Raises:
        UsageError: the indices are empty, out of range or not increasing.
        UnsupportedRoleError: the family cannot do without one of the dropped layers.
    """
    kept = check_kept(indices, model.roles.num_layers, "layer")
    all_kept = len(kept) == model.roles.num_layers
    if not all_kept:
        refuse_fixed_layers(model)
    config = model.config
    if model.pooling is not None:
        config = replace(config, pooling=model.pooling.spec_for(len(kept)))
    smaller = copy.deepcopy(model.encoder) if all_kept else make_shallower(model.encoder, kept)
    return copy_around(model, smaller, config, model.surgery.then_keep_layers(kept))


def refuse_fixed_layers(model: TaskModel) -> None:
    """Check that the model can have fewer layers.

    Raises:
        UnsupportedRoleError: it is one without attention; nothing is gained there.
    """
    if model.roles.family == "bertwright-small":
        raise UnsupportedRoleError(
            "a model without attention keeps its layers: vectors of pieces are nearly all of it",
            hint="make one with fewer of its teacher (distil --student cnn:layers=1)",
        )


def copy_with_widths(
    model: TaskModel,
    *,
    heads: Mapping[int, Sequence[int]] | None = None,
    neurons: Mapping[int, Sequence[int]] | None = None,
) -> TaskModel:
    """Return a narrower copy, with the same embeddings, pooling and head; see `make_narrower`."""
    narrower = make_narrower(model.encoder, heads=heads, neurons=neurons)
    plan = model.surgery.then_narrow(heads or {}, neurons or {})
    return copy_around(model, narrower, model.config, plan)


def copy_with_first(
    model: TaskModel, *, heads: int | None = None, neurons: int | None = None
) -> TaskModel:
    """Return a copy whose layers have the first so many of their heads and neurons; None: all."""
    kept = {
        what: dict.fromkeys(range(model.roles.num_layers), range(count))
        for what, count in (("heads", heads), ("neurons", neurons))
        if count is not None
    }
    return copy_with_widths(model, **kept)


def copy_in_order(
    model: TaskModel,
    *,
    heads: Mapping[int, Sequence[int]] | None = None,
    neurons: Mapping[int, Sequence[int]] | None = None,
) -> TaskModel:
    """Return a copy that computes the same, heads and neurons in this order; see `put_in_order`."""
    ordered = put_in_order(model.encoder, heads=heads, neurons=neurons)
    plan = model.surgery.then_order(heads or {}, neurons or {})
    return copy_around(model, ordered, model.config, plan)


def copy_with_width(model: TaskModel, kept: Sequence[int]) -> TaskModel:
    """Return a copy whose states have only these dimensions; see `keep_width`.

    The head reads what is left of the pooled vector; see `narrow_head`.

    Raises:
        UsageError: the dimensions are out of range or not increasing.
        UnsupportedRoleError: the family, the pooling or the head keeps its width, with the reason.
    """
    width = model.roles.hidden_size
    thinner = keep_width(model.encoder, kept)
    plan = model.surgery.then_keep_width(kept)
    copied = copy_around(model, thinner, model.config, plan)
    blocks = 1
    if model.pooling is not None and copied.pooling is not None:
        _refuse_learned_width(model.pooling, copied.pooling)
        blocks = model.pooling.width // width
    features = [block * width + dimension for block in range(blocks) for dimension in kept]
    copied.head = narrow_head(model.head, features, len(kept))
    return copied.train(model.training)


def _refuse_learned_width(before: Pooling, after: Pooling) -> None:
    """Raise unless the poolings hold tensors of the same shapes."""
    shapes, others = (
        {name: tensor.shape for name, tensor in pooling.state_dict().items()}
        for pooling in (before, after)
    )
    if shapes != others:
        raise UnsupportedRoleError(
            f"the pooling {before.name} has learned weights as wide as the states, and they stay",
            hint="use a pooling without such weights, as cls or mean",
        )


def copy_with_factors(model: TaskModel, rank: int, weights: Tensor | None = None) -> TaskModel:
    """Return a copy whose word embeddings are two factors; see `factorise_embeddings`."""
    factored = factorise_embeddings(model.encoder, rank, weights)
    listed = None if weights is None else weights.tolist()
    plan = model.surgery.then_factor_embeddings(rank, listed)
    return copy_around(model, factored, model.config, plan)


def copy_with_pooling(model: TaskModel, pooling: str, *, seed: int) -> TaskModel:
    """Return a copy that makes one vector of its states in another way.

    The head goes with it where the vector is as wide as before; else it is new.

    Args:
        model: with outputs for a whole text.
        pooling: as in `--pooling`.
        seed: of what is new.

    Raises:
        UsageError: the model has outputs a token, and so no pooling.
        ConfigError: the pooling's number does not fit the encoder.
    """
    if model.pooling is None:
        raise UsageError(
            f"--pooling {pooling}: the task {model.task} has outputs a token, and no pooling",
            hint="leave --pooling out",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = replace(model.config, pooling=pooling)
        return copy_around(model, copy.deepcopy(model.encoder), config, model.surgery)


def copy_with_linear_head(model: TaskModel) -> TaskModel:
    """Return a copy whose head is one linear layer, new, in the place of the one it has."""
    copied = copy.deepcopy(model)
    copied.config = replace(model.config, head="linear", head_bags=1)
    copied.head = build_head(
        model.encoder.config,
        model.outputs,
        copied.config,
        model.labels,
        width=None if model.pooling is None else model.pooling.width,
    )
    return copied.train(model.training)


def copy_around(
    model: TaskModel, encoder: PreTrainedModel, config: ModelConfig, surgery: SurgeryPlan
) -> TaskModel:
    """Return a copy of a model around another encoder, with what of pooling and head fits.

    Tokens are left out as before where the depth is the same.
    """
    with torch.random.fork_rng(devices=[]):
        copied = TaskModel(
            encoder,
            task=model.task,
            labels=model.labels,
            config=config,
            tokenizer=model.tokenizer,
            surgery=surgery,
            lineage=copy.deepcopy(model.lineage),
            max_length=model.max_length,
            outputs=model.outputs,
            decoding=model.decoding,
        )
    if copied.pooling is None or model.pooling is None:
        copied.head = copy.deepcopy(model.head)
    else:
        _copy_what_fits(model.pooling, copied.pooling)
        if copied.pooling.width == model.pooling.width:
            copied.head = copy.deepcopy(model.head)
    copied.scale = copy.deepcopy(model.scale)
    if copied.roles.num_layers == model.roles.num_layers:
        copied.token_drop = model.token_drop
    return copied.train(model.training)


def _copy_what_fits(source: nn.Module, target: nn.Module) -> None:
    """Copy the tensors of the same name and shape."""
    own = target.state_dict()
    for name, tensor in source.state_dict().items():
        if name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
