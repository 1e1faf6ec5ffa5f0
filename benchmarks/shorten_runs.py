"""Leaving tokens of long texts out: what it saves, and how many answers stay the same.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/shorten_runs.py --threads 2 --data-dir DIR

MiniLM, not trained further, has a head on the mean of its states for movie_reviews, film reviews of
which it reads the first 512 tokens (`finetune --frozen`: minutes where training takes hours). Then
`bertwright shorten` leaves tokens out after the second layer: given shares, and those that promises
of 0.99 and 0.95 find on dev and half of test. The other half judges. The whole model and the given
shares are compiled for each engine in fp32, and all of an engine measured in turn on texts of that
half, text in, label out, each in a process of its own (`--prepare` leaves that for later, when the
machine is quiet). Leaves `results/shortened/movie_reviews.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from exit_runs import speeds_on
from task_data import read_rows, write_rows
from transfer_runs import bertwright

from bertwright.engines.compile import compile_model
from bertwright.evaluate.measure import Target
from bertwright.files import read_json, write_json
from bertwright.training.precision import using_threads
from bertwright.verbs.shorten import ShortenConfig, shorten

RESULTS = Path(__file__).resolve().parent.parent / "results" / "shortened"
NAME = "movie_reviews"
TEACHER = ("--frozen", "--learner", "logistic", "--pooling", "mean", "--max-length", "512")
SHARES, PROMISES = (0.75, 0.5, 0.25), (0.99, 0.95)
ENGINES = ("torch", "onnxruntime", "openvino")
SPEED_ROWS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/shortened"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency-rows", type=int, default=30)
    parser.add_argument("--prepare", action="store_true", help="measure no speed, write no result")
    args = parser.parse_args()
    out, prepared = RESULTS / f"{NAME}.json", args.work_dir / "rows.json"
    if out.exists():
        return
    if not prepared.exists():
        write_json(prepared, {"set": NAME, "rows": prepare(args)})
    if not args.prepare:
        write_json(out, read_json(prepared) | measure_speed(args))


def prepare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Make the shorter models, compile them, and return what they do on the rows that judge."""
    teacher, (finding, judging) = make_teacher(args), split_rows(args)
    rows = []
    for wanted in (*SHARES, *PROMISES):
        given = wanted in SHARES
        out = args.work_dir / f"{'share' if given else 'promised'}-{wanted}"
        shutil.rmtree(out, ignore_errors=True)
        how: dict[str, Any] = (
            {"share": wanted} if given else {"calibration": str(finding), "agreement": wanted}
        )
        with using_threads(args.threads):
            done = shorten(
                ShortenConfig(model=str(teacher), test_data=str(judging), out=str(out), **how)
            )
        assert done.test is not None
        share = 1.0 if done.drop is None else done.drop.share
        row = {"promised": None if given else wanted, "share": share, **vars(done.test)}
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    for engine in ENGINES:
        for who, path in models(args, teacher).items():
            place = args.work_dir / f"{engine}-{who}"
            compile_model(path, f"{engine}:fp32", place, threads=args.threads)
    return rows


def models(args: argparse.Namespace, teacher: Path) -> dict[str, Path]:
    """Return the models whose speed is measured: name -> folder."""
    shorter = {f"share-{share}": args.work_dir / f"share-{share}" for share in SHARES}
    return {"whole": teacher / "model", **shorter}


def make_teacher(args: argparse.Namespace) -> Path:
    """Make the model that reads everything, where it is not there yet."""
    teacher = args.work_dir / "teacher"
    if not (teacher / "model").exists():
        shutil.rmtree(teacher, ignore_errors=True)
        data = args.data_dir / NAME
        files = ("--data", str(data / "train.jsonl.gz"), "--eval-data", str(data / "dev.jsonl"))
        words = ("finetune", "--model", "minilm", *files, "--seed", "0", *TEACHER)
        bertwright(args, *words, "--out", str(teacher))
    return teacher


def split_rows(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the files of the rows that find the share and of those that judge."""
    dev, test = (read_rows(args.data_dir / NAME / f"{one}.jsonl") for one in ("dev", "test"))
    random.Random(0).shuffle(test)
    half = len(test) // 2
    finding, judging = args.work_dir / "finding.jsonl", args.work_dir / "judging.jsonl"
    write_rows(finding, dev + test[:half])
    write_rows(judging, test[half:])
    return finding, judging


def measure_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that was compiled, side by side."""
    texts = [row["text"] for row in read_rows(split_rows(args)[1])][:SPEED_ROWS]
    targets = [
        Target(
            name=f"{engine}-{who}", path=args.work_dir / f"{engine}-{who}", spec=f"{engine}:fp32"
        )
        for engine in ENGINES
        for who in models(args, args.work_dir / "teacher")
    ]
    return speeds_on(texts, targets, args)


if __name__ == "__main__":
    main()
