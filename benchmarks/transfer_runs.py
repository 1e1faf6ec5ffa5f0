"""What learning from a teacher is worth: students of MiniLM with and without one.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/transfer_runs.py --threads 2 --data-dir DIR

A teacher a set, fine-tuned with seed 0, its vocabulary trimmed to all texts of the set (each is
split as before; a step no longer moves 30,000 rows of which it sees 300); then students of 3, 2 and
1 layers, a thin one (half of the heads, a quarter of the neurons, all layers) and two without
layers, each by every recipe that can make it, with each seed. The control learns from the labels
alone, from the same start; with three times the epochs it stands beside recipes that see three
times the rows, and beside those that take longer for other reasons: `cpu_s` is the processor time
of a run. Where there is text of the same kind that nobody labelled (sst2: sentences of other film
reviews), some recipes see three such texts beside each row, for a quarter of the epochs: as many
steps as the control. Evaluated on dev twice an epoch (with three times the epochs, once), the best
weights kept, judged on test. Each run has a process of its own and leaves
`results/transfer/SET/SIZE-RECIPE-sSEED.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from general_students import make_general, sentences_of
from task_data import read_rows, write_rows

from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "transfer"
COPIES = 2
MORE_TIMES = 3
"""Texts that nobody labelled, for each row."""
MORE_WORDS = range(4, 41)
"""How many words such a text has."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One set, and how its teacher and its students are trained."""

    train: str
    teacher: tuple[str, ...]
    epochs: int
    lr: float
    static_lr: float
    batch_size: int
    more_from: str = ""
    """Which of the sources of general_students.py has texts of the same kind."""


SETUPS = {
    "clinc150": Setup(
        train="train",
        teacher=("--epochs", "5", "--lr", "3e-4", "--batch-size", "64"),
        epochs=4,
        lr=5e-4,
        static_lr=1e-2,
        batch_size=64,
    ),
    "sst2": Setup(
        train="train_sentences",
        teacher=("--epochs", "3", "--lr", "1e-4", "--batch-size", "32"),
        epochs=4,
        lr=2e-4,
        static_lr=3e-3,
        batch_size=32,
        more_from="films",
    ),
}
SIZES = {
    "2": ("--layers", "2"),
    "1": ("--layers", "1"),
    "3": ("--layers", "3"),
    "thin": ("--heads", "0.5", "--neurons", "0.25"),
    "static": ("--student", "static"),
    "static-ngrams": ("--student", "static:ngrams=2"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train a student."""

    words: tuple[str, ...]
    times: int = 1
    """How many times the rows of the others it sees: by more epochs, or by more rows."""
    generated: bool = False
    more: bool = False
    """It sees texts that nobody labelled."""
    lr_times: float = 1.0
    """Its rate, in that of the others."""
    general: bool = False
    """It starts from a student of MiniLM itself, distilled from raw text (general_students.py)."""
    needs_layers: bool = False
    """It matches layers, or replaces them."""


def by(*methods: str) -> tuple[str, ...]:
    return tuple(word for method in methods for word in ("--method", method))


MEAN = ("--pooling", "mean")
FIRST = ("--layer-choice", "first")
RECIPES = {
    "control": Recipe(words=by("none")),
    "control-3x": Recipe(words=by("none"), times=3),
    "soft": Recipe(words=by("soft_targets")),
    "soft-3x": Recipe(words=by("soft_targets"), times=3),
    "hidden": Recipe(words=by("soft_targets", "hidden_matching"), needs_layers=True),
    "relations": Recipe(words=by("soft_targets", "relations"), needs_layers=True),
    "theseus": Recipe(words=by("theseus"), needs_layers=True),
    "layer-drop": Recipe(words=by("layer_drop:rate=0.5"), needs_layers=True),
    "gradual": Recipe(words=by("soft_targets", "gradual_pruning:heads=0.5,neurons=0.25")),
    "mean-control": Recipe(words=(*by("none"), *MEAN)),
    "mean-soft": Recipe(words=(*by("soft_targets"), *MEAN)),
    "first-control": Recipe(words=(*by("none"), *MEAN, *FIRST)),
    "first-soft": Recipe(words=(*by("soft_targets"), *MEAN, *FIRST)),
    "fitted": Recipe(words=(*by("fitted_head"), *MEAN, *FIRST)),
    "fitted-soft": Recipe(words=(*by("fitted_head", "soft_targets"), *MEAN, *FIRST), lr_times=0.2),
    "fitted-soft-fast": Recipe(words=(*by("fitted_head", "soft_targets"), *MEAN, *FIRST)),
    "more-soft": Recipe(words=(*by("fitted_head", "soft_targets"), *MEAN, *FIRST), more=True),
    "more-soft-3x": Recipe(
        words=(*by("fitted_head", "soft_targets"), *MEAN, *FIRST), more=True, times=3
    ),
    "slow-control": Recipe(words=(*by("none"), *MEAN, *FIRST), lr_times=0.2),
    "general-control": Recipe(words=(*by("none"), *MEAN), general=True),
    "general-soft": Recipe(words=(*by("soft_targets"), *MEAN), general=True),
    "generated-control": Recipe(words=by("none"), times=3, generated=True),
    "generated-soft": Recipe(words=by("soft_targets"), times=3, generated=True),
    "generated-hidden": Recipe(
        words=by("soft_targets", "hidden_matching"), times=3, generated=True, needs_layers=True
    ),
}
"""Generated: two texts made of each row, answered by the teacher; the control takes these answers
for labels. LayerDrop: the teacher trained on, and then cut, for all depths once. Gradual: the thin
student's heads and neurons leave while it learns."""


def is_static(size: str) -> bool:
    return size.startswith("static")


def fits(name: str, size: str, recipe: str) -> bool:
    """Return whether a student of this size can be made so on this set."""
    if RECIPES[recipe].more and not SETUPS[name].more_from:
        return False
    if recipe in ("theseus", "layer-drop") or RECIPES[recipe].general:
        return size.isdigit()
    if recipe == "gradual":
        return size == "thin"
    how = RECIPES[recipe]
    if "--layer-choice" in how.words:
        return size.isdigit()
    return not (is_static(size) and (how.needs_layers or "--pooling" in how.words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    args = parser.parse_args()
    for name in args.sets:
        teacher = make_trimmed_teacher(args, name)
        for seed in range(args.seeds):
            for size in args.sizes:
                for recipe in args.recipes:
                    out = RESULTS / name / f"{size}-{recipe}-s{seed}.json"
                    if fits(name, size, recipe) and not out.exists():
                        run(args, name, teacher, size, recipe, seed, out)


def more_text(args: argparse.Namespace, name: str) -> Path:
    """Return the file of texts that nobody labelled, drawn where it is not there yet."""
    path = args.work_dir / name / "more.jsonl"
    if not path.exists():
        sentences = dict(sentences_of(args.data_dir))[SETUPS[name].more_from]
        fitting = [s for s in dict.fromkeys(sentences) if len(s.split()) in MORE_WORDS]
        num_rows = len(read_rows(data_file(args, name, SETUPS[name].train)))
        drawn = random.Random(0).sample(fitting, MORE_TIMES * num_rows)
        write_rows(path, [{"text": text} for text in drawn])
    return path


def make_trimmed_teacher(args: argparse.Namespace, name: str, more: Path | None = None) -> Path:
    """Return the teacher with the pieces of its set's texts alone, or of `more` as well."""
    folder = args.work_dir / name / ("teacher-trimmed-more" if more else "teacher-trimmed")
    teacher = make_teacher(args, name)
    if not folder.exists():
        splits = (SETUPS[name].train, "dev", "test")
        files = [*(data_file(args, name, split) for split in splits), *([more] if more else [])]
        data = [word for file in files for word in ("--data", str(file))]
        words = ("trim", "--model", str(teacher), *data, "--out", str(folder))
        subprocess.run([sys.executable, "-m", "bertwright", *words], check=True)
    return folder


def make_teacher(args: argparse.Namespace, name: str) -> Path:
    """Fine-tune the teacher where it is not there yet, and write its scores."""
    folder = args.work_dir / name / "teacher"
    out = RESULTS / name / "teacher-s0.json"
    if not (folder / "model").exists():
        shutil.rmtree(folder, ignore_errors=True)
        cost = bertwright(
            args,
            *("finetune", "--model", "minilm", *data_words(args, name), "--out", str(folder)),
            *(*SETUPS[name].teacher, "--seed", "0"),
        )
        write_json(out, facts(args, name, folder, cost))
    return folder


def run(
    args: argparse.Namespace,
    name: str,
    teacher: Path,
    size: str,
    recipe: str,
    seed: int,
    out: Path,
) -> None:
    """Train one student in a process of its own and judge it."""
    if recipe == "layer-drop":
        run_layer_drop(args, name, teacher, size, seed, out)
        return
    how, setup = RECIPES[recipe], SETUPS[name]
    folder = args.work_dir / name / f"{size}-{recipe}-s{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    lr = how.lr_times * (setup.static_lr if is_static(size) else setup.lr)
    epochs = setup.epochs * (1 if how.generated else how.times) // (1 + MORE_TIMES * how.more)
    if how.more:
        teacher = make_trimmed_teacher(args, name, more_text(args, name))
    words = [
        *("distil", "--teacher", str(teacher), *data_words(args, name), "--out", str(folder)),
        *(() if recipe == "gradual" else SIZES[size]),
        *(*how.words, "--epochs", str(epochs), "--lr", str(lr)),
        *("--batch-size", str(setup.batch_size), "--seed", str(seed)),
        *("--evals-per-epoch", str(max(1, 2 * setup.epochs // epochs))),
        *(("--generate", str(COPIES)) if how.generated else ()),
        *(("--more-text", str(more_text(args, name))) if how.more else ()),
        *(("--start", str(make_general(args, int(size)))) if how.general else ()),
    ]
    print(f"{name} {out.stem}", file=sys.stderr, flush=True)
    cost = bertwright(args, *words)
    write_found(args, name, size, recipe, seed, words, facts(args, name, folder, cost), out)
    shutil.rmtree(folder)


def run_layer_drop(
    args: argparse.Namespace, name: str, teacher: Path, size: str, seed: int, out: Path
) -> None:
    """Train the teacher on with LayerDrop, once for all depths, cut it and judge it."""
    setup, folder = SETUPS[name], args.work_dir / name / f"layer-drop-s{seed}"
    words = [
        *("finetune", "--model", str(teacher), *data_words(args, name), "--out", str(folder)),
        *(*RECIPES["layer-drop"].words, "--epochs", str(setup.epochs), "--lr", str(setup.lr)),
        *("--batch-size", str(setup.batch_size), "--seed", str(seed), "--evals-per-epoch", "2"),
    ]
    print(f"{name} {out.stem}", file=sys.stderr, flush=True)
    cost = Cost(0, 0)
    if not (folder / "model").exists():
        shutil.rmtree(folder, ignore_errors=True)
        cost = bertwright(args, *words)
    whole = folder / "model"
    cut = folder / f"cut-{size}"
    shutil.rmtree(cut, ignore_errors=True)
    command = ("cut", "--model", str(folder), *SIZES[size], "--out", str(cut / "model"))
    subprocess.run([sys.executable, "-m", "bertwright", *command], check=True)
    shutil.copy(whole.parent / "metrics.jsonl", cut / "metrics.jsonl")
    found = facts(args, name, cut, cost, lineage_of=whole)
    write_found(args, name, size, "layer-drop", seed, [*words, *SIZES[size]], found, out)


def write_found(
    args: argparse.Namespace,
    name: str,
    size: str,
    recipe: str,
    seed: int,
    words: Sequence[str],
    found: dict[str, Any],
    out: Path,
) -> None:
    """Write a student's result, without paths."""
    paths = (str(args.work_dir), str(args.data_dir))
    options = [word for word in words if not word.startswith(paths)]
    write_json(out, {"size": size, "recipe": recipe, "seed": seed, "options": options, **found})
    print(f"  {found['seconds']:.0f} s {json.dumps(found['test'])}", file=sys.stderr, flush=True)


def data_file(args: argparse.Namespace, name: str, split: str) -> Path:
    return args.data_dir / name / f"{split}.jsonl"


def data_words(args: argparse.Namespace, name: str) -> tuple[str, ...]:
    return (
        *("--data", str(data_file(args, name, SETUPS[name].train))),
        *("--eval-data", str(data_file(args, name, "dev"))),
    )


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    cpu_s: float
    """Of all its threads, starting and reading included."""


def bertwright(args: argparse.Namespace, *words: str) -> Cost:
    """Run a command; return what it took."""
    began, cpu = time.perf_counter(), cpu_of_children()
    subprocess.run(
        [sys.executable, "-m", "bertwright", *words, "--threads", str(args.threads)],
        check=True,
        env=os.environ
        | {
            "BERTWRIGHT_CACHE": str(args.work_dir / "cache"),
            "OMP_NUM_THREADS": str(args.threads),
        },
        stderr=subprocess.DEVNULL,
    )
    return Cost(time.perf_counter() - began, cpu_of_children() - cpu)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def facts(
    args: argparse.Namespace,
    name: str,
    folder: Path,
    cost: Cost,
    *,
    test: Path | None = None,
    reading: Sequence[str] = (),
    lineage_of: Path | None = None,
) -> dict[str, Any]:
    """Return what a run's folder tells, and its model's score on test, read so."""
    data = test or data_file(args, name, "test")
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else ()
    lineage = json.loads(((lineage_of or folder / "model") / "bertwright.json").read_text())[
        "lineage"
    ]
    judged = subprocess.run(
        [
            *(sys.executable, "-m", "bertwright", "evaluate", "--model", str(folder), "--json"),
            *("--data", str(data), *reading, "--threads", str(args.threads)),
            *("--repeats", "1", "--latency-rows", "1", "--speed-rows", "100"),
        ],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
    )
    scores = json.loads(judged.stdout)
    return {
        **{
            "set": name,
            **vars(cost),
            "train_s": json.loads(lines[-1])["seconds"] if lines else 0.0,
        },
        **{"steps": lineage["steps"], "dev": lineage["scores"]},
        "test": {key: scores[key] for key in ("score", "score_low", "score_high")},
        **{"added_rows": lineage.get("num_added_rows", 0), "size_mb": scores["size_mb"]},
        **{"threads": args.threads, "machine": machine(), "versions": versions()},
    }


if __name__ == "__main__":
    main()
