"""Contenders that are encoders: frozen with a pooling, fine-tuned, and a student of that."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertwright.card import MethodCard
from bertwright.compare.bag_of_words import LinearClassifier
from bertwright.compare.contender import Contender, LabelledTexts, ReportProgress
from bertwright.config import require
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.features.classic import fit_classic
from bertwright.features.frozen import freeze, with_reads
from bertwright.features.learners import LEARNERS, learners_named
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import choose_layers, init_student
from bertwright.methods.distil.train import train_distilled
from bertwright.models.build import build_task_model
from bertwright.models.pooling import check_pooling
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import Task, find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits
from bertwright.training.loop import train

__all__ = [
    "EncoderClassifier",
    "EncoderContender",
    "FinetuneContender",
    "FrozenContender",
    "StudentContender",
    "WordsContender",
]


@dataclass(frozen=True)
class EncoderClassifier:
    """A model of one label a text, in fp32 in torch."""

    model: TaskModel

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return [N, C], in the texts' order; batches by length."""
        encoded = _encode(self.model, texts)
        found = compute_logits(self.model, encoded, batch_tokens=1024, precision="fp32")
        return np.asarray(found, np.float32)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights and of the tables that are saved with them."""
        return sum(t.numel() * t.element_size() for t in self.model.state_dict().values())


def _task() -> Task:
    return find_task("classify")


def _encode(
    model: TaskModel, texts: Sequence[str], labels: np.ndarray | None = None
) -> EncodedRows:
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    if labels is not None:
        rows = [{**row, "label": str(label)} for row, label in zip(rows, labels, strict=True)]
    task = _task()
    loaded = load_rows(
        rows,
        schema=task.schema,
        need_label=labels is not None,
        labels=None if labels is None else LabelSet(tuple(model.labels)),
    )
    return tokenise(loaded, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


@dataclass(frozen=True, kw_only=True)
class EncoderContender(Contender):
    """What they have in common: where the encoder comes from, and how long a text may be."""

    model: str = "minilm"
    """Where to start: a Hub name, a directory, or minilm."""
    max_length: int = 128
    """Tokens of a text; longer ones are cut."""

    def __post_init__(self) -> None:
        require(self.max_length >= 2, "max_length", self.max_length, "at least 2")

    def build(self, num_classes: int, seed: int, **config: Any) -> TaskModel:
        """Return a new model whose labels are the ids of the classes."""
        return build_task_model(
            self.model,
            task="classify",
            labels=[str(place) for place in range(num_classes)],
            config=ModelConfig(**config),
            max_length=self.max_length,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class FrozenContender(EncoderContender):
    """An encoder that is only read, and a classifier on its vectors."""

    card: ClassVar[MethodCard] = MethodCard(
        name="frozen",
        kind="compare",
        summary="The encoder as it is, a pooling, and a classifier on the vectors.",
        paper="To Tune or Not to Tune?",
        year=2019,
        citation="Peters, Ruder, Smith 2019, arXiv:1903.05987",
        equation="logistic regression on v = pooling(H_0, ... H_K); H is not trained",
        needs="Labelled texts; an encoder.",
        cost="One pass of the encoder over the texts, then the classifier alone.",
        expected_effect="Near fine-tuning where the encoder was trained for sentences; else below.",
        expected_source="Peters et al. 2019, table 2.",
        when_to_use="Few rows, many tasks on one encoder, or little time.",
        when_not_to_use="With thousands of rows and an hour: finetune is above it.",
        siblings="finetune trains the encoder too.",
        departures="A pooling that is trained has a linear head, trained with it by gradients.",
    )
    pooling: str = "mean"
    """As in finetune --pooling."""
    learner: str = "logistic"
    """As in finetune --learner (best: the one that cross-validation prefers); poolings that are
    trained have a head of ours, as have vectors that are too wide for it with so many rows."""
    epochs: float = 10.0
    """Of a pooling or a head that is trained."""
    lr: float = 3e-3
    """Likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pooling(self.pooling)
        learners_named(self.learner)

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> EncoderClassifier:
        """Read the texts once, then fit the classifier."""
        model = self.build(num_classes, seed, pooling=self.pooling, head="linear")
        task = _task()
        freeze(model)
        encoded = _encode(model, train.texts, train.labels)
        task.prepare(model, encoded)
        assert model.pooling is not None
        with tempfile.TemporaryDirectory() as folder:
            (read,) = with_reads([model], encoded, folder=folder)
            learners = learners_named(self.learner)
            size = (len(encoded), model.pooling.width, model.outputs)
            fitting = [name for name in learners if LEARNERS[name]().affordable(*size)]
            if list(model.pooling.parameters()) or not fitting:
                (read_dev,) = with_reads(
                    [model], _encode(model, dev.texts, dev.labels), folder=folder
                )
                training = TrainingConfig(
                    epochs=self.epochs, lr=self.lr, seed=seed, max_length=self.max_length
                )
                _train(model, read, read_dev, task, training, Path(folder) / "run")
            else:
                fit_classic(model, read, task, learners=fitting, seed=seed)
        return EncoderClassifier(model.eval())


