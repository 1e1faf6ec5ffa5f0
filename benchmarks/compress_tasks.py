"""`compress` on one set of several kinds of task, with MiniLM as the teacher.

    .venv/bin/python benchmarks/compress_tasks.py --threads 2 --data-dir DIR

Fine-tunes the teacher, halves it (students: soft targets, and the control) and measures each in
torch and OpenVINO. Leaves `results/tasks/NAME/frontier.json` and the recipe that repeats it; what
is there already is not done again, and what was broken off goes on. For a quiet machine: speeds
are measured.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from commands import bertwright, options
from task_data import data_folder, split_file

RESULTS = Path(__file__).resolve().parent.parent / "results" / "tasks"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is compressed: the teacher's training, and the students'."""

    data: str
    task: str
    keep: float
    epochs: tuple[float, float]
    """Of the teacher, of the students."""
    lr: tuple[float, float]
    batch_size: int = 32
    max_length: int = 128
    depths: tuple[int, ...] = (3,)

    def training(self, of: int) -> list[str]:
        """Return the options of the teacher's training (0) or of the students' (1)."""
        return options(
            {
                **{"epochs": self.epochs[of], "lr": self.lr[of], "batch-size": self.batch_size},
                **{"max-length": self.max_length, "evals-per-epoch": 1},
            }
        )


SEARCHES = {
    "stsb-regress": Search(data="stsb", task="regress", keep=0.95, epochs=(4, 4), lr=(1e-4, 3e-4)),
    "stsb-embed": Search(data="stsb", task="embed", keep=0.97, epochs=(4, 4), lr=(1e-4, 3e-4)),
    "wnut17": Search(
        **{"data": "wnut17", "task": "tag", "keep": 0.95, "depths": (2, 3)},
        **{"epochs": (5, 6), "lr": (2e-4, 4e-4)},
    ),
    "squad": Search(
        **{"data": "squad-by-article", "task": "span", "keep": 0.95, "max_length": 384},
        **{"epochs": (2, 4), "lr": (1e-4, 3e-4), "batch_size": 16},
    ),
}


def resumed(out: Path) -> list[str]:
    return ["--out", str(out), *(["--resume"] if out.exists() else [])]


def search(name: str, args: argparse.Namespace) -> None:
    """Train the teacher and compress it, unless it was done."""
    what, target = SEARCHES[name], RESULTS / name
    if (target / "frontier.json").exists():
        return
    folder = data_folder(what.data, args.data_dir, args.work_dir / "data")
    threads = ["--threads", str(args.threads)]
    data = ["--data", split_file(folder, "train"), "--eval-data", split_file(folder, "dev")]
    teacher, out = args.work_dir / name / "teacher", args.work_dir / name / "search"
    if not (teacher / "model").exists():
        words = ["finetune", "--task", what.task, "--model", "minilm", *data, *what.training(0)]
        bertwright([*words, *threads, *resumed(teacher)], args.threads)
    words = ["compress", "--model", str(teacher), *data, "--test-data", split_file(folder, "test")]
    words += ["--keep", str(what.keep), "--repeats", "3", *what.training(1), *threads]
    many = {"depths": what.depths, "students": ("control", "distil")}
    many["engines"] = ("torch", "openvino")
    for option, values in many.items():
        words += [word for value in values for word in (f"--{option}", str(value))]
    bertwright([*words, *resumed(out)], args.threads)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / "recipe.yaml", target / "compress.yaml")
    shutil.copy(out / "frontier.json", target / "frontier.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/compress_tasks"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(SEARCHES), action="append")
    args = parser.parse_args()
    for name in args.only or SEARCHES:
        search(name, args)


if __name__ == "__main__":
    main()
