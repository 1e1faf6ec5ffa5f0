"""Every task on real data with MiniLM: ours, then plain library code, one after the other.

    OMP_NUM_THREADS=1 taskset -c 1 .venv/bin/python benchmarks/task_runs.py --threads 1
        --data-dir DIR

Each training has a process of its own, with the same data, epochs, rate, batch size, seed, threads
and cores (those this program is pinned to); both return their last weights. A run leaves
`results/tasks/NAME/ours-s0.json` and `plain-s0.json` (`-s1` with `--seed 1`); what is there already
is not done again. `--smoke` does a few steps of each, into the work folder. `--speed` trains but
some steps of each, ours and the reference in turn, several times, and writes
`results/tasks/NAME/speed.json`: for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from task_data import data_folder, split_file

from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.training.checkpoints import CheckpointStore

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS.parent / "results" / "tasks"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of the table."""

    name: str
    data: str
    task: str
    epochs: int
    lr: float
    batch_size: int
    max_length: int = 128
    features: int = 1
    """Texts, or pairs of texts, that the model reads of a row."""
    ours: tuple[str, ...] = ()
    """Further options of `bertwright finetune`."""
    plain: bool = True
    """Whether the reference library can do it."""


ENTITIES = {"task": "tag", "epochs": 5, "lr": 2e-4, "batch_size": 32}
RESUMES = ENTITIES | {"data": "resume_ner_zh", "epochs": 3}
CRF = {"ours": ("--head-crf",), "plain": False}
BILSTM_CRF = {"ours": ("--head-lstm", "192", "--head-crf"), "plain": False}
KINDS = {"data": "wnut17-kinds", "epochs": 5, "lr": 2e-4, "batch_size": 32}

RUNS = (
    Run(name="mrpc", data="mrpc", task="classify", epochs=4, lr=1e-4, batch_size=32),
    Run(name="wnut17", data="wnut17", **ENTITIES),
    Run(name="stsb-regress", data="stsb", task="regress", epochs=4, lr=1e-4, batch_size=32),
    Run(name="clear", data="clear", task="regress", epochs=3, lr=1e-4, batch_size=16),
    Run(name="wnut17-crf", data="wnut17", **ENTITIES, **CRF),
    Run(name="wnut17-bilstm-crf", data="wnut17", **ENTITIES, **BILSTM_CRF),
    Run(name="resume-ner-zh", **RESUMES),
    Run(name="resume-ner-zh-crf", **RESUMES, **CRF),
    Run(name="resume-ner-zh-bilstm-crf", **RESUMES, **BILSTM_CRF),
    Run(
        **{"name": "squad", "data": "squad", "task": "span", "max_length": 384},
        **{"epochs": 1, "lr": 1e-4, "batch_size": 16},
    ),
    Run(name="stsb-embed", data="stsb", task="embed", epochs=4, lr=1e-4, batch_size=32),
    Run(name="wnut17-kinds", task="multilabel", **KINDS),
    Run(name="wnut17-kinds-each", task="multilabel:thresholds=each", **KINDS, plain=False),
    Run(name="wnut17-kinds-powerset", task="powerset", **KINDS, plain=False),
    Run(
        **{"name": "squad-passages", "data": "squad-passages", "task": "rerank"},
        **{"epochs": 1, "lr": 1e-4, "batch_size": 8, "max_length": 192, "features": 4},
    ),
)


