"""Vectors of texts from an encoder as it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertwright.config import require
from bertwright.evaluate.measure import model_folder
from bertwright.models.build import build_task_model
from bertwright.models.encoder import find_model_dir, read_checkpoint_tensors
from bertwright.models.multi import head_folder
from bertwright.models.outputs import Outputs
from bertwright.models.pooling import check_pooling
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.progress import Progress
from bertwright.tasks import find_task
from bertwright.verbs.common import InputConfig, read_rows

if TYPE_CHECKING:
    from bertwright.data.rows import Rows
    from bertwright.data.tokenise import EncodedRows

__all__ = ["EXAMPLES", "GROUPS", "EmbedConfig", "Embedded", "embed"]

EXAMPLES = (
    ("one vector a text", "--model minilm --input texts.jsonl --output v.npy"),
    (
        "several in one pass of the encoder",
        "--model minilm --input texts.csv --pooling mean --pooling wk --output v.parquet",
    ),
    (
        "the mean after two of the layers",
        "--model runs/mine --input texts.csv --pooling mean --layer 3 --layer 6 "
        "--output v.safetensors",
    ),
)
GROUPS = {
    "What you give": ("model", "head", "input", "reading", "fit_data"),
    "Which vectors": ("pooling", "layer", "normalize", "max_length"),
    "How it runs": ("precision", "threads"),
    "Output": ("output",),
}
DEFAULT_LENGTH = 256


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Write one vector a text, or several: any pooling after any layer, in one pass.

    Nothing is trained. Memory stays bounded however many rows there are. The order is that of the
    input; rows that were skipped have no vector.
    """

    model: str
    """An encoder: a Hub name, a directory, minilm; or a run or model of bertwright."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    input: str
    """Texts, or pairs of texts: a file (csv, tsv, jsonl, parquet; .gz too), folder, glob, or Hub
    dataset."""
    reading: InputConfig = field(default_factory=InputConfig)
    fit_data: str | None = None
    """Texts that tfidf and sif take their weights from. Without it, the input itself."""
    pooling: tuple[str, ...] = ()
    """How the states of a text become one vector: mean, cls, wk, ...; may be given several times
    (bertwright methods lists them). Without it, as the model has it."""
    layer: tuple[int, ...] = ()
    """After how many layers of the encoder; may be given several times. Without it, after all."""
    normalize: bool = False
    """Bring the vectors to length 1."""
    max_length: int | None = None
    """Tokens a text may have; longer ones are cut. Without it, as the model has it, at most 256 for
    a bare encoder."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the matrix products."""
    threads: int | None = None
    """Processor threads. Without it, as torch chooses."""
    output: str
    """File to write: .npy (one vector a text), .parquet or .safetensors (any number of them)."""

    def __post_init__(self) -> None:
        for spec in self.pooling:
            check_pooling(spec)
        length = self.max_length
        require(length is None or length >= 1, "max_length", length, "at least 1")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What was written."""

    output: Path
    num_rows: int
    widths: dict[str, int]
    """Of each vector, by its name."""
    num_truncated: int
    """Texts that were cut."""
    seconds: float


def embed(config: EmbedConfig) -> Embedded:
    """Write the vectors; the file is written whole or not at all.

    Raises:
        UsageError: the model, the input, a pooling or the output cannot be used.
    """
    from bertwright.features.extract import Extractor
    from bertwright.features.writers import check_vectors_file, open_vectors
    from bertwright.training.precision import using_threads

    model = _load(config)
    source = str(config.model)
    extractor = Extractor(
        model,
        _wanted(config, model),
        normalize=config.normalize,
        precision=config.precision,
        read=lambda names: read_checkpoint_tensors(source, names),
    )
    output = Path(config.output)
    check_vectors_file(output, extractor.widths)
    with using_threads(config.threads):
        rows = _read(config, config.input, output.parent / "rejected.jsonl")
        encoded = _tokenise(rows, model)
        began = time.perf_counter()
        with open_vectors(output, extractor.widths, len(encoded)) as write:
            if extractor.fits_texts:
                fitted = encoded
                if config.fit_data is not None:
                    rejected = output.parent / "rejected-fit.jsonl"
                    fitted = _tokenise(_read(config, config.fit_data, rejected), model)
                extractor.fit(fitted)
            with Progress("embed", total=len(encoded), unit="texts") as bar:
                begin = 0
                for vectors in extractor.chunks(encoded):
                    count = len(next(iter(vectors.values())))
                    write(encoded.row_numbers[begin : begin + count], vectors)
                    begin += count
                    bar.advance(count)
    return Embedded(
        output=output,
        num_rows=len(encoded),
        widths=extractor.widths,
        num_truncated=encoded.num_truncated,
        seconds=time.perf_counter() - began,
    )


def _load(config: EmbedConfig) -> TaskModel:
    """Return a model whose encoder is asked; of a bare encoder one for vectors is made."""
    path = str(head_folder(config.model, config.head))
    folder = model_folder(path)
    if find_model_dir(folder) is not None:
        model = TaskModel.load(folder)
    else:
        model = build_task_model(
            path,
            task="embed",
            labels=[],
            config=ModelConfig(pooling="mean"),
            max_length=1,
            outputs=Outputs(0, kind="vectors"),
        )
        model.max_length = min(model.roles.max_length or DEFAULT_LENGTH, DEFAULT_LENGTH)
    if config.max_length is not None:
        limit = model.roles.max_length
        legal = f"1 to {limit} for this encoder"
        fits = limit is None or config.max_length <= limit
        require(fits, "max_length", config.max_length, legal)
        model.max_length = config.max_length
    return model


def _wanted(config: EmbedConfig, model: TaskModel) -> list[Any]:
    from bertwright.features.extract import Wanted

    own = "mean" if model.pooling is None else model.pooling.spec
    layers = config.layer or (None,)
    return [
        Wanted(pooling=pooling, layer=layer)
        for pooling in config.pooling or (own,)
        for layer in layers
    ]


def _read(config: EmbedConfig, source: str, rejected: Path) -> Rows:
    return read_rows(
        source,
        config.reading,
        find_task("classify"),
        need_label=False,
        rejected_path=rejected,
        split="test",
    )


def _tokenise(rows: Rows, model: TaskModel) -> EncodedRows:
    from bertwright.data.tokenise import tokenise

    encoder = find_task("classify").encoder
    return tokenise(rows, model.tokenizer, encoder=encoder, max_length=model.max_length)
