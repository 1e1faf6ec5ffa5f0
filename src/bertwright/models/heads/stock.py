"""Each family's own classification head, in the form that `transformers` gives it.

All of them are: dropout, dense, activation, norm, dropout, linear, with some parts left out. One
`StockForm` record a family says which, how they are initialised, and what `transformers` calls
them, so that a model with this head can be exported exactly. Read from transformers 5.23.

Shapes: B batch, D width of the pooled vector, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from bertwright.errors import UnsupportedFamilyError

__all__ = ["STOCK_FORMS", "StockForm", "StockHead", "get_stock_form", "init_stock_head"]

Rate = Callable[[PreTrainedConfig], float]


def _classifier_rate(config: PreTrainedConfig) -> float:
    given = getattr(config, "classifier_dropout", None)
    return float(config.hidden_dropout_prob if given is None else given)


def _no_dropout(config: PreTrainedConfig) -> float:
    return 0.0


def _init_stds(config: PreTrainedConfig) -> tuple[float, float]:
    given = getattr(config, "initializer_range", None)
    std = float(getattr(config, "init_std", 0.02) if given is None else given)
    return std, std


@dataclass(frozen=True, kw_only=True)
class StockForm:
    """The form of one family's head. Keys are module names in `...ForSequenceClassification`."""

    dense_key: str
    out_key: str
    norm_key: str | None = None
    activation: Callable[[PreTrainedConfig], str] = lambda config: "tanh"
    has_dense: Callable[[PreTrainedConfig], bool] = lambda config: True
    dense_bias: Callable[[PreTrainedConfig], bool] = lambda config: True
    rate_before: Rate = _no_dropout
    """Dropout before the dense layer."""
    rate_after: Rate = _classifier_rate
    """Dropout before the last linear layer."""
    rate_options: tuple[str, ...] = ("classifier_dropout",)
    """Configuration keys that set these rates."""
    init_stds: Callable[[PreTrainedConfig], tuple[float, float]] = _init_stds
    """Standard deviations of the dense and the last weights at the start."""
    checkpoint_names: Mapping[str, str] = field(default_factory=dict)
    """Part (`dense` or `norm`) -> its name in pretrained checkpoints that carry it."""
    pooling_options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"cls": {}})
    """Pooling -> configuration that makes the stock model pool so; absent: it cannot."""
    activation_option: str | None = None
    """Configuration key that sets the activation; None: it is fixed."""
    linear_options: Mapping[str, Any] | None = None
    """Configuration that leaves only the linear layer; None: there is none."""
    no_export: str | None = None
    """Why no stock classifier computes what ours does."""


_ROBERTA_FORM = StockForm(
    dense_key="classifier.dense", out_key="classifier.out_proj", rate_before=_classifier_rate
)

STOCK_FORMS: Mapping[str, StockForm] = {
    "bert": StockForm(
        dense_key="bert.pooler.dense",
        out_key="classifier",
        checkpoint_names={"dense": "pooler.dense"},
    ),
    "roberta": _ROBERTA_FORM,
    "xlm-roberta": _ROBERTA_FORM,
    "electra": StockForm(
        dense_key="classifier.dense",
        out_key="classifier.out_proj",
        activation=lambda config: "gelu",
        rate_before=_classifier_rate,
    ),
    "distilbert": StockForm(
        dense_key="pre_classifier",
        out_key="classifier",
        activation=lambda config: "relu",
        rate_after=lambda config: config.seq_classif_dropout,
        rate_options=("seq_classif_dropout",),
    ),
    "mobilebert": StockForm(
        dense_key="mobilebert.pooler.dense",
        out_key="classifier",
        has_dense=lambda config: config.classifier_activation,
        activation=lambda config: "tanh" if config.classifier_activation else "linear",
        checkpoint_names={"dense": "pooler.dense"},
        linear_options={"classifier_activation": False},
    ),
    "albert": StockForm(
        dense_key="albert.pooler",
        out_key="classifier",
        rate_after=lambda config: config.classifier_dropout_prob,
        rate_options=("classifier_dropout_prob",),
        checkpoint_names={"dense": "pooler"},
    ),
    "mpnet": StockForm(
        dense_key="classifier.dense",
        out_key="classifier.out_proj",
        rate_before=lambda config: config.hidden_dropout_prob,
        rate_after=lambda config: config.hidden_dropout_prob,
        rate_options=(),
    ),
    "deberta-v2": StockForm(
        dense_key="pooler.dense",
        out_key="classifier",
        activation=lambda config: config.pooler_hidden_act,
        rate_before=lambda config: config.pooler_dropout,
        rate_after=lambda config: (
            config.hidden_dropout_prob
            if getattr(config, "cls_dropout", None) is None
            else config.cls_dropout
        ),
        rate_options=("cls_dropout",),
        checkpoint_names={"dense": "pooler.dense"},
        activation_option="pooler_hidden_act",
    ),
    "modernbert": StockForm(
        dense_key="head.dense",
        norm_key="head.norm",
        out_key="classifier",
        activation=lambda config: config.classifier_activation,
        dense_bias=lambda config: config.classifier_bias,
        rate_after=lambda config: config.classifier_dropout,
        init_stds=lambda config: (
            config.initializer_range / (2.0 * config.num_hidden_layers) ** 0.5,
            config.hidden_size**-0.5,
        ),
        checkpoint_names={"dense": "head.dense", "norm": "head.norm"},
        pooling_options={
            "cls": {"classifier_pooling": "cls"},
            "mean": {"classifier_pooling": "mean"},
        },
    ),
    "xlnet": StockForm(
        dense_key="sequence_summary.summary",
        out_key="logits_proj",
        has_dense=lambda config: config.summary_use_proj,
        activation=lambda config: config.summary_activation or "linear",
        rate_after=lambda config: config.summary_last_dropout,
        rate_options=("summary_last_dropout",),
        pooling_options={"cls": {"summary_type": "last"}},
        linear_options={"summary_use_proj": False, "summary_activation": "linear"},
    ),
    "bart": StockForm(
        dense_key="classification_head.dense",
        out_key="classification_head.out_proj",
        rate_before=lambda config: config.classifier_dropout,
        rate_after=lambda config: config.classifier_dropout,
        no_export=(
            "the stock bart classifier reads the decoder's last state, and only bart's encoder is "
            "used here"
        ),
    ),
}