def shared_options(run: Run, args: argparse.Namespace) -> list[str]:
    """Return the options that ours and the reference have in common."""
    options = {
        **{"epochs": run.epochs, "lr": run.lr, "batch-size": run.batch_size},
        **{"max-length": run.max_length, "seed": args.seed, "threads": args.threads},
        **({"max-steps": 3, "max-rows": 120} if args.smoke else {}),
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def call(command: list[str], args: argparse.Namespace) -> str:
    """Run a command in a process of its own and return its stdout."""
    threads = {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run(
        command, env=os.environ | threads, stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout


def finetune_options(run: Run, args: argparse.Namespace) -> list[str]:
    return [
        *("--task", run.task, "--model", "minilm", *run.ours, *shared_options(run, args)),
        # batches of so many rows, as the reference has them, whatever their tokens
        *("--batch-tokens", str(run.batch_size * run.features * run.max_length)),
        *("--precision", "bf16", "--evals-per-epoch", "1", "--no-keep-best"),
    ]


def run_ours(run: Run, folder: Path, out: Path, args: argparse.Namespace) -> None:
    """Fine-tune, evaluate on test, and write what both say."""
    run_dir = args.work_dir / f"{run.name}-s{args.seed}"
    shutil.rmtree(run_dir, ignore_errors=True)
    bertwright = [sys.executable, "-m", "bertwright"]
    options = finetune_options(run, args)
    data = ["--data", split_file(folder, "train"), "--eval-data", split_file(folder, "dev")]
    call([*bertwright, "finetune", *data, *options, "--out", str(run_dir)], args)
    evaluate = [
        *("--model", str(run_dir), "--data", split_file(folder, "test"), "--json"),
        *("--threads", str(args.threads), "--repeats", "3", "--latency-rows", "1"),
        *("--speed-rows", "500" if run.features == 1 else "8"),
        *(("--max-rows", "120") if args.smoke else ()),
    ]
    scored = json.loads(call([*bertwright, "evaluate", *evaluate], args))
    write_json(out, ours_result(run, run_dir, options, scored, args))


def ours_result(
    run: Run, run_dir: Path, options: list[str], scored: dict, args: argparse.Namespace
) -> dict:
    """Return the facts of our run in the form of the reference's, and the interval."""
    last = json.loads((run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    dev = {name[5:]: value for name, value in last.items() if name.startswith("eval_")}
    meter = read_meter(run_dir)
    shown = " ".join(options)
    return {
        "what": "bertwright finetune",
        "task": run.task,
        "data": run.data,
        "command": f"bertwright finetune --data train.jsonl --eval-data dev.jsonl {shown}",
        "options": {
            **{"epochs": run.epochs, "lr": run.lr, "batch_size": run.batch_size},
            **{"max_length": run.max_length, "seed": args.seed, "threads": args.threads},
            "more": list(run.ours),
        },
        "weights": "last",
        "train_seconds": meter["seconds"],
        "train_tokens": meter["tokens"],
        "tokens_per_s": meter["tokens"] / meter["seconds"],
        **{key: scored[key] for key in ("primary", "score", "score_low", "score_high")},
        "throughput_texts_s": scored["throughput_texts_s"],
        "num_test_rows": scored["num_rows"],
        "metrics": {"dev": dev, "test": scored["metrics"]},
        "machine": machine(),
        "versions": versions(),
    }


def read_meter(run_dir: Path) -> dict:
    """Return the tokens and seconds of a run's training steps."""
    checkpoint = CheckpointStore(run_dir / "checkpoints").load()
    assert checkpoint is not None
    return checkpoint.state["meter"]


def run_plain(
    run: Run, folder: Path, out: Path, args: argparse.Namespace, more: Sequence[str] = ()
) -> None:
    """Train the reference, which writes its result itself."""
    place = ["--data-dir", str(folder.parent), "--name", folder.name, "--out", str(out)]
    script = str(BENCHMARKS / "plain_tasks.py")
    call(
        [
            sys.executable,
            script,
            run.task.partition(":")[0],
            *place,
            *shared_options(run, args),
            *more,
        ],
        args,
    )


def measure_speed(run: Run, args: argparse.Namespace) -> None:
    """Write tokens a second of a few steps, ours and the reference's in turn."""
    out = RESULTS / run.name / "speed.json"
    if out.exists() or not run.plain:
        return
    folder = data_folder(run.data, args.data_dir, args.work_dir / "data")
    ours, plain = [], []
    place = args.work_dir / "speed"
    for _ in range(args.repeats):
        shutil.rmtree(place, ignore_errors=True)
        steps = ["--max-steps", str(args.steps)]
        data = ["--data", split_file(folder, "train"), "--eval-data", split_file(folder, "dev")]
        options = [*finetune_options(run, args), *steps]
        bertwright = [sys.executable, "-m", "bertwright"]
        call([*bertwright, "finetune", *data, *options, "--out", str(place / "ours")], args)
        meter = read_meter(place / "ours")
        ours.append(meter["tokens"] / meter["seconds"])
        run_plain(run, folder, place / "plain.json", args, steps)
        facts = json.loads((place / "plain.json").read_text(encoding="utf-8"))
        plain.append(facts["tokens_per_s"])
    write_json(
        out,
        {
            "what": f"tokens a second of {args.steps} training steps, in turn",
            "library": facts["library"],
            "ours": ours,
            "plain": plain,
            "ratio": statistics.median(ours) / statistics.median(plain),
            "threads": args.threads,
            "machine": machine(),
            "versions": versions(),
        },
    )


def do_run(run: Run, args: argparse.Namespace) -> None:
    """Do what is missing of a run: ours, then the reference."""
    results = args.work_dir / "results" if args.smoke else RESULTS
    folder = data_folder(run.data, args.data_dir, args.work_dir / "data")
    for kind, work in (("ours", run_ours), ("plain", run_plain)):
        out = results / run.name / f"{kind}-s{args.seed}.json"
        if out.exists() or (kind == "plain" and not run.plain):
            continue
        work(run, folder, out, args)
        print(f"{run.name}: {out}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=[run.name for run in RUNS], action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="only speed, on a quiet machine")
    parser.add_argument("--steps", type=int, default=40, help="of --speed")
    parser.add_argument("--repeats", type=int, default=3, help="of --speed")
    parser.add_argument("--smoke", action="store_true", help="a few steps of each, to try it")
    args = parser.parse_args()
    if args.smoke:
        args.work_dir = args.work_dir / "smoke"
    failed = []
    for run in RUNS:
        if args.only and run.name not in args.only:
            continue
        try:
            (measure_speed if args.speed else do_run)(run, args)
        except subprocess.CalledProcessError as error:
            failed.append(run.name)
            print(f"{run.name}: {error}", file=sys.stderr, flush=True)
    if failed:
        print(f"not done: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
