"""Generalized distillation: a teacher that reads the whole text, students that read its beginning.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/privileged_runs.py --threads 1 --data-dir DIR

Rows of clinc150 and sst2 whose text is cut after a few words; the whole text stands in a column
`whole`. Some rows have labels, drawn anew with each seed, others of the training set have not.
All models start from MiniLM with the pieces of the set's texts alone. Two teachers are fine-tuned
on the rows with labels: one reads the beginning and the whole, as a pair, the other the beginning
alone. Students of two layers read the beginning. Some learn from a teacher's answers to all rows
(`distil --more-text`, the first teacher's with `--teacher-column text_b=whole`), others from those
to the rows with labels alone, and the control from the labels: as many steps all. Each run has a
process of its own and leaves `results/privileged/SET-WHO-sSEED.json`; what is there is not done
again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from task_data import read_rows, write_rows
from transfer_runs import bertwright, facts

from bertwright.files import write_json
from bertwright.models.build import build_task_model
from bertwright.models.encoder import load_tokenizer

RESULTS = Path(__file__).resolve().parent.parent / "results" / "privileged"
NUM_WORDS = {"clinc150": 4, "sst2": 8}
"""Words that the student may read."""
TRAIN = {"clinc150": "train", "sst2": "train_sentences"}
NUM_LABELLED = {"clinc150": 1500, "sst2": 1000}
NUM_DEV = 800
"""Rows that choose the best weights."""
MORE_TIMES = 4
"""Rows without labels, for each with one."""
TEACHER_EPOCHS, STUDENT_EPOCHS = 10, 3
"""Of the rows with labels; of all rows."""
TRAINING = {
    "clinc150": ("--lr", "5e-4", "--batch-size", "32"),
    "sst2": ("--lr", "2e-4", "--batch-size", "32"),
}
SPLITS = ("train", "more", "dev", "test")
WHOLE = ("--column", "text_b=whole")
PRIVILEGED = ("--teacher-column", "text_b=whole")


@dataclass(frozen=True, kw_only=True)
class Student:
    """What a student learns from."""

    teacher: str
    words: tuple[str, ...] = ()
    more: bool = False
    """The teacher answers rows without labels too."""


STUDENTS = {
    "control": Student(teacher="plain", words=("--method", "none")),
    "distilled": Student(teacher="plain"),
    "distilled-more": Student(teacher="plain", more=True),
    "privileged": Student(teacher="privileged", words=PRIVILEGED),
    "privileged-more": Student(teacher="privileged", words=PRIVILEGED, more=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/privileged"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="*", choices=list(NUM_WORDS), default=list(NUM_WORDS))
    args = parser.parse_args()
    for name in args.sets:
        encoder = str(make_start(args, name))
        for seed in range(args.seeds):
            write_splits(args, name, seed)
            for who, more in (("privileged", WHOLE), ("plain", ())):
                words = ("finetune", "--model", encoder, "--epochs", str(TEACHER_EPOCHS), *more)
                words = (*words, "--evals-per-epoch", "1")
                train_one(args, name, f"{who}-teacher", seed, words)
            for who, student in STUDENTS.items():
                train_one(args, name, who, seed, words_of(args, name, student, seed, encoder))


def words_of(
    args: argparse.Namespace, name: str, student: Student, seed: int, encoder: str
) -> tuple[str, ...]:
    """Return how `bertwright` trains a student: as many steps, however many rows it has."""
    teacher = args.work_dir / f"{name}-{student.teacher}-teacher-s{seed}"
    epochs = STUDENT_EPOCHS * (1 if student.more else 1 + MORE_TIMES)
    texts = args.work_dir / f"{name}-s{seed}" / name / "more.jsonl"
    return (
        *("distil", "--teacher", str(teacher), "--start", encoder, "--layers", "2"),
        *("--epochs", str(epochs), "--evals-per-epoch", "5" if student.more else "1"),
        *(("--more-text", str(texts)) if student.more else ()),
        *student.words,
    )


def make_start(args: argparse.Namespace, name: str) -> Path:
    """Return the folder of MiniLM with the pieces that occur in a set."""
    whole, folder = args.work_dir / f"{name}-minilm", args.work_dir / f"{name}-start"
    if not folder.exists():
        build_task_model(
            "minilm", task="classify", labels=["no", "yes"], tokenizer=load_tokenizer("minilm")
        ).save(whole)
        files = [args.data_dir / name / f"{one}.jsonl" for one in (TRAIN[name], "dev", "test")]
        data = [word for file in files for word in ("--data", str(file))]
        words = ("trim", "--model", str(whole), *data, "--out", str(folder))
        subprocess.run([sys.executable, "-m", "bertwright", *words], check=True)
        shutil.rmtree(whole)
    return folder


def write_splits(args: argparse.Namespace, name: str, seed: int) -> None:
    """Write the rows of this seed; the whole text in a column of its own."""
    files = {"train": TRAIN[name], "dev": "dev", "test": "test"}
    rows = {
        split: read_rows(args.data_dir / name / f"{file}.jsonl") for split, file in files.items()
    }
    count = NUM_LABELLED[name]
    order = random.Random(seed).sample(rows["train"], (1 + MORE_TIMES) * count)
    dev = random.Random(seed).sample(rows["dev"], min(NUM_DEV, len(rows["dev"])))
    rows |= {"train": order[:count], "more": order[count:], "dev": dev}
    for split in SPLITS:
        cut = [
            {
                "text": " ".join(row["text"].split()[: NUM_WORDS[name]]),
                "whole": row["text"],
                **({} if split == "more" else {"label": row["label"]}),
            }
            for row in rows[split]
        ]
        path = args.work_dir / f"{name}-s{seed}" / name / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, cut)


def train_one(
    args: argparse.Namespace, name: str, who: str, seed: int, words: tuple[str, ...]
) -> None:
    """Train a teacher or a student, and judge it on test as it reads it."""
    out = RESULTS / f"{name}-{who}-s{seed}.json"
    folder = args.work_dir / f"{name}-{who}-s{seed}"
    is_teacher = who.endswith("teacher")
    if out.exists() and (folder.exists() or not is_teacher):
        return
    shutil.rmtree(folder, ignore_errors=True)
    data = args.work_dir / f"{name}-s{seed}"
    print(out.stem, file=sys.stderr, flush=True)
    cost = bertwright(
        args,
        *(*words, "--data", str(data / name / "train.jsonl"), "--out", str(folder)),
        *("--eval-data", str(data / name / "dev.jsonl"), "--seed", str(seed)),
        *(*TRAINING[name], "--max-length", "64"),
    )
    reading = WHOLE if who == "privileged-teacher" else ()
    found = facts(args, name, folder, cost, test=data / name / "test.jsonl", reading=reading)
    print(f"  {cost.seconds:.0f} s {found['test']['score']:.4f}", file=sys.stderr, flush=True)
    write_json(out, {"who": who, "seed": seed, "words": NUM_WORDS[name], **found})
    if not is_teacher:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
