"""Students without attention: a bag of token vectors, convolutions, or LSTMs.

Shapes: V vocabulary, D_t the teacher's width, D the student's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError, UsageError
from bertwright.models.modes import eval_mode
from bertwright.models.quantized import refuse_quantized
from bertwright.models.small import SmallConfig
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.progress import Progress
from bertwright.registry import register_method

__all__ = [
    "SmallStudent",
    "SmallStudentConfig",
    "frequency_weights",
    "make_small_student",
    "piece_vectors",
    "reduce_width",
]

_PIECES_AT_A_TIME = 1024
_SIF = 1e-3


@dataclass(frozen=True, kw_only=True)
class SmallStudentConfig:
    """Options of a student without attention."""

    kind: Literal["static", "cnn", "lstm"] = "static"
    """static: the mean of vectors of pieces. cnn, lstm: layers of such above the vectors."""
    width: int | None = None
    """D; without it the teacher's."""
    layers: int = 1
    """Of a cnn or lstm; static has none."""
    kernel: int = 3
    """Tokens that a layer of a cnn sees; odd."""
    ngrams: int = 1
    """Runs of 2 to so many pieces have vectors too; 1: none."""
    buckets: int = 20_000
    """How many vectors these runs share."""
    positions: bool = False
    """Each place has a vector too."""
    pooling: Literal["mean", "max", "mean-max"] = "mean"
    """How the tokens' vectors become one."""
    start: Literal["outputs", "words", "random"] = "outputs"
    """Where the vectors of pieces come from: what the teacher gives for the piece alone, its word
    embeddings, or chance."""
    weighted: bool = True
    """The vectors of frequent pieces begin shorter."""
    dropout: float = 0.1
    """Rate on the sum of the vectors."""

    def __post_init__(self) -> None:
        require(self.width is None or self.width >= 2, "width", self.width, "at least 2")
        require(self.layers >= 1, "layers", self.layers, "at least 1")
        odd = self.kernel >= 1 and self.kernel % 2 == 1
        require(odd, "kernel", self.kernel, "1, 3, 5, ...")
        require(self.ngrams >= 1, "ngrams", self.ngrams, "at least 1")
        require(self.buckets >= 2, "buckets", self.buckets, "at least 2")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0, below 1")


CARD = MethodCard(
    name="small_student",
    kind="distil",
    summary="A student without attention: the mean of distilled token vectors, a CNN or an LSTM.",
    paper="Distilling Task-Specific Knowledge from BERT into Simple Neural Networks",
    year=2019,
    citation=(
        "Tang et al. 2019, arXiv:1903.12136 (LSTM); vectors of single pieces: Model2Vec, Tulkens "
        "and van Dongen 2024, github.com/MinishLab/model2vec"
    ),
    equation=(
        "v = mean over real tokens of h_i, h_i = E[x_i] (+ sum_n G[hash(x_{i-n+1..i})] + P[i])\n"
        "static: that is all; cnn: h += relu(conv(norm(h))); lstm: h += W bilstm(norm(h)).\n"
        "outputs: E[x] = w_x R (mean of the teacher's last states of [CLS] x [SEP]), R the first\n"
        "D principal directions, w_x = a / (a + p(x)), p the share of x in the rows, a = 1e-3."
    ),
    needs="A teacher and its rows; any task whose texts are read as one vector, or token by token.",
    cost=(
        "One short teacher pass over the vocabulary. The student has V·D numbers and reads them, "
        "so that splitting the text takes longer than the model."
    ),
    expected_effect=(
        "On SST-2 an LSTM of 0.96 million parameters without its vectors reaches 90.7, BERT-large "
        "94.9. MiniLM, the mean of its word vectors and logistic regression: 82.4 on clinc150, "
        "where the fine-tuned has 84.5; 78.9 on sst2, 89.4."
    ),
    expected_source="Table 1 of Tang et al. 2019, quoted from memory; MiniLM: docs/compare.md.",
    when_to_use="For budgets that no transformer meets, and topics or intents told by words.",
    when_not_to_use="Where order, negation or another word decides: pairs of texts, most spans.",
    siblings=(
        "student_init makes students of the teacher's own layers. All distillation methods train "
        "this one too, as far as it has what they match."
    ),
    departures=(
        "All is one trained model, head included, and no table that is fitted once. Vectors are "
        "not brought to length 1 but for tasks of vectors."
    ),
)


@register_method(config=SmallStudentConfig, card=CARD)
class SmallStudent:
    """Makes students without attention; they are trained afterwards, so it is not a hook."""

    def __init__(self, config: SmallStudentConfig) -> None:
        self.config = config

    def apply(self, teacher: TaskModel, rows: EncodedRows, *, seed: int = 0) -> TaskModel:
        """Return the student of this teacher; see `make_small_student`."""
        return make_small_student(teacher, rows, self.config, seed=seed)


