"""SBERT-WK for a whole batch against a loop over texts, tokens and layers.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/wk_speed.py --threads 2

32 texts of 32 tokens, 9 layers of width 768, states that resemble each other as an encoder's do.
Ours gets them as an encoder gives them, a tensor a layer; the loop gets them stacked.
The loop is the method as its paper has it: two QR decompositions of a layer's neighbours a token
and layer, written plainly in torch. Both in turn, several times; writes `results/wk_speed.json`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.models.pooling.wk import pool_wk

OUT = Path(__file__).resolve().parent.parent / "results" / "wk_speed.json"
TEXTS, TOKENS, LAYERS, WIDTH, WINDOW = 32, 32, 9, 768, 2


def wk_loop(states: Tensor) -> Tensor:
    """Return the vectors [B, D] of states [B, K, L, D] without padding, one layer at a time."""
    vectors = []
    for text in states:
        tokens = text.transpose(0, 1)[:-1]
        mixed = torch.stack([layer_shares(layers) @ layers for layers in tokens])
        steps = torch.nn.functional.cosine_similarity(tokens[:, :-1], tokens[:, 1:], dim=-1)
        changes = steps.var(dim=1)
        vectors.append(changes / changes.sum() @ mixed)
    return torch.stack(vectors)


def layer_shares(layers: Tensor) -> Tensor:
    """Return the share of each layer of one token, [K] from [K, D]."""
    aligned = torch.stack([alignment(layers, k) for k in range(len(layers))])
    novel = torch.stack([novelty(layers, k) for k in range(len(layers))])
    aligned = 1 / aligned
    shares = aligned / aligned.sum() + novel / novel.sum()
    return shares / shares.sum()


def column_of(layers: Tensor, k: int) -> tuple[Tensor, int]:
    """Return R of the neighbours and the layer itself, and how many neighbours there are."""
    others = torch.cat([layers[max(k - WINDOW, 0) : k], layers[k + 1 : k + WINDOW + 1]])
    _, r = torch.linalg.qr(torch.cat([others, layers[k : k + 1]]).T)
    return r, len(others)


def alignment(layers: Tensor, k: int) -> Tensor:
    r, count = column_of(layers, k)
    others = r[:-1, :-1] / r[:, :-1].norm(dim=0)
    return (r[:-1, -1] @ others / r[:-1, -1].norm()).mean() * 2 * (count + 1)


def novelty(layers: Tensor, k: int) -> Tensor:
    r, _ = column_of(layers, k)
    return r[-1, -1].abs() / r[:, -1].norm()


def seconds_of(run: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = torch.randn(TEXTS, LAYERS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    steps[:, 1:] *= 0.5
    states, mask = steps.cumsum(dim=1), torch.ones(TEXTS, TOKENS)
    layers = tuple(layer.contiguous() for layer in states.unbind(dim=1))
    with torch.no_grad():
        difference = float((pool_wk(layers, mask) - wk_loop(states)).abs().max())
        loop, ours = [], []
        for _ in range(args.repeats):
            loop.append(seconds_of(lambda: wk_loop(states)))
            ours += [seconds_of(lambda: pool_wk(layers, mask)) for _ in range(5)]
    ratio = statistics.median(loop) / statistics.median(ours)
    write_json(
        OUT,
        {
            "what": f"{TEXTS} texts x {TOKENS} tokens x {LAYERS} layers of width {WIDTH}, fp32",
            **{"loop_s": loop, "ours_s": ours, "ratio": ratio},
            **{"largest_difference": difference, "threads": args.threads},
            **{"machine": machine(), "versions": versions()},
        },
    )
    print(f"{ratio:.0f} times the loop; largest difference {difference:.1e}", file=sys.stderr)


if __name__ == "__main__":
    main()