def _train(
    model: TaskModel,
    rows: EncodedRows,
    eval_rows: EncodedRows,
    task: Task,
    training: TrainingConfig,
    run_dir: Path,
) -> None:
    train(model, rows, eval_rows, task=task, config=training, run_dir=run_dir)


@dataclass(frozen=True, kw_only=True)
class WordsContender(EncoderContender):
    """The mean of the vectors of a text's pieces, below the first layer, and a classifier."""

    card: ClassVar[MethodCard] = replace(
        FrozenContender.card,
        name="words",
        summary="The mean of the encoder's own word vectors, without its layers.",
        equation="logistic regression on v = mean over tokens of E[token] (the sum, normalised)",
        cost="A look-up; no layer is run.",
        expected_effect="MiniLM: clinc150 82.4, fine-tuned 84.5; sst2 78.9, fine-tuned 89.4.",
        expected_source="Measured here: docs/compare.md.",
        when_to_use="As the line that the layers have to be above.",
        when_not_to_use="To be good.",
        siblings="tfidf counts words; ngrams learns vectors for the task.",
        departures="Pieces of words, with the embeddings' norm, positions taken as they are.",
    )

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> WordsClassifier:
        """Fit logistic regression to the means of word vectors."""
        model = self.build(num_classes, seed, pooling="mean", head="linear")
        embeddings: Any = model.encoder.get_input_embeddings()
        table = embeddings.weight.detach().float().numpy()
        nothing = LinearClassifier(np.zeros((0, 0)), np.zeros(0))
        words = WordsClassifier(table, nothing, model)
        x, x_dev = words.vectors(train.texts), words.vectors(dev.texts)
        logistic = LEARNERS["logistic"]()
        fits = [logistic.fit(x, train.labels, model.outputs, s, seed) for s in logistic.grid]
        linears = [_as_linear(head) for head in fits]
        right = [(one.logits(x_dev).argmax(axis=1) == dev.labels).sum() for one in linears]
        return replace(words, linear=linears[int(np.argmax(right))])


def _as_linear(head: Any) -> LinearClassifier:
    return LinearClassifier(head.out.weight.detach().numpy(), head.out.bias.detach().numpy())


