"""The frontier of score against speed on four sets, from one search each.

    .venv/bin/python benchmarks/frontier_runs.py --threads 2 --jobs 2 --data-dir DIR

MiniLM is fine-tuned on clinc150, sst2, mrpc and wnut17; `compress` makes students of 3, 2 and 1
layers (controls, soft targets, fitted heads trained on, Theseus), narrower ones, elastic sizes, and
static ones, each in every engine in fp32 and int8, three seeds at the chosen size. Test rows judge;
they choose nothing. Searches that were broken off go on. Speeds are measured at the end of each
search, so nothing else may run then. Leaves `results/frontiers/SET/frontier.json` with the recipes
of teacher and search; what is there is not done again. `--max-rows` and another `--results` try it
small.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from commands import bertwright, options

RESULTS = Path(__file__).resolve().parent.parent / "results" / "frontiers"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One set: how its teacher is trained, and its students."""

    task: str = "classify"
    train: str = "train"
    epochs: tuple[float, float]
    """Of the teacher, of the students."""
    lr: tuple[float, float]
    batch_size: int = 32
    students: tuple[str, ...] = ("control", "distil", "fitted", "theseus", "elastic")
    narrow: tuple[str, ...] = ("layers=3,heads=0.5,neurons=0.5",)
    small: tuple[str, ...] = ("static",)


SETUPS = {
    "clinc150": Setup(
        epochs=(5, 5),
        lr=(3e-4, 5e-4),
        batch_size=64,
        narrow=("layers=1,heads=0.5,neurons=0.25", "layers=2,heads=0.5,neurons=0.25"),
    ),
    "sst2": Setup(
        train="train_sentences",
        epochs=(3, 4),
        lr=(1e-4, 2e-4),
        narrow=("layers=2,heads=0.5,neurons=0.25", "layers=3,heads=0.5,neurons=0.5"),
    ),
    "mrpc": Setup(epochs=(4, 6), lr=(1e-4, 2e-4), small=()),
    "wnut17": Setup(
        task="tag",
        epochs=(5, 6),
        lr=(2e-4, 4e-4),
        students=("control", "distil", "theseus", "elastic"),
        small=(),
    ),
}
DEPTHS = (3, 2, 1)
KEEP, SEEDS = 0.99, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/frontiers"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="of each search; it may be resumed")
    parser.add_argument("--max-rows", type=int)
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    args = parser.parse_args()
    for name in args.sets:
        if not (args.results / name / "frontier.json").exists():
            print(name, file=sys.stderr, flush=True)
            search(name, args)


def search(name: str, args: argparse.Namespace) -> None:
    """Train the teacher where it is not there yet, search, and keep what was found."""
    setup, home = SETUPS[name], args.work_dir / name
    teacher, out, target = home / "teacher", home / "search", args.results / name
    data = {
        "data": args.data_dir / name / f"{setup.train}.jsonl",
        "eval-data": args.data_dir / name / "dev.jsonl",
        "threads": args.threads,
        **({} if args.max_rows is None else {"max-rows": args.max_rows}),
    }
    if not (teacher / "model").exists():
        first = {"task": setup.task, "model": "minilm"} | data | training(setup, 0)
        bertwright(["finetune", *options(first), *going_on(teacher)], args.threads)
    more = {"model": teacher, "test-data": args.data_dir / name / "test.jsonl"}
    more |= {"keep": KEEP, "seeds": SEEDS, "jobs": args.jobs, "evals-per-epoch": 1}
    more |= {} if args.minutes is None else {"minutes": args.minutes}
    words = ["compress", *options(data | more | training(setup, 1)), *going_on(out)]
    tried = {
        "depths": DEPTHS,
        "students": setup.students,
        "narrow": setup.narrow,
        "small": setup.small,
    }
    for option, values in tried.items():
        words += [word for value in values for word in (f"--{option}", str(value))]
    bertwright(words, args.threads, may_miss=True)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(teacher / "recipe.yaml", target / "finetune.yaml")
    shutil.copy(out / "recipe.yaml", target / "compress.yaml")
    shutil.copy(out / "frontier.json", target / "frontier.json")


def training(setup: Setup, of: int) -> dict[str, object]:
    """Return the options of the teacher's training (0) or of the students' (1)."""
    return {"epochs": setup.epochs[of], "lr": setup.lr[of], "batch-size": setup.batch_size}


def going_on(out: Path) -> list[str]:
    return ["--out", str(out), *(["--resume"] if out.exists() else [])]


if __name__ == "__main__":
    main()
