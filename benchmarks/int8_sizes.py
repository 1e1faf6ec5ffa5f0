"""How large an int8 BERT-base is on disk, and what of it is stored in 8 bits, by engine.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/int8_sizes.py --threads 1

BERT-base with random weights, compiled as `bertwright export` does it; nothing is spared, so that
the size is that of int8 alone (how much score int8 costs is no matter of random weights). MB are
10^6 bytes. All 109.5 million numbers in 8 bits would be 109.5 MB; int8 also with the word
embeddings in 4 bits. Writes
`results/int8_sizes.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BertConfig, BertModel

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.engines.artifact import Artifact
from bertwright.engines.compile import compile_model
from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.models.build import build_task_model
from bertwright.models.encoder import load_tokenizer
from bertwright.models.task_model import TaskModel

OUT = Path(__file__).resolve().parent.parent / "results" / "int8_sizes.json"
SPECS = tuple(
    (f"{engine}:{precision}", bits)
    for engine in ("openvino", "onnxruntime")
    for precision, bits in (("fp32", 8), ("int8", 8), ("int8", 4))
)
"""Engine and precision, and the bits of the word embeddings in int8."""
LENGTH, ROWS = 64, 32
ANY_DROP = 1000.0
"""More points than there are: nothing is spared."""


def make_model() -> TaskModel:
    """Return a two-class BERT-base with random weights."""
    torch.manual_seed(0)
    return build_task_model(
        BertModel(BertConfig(), add_pooling_layer=False),
        task="classify",
        labels=["no", "yes"],
        tokenizer=load_tokenizer("minilm"),
        max_length=LENGTH,
    )


def make_rows(model: TaskModel, folder: Path) -> EncodedRows:
    """Return rows of random words to calibrate with and to compare numbers on."""
    assert model.tokenizer is not None
    words = [word for word in sorted(model.tokenizer.get_vocab()) if word.isalpha()]
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [" ".join(words[j] for j in order[i : i + 5 + i]) for i in range(ROWS)]
    rows = load_rows(
        [{"text": text, "label": "no"} for text in texts],
        labels=LabelSet(("no", "yes")),
        cache_dir=folder,
    )
    return tokenise(rows, model.tokenizer, max_length=LENGTH, cache_dir=folder)


def size_mb(artifact: Artifact, *, graph_only: bool) -> float:
    """Return the size of the engine's own files, or of everything (tokenizer, descriptions)."""
    files = [file for file in artifact.dir.rglob("*") if file.is_file()]
    if graph_only:
        files = [file for file in files if file.name.startswith("model.")]
    return round(sum(file.stat().st_size for file in files) / 1e6, 2)


def measure(
    saved: Path, spec: str, bits: Literal[8, 4], rows: EncodedRows, out: Path, threads: int
) -> dict[str, Any]:
    """Compile for one engine and precision, and return what came out."""
    artifact = compile_model(
        saved,
        spec,
        out,
        calibration=rows if spec == "openvino:int8" else None,
        parity=rows,
        tolerance_points=ANY_DROP,
        table_bits=bits,
        threads=threads,
    )
    assert not artifact.kept_in_high_precision
    tables = [
        name for name in artifact.quantized if "embeddings" in name and "LayerNorm" not in name
    ]
    return {
        "graph_mb": size_mb(artifact, graph_only=True),
        "folder_mb": size_mb(artifact, graph_only=False),
        "num_quantized": len(artifact.quantized),
        "embedding_tables_quantized": tables,
        "largest_difference_of_a_logit": artifact.parity["max_abs"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = make_model()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save(folder / "model")
        rows = make_rows(model, folder)
        for spec, bits in SPECS:
            name = spec if bits == 8 else f"{spec}, words in {bits} bits"
            found[name] = measure(folder / "model", spec, bits, rows, folder / "out", args.threads)
            print(f"{name}: {found[name]}", file=sys.stderr)
    write_json(
        OUT,
        {
            "what": "BERT-base (12 layers of 768, 30522 pieces), random weights, two classes",
            "num_parameters": model.num_parameters,
            "sizes": found,
            **{"machine": machine(), "versions": versions()},
        },
    )


if __name__ == "__main__":
    main()
