"""Writing a `TaskModel` as a stock model of `transformers`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from bertwright.errors import ParityError, UnsupportedRoleError
from bertwright.files import atomic_dir
from bertwright.models.encoder import quiet_transformers
from bertwright.models.exits import refuse_exits
from bertwright.models.export_tokens import (
    STOCK_TOKEN_MODELS,
    to_stock_token_model,
    token_logits,
)
from bertwright.models.heads import ClassificationHead, StockHead
from bertwright.models.heads.stock import StockForm, get_stock_form
from bertwright.models.outputs import OutputScale
from bertwright.models.task_model import TaskModel
from bertwright.models.token_drop import refuse_token_drop
from bertwright.models.widths import refuse_uneven

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EXPORT_TOLERANCE", "export_transformers", "stock_class", "to_stock_classifier"]

EXPORT_TOLERANCE = 1e-5
_CHECK_LENGTHS = (1, 5, 12)
_PROBLEM_TYPES: dict[str, Any] = {
    "classes": "single_label_classification",
    "labels": "multi_label_classification",
    "numbers": "regression",
}


def export_transformers(model_or_dir: TaskModel | str | Path, out_dir: str | Path) -> Path:
    """Write the model so that `transformers` alone loads it.

    It is loaded by `AutoModelForSequenceClassification`; a model for tags by
    `AutoModelForTokenClassification`, one for answers by `AutoModelForQuestionAnswering`.
    What was written is loaded again and its logits compared with the model's own, on rows of
    length 1, padded and unpadded. XLNet is to be padded on the left, as its tokenizer does: its
    stock classifier reads the last position, padding or not.

    Args:
        model_or_dir: a model, its directory, or a run directory.
        out_dir: written whole or not at all; a folder that is there is replaced.

    Returns:
        `out_dir`.

    Raises:
        UnsupportedRoleError: no stock model of the family computes what this model does; says which
            head and pooling would do.
        UsageError: the model has early exits, or leaves tokens out.
        ParityError: the written model's logits differ by more than 1e-5.
    """
    model = model_or_dir if isinstance(model_or_dir, TaskModel) else TaskModel.load(model_or_dir)
    refuse_exits(model, "transformers would run all of its layers")
    refuse_token_drop(model.token_drop, "transformers")
    auto = stock_class(model.task)
    one_a_text = auto is AutoModelForSequenceClassification
    stock = to_stock_classifier(model) if one_a_text else to_stock_token_model(model)
    with atomic_dir(out_dir) as folder:
        with quiet_transformers():
            stock.save_pretrained(folder)
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(folder)
            loaded = auto.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        _check_parity(model, loaded.eval())
    return Path(out_dir)


def stock_class(task: str) -> Any:
    """Return the class of `transformers` that loads what is written of a model for this task."""
    known = STOCK_TOKEN_MODELS.get(task.partition(":")[0])
    return AutoModelForSequenceClassification if known is None else known.auto


def to_stock_classifier(model: TaskModel) -> PreTrainedModel:
    """Return a `...ForSequenceClassification` that computes the model's logits, in eval mode.

    Raises:
        UnsupportedRoleError: there is none; says which head and pooling would do.
    """
    if model.outputs.level == "token" or model.outputs.kind == "vectors":
        raise UnsupportedRoleError(
            f"transformers has no model for {model.task}",
            hint="export it to onnx or openvino",
        )
    refuse_uneven(model.encoder)
    form = get_stock_form(model.encoder.config)
    config = copy.deepcopy(model.encoder.config)
    config.num_labels = model.outputs.count
    names = model.labels or [f"LABEL_{i}" for i in range(model.outputs.count)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = _PROBLEM_TYPES[model.outputs.kind]
    options, parts = _map_model(model, form)
    for key, value in (options | dict(model.roles.record.stock_options)).items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        stock = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    base = getattr(stock, stock.base_model_prefix)
    missing, unexpected = base.load_state_dict(model.encoder.state_dict(), strict=False)
    missing = [name for name in missing if not name.startswith("pooler")]
    assert not missing and not unexpected, (missing, unexpected)
    for key, module in parts.items():
        stock.get_submodule(key).load_state_dict(module.state_dict())
    if isinstance(model.scale, OutputScale):
        _fold_scale(stock.get_submodule(form.out_key), model.scale)
    return stock.eval()


@torch.no_grad()
def _fold_scale(out: nn.Module, scale: OutputScale) -> None:
    """Let a linear layer give what it gave with `scale` behind it."""
    assert isinstance(out, nn.Linear)
    out.weight.mul_(scale.spread[:, None])
    out.bias.mul_(scale.spread).add_(scale.centre)


def _map_model(model: TaskModel, form: StockForm) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """Return the configuration and the head modules (by stock name) that compute the same."""
    config, family = model.encoder.config, model.roles.family
    if form.no_export is not None:
        raise UnsupportedRoleError(
            f"{family} cannot be exported to transformers: {form.no_export}",
            hint="export it to onnx or openvino, or use another family",
        )
    pooling = str(model.config.pooling)
    if pooling not in form.pooling_options:
        raise UnsupportedRoleError(
            f"the stock {family} classifier cannot pool by {pooling!r}",
            hint=f"train with --pooling {' or '.join(form.pooling_options)}",
        )
    options: dict[str, Any] = dict(form.pooling_options[pooling])
    if model.config.head_dropout is not None:
        options |= dict.fromkeys(form.rate_options, model.config.head_dropout)
    head = model.head
    if isinstance(head, StockHead):
        parts: dict[str, nn.Module] = {form.out_key: head.out}
        if isinstance(head.dense, nn.Linear):
            parts[form.dense_key] = head.dense
        if form.norm_key is not None:
            parts[form.norm_key] = head.norm
        return options, parts
    assert isinstance(head, ClassificationHead)
    more, parts = _map_own_head(head, form, config, model, family)
    return {**options, **more}, parts


def _map_own_head(
    head: ClassificationHead,
    form: StockForm,
    config: PreTrainedConfig,
    model: TaskModel,
    family: str,
) -> tuple[Mapping[str, Any], dict[str, nn.Module]]:
    if len(head.hidden) == 0 and form.linear_options is not None:
        return form.linear_options, {form.out_key: head.out}
    activation = model.config.head_activation
    fits = (
        len(head.hidden) == 1
        and head.out.in_features == config.hidden_size
        and form.norm_key is None
        and form.has_dense(config)
        and (form.activation_option is not None or form.activation(config) == activation)
    )
    if not fits:
        raise UnsupportedRoleError(
            f"the stock {family} classifier has no place for this head "
            f"({model.config.head}, {len(head.hidden)} hidden layers)",
            hint="train with --head stock, which always fits; or export it to onnx or openvino",
        )
    options = {} if form.activation_option is None else {form.activation_option: activation}
    return options, {form.dense_key: head.hidden[0], form.out_key: head.out}


def _check_parity(model: TaskModel, stock: PreTrainedModel) -> None:
    """Raise a ParityError unless both give the same logits on a few random rows."""
    was_training = model.training
    model.eval()
    worst = 0.0
    try:
        with torch.inference_mode():
            for lengths in ((length,) for length in _CHECK_LENGTHS):
                worst = max(worst, _difference(model, stock, lengths))
            worst = max(worst, _difference(model, stock, _CHECK_LENGTHS))
    finally:
        model.train(was_training)
    if not worst <= EXPORT_TOLERANCE:
        raise ParityError(
            f"the exported model's logits differ by {worst:.2e} (allowed: {EXPORT_TOLERANCE:.0e})"
        )


def _difference(model: TaskModel, stock: PreTrainedModel, lengths: tuple[int, ...]) -> float:
    config = model.encoder.config
    device = next(stock.parameters()).device
    generator = torch.Generator().manual_seed(0)
    width = max(lengths)
    pad = config.pad_token_id or 0
    ids = torch.randint(0, config.vocab_size, (len(lengths), width), generator=generator)
    ids = torch.where(ids == pad, (ids + 1) % config.vocab_size, ids)
    real = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    if model.roles.cls_at_end:
        real = real.flip(1)
    ids, mask = ids.masked_fill(~real, pad), real.long()
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    if model.uses_token_types:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    own = next(model.parameters()).device
    logits = model(**{k: v.to(own) for k, v in inputs.items()}).logits.cpu()
    theirs = token_logits(stock(**{k: v.to(device) for k, v in inputs.items()})).cpu()
    if logits.ndim == 3:
        logits, theirs = logits[real], theirs[real]
    return float((logits - theirs).abs().max())
