"""One elastic training beside students that are trained for one size each: 24 sizes of MiniLM.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/elastic_runs.py --threads 2 --data-dir DIR

The teachers of transfer_runs.py, with trimmed vocabularies. One run of `distil --method elastic
--method soft_targets` a seed; all depths (1 to 6) by four widths (all heads and neurons, three
quarters, half, a quarter) are cut out of it and judged on test, without training. Beside them the
same sizes, each distilled by itself from the teacher's first layers and most important heads and
neurons (`--sizes`: which; all 24 take a day), for as many epochs, with the same teacher, rate and
pooling. `cpu_s` is processor time, and the cost of one fine-tuning with distillation is that of the
whole model by `soft_targets` (`6L-100`). Each result is `results/elastic/SET/SIZE-HOW-sSEED.json`;
what is there is not done again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from transfer_runs import SETUPS, Cost, bertwright, data_words, facts, make_trimmed_teacher

from bertwright.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "elastic"
WIDTHS = {"100": (12, 1536), "75": (9, 1152), "50": (6, 768), "25": (3, 384)}
"""Percent -> heads and neurons."""
DEPTH = 6
SIZES = [f"{layers}L-{width}" for layers in range(DEPTH, 0, -1) for width in WIDTHS]
LR_TIMES = 0.5
"""The rate, in that of transfer_runs.py: all six layers of the teacher are trained on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=SIZES)
    args = parser.parse_args()
    for name in args.sets:
        teacher = make_trimmed_teacher(args, name)
        for seed in range(args.seeds):
            judge_elastic(args, name, teacher, seed)
            for size in args.sizes:
                train_alone(args, name, teacher, size, seed)


def training_words(args: argparse.Namespace, name: str, teacher: Path, seed: int) -> list[str]:
    """Return the options that all runs share."""
    setup = SETUPS[name]
    return [
        *("distil", "--teacher", str(teacher), *data_words(args, name)),
        *("--method", "soft_targets", "--epochs", str(setup.epochs)),
        *("--lr", str(LR_TIMES * setup.lr), "--batch-size", str(setup.batch_size)),
        *("--seed", str(seed), "--evals-per-epoch", "2"),
    ]


def judge_elastic(args: argparse.Namespace, name: str, teacher: Path, seed: int) -> None:
    """Train all sizes at once, where that is not done, and judge each."""
    folder = args.work_dir / name / f"elastic-s{seed}"
    outs = {size: RESULTS / name / f"{size}-elastic-s{seed}.json" for size in SIZES}
    if all(out.exists() for out in outs.values()):
        return
    cost = Cost(0, 0)
    if not (folder / "model").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name} elastic s{seed}", file=sys.stderr, flush=True)
        words = training_words(args, name, teacher, seed)
        cost = bertwright(args, *words, "--method", "elastic", "--out", str(folder))
        write_json(RESULTS / name / f"cost-s{seed}.json", vars(cost))
    for size, out in outs.items():
        if not out.exists():
            cut = folder / f"cut-{size}"
            shutil.rmtree(cut, ignore_errors=True)
            words = ["cut", "--model", str(folder), *size_words(size), "--out", str(cut / "model")]
            if size == SIZES[0]:
                shutil.copytree(folder / "model", cut / "model")
            else:
                subprocess.run([sys.executable, "-m", "bertwright", *words], check=True)
            found = facts(args, name, cut, cost, lineage_of=folder / "model")
            write_json(out, {"size": size, "how": "elastic", "seed": seed, **found})
            shutil.rmtree(cut)


def size_words(size: str) -> Sequence[str]:
    """Return the options of `cut` for a size."""
    layers, _, width = size.partition("L-")
    heads, neurons = WIDTHS[width]
    return ("--layers", layers, "--heads", str(heads), "--neurons", str(neurons))


def train_alone(args: argparse.Namespace, name: str, teacher: Path, size: str, seed: int) -> None:
    """Train one size by itself and judge it."""
    out = RESULTS / name / f"{size}-alone-s{seed}.json"
    if out.exists():
        return
    print(f"{name} {out.stem}", file=sys.stderr, flush=True)
    layers, _, width = size.partition("L-")
    share = str(int(width) / 100)
    narrow = () if width == "100" else ("--heads", share, "--neurons", share)
    folder = args.work_dir / name / f"{size}-alone-s{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    words = training_words(args, name, teacher, seed)
    cost = bertwright(
        args,
        *(*words, "--layers", layers, "--layer-choice", "first", *narrow, "--out", str(folder)),
    )
    found = facts(args, name, folder, cost)
    write_json(out, {"size": size, "how": "alone", "seed": seed, **found})
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
