"""A small training run as a process of its own, to be killed: RUN_DIR WEIGHTS_FILE [--resume].

It uses every source of randomness that a method may use, and takes its time over each step.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import numpy as np
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.models.build import build_task_model
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.hooks import Hook, RunState
from bertwright.training.loop import train
from tiny import tiny_encoder
from training.conftest import LABELS, make_texts


class Noise(Hook):
    """Adds noise of four generators to the loss and the weights, and remembers a sum."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.scale = torch.nn.Parameter(torch.ones(1))

    def trainable_parameters(self):
        return [self.scale]

    def on_loss(self, state: RunState) -> None:
        noise = random.random() + np.random.rand() + float(torch.rand(1))
        noise += float(torch.rand(1, generator=state.generator))
        self.sum += noise
        state.per_example_loss = state.per_example_loss * (0.5 + 0.1 * noise) * self.scale

    def on_step(self, state: RunState) -> None:
        with torch.no_grad():
            next(state.model.head.parameters()).mul_(1 + 1e-6 * self.sum)
        time.sleep(0.01)

    def state_dict(self):
        return {"sum": self.sum, "scale": self.scale.detach()}

    def load_state_dict(self, values) -> None:
        self.sum = values["sum"]
        with torch.no_grad():
            self.scale.copy_(values["scale"])


def main(run_dir: Path, weights: Path, *, resume: bool) -> None:
    torch.set_num_threads(1)
    encoder, tokenizer = tiny_encoder("bert", num_hidden_layers=1)
    model = build_task_model(
        encoder, task="classify", labels=LABELS, max_length=32, tokenizer=tokenizer
    )
    cache = run_dir.parent / f"cache-{run_dir.name}"
    rows = [
        tokenise(load_rows(make_texts(n, s), cache_dir=cache), tokenizer, cache_dir=cache)
        for n, s in ((150, 0), (30, 1))
    ]
    config = TrainingConfig(
        epochs=4,
        lr=3e-3,
        batch_size=8,
        accumulate=2,
        evals_per_epoch=3,
        checkpoint_steps=3,
        keep_best=False,
    )
    hook = Noise()
    train(
        model,
        *rows,
        task=find_task("classify"),
        config=config,
        hooks=[hook],
        run_dir=run_dir,
        resume=resume,
    )
    torch.save({**model.state_dict(), "sum": torch.tensor(hook.sum)}, weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), resume="--resume" in sys.argv)
