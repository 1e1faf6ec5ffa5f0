"""The reference teacher: plain `transformers` code, nothing of bertwright.

    python benchmarks/plain_transformers.py --data-dir DIR --name clinc150 --epochs 5 --lr 3e-4
        --batch-size 64 --seed 0 --train train.jsonl --out results/clinc150/plain-s0.json

It is `classify` of benchmarks/plain_tasks.py, written in the form of the table of teachers:
accuracy on dev and test, and the seconds of training.
"""

from __future__ import annotations

import json

from plain import classify, common


def main() -> None:
    args = common.option_parser(__doc__).parse_args()
    if args.out.exists():
        print(f"{args.out} exists: nothing to do")
        return
    timing, metrics = classify.run(args)
    result = {
        "what": "plain transformers",
        "data": args.name,
        **{name: getattr(args, name) for name in ("train", "epochs", "lr", "batch_size", "seed")},
        "train_seconds": timing["train_seconds"],
        "versions": common.versions("torch", "transformers"),
        **{f"{split}_accuracy": scores["accuracy"] for split, scores in metrics.items()},
    }
    common.write(args.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