def get_stock_form(config: PreTrainedConfig) -> StockForm:
    """Return the form of the head that `transformers` gives to this family.

    Raises:
        UnsupportedFamilyError: the family is not a known one.
    """
    if config.model_type not in STOCK_FORMS:
        raise UnsupportedFamilyError(
            f"no classification head is known for {config.model_type!r}",
            hint=f"supported: {', '.join(STOCK_FORMS)}",
        )
    return STOCK_FORMS[config.model_type]


class StockHead(nn.Module):
    """A family's own head: dropout, dense, activation, norm, dropout, linear."""

    def __init__(
        self,
        config: PreTrainedConfig,
        num_outputs: int,
        dropout: float | None = None,
        *,
        width: int | None = None,
    ) -> None:
        """Build the head that goes with an encoder's `config`.

        Args:
            config: the encoder's configuration.
            num_outputs: classes, C.
            dropout: rate in place of the family's own.
            width: of the pooled vector; None: the encoder's own.
        """
        from transformers.activations import ACT2FN

        super().__init__()
        form = get_stock_form(config)
        inner = int(config.hidden_size)
        width = width or inner
        dense_std, out_std = form.init_stds(config)
        self.dense: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        self.activation: nn.Module = ACT2FN[form.activation(config)]
        rates = (form.rate_before(config), form.rate_after(config))
        before, after = rates if dropout is None else (dropout if rates[0] else 0.0, dropout)
        self.dropout_before = nn.Dropout(float(before))
        if form.has_dense(config):
            dense = nn.Linear(width, inner, bias=form.dense_bias(config))
            _init_linear(dense, dense_std)
            self.dense = dense
            width = inner
        if form.norm_key is not None:
            self.norm = nn.LayerNorm(width, eps=config.norm_eps, bias=config.norm_bias)
        self.dropout_after = nn.Dropout(float(after))
        self.out = nn.Linear(width, num_outputs)
        _init_linear(self.out, out_std)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits [B, C] from pooled vectors [B, D]."""
        inner = self.activation(self.dense(self.dropout_before(pooled)))
        return self.out(self.dropout_after(self.norm(inner)))


def _init_linear(linear: nn.Linear, std: float) -> None:
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def init_stock_head(
    head: StockHead, config: PreTrainedConfig, read: Callable[[list[str]], Mapping[str, Tensor]]
) -> list[str]:
    """Start the head's dense layer and norm from the pretrained ones where there are any.

    Args:
        head: changed in place.
        config: the encoder's configuration.
        read: returns those of the named tensors that the checkpoint has.

    Returns:
        The names of the head's tensors that were taken over.
    """
    form = get_stock_form(config)
    base = {"bert": "bert", "albert": "albert", "mobilebert": "mobilebert"}.get(config.model_type)
    own = dict(head.named_parameters())
    taken: list[str] = []
    for part, name in form.checkpoint_names.items():
        names = {f"{part}.{leaf}": f"{name}.{leaf}" for leaf in ("weight", "bias")}
        names = {mine: theirs for mine, theirs in names.items() if mine in own}
        wanted = [f"{prefix}{theirs}" for theirs in names.values() for prefix in _prefixes(base)]
        found = read(wanted)
        for mine, theirs in names.items():
            for prefix in _prefixes(base):
                tensor = found.get(f"{prefix}{theirs}")
                if tensor is not None and tensor.shape == own[mine].shape:
                    own[mine].data.copy_(tensor)
                    taken.append(mine)
                    break
    return taken


def _prefixes(base: str | None) -> tuple[str, ...]:
    return ("",) if base is None else ("", f"{base}.")