@dataclass(frozen=True)
class WordsClassifier:
    """A table of word vectors and a linear layer on the mean of a text's."""

    table: np.ndarray
    """[V, D]."""
    linear: LinearClassifier
    """[C, D] and [C]."""
    model: TaskModel
    """For its tokenizer and labels."""

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean of each text's word vectors, without special tokens, [N, D]."""
        encoded = _encode(self.model, texts)
        special = np.array(sorted(self.model.tokenizer.all_special_ids))  # pyright: ignore
        found = np.zeros((len(texts), self.table.shape[1]), np.float32)
        for row, ids in enumerate(encoded.tokens(np.arange(len(encoded)))):
            kept = ids[~np.isin(ids, special)]
            if len(kept):
                found[row] = self.table[kept].mean(axis=0)
        return found

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return [N, C]."""
        return self.linear.logits(self.vectors(texts))

    @property
    def num_bytes(self) -> int:
        """Bytes of the table and the layer, in fp32."""
        return 4 * self.table.size + self.linear.num_bytes


@dataclass(frozen=True, kw_only=True)
class FinetuneContender(EncoderContender):
    """The encoder and its head trained together."""

    card: ClassVar[MethodCard] = MethodCard(
        name="finetune",
        kind="compare",
        summary="The encoder fine-tuned with its own head: what bertwright finetune does.",
        paper="BERT: Pre-training of Deep Bidirectional Transformers",
        year=2019,
        citation="Devlin, Chang, Lee, Toutanova 2019, arXiv:1810.04805",
        equation="mean over rows of -log softmax(head(pooling(H)))[y], by AdamW",
        needs="Labelled texts; an encoder; minutes to hours.",
        cost="Three passes' worth of work a row and epoch.",
        expected_effect="GLUE average of BERT-base 79.6, of ELMo's features 71.0.",
        expected_source="Devlin et al. 2019, table 1, quoted from memory.",
        when_to_use="Where the score matters most.",
        when_not_to_use="With a few hundred rows, look at frozen first.",
        siblings="student is a shallow model that learns from it.",
        departures="None.",
    )
    pooling: str = "cls"
    """As in finetune --pooling."""
    epochs: float = 3.0
    """Passes over the rows."""
    lr: float = 1e-4
    """Peak learning rate."""
    batch_size: int = 32
    """Rows of a batch."""
    folder: Path | None = field(default=None, repr=False, compare=False)
    """Where the model is kept for a student; no option, the caller gives it."""

    def training(self, seed: int) -> TrainingConfig:
        """Return how it is trained."""
        return TrainingConfig(
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            seed=seed,
            max_length=self.max_length,
        )

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> EncoderClassifier:
        """Fine-tune, and keep the weights that are best on dev."""
        model = self.build(num_classes, seed, pooling=self.pooling)
        with tempfile.TemporaryDirectory() as folder:
            _train(
                model,
                _encode(model, train.texts, train.labels),
                _encode(model, dev.texts, dev.labels),
                _task(),
                self.training(seed),
                Path(folder),
            )
        if self.folder is not None:
            model.save(self.folder)
        return EncoderClassifier(model.eval())


@dataclass(frozen=True, kw_only=True)
class StudentContender(FinetuneContender):
    """Some layers of the fine-tuned model, trained by its answers."""

    card: ClassVar[MethodCard] = replace(
        FinetuneContender.card,
        name="student",
        summary="A shallow student of the fine-tuned encoder, by soft targets.",
        paper="Distilling the Knowledge in a Neural Network",
        year=2015,
        citation="Hinton, Vinyals, Dean 2015, arXiv:1503.02531",
        equation="KL(softmax(z_t / T) | softmax(z_s / T)) T^2 and the cross-entropy of labels",
        cost="The teacher's training, and then a share of it.",
        expected_effect="clinc150, 2 layers: 97.6% of its teacher's score; the control 96.7%.",
        expected_source="Measured here: README, in int8.",
        when_to_use="Where the speed matters: bertwright compress searches for the best.",
        siblings="finetune is its teacher.",
    )
    layers: int = 2
    """Of the student."""
    student_epochs: float = 4.0
    """Passes of the student over the rows."""
    student_lr: float = 3e-4
    """Its peak learning rate."""

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> EncoderClassifier:
        """Fine-tune the teacher, or take the one that is kept, and train the student."""
        teacher = self.teacher(train, dev, num_classes=num_classes, seed=seed)
        layers = choose_layers(teacher.roles.num_layers, self.layers, "uniform")
        student = init_student(teacher, layers)
        training = replace(self.training(seed), epochs=self.student_epochs, lr=self.student_lr)
        with tempfile.TemporaryDirectory() as folder:
            train_distilled(
                student,
                teacher,
                _encode(teacher, train.texts, train.labels),
                _encode(teacher, dev.texts, dev.labels),
                methods=(SoftTargetsConfig(),),
                training=training,
                run_dir=Path(folder) / "run",
                cache_folder=Path(folder) / "teacher",
            )
        return EncoderClassifier(student.eval())

    def teacher(
        self, train: LabelledTexts, dev: LabelledTexts, *, num_classes: int, seed: int
    ) -> TaskModel:
        """Return the fine-tuned model."""
        if self.folder is not None and (self.folder / "bertwright.json").exists():
            return TaskModel.load(self.folder)
        return super().fit(train, dev, num_classes=num_classes, seed=seed).model
