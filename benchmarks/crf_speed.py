"""Time the CRF's loss and gradient against a plain loop over rows, positions and tags.

    python benchmarks/crf_speed.py [--out results/crf_speed.json]

32 rows of 64 steps, 13 tags, on one thread. The two take turns; the figures are medians. The result
is one JSON object; the exit status is 1 when the ratio is below 10.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from bertwright.files import write_json
from bertwright.models.heads.crf import crf_log_likelihood

ROOT = Path(__file__).resolve().parent.parent
BATCH, LENGTH, TAGS = 32, 64, 13
LEAST_RATIO = 10.0
SEED = 0


def log_sum(scores: list[Tensor]) -> Tensor:
    """Return log Σ exp of scalars."""
    return torch.logsumexp(torch.stack(scores), dim=0)


def plain_log_likelihood(
    emissions: Tensor, tags: Tensor, mask: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return what `crf_log_likelihood` returns, one torch scalar at a time."""
    starts, ends = start.unbind(), end.unbind()
    passes = [row.unbind() for row in transitions.unbind()]
    found = []
    for row, row_tags, row_mask in zip(
        emissions.unbind(), tags.tolist(), mask.tolist(), strict=True
    ):
        steps = [
            (step.unbind(), tag)
            for step, tag, real in zip(row.unbind(), row_tags, row_mask, strict=True)
            if real
        ]
        emitted, tag = steps[0]
        alpha = [starts[j] + emitted[j] for j in range(TAGS)]
        score = alpha[tag]
        for emitted, following in steps[1:]:
            alpha = [
                log_sum([alpha[i] + passes[i][j] for i in range(TAGS)]) + emitted[j]
                for j in range(TAGS)
            ]
            score = score + passes[tag][following] + emitted[following]
            tag = following
        found.append(score + ends[tag] - log_sum([alpha[j] + ends[j] for j in range(TAGS)]))
    return torch.stack(found)


def make_inputs() -> list[Tensor]:
    """Return random scores, tags, and a mask of full rows (the most work)."""
    generator = torch.Generator().manual_seed(SEED)
    tags = torch.randint(TAGS, (BATCH, LENGTH), generator=generator)
    shapes = [(BATCH, LENGTH, TAGS), (TAGS,), (TAGS, TAGS), (TAGS,)]
    emissions, *scores = [
        torch.randn(shape, generator=generator).requires_grad_() for shape in shapes
    ]
    return [emissions, tags, torch.ones_like(tags, dtype=torch.bool), *scores]


def timed(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Return seconds of loss and backward, and the loss with the gradients."""
    learned = [tensor for tensor in inputs if tensor.requires_grad]
    began = time.perf_counter()
    loss = -function(*inputs)
    gradients = torch.autograd.grad(loss.mean(), learned)
    return time.perf_counter() - began, [loss.detach(), *gradients]


def measure(repeats: int) -> dict[str, object]:
    """Time both, in turns, and return the result object."""
    torch.set_num_threads(1)
    inputs = make_inputs()
    _, expected = timed(plain_log_likelihood, inputs)
    _, found = timed(crf_log_likelihood, inputs)
    difference = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    if not difference < 1e-2:
        raise SystemExit(f"the two differ by {difference}")
    pairs = [
        (timed(plain_log_likelihood, inputs)[0], timed(crf_log_likelihood, inputs)[0])
        for _ in range(repeats)
    ]
    plain, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    return {
        "benchmark": "crf_speed",
        "batch": BATCH,
        "length": LENGTH,
        "tags": TAGS,
        "plain_s": round(plain, 4),
        "crf_s": round(ours, 5),
        "ratio": round(plain / ours, 1),
        "ratio_range": [round(min(ratios), 1), round(max(ratios), 1)],
        "least_ratio": LEAST_RATIO,
        "within_limit": plain / ours >= LEAST_RATIO,
        "largest_difference": difference,
        "repeats": repeats,
        "seed": SEED,
        "threads": 1,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def main() -> int:
    """Run the benchmark; exit status 1 when the ratio is too low."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "crf_speed.json")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    result = measure(options.repeats)
    write_json(options.out, result)
    for key, value in result.items():
        print(f"{key}: {value}")
    return 0 if result["within_limit"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
