"""Students without attention beside TF-IDF and a student of one layer: score and throughput.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/static_runs.py --threads 2 --data-dir DIR

On clinc150 and sst2 the teachers are those of transfer_runs.py, on ag_news MiniLM fine-tuned on
5,000 of its rows; each with its vocabulary trimmed to its set. Static students (alone, and with
pairs of pieces) learn by soft targets with three seeds, one layer with the first; another one has
the teacher's word embeddings as they are, with a head fitted to its answers, where nothing is
random, and a third is trained from there, with one seed. TF-IDF
with logistic regression is that of `bertwright compare`. All are judged on test. Then they are
measured side by side on the same texts, text in, label out: the teacher in `transformers`' own
pipeline, each student in OpenVINO and torch, one layer in OpenVINO's int8 too, each in a process of
its own, and TF-IDF before and after them (`--prepare` leaves that for later, when the
machine is quiet). Writes `results/static/SET.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import random
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from task_data import read_rows, write_rows
from transfer_runs import SETUPS, SIZES, Setup, bertwright, data_words, facts, make_trimmed_teacher

from bertwright.compare.bag_of_words import TfidfContender
from bertwright.compare.contender import LabelledTexts
from bertwright.compress.bench import BASELINE, baseline_target
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import read_json, write_json
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.tasks.judged import Judged
from bertwright.tasks.metrics.classes import class_statistics

RESULTS = Path(__file__).resolve().parent.parent / "results" / "static"
NEWS = Setup(
    train="train",
    teacher=("--epochs", "2", "--lr", "1e-4", "--batch-size", "32", "--max-length", "64"),
    epochs=4,
    lr=2e-4,
    static_lr=3e-3,
    batch_size=32,
)
NEWS_ROWS, NEWS_DEV = 5000, 1000
STATIC_EPOCHS = 10
WORDS = ("--student", "static:start=words,weighted=false")
SIZES = SIZES | {"static-fitted": (*WORDS, "--method", "fitted_head"), "static-words": WORDS}
SEEDS = {"static": 3, "static-ngrams": 3, "static-fitted": 1, "static-words": 1, "1": 1}
"""How many, by size as transfer_runs.py names it."""
SPEED_ROWS, CALIBRATION_ROWS = 1000, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prepare", action="store_true", help="measure no speed, write no result")
    parser.add_argument("--sets", nargs="*", default=[*SETUPS, "ag_news"])
    args = parser.parse_args()
    SETUPS["ag_news"] = NEWS
    for name in args.sets:
        own = copy.copy(args)
        if name == "ag_news":
            own.data_dir = split_news(args)
        students = {size: train_students(own, name, size) for size in SEEDS}
        out = RESULTS / f"{name}.json"
        if not (args.prepare or out.exists()):
            write_json(out, measure_set(own, name, students))


def split_news(args: argparse.Namespace) -> Path:
    """Write the rows of ag_news to learn from, to choose by and to judge by; return their place."""
    home = args.work_dir / "data"
    if not (home / "ag_news" / "test.jsonl").exists():
        rows = read_rows(args.data_dir / "ag_news" / "train.jsonl")
        rows = random.Random(0).sample(rows, NEWS_ROWS + NEWS_DEV)
        (home / "ag_news").mkdir(parents=True, exist_ok=True)
        write_rows(home / "ag_news" / "train.jsonl", rows[NEWS_DEV:])
        write_rows(home / "ag_news" / "dev.jsonl", rows[:NEWS_DEV])
        test = read_rows(args.data_dir / "ag_news" / "test.jsonl")
        write_rows(home / "ag_news" / "test.jsonl", test)
    return home


def train_students(args: argparse.Namespace, name: str, size: str) -> list[Path]:
    """Train the students of one size, a seed each; return their folders, facts.json in each."""
    teacher, setup, folders = make_trimmed_teacher(args, name), SETUPS[name], []
    is_static = size.startswith("static")
    for seed in range(SEEDS[size]):
        folder = args.work_dir / name / f"beside-{size}-s{seed}"
        folders.append(folder)
        if (folder / "facts.json").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name} {folder.name}", file=sys.stderr, flush=True)
        cost = bertwright(
            args,
            *("distil", "--teacher", str(teacher), *data_words(args, name), *SIZES[size]),
            *("--lr", str(setup.static_lr if is_static else setup.lr), "--seed", str(seed)),
            *("--epochs", str(STATIC_EPOCHS if is_static else setup.epochs)),
            *("--batch-size", str(setup.batch_size), "--out", str(folder)),
        )
        found = facts(args, name, folder, cost)
        print(f"  {cost.seconds:.0f} s {found['test']['score']:.4f}", file=sys.stderr, flush=True)
        write_json(folder / "facts.json", found)
    return folders


def measure_set(
    args: argparse.Namespace, name: str, students: dict[str, list[Path]]
) -> dict[str, Any]:
    """Return scores and speeds of all students, and of TF-IDF."""
    splits = (SETUPS[name].train, "dev", "test")
    rows = {split: read_rows(args.data_dir / name / f"{split}.jsonl") for split in splits}
    texts = [row["text"] for row in rows["test"]]
    texts = random.Random(0).sample(texts, min(SPEED_ROWS, len(texts)))
    train, dev, test = (labelled(rows[split], rows[splits[0]]) for split in splits)
    tfidf = TfidfContender().fit(train, dev, num_classes=int(train.labels.max()) + 1, seed=0)
    answers = tfidf.logits(test.texts).argmax(axis=1)
    in_int8: dict[str, dict[str, float]] = {}
    teacher = make_trimmed_teacher(args, name)
    stock, max_length = args.work_dir / name / "stock", TaskModel.load(teacher).max_length
    targets = [baseline_target(find_task("classify"), teacher, max_length, stock)[0]]
    for size, (first, *_) in students.items():
        targets.append(Target(name=f"{size}@torch:fp32", path=first, spec="torch:fp32"))
        for precision in ("fp32", "int8") if size.isdigit() else ("fp32",):
            spec = f"openvino:{precision}"
            place = compiled(first, spec, rows[splits[0]], args.threads)
            targets.append(Target(name=f"{size}@{spec}", path=place, spec=spec))
            if precision == "int8":
                with contextlib.closing(Predictor(place, threads=args.threads)) as int8:
                    order = np.argsort(np.argsort(int8.labels))  # ids by sorted labels
                    in_int8[size] = judged(order[int8.logits(test.texts).argmax(axis=1)], test)
    rates = [rate_of(tfidf, texts) for _ in range(args.repeats)]
    measured = measure_targets(
        targets, {"text": texts}, threads=args.threads, repeats=args.repeats, latency_rows=100
    )
    rates += [rate_of(tfidf, texts) for _ in range(args.repeats)]
    return {
        "set": name,
        "tfidf": {
            **judged(answers, test),
            **{"throughput_texts_s": statistics.median(rates), "size_mb": tfidf.num_bytes / 1e6},
        },
        "students": {
            size: [read_json(folder / "facts.json") for folder in folders]
            for size, folders in students.items()
        },
        "int8": in_int8,
        "teacher": read_json(
            RESULTS.parent / "transfer" / name / "teacher-s0.json",
        )["test"],
        "speeds": [vars(one) for one in measured],
        "baseline": BASELINE,
        **{"threads": args.threads, "machine": machine(), "versions": versions()},
    }


def judged(answers: np.ndarray, rows: LabelledTexts) -> dict[str, float]:
    """Return the accuracy of answers with its interval."""
    score = Judged(find_task("classify"), class_statistics(answers, rows.labels)).interval()
    return {"score": score.score, "score_low": score.low, "score_high": score.high}


def compiled(model: Path, spec: str, rows: list[dict[str, Any]], threads: int) -> Path:
    """Return the folder of a student in an engine, made where it is not there yet."""
    place = model.parent / f"{model.name}-{spec.replace(':', '-')}"
    if not place.exists():
        student = TaskModel.load(model)
        some = random.Random(0).sample(rows, min(CALIBRATION_ROWS, len(rows)))
        found = load_rows(some, labels=LabelSet(tuple(student.labels)))
        encoded = tokenise(found, student.tokenizer, max_length=student.max_length)
        compile_model(model, spec, place, calibration=encoded, parity=encoded, threads=threads)
    return place


def labelled(rows: list[dict[str, Any]], train: list[dict[str, Any]]) -> LabelledTexts:
    """Return texts and the ids of their labels, by the labels of the rows to learn from."""
    ids = {label: place for place, label in enumerate(sorted({row["label"] for row in train}))}
    labels = np.array([ids[row["label"]] for row in rows], np.int64)
    return LabelledTexts(texts=[row["text"] for row in rows], labels=labels)


def rate_of(classifier: Any, texts: list[str]) -> float:
    """Return texts a second, labels out."""
    began = time.perf_counter()
    classifier.logits(texts).argmax(axis=1)
    return len(texts) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
