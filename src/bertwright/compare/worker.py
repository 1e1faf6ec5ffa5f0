"""One contender in a process of its own: `python -m bertwright.compare.worker JOB.json`."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.compare import CONTENDERS, Classifier, Contender, LabelledTexts
from bertwright.compare.encoders import EncoderContender, FinetuneContender, StudentContender
from bertwright.config import config_from_dict, config_from_strings, config_to_dict
from bertwright.errors import BertwrightError, ConfigError
from bertwright.files import read_json, write_json
from bertwright.models.encoder import load_tokenizer
from bertwright.progress import Progress
from bertwright.registry import split_spec
from bertwright.tasks import find_task
from bertwright.tasks.judged import Judged
from bertwright.tasks.metrics.classes import class_statistics
from bertwright.training.precision import using_threads

__all__ = ["Job", "parse_contender", "run_job"]

_SECONDS = "seconds.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told."""

    contender: str
    """NAME:key=value,..."""
    rows: str
    """Folder with `train.json`, `dev.json`, `test.json`: texts and ids of labels."""
    out: str
    """File for the result."""
    models: str
    """Folder for what contenders leave each other."""
    num_classes: int
    model: str
    max_length: int
    seed: int
    threads: int
    repeats: int
    speed_rows: int


def parse_contender(spec: str) -> Contender:
    """Return the contender that `NAME:key=value,...` says.

    Raises:
        UnknownChoiceError: there is no such contender.
        ConfigError: an option is unknown, or its value is none.
    """
    name, options = split_spec(spec, "--contender")
    kind = CONTENDERS[name]
    for hidden in set(options) & {f.name for f in _fields(kind) if not f.repr}:
        raise ConfigError(f"--contender {spec}: {name} has no option {hidden!r}")
    return config_from_strings(kind, options, source=f"--contender {spec}")


def run_job(job: Job) -> dict[str, Any]:
    """Fit the contender, judge and time it; return what is written."""
    train, dev, test = (_read(job, split) for split in ("train", "dev", "test"))
    contender = _filled(parse_contender(job.contender), job)
    with using_threads(job.threads), Progress("fit", total=100, unit="%") as bar:
        done = [0.0]

        def tell(what: str, share: float) -> None:
            bar.advance(max(100 * share - done[0], 0))
            done[0] = max(100 * share, done[0])
            bar.note(what)

        before = _teacher_seconds(contender)
        began = time.perf_counter()
        classifier = contender.fit(
            train, dev, num_classes=job.num_classes, seed=job.seed, progress=tell
        )
        seconds = time.perf_counter() - began
    if type(contender) is FinetuneContender and contender.folder is not None:
        write_json(contender.folder / _SECONDS, {"train_s": seconds})
    with using_threads(job.threads):
        logits = classifier.logits(list(test.texts))
        rate = _throughput(classifier, list(test.texts)[: job.speed_rows], job.repeats)
    judged = Judged(find_task("classify"), class_statistics(logits.argmax(axis=1), test.labels))
    score = judged.interval()
    return {
        **{"contender": job.contender, "seed": job.seed, "options": _options(contender)},
        **{"primary": judged.task.primary, "score": score.score},
        **{"score_low": score.low, "score_high": score.high},
        "metrics": judged.task.metrics(judged.statistics),
        **{"train_s": before + seconds, "teacher_s": before},
        **{"throughput_texts_s": rate, "size_mb": classifier.num_bytes / 1e6},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **{"threads": job.threads, "num_train": len(train), "num_test": len(test)},
    }


def _read(job: Job, split: str) -> LabelledTexts:
    values = read_json(Path(job.rows) / f"{split}.json")
    return LabelledTexts(texts=values["texts"], labels=np.array(values["labels"], np.int64))


def _filled(contender: Contender, job: Job) -> Contender:
    """Return the contender with what all of them are told alike."""
    given: dict[str, Any] = {}
    if isinstance(contender, EncoderContender):
        given = {"model": job.model, "max_length": job.max_length}
    if isinstance(contender, FinetuneContender):
        given["folder"] = Path(job.models) / f"finetune-s{job.seed}-{_teacher_of(contender)}"
    if contender.needs_tokenizer:
        given["tokenizer"] = load_tokenizer(job.model)
    return replace(contender, **given)  # pyright: ignore[reportArgumentType]


_TEACHER = ("pooling", "epochs", "lr", "batch_size")


def _teacher_of(contender: FinetuneContender) -> str:
    """Return a name for the options of the fine-tuned model; a student's are its teacher's."""
    return "-".join(f"{getattr(contender, name)}" for name in _TEACHER).replace(":", "_")


def _teacher_seconds(contender: Contender) -> float:
    """Return what the teacher took that a student finds there; 0 where it has to train it."""
    if isinstance(contender, StudentContender) and contender.folder is not None:
        file = contender.folder / _SECONDS
        if file.exists():
            return float(read_json(file)["train_s"])
    return 0.0


def _options(contender: Contender) -> dict[str, Any]:
    return config_to_dict(
        {f.name: getattr(contender, f.name) for f in _fields(type(contender)) if f.repr}
    )


def _fields(kind: type[Contender]) -> tuple[Field[Any], ...]:
    """Return the fields of a contender; those left out of its repr are the caller's."""
    return fields(kind)  # pyright: ignore[reportArgumentType]


def _throughput(classifier: Classifier, texts: Sequence[str], repeats: int) -> float:
    """Return texts a second from text to answer, the median of several rounds."""
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        classifier.logits(texts)
        rates.append(len(texts) / (time.perf_counter() - began))
    return statistics.median(rates)


def main() -> None:
    """Run the job whose file is named; why it cannot be done is the last line on stderr."""
    job = config_from_dict(Job, read_json(Path(sys.argv[1])), source=sys.argv[1])
    try:
        write_json(Path(job.out), run_job(job))
    except BertwrightError as error:
        sys.exit("; ".join(filter(None, (error.message, error.hint))))


if __name__ == "__main__":
    main()
