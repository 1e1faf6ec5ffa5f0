"""Load and tokenise 1,000,000 short rows in a process of its own; record peak memory and time.

    python benchmarks/memory_million_rows.py [--rows N] [--output results/memory_million_rows.json]

The result is one JSON object. Resident memory is the kernel's high-water mark (VmHWM) of the child,
libraries included; `peak_after_import_mb` is what they take before any row is read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MB = 1024.0
WORDS = (
    "the a good bad film book time day man woman dog cat house car red blue green fast slow big "
    "small new old very never always like love hate see go make take return value list number name"
).split()


def peak_mb() -> float:
    """Return the peak resident memory of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def write_rows(path: Path, num_rows: int) -> None:
    """Write rows of 4 to 14 words with one of ten labels."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_rows):
            text = " ".join(rng.choices(WORDS, k=rng.randint(4, 14)))
            file.write(f'{{"text": "{text}", "label": "class {rng.randrange(10)}"}}\n')


def word_tokenizer():
    """Return a BERT-style WordPiece tokenizer over the words of the rows."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: index for index, piece in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def child(path: str) -> None:
    """Load, tokenise, batch and collate once; print the measurements as JSON."""
    from bertwright.data import collate, load_rows, plan_batches, tokenise

    figures: dict[str, float | int] = {"peak_after_import_mb": peak_mb()}
    cache = Path(path).parent / "cache"
    began = time.perf_counter()
    rows = load_rows(path, cache_dir=cache)
    figures["load_s"] = time.perf_counter() - began
    figures["peak_after_load_mb"] = peak_mb()
    tokenizer = word_tokenizer()
    began = time.perf_counter()
    encoded = tokenise(rows, tokenizer, cache_dir=cache)
    figures["tokenise_s"] = time.perf_counter() - began
    figures["peak_after_tokenise_mb"] = peak_mb()
    began = time.perf_counter()
    tokenise(rows, tokenizer, cache_dir=cache)
    figures["tokenise_from_cache_s"] = time.perf_counter() - began
    began = time.perf_counter()
    num_tokens = 0
    for batch in plan_batches(encoded.lengths, batch_tokens=4096, seed=0, epoch=0):
        num_tokens += int(collate(encoded, batch)["attention_mask"].sum())
    figures["one_epoch_of_batches_s"] = time.perf_counter() - began
    figures["num_rows"] = len(encoded)
    figures["num_tokens"] = num_tokens
    figures["peak_mb"] = peak_mb()
    print(json.dumps(figures))


def measure(num_rows: int) -> dict[str, object]:
    """Measure in a child process and return the result object."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, num_rows)
        file_mb = path.stat().st_size / 2**20
        done = subprocess.run(
            [sys.executable, __file__, "--child", str(path)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    figures = {
        key: round(value, 2) if isinstance(value, float) else value
        for key, value in json.loads(done.stdout).items()
    }
    packages = ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy")
    return {
        "benchmark": "memory_million_rows",
        **figures,
        "file_mb": round(file_mb, 2),
        "load_rows_per_s": round(figures["num_rows"] / figures["load_s"]),
        "tokenise_rows_per_s": round(figures["num_rows"] / figures["tokenise_s"]),
        "limit_mb": LIMIT_MB,
        "within_limit": figures["peak_mb"] < LIMIT_MB,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def main() -> int:
    """Run the benchmark; exit status 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "results" / "memory_million_rows.json"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    result = measure(options.rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(options.output)
    print(json.dumps(result, indent=2))
    return 0 if result["within_limit"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
