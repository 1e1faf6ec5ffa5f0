"""Models with outputs a token as stock `transformers` models: tags, and answers in a context."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
)

from bertwright.errors import UnsupportedRoleError
from bertwright.models.encoder import quiet_transformers
from bertwright.models.heads import TokenHead
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import refuse_uneven

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["STOCK_TOKEN_MODELS", "StockTokenModel", "to_stock_token_model", "token_logits"]

_OTHERWISE = {
    "modernbert": "its stock models have a layer of their own before the last",
    "bart": "its stock models read the decoder, and only the encoder is used here",
}


class StockTokenModel(NamedTuple):
    """Which class of `transformers` does the same, and what it calls the last layer."""

    auto: Any
    out_key: str


STOCK_TOKEN_MODELS = {
    "tag": StockTokenModel(AutoModelForTokenClassification, "classifier"),
    "span": StockTokenModel(AutoModelForQuestionAnswering, "qa_outputs"),
}
"""By the name of the task."""


def to_stock_token_model(model: TaskModel) -> PreTrainedModel:
    """Return a stock model that computes the model's outputs, in eval mode.

    Raises:
        UnsupportedRoleError: there is none; says why.
    """
    refuse_uneven(model.encoder)
    kind = STOCK_TOKEN_MODELS[model.task.partition(":")[0]]
    family, head = model.roles.family, model.head
    if family in _OTHERWISE:
        raise UnsupportedRoleError(
            f"{family} cannot be exported to transformers for {model.task}: {_OTHERWISE[family]}",
            hint="export it to onnx or openvino",
        )
    assert isinstance(head, TokenHead)
    if head.crf is not None or head.lstm is not None or len(head.each.hidden):
        raise UnsupportedRoleError(
            "transformers has no model for tokens with a CRF, an LSTM or hidden layers on top",
            hint="train without --head-crf, --head-lstm and --head-layers; or export it to onnx "
            "or openvino",
        )
    config = copy.deepcopy(model.encoder.config)
    config.num_labels = model.outputs.count
    if model.labels:
        config.id2label = dict(enumerate(model.labels))
        config.label2id = {name: i for i, name in enumerate(model.labels)}
    for key, value in model.roles.record.stock_options.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        stock = kind.auto.from_config(config, dtype=torch.float32)
    base = getattr(stock, stock.base_model_prefix)
    missing, unexpected = base.load_state_dict(model.encoder.state_dict(), strict=False)
    assert not [name for name in missing if not name.startswith("pooler")] and not unexpected
    out: nn.Module = stock.get_submodule(kind.out_key)
    out.load_state_dict(head.each.out.state_dict())
    return stock.eval()


def token_logits(output: Any) -> Tensor:
    """Return the outputs of a stock model for tokens or for answers, [B, L, C]."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits
