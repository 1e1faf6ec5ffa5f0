"""Every pooling on stsb (vectors of sentences) and clear (how easy a text is), MiniLM.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/pooling_runs.py --threads 2 --data-dir DIR

Frozen: what stands on the encoder is trained alone, by gradients, for all poolings alike: on stsb a
linear layer above the pooling, on clear a linear head. Tuned: the encoder too, for the poolings
that have the best frozen scores on dev, and for the mean. Frozen runs share one reading of the
texts, for all poolings in one pass (`reading.json` has what that took); each pooling has a process
of its own, which tells the seconds of its trainings and the most memory it had resident. A run
leaves `results/poolings/SET/POOLING-MODE-sSEED.json`; what is there already is not done again.
clear has 1,000 training rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from task_data import read_rows, write_rows

from bertwright.evaluate.machine import machine, versions
from bertwright.files import read_json, write_json
from bertwright.models.pooling import POOLINGS

RESULTS = Path(__file__).resolve().parent.parent / "results" / "poolings"
BEST = 5
LAYERS_OF_THEIR_OWN = ("parallel", "hierarchical")
"""Poolings that train transformer layers above the frozen ones: as one tunes such layers."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One set and how it is trained."""

    task: str
    max_length: int
    head: tuple[str, ...]
    frozen: tuple[str, ...]
    tuned: tuple[str, ...]
    rows: int | None = None
    tuned_seeds: int = 3


SETUPS = {
    "stsb": Setup(
        task="embed",
        max_length=128,
        head=("--head", "linear", "--head-hidden", "384"),
        frozen=("--epochs", "10", "--lr", "1e-3", "--batch-size", "32"),
        tuned=("--epochs", "3", "--lr", "1e-4", "--batch-size", "32"),
    ),
    "clear": Setup(
        task="regress",
        max_length=256,
        head=("--head", "linear"),
        frozen=("--epochs", "10", "--lr", "1e-3", "--batch-size", "32"),
        tuned=("--epochs", "3", "--lr", "1e-4", "--batch-size", "16"),
        rows=1000,
        tuned_seeds=1,
    ),
}
"""On stsb the tuned runs have no layer above the pooling: it is trained itself."""


def read_all(args: argparse.Namespace, folder: Path) -> None:
    """Read the texts of a set once for all poolings, and write what that took; a child process."""
    from bertwright.features.frozen import with_reads
    from bertwright.training.precision import using_threads

    name = args.child[0]
    parts: dict[str, list] = {}
    models = []
    for pooling in POOLINGS:
        model, parts = model_and_rows(name, pooling, folder)
        if models:
            model.encoder = models[0].encoder
        models.append(model)
    with using_threads(args.threads):
        task = parts.pop("task")
        for model in models:
            task.prepare(model, parts["train"])
        began = time.perf_counter()
        for encoded in parts.values():
            with_reads(models, encoded)
        seconds = time.perf_counter() - began
    tokens = {split: int(encoded.lengths.sum()) for split, encoded in parts.items()}
    write_json(
        RESULTS / name / "reading.json",
        {
            **{"set": name, "poolings": len(models), "seconds": seconds, "tokens": tokens},
            **{"rows": {split: len(encoded) for split, encoded in parts.items()}},
            **{"peak_mb": peak_mb(), "threads": args.threads},
            **{"machine": machine(), "versions": versions()},
        },
    )


def score_untrained(args: argparse.Namespace, folder: Path) -> None:
    """Judge the cosines of vectors as they are, of poolings that need no training; a child."""
    import numpy as np
    from scipy.stats import spearmanr

    from bertwright.data.load import load_rows
    from bertwright.data.tokenise import tokenise
    from bertwright.features.extract import Extractor, Wanted
    from bertwright.tasks import find_task

    name = args.child[0]
    model, parts = model_and_rows(name, "mean", folder)
    task = find_task(SETUPS[name].task)
    rows = load_rows(folder / "test.jsonl", schema=task.schema)
    encoded = tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=128)
    wanted = [Wanted(pooling=p) for p, kind in POOLINGS.items() if not kind.random_at_first]
    extractor = Extractor(model, wanted, normalize=True)
    extractor.fit(parts["train"])
    scores = np.asarray(encoded.field("scores", np.arange(len(encoded))))[::2]
    found = {
        pooling: {"spearman": float(spearmanr((x[::2] * x[1::2]).sum(axis=1), scores).statistic)}
        for pooling, x in extractor.vectors(encoded).items()
    }
    write_json(RESULTS / name / "untrained.json", {"set": name, "test": found})


def model_and_rows(name: str, pooling: str, folder: Path) -> tuple:
    """Return a model as `finetune` builds it, and the task and the encoded rows by split."""
    from bertwright.data.load import load_rows
    from bertwright.data.tokenise import tokenise
    from bertwright.models.build import build_task_model
    from bertwright.models.task_model import ModelConfig
    from bertwright.tasks import find_task

    setup = SETUPS[name]
    task = find_task(setup.task)
    model = build_task_model(
        "minilm",
        task=task.spec,
        labels=[],
        config=ModelConfig(pooling=pooling),
        max_length=setup.max_length,
        outputs=task.outputs([]),
    )
    parts = {
        split: tokenise(
            load_rows(folder / f"{split}.jsonl", schema=task.schema),
            model.tokenizer,
            encoder=task.training_encoder if split == "train" else task.encoder,
            max_length=setup.max_length,
        )
        for split in ("train", "dev", "test")
    }
    return model, {"task": task, **parts}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train_all(args: argparse.Namespace, folder: Path) -> None:
    """Train with each seed, judge on test, and write what it took; a child process."""
    from bertwright.cli.main import main

    name, pooling, mode = args.child
    setup = SETUPS[name]
    frozen = mode == "frozen"
    head = setup.head if frozen or name == "clear" else ()
    for seed in args.only:
        shutil.rmtree(folder / "run", ignore_errors=True)
        words = [
            *("finetune", "--task", setup.task, "--pooling", pooling, *head),
            *("--data", str(folder / "train.jsonl"), "--eval-data", str(folder / "dev.jsonl")),
            *("--max-length", str(setup.max_length), "--seed", str(seed)),
            *("--threads", str(args.threads), "--out", str(folder / "run")),
            *(("--frozen", "--learner", "own") if frozen else ()),
            *(setup.frozen if frozen and pooling not in LAYERS_OF_THEIR_OWN else setup.tuned),
        ]
        began = time.perf_counter()
        if main(words):
            raise SystemExit(1)
        seconds = time.perf_counter() - began
        most = peak_mb()
        metrics = test_metrics(folder, setup.task, frozen=frozen)
        facts = json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])
        best = json.loads((folder / "run/model/bertwright.json").read_text())["lineage"]["scores"]
        write_json(
            result_file(name, pooling, mode, seed),
            {
                **{"set": name, "pooling": pooling, "mode": mode, "seed": seed},
                **{"task": setup.task, "options": [w for w in words if str(folder) not in w]},
                **{"rows": setup.rows, "seconds": seconds, "train_s": facts["seconds"]},
                **{"peak_mb": most, "test": metrics, "dev": best},
                **{"threads": args.threads, "machine": machine(), "versions": versions()},
            },
        )


def result_file(name: str, pooling: str, mode: str, seed: int) -> Path:
    return RESULTS / name / f"{pooling}-{mode}-s{seed}.json"


def test_metrics(folder: Path, task: str, *, frozen: bool) -> dict[str, float]:
    """Judge the run's model on test; a frozen one by what was read of it before."""
    from bertwright.data.load import load_rows
    from bertwright.data.tokenise import tokenise
    from bertwright.features.frozen import with_reads
    from bertwright.models.task_model import TaskModel
    from bertwright.tasks import find_task
    from bertwright.training.evaluation import evaluate_model

    kind = find_task(task)
    model = TaskModel.load(folder / "run")
    rows = load_rows(folder / "test.jsonl", schema=kind.schema)
    encoded = tokenise(rows, model.tokenizer, encoder=kind.encoder, max_length=model.max_length)
    if frozen:
        (encoded,) = with_reads([model], encoded)
    return evaluate_model(model, encoded, kind, precision="fp32")[0]


def primary(task: str) -> str:
    return "spearman" if task == "embed" else "pearson"


def mean_score(name: str, pooling: str) -> float:
    """Return the mean test score over the frozen runs; below all where there are none."""
    found = [
        read_json(path)["dev"][primary(SETUPS[name].task)]
        for path in (RESULTS / name).glob(f"{pooling}-frozen-s*.json")
    ]
    return statistics.mean(found) if found else -1.0


def best_poolings(name: str) -> list[str]:
    """Return the poolings with the best frozen scores on dev."""
    return sorted(POOLINGS, key=lambda pooling: -mean_score(name, pooling))[:BEST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/poolings"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--poolings", nargs="*", choices=list(POOLINGS))
    parser.add_argument("--frozen-only", action="store_true")
    parser.add_argument("--only", nargs="*", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder = args.work_dir / args.child[0]
        jobs = {1: read_all, 2: score_untrained, 3: train_all}
        jobs[len(args.child)](args, folder)
        return
    for name in args.sets:
        write_splits(args, name)
        if not (RESULTS / name / "reading.json").exists():
            run_child(args, [name])
        if SETUPS[name].task == "embed" and not (RESULTS / name / "untrained.json").exists():
            run_child(args, [name, "untrained"])
        # Those that read every token's state take the longest: last.
        for pooling in sorted(args.poolings or POOLINGS, key=lambda p: POOLINGS[p].reads_tokens):
            run_seeds(args, name, pooling, "frozen", args.seeds)
    for name in () if args.frozen_only else args.sets:
        for pooling in dict.fromkeys([*best_poolings(name), "mean"]):
            run_seeds(args, name, pooling, "tuned", min(args.seeds, SETUPS[name].tuned_seeds))


def write_splits(args: argparse.Namespace, name: str) -> None:
    folder = args.work_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        rows = read_rows(args.data_dir / name / f"{split}.jsonl")
        write_rows(
            folder / f"{split}.jsonl", rows[: SETUPS[name].rows if split == "train" else None]
        )


def run_seeds(args: argparse.Namespace, name: str, pooling: str, mode: str, seeds: int) -> None:
    missing = [s for s in range(seeds) if not result_file(name, pooling, mode, s).exists()]
    if missing:
        run_child(args, [name, pooling, mode], ["--only", *map(str, missing)])


def run_child(args: argparse.Namespace, child: list[str], more: list[str] | None = None) -> None:
    """Do some runs in a process; what was read of the texts is kept for the next ones."""
    command = [
        *(sys.executable, __file__, "--data-dir", str(args.data_dir)),
        *("--work-dir", str(args.work_dir), "--threads", str(args.threads)),
        *("--child", *child, *(more or [])),
    ]
    print(*child, file=sys.stderr, flush=True)
    cache = {"BERTWRIGHT_CACHE": str(args.work_dir / "cache")}
    began = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | cache, stderr=subprocess.DEVNULL)
    print(f"  {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