def make_small_student(
    teacher: TaskModel, rows: EncodedRows, config: SmallStudentConfig, *, seed: int = 0
) -> TaskModel:
    """Return an untrained student with the teacher's task, labels and tokenizer.

    Args:
        teacher: its vectors are where the student's begin.
        rows: say how frequent each piece is.
        config: the student's shape.
        seed: of what is random.

    Raises:
        ConfigError: it is wider than the teacher.
        UsageError: the teacher has no tokenizer, or has been quantized.
    """
    from bertwright.models.small.encoder import SmallEncoder

    refuse_quantized(teacher, "a student cannot start from it")
    if teacher.tokenizer is None:
        raise UsageError("the teacher has no tokenizer", hint="save it with its tokenizer")
    width_t = teacher.roles.hidden_size
    width = config.width or width_t
    if width > width_t and config.start != "random":
        raise ConfigError(
            f"--student {config.kind}:width={width}: the teacher's vectors have {width_t} numbers",
            hint=f"a width up to {width_t}, or start=random",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = TaskModel(
            SmallEncoder(_encoder_config(teacher, config, width)),
            task=teacher.task,
            labels=teacher.labels,
            config=_head_of(teacher, config, width),
            tokenizer=teacher.tokenizer,
            lineage={"base_model": teacher.lineage.get("base_model"), "family": "small"},
            max_length=teacher.max_length,
            outputs=teacher.outputs,
        )
    student.scale.load_state_dict(teacher.scale.state_dict())
    if config.start != "random":
        vectors = piece_vectors(teacher, outputs=config.start == "outputs")
        vectors = reduce_width(vectors, width)
        if config.weighted:
            vectors = vectors * frequency_weights(rows, len(vectors))[:, None]
        _set_pieces(student, vectors)
    return student.eval()


def _encoder_config(teacher: TaskModel, config: SmallStudentConfig, width: int) -> SmallConfig:
    return SmallConfig(
        kind=config.kind,
        vocab_size=int(teacher.encoder.config.vocab_size),
        hidden_size=width,
        num_hidden_layers=0 if config.kind == "static" else config.layers,
        kernel_size=config.kernel,
        ngram_longest=config.ngrams,
        ngram_buckets=config.buckets if config.ngrams > 1 else 0,
        max_position_embeddings=teacher.max_length if config.positions else 0,
        hidden_dropout_prob=config.dropout,
        pad_token_id=int(teacher.encoder.config.pad_token_id or 0),
    )


def _head_of(teacher: TaskModel, config: SmallStudentConfig, width: int) -> ModelConfig:
    """Return a linear head; vectors have one where they are to be of the teacher's width."""
    own = teacher.config
    if teacher.outputs.kind == "vectors":
        pooled = width * (2 if config.pooling == "mean-max" else 1)
        wanted = teacher.outputs.count
        head = {} if pooled == wanted else {"head": "linear", "head_hidden": wanted}
        return ModelConfig(pooling=config.pooling, **head)
    return ModelConfig(
        pooling=config.pooling, head="linear", head_crf=own.head_crf, head_lstm=own.head_lstm
    )


@torch.no_grad()
def piece_vectors(teacher: TaskModel, *, outputs: bool) -> Tensor:
    """Return a vector for each piece of the teacher's vocabulary, float32 [V, D_t].

    Args:
        teacher: run in eval mode, in fp32.
        outputs: the mean of its last states of the piece between its special tokens; else its word
            embeddings.
    """
    table: Any = teacher.encoder.get_input_embeddings()
    num_pieces = int(teacher.encoder.config.vocab_size)
    device = next(teacher.parameters()).device
    if not outputs:
        found = table(torch.arange(num_pieces, device=device)).float().cpu()
        if found.shape[1] != teacher.roles.hidden_size:
            raise ConfigError(
                f"start=words: the word embeddings have {found.shape[1]} numbers and the states "
                f"{teacher.roles.hidden_size}",
                hint="start=outputs",
            )
        return found
    found = torch.empty(num_pieces, teacher.roles.hidden_size)
    with eval_mode(teacher), Progress("vectors of pieces", total=num_pieces, unit="pieces") as bar:
        for begin, ids in _alone(teacher, num_pieces):
            ids = ids.to(device)
            output = teacher(ids, torch.ones_like(ids), output_hidden_states=True)
            found[begin : begin + len(ids)] = output.hidden_states[-1].mean(dim=1).float().cpu()
            bar.advance(len(ids))
    return found


def _alone(teacher: TaskModel, num_pieces: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first id, ids [n, L]) of each piece by itself between the special tokens."""
    assert teacher.tokenizer is not None
    tokenizer: Any = teacher.tokenizer
    special: list[int] = tokenizer("")["input_ids"]
    before = [] if teacher.roles.cls_at_end else special[:1]
    after = special[len(before) :]
    for begin in range(0, num_pieces, _PIECES_AT_A_TIME):
        ids = range(begin, min(begin + _PIECES_AT_A_TIME, num_pieces))
        yield begin, torch.tensor([[*before, id_, *after] for id_ in ids])


def reduce_width(vectors: Tensor, width: int) -> Tensor:
    """Return vectors [V, D_t] less their mean, along their first principal directions, [V, D].

    At the full width they are returned as they are.
    """
    if width == vectors.shape[1]:
        return vectors
    centred = vectors - vectors.mean(dim=0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    return centred @ (directions * signs)


def frequency_weights(rows: EncodedRows, num_pieces: int) -> Tensor:
    """Return a / (a + p) of each piece, [V], p its share of the rows' tokens, a = 1e-3.

    Source: Arora, Liang, Ma 2017 (SIF).
    """
    counts = np.zeros(num_pieces, np.int64)
    for begin in range(0, len(rows), _PIECES_AT_A_TIME):
        positions = np.arange(begin, min(begin + _PIECES_AT_A_TIME, len(rows)))
        counts += np.bincount(np.concatenate(rows.tokens(positions)), minlength=num_pieces)
    shares = counts / max(counts.sum(), 1)
    return torch.from_numpy(_SIF / (_SIF + shares)).float()


@torch.no_grad()
def _set_pieces(student: TaskModel, vectors: Tensor) -> None:
    table: Any = student.encoder.get_input_embeddings()
    table.weight.copy_(vectors)
