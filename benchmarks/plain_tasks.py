"""Reference trainers: plain library code for each task, nothing of bertwright.

    python benchmarks/plain_tasks.py tag --data-dir DIR --name wnut17 --epochs 5 --lr 2e-4
        --batch-size 32 --seed 0 --threads 1 --out results/tasks/wnut17/plain-s0.json

Settings and timing are those of benchmarks/plain/common.py; each task is one module beside it.
"""

from __future__ import annotations

import importlib
import sys

from plain.common import option_parser

TASKS = ("classify", "regress", "tag", "span", "embed", "multilabel", "rerank")


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--loss", default="cosine", choices=("cosine", "ranking"), help="of embed")
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} exists: nothing to do", file=sys.stderr)
        return
    importlib.import_module(f"plain.{args.task}").main(args)


if __name__ == "__main__":
    main()
