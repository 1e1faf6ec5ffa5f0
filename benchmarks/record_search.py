"""Keep a finished search's figures in results/, with the scores of its teacher.

    python benchmarks/record_search.py --name clinc150 --search runs/clinc150-small
        --teacher runs/clinc150-teacher --teacher runs/clinc150-teacher-s1

Writes results/NAME/frontier.json, results/NAME/teacher-sSEED.json for every teacher (dev and test
accuracy, in the form of benchmarks/plain_transformers.py) and the recipes of the search and of its
teacher, the first one, with which `bertwright run` repeats them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bertwright.config import load_recipe
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.evaluate.evaluate import score_model_dir
from bertwright.evaluate.machine import versions
from bertwright.files import atomic_write_text, read_json, write_json

RESULTS = Path(__file__).resolve().parent.parent / "results"


def score(run: Path, data: str) -> float:
    """Return the accuracy of a run's model in torch and fp32."""
    labels = LabelSet(tuple(read_json(run / "model" / "bertwright.json")["labels"]))
    return score_model_dir(run, load_rows(data, labels=labels), num_resamples=1).score


def teacher_facts(name: str, run: Path, dev: str, test: str) -> dict:
    """Return what the table of teachers needs."""
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
        "versions": versions(),
        "dev_accuracy": score(run, dev),
        "test_accuracy": score(run, test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--teacher", type=Path, required=True, action="append")
    parser.add_argument("--search", type=Path, required=True)
    args = parser.parse_args()
    results = RESULTS / args.name
    frontier = read_json(args.search / "frontier.json")
    frontier["command"] = f"bertwright run results/{args.name}/compress.yaml"
    for run, name in ((args.teacher[0], "finetune.yaml"), (args.search, "compress.yaml")):
        recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
        atomic_write_text(results / name, recipe[recipe.index("version:") :])
    write_json(results / "frontier.json", frontier)
    _, recipe = load_recipe(args.search / "recipe.yaml")
    for run in args.teacher:
        facts = teacher_facts(args.name, run, recipe["eval_data"], recipe["test_data"])
        write_json(results / f"teacher-s{facts['seed']}.json", facts)


if __name__ == "__main__":
    main()
