"""Keep a finished search's figures in results/, with the scores of its teacher.

    python benchmarks/record_search.py --name clinc150 --teacher runs/clinc150-teacher
        --search runs/clinc150-small

Writes results/NAME/frontier.json, results/NAME/teacher.json (dev and test accuracy of the teacher,
in the form of benchmarks/plain_transformers.py) and the recipes of both runs, with which
`bertwright run` repeats them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bertwright.config import load_recipe
from bertwright.files import atomic_write_text, read_json, write_json

RESULTS = Path(__file__).resolve().parent.parent / "results"


def teacher_facts(name: str, run: Path, frontier: dict) -> dict:
    """Return what the table of teachers needs, from the run's recipe and the search's figures."""
    _, recipe = load_recipe(run / "recipe.yaml")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = recipe["training"]
    return {
        "what": "bertwright finetune",
        "data": name,
        "train": Path(recipe["data"]).name,
        "epochs": training["epochs"],
        "lr": training["lr"],
        "batch_size": training["batch_size"],
        "seed": training["seed"],
        "train_seconds": rows[-1]["seconds"],
        "versions": frontier["versions"],
        "dev_accuracy": frontier["teacher"]["score"],
        "test_accuracy": frontier["teacher"]["test_score"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--search", type=Path, required=True)
    args = parser.parse_args()
    results = RESULTS / args.name
    frontier = read_json(args.search / "frontier.json")
    frontier["command"] = f"bertwright run results/{args.name}/compress.yaml"
    for run, name in ((args.teacher, "finetune.yaml"), (args.search, "compress.yaml")):
        recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
        atomic_write_text(results / name, recipe[recipe.index("version:") :])
    write_json(results / "frontier.json", frontier)
    write_json(results / "teacher.json", teacher_facts(args.name, args.teacher, frontier))


if __name__ == "__main__":
    main()
