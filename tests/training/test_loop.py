from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bertwright.data.batching import collate, plan_batches
from bertwright.errors import ConfigError, DataError, NonFiniteLossError, TimeUpError
from bertwright.tasks import find_task
from bertwright.training import deadline
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits, evaluate_model
from bertwright.training.hooks import EVENTS, Hook, RunState
from bertwright.training.loop import train

TASK = find_task("classify")


def options(**values) -> TrainingConfig:
    defaults = {"epochs": 2, "lr": 3e-3, "batch_size": 8, "precision": "fp32"}
    return TrainingConfig(**{**defaults, **values})


def read_journal(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


class Watch(Hook):
    """Calls a function at one event."""

    order = 99

    def __init__(self, event: str, act) -> None:
        setattr(self, event, act)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(make_rows, make_model, tmp_path, precision):
    model = make_model()
    config = options(epochs=8, precision=precision)
    result = train(
        model, make_rows(200), make_rows(60, 1), task=TASK, config=config, run_dir=tmp_path
    )
    journal = read_journal(tmp_path)
    assert journal[0]["loss"] > 0.9 and journal[-1]["loss"] < 0.3
    assert result.best_score is not None and result.best_score > 0.9
    assert result.stopped == "all steps done" and result.tokens_per_s > 0
    assert not model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_model_holds_the_weights_whose_metrics_are_returned(make_rows, make_model, tmp_path):
    model, dev = make_model(), make_rows(40, 1)
    config = options(epochs=8, evals_per_epoch=2)
    result = train(model, make_rows(150), dev, task=TASK, config=config, run_dir=tmp_path)
    metrics, _ = evaluate_model(model, dev, TASK, precision="fp32")
    assert metrics == pytest.approx(result.metrics)
    scores = [line["eval_accuracy"] for line in read_journal(tmp_path) if "eval_accuracy" in line]
    assert len(scores) == 16 and len(set(scores)) > 2
    assert result.best_score == max(scores)


def weights_at(step: int, found: list) -> Watch:
    def copy(state: RunState) -> None:
        if state.step == step:
            found.append([p.detach().clone() for p in state.model.parameters()])

    return Watch("on_step", copy)


@pytest.mark.parametrize(("keep_best", "step"), [(True, 3), (False, 12)])
def test_best_or_last_weights_as_asked(make_rows, make_model, tmp_path, keep_best, step):
    class Score(Hook):
        def on_evaluate(self, state: RunState) -> None:
            assert not state.model.training
            state.metrics["accuracy"] = 1 / state.step

    model, found = make_model(), []
    result = train(
        model,
        make_rows(48),
        make_rows(20, 1),
        task=TASK,
        config=options(keep_best=keep_best),
        hooks=[Score(), weights_at(step, found)],
        run_dir=tmp_path,
    )
    assert all(torch.equal(a, b) for a, b in zip(found[0], model.parameters(), strict=True))
    assert result.steps == 12 and result.best_score == 1 / step


def test_metrics_lines_have_everything(make_rows, make_model, tmp_path):
    rows = make_rows(48)
    train(make_model(), rows, make_rows(20, 1), task=TASK, config=options(), run_dir=tmp_path)
    journal = read_journal(tmp_path)
    assert [line["step"] for line in journal] == list(range(1, 13))
    for line in journal:
        assert {"step", "epoch", "loss", "lr", "grad_norm", "tokens_per_s", "seconds"} <= set(line)
        assert all(math.isfinite(value) for value in line.values())
    assert [line["step"] for line in journal if "eval_accuracy" in line] == [3, 6, 9, 12]
    assert {"eval_macro_f1", "eval_mcc", "eval_loss"} <= set(journal[2])
    assert [line["epoch"] for line in journal][5::6] == [1.0, 2.0]
    rates = [line["lr"] for line in journal]
    assert rates[0] == pytest.approx(1.5e-3) and rates[1] == 3e-3 and rates[-1] < rates[2]
    assert (tmp_path / "checkpoints").is_dir()


class Capture(Hook):
    """Keeps the gradients of the first step, before they are clipped."""

    order = 99

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.micro_batches = 0

    def on_loss(self, state: RunState) -> None:
        self.micro_batches += 1

    def on_backward(self, state: RunState) -> None:
        if not self.gradients:
            self.gradients = [
                p.grad.clone() for p in state.model.parameters() if p.grad is not None
            ]


def first_gradients(make_rows, make_model, run_dir, **values) -> Capture:
    capture = Capture()
    config = options(epochs=1, batch_size=None, **values)
    model = make_model(dropout=0.0)
    train(model, make_rows(23), None, task=TASK, config=config, hooks=[capture], run_dir=run_dir)
    return capture


def test_micro_batches_of_unequal_sizes_have_the_gradient_of_one_large_batch(
    make_rows, make_model, tmp_path
):
    rows = make_rows(23)
    sizes = {len(b) for b in plan_batches(rows.lengths, batch_tokens=64, seed=0, epoch=0)}
    assert len(sizes) > 1
    split = first_gradients(make_rows, make_model, tmp_path, batch_tokens=64, accumulate=100)
    large = first_gradients(make_rows, make_model, tmp_path, batch_tokens=10_000)
    assert split.micro_batches > 3 and large.micro_batches == 1
    model = make_model(dropout=0.0).train()
    batch = collate(rows, np.arange(23))
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    nn.functional.cross_entropy(logits, batch["labels"]).backward()
    by_hand = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(by_hand) > 20 and max(float(g.abs().max()) for g in by_hand) > 1e-3
    for a, b, c in zip(split.gradients, large.gradients, by_hand, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        torch.testing.assert_close(a, c, atol=1e-6, rtol=0)


def test_every_row_weighs_the_same_over_an_epoch(make_rows, make_model, tmp_path):
    weights = np.zeros(50)

    class Shares(Hook):
        def on_loss(self, state: RunState) -> None:
            state.per_example_loss = state.per_example_loss * 1.0
            self.state = state
            state.per_example_loss.register_hook(self.collect)

        def collect(self, gradient: torch.Tensor) -> None:
            weights[self.state.batch["indices"]] += gradient.numpy()

    config = options(epochs=1, batch_size=None, batch_tokens=100, accumulate=2)
    train(
        make_model(),
        make_rows(50),
        None,
        task=TASK,
        config=config,
        hooks=[Shares()],
        run_dir=tmp_path,
    )
    assert weights.min() > 0
    np.testing.assert_allclose(weights, weights[0], rtol=1e-6)


def test_events_come_in_order_and_hooks_in_theirs(make_rows, make_model, tmp_path):
    calls: list[tuple[str, str]] = []

    def recorder(class_name: str, order_: int) -> Hook:
        def note(event: str):
            return lambda self, state: calls.append((event, class_name))

        members = {event: note(event) for event in EVENTS}
        return type(class_name, (Hook,), {"order": order_, **members})()

    train(
        make_model(),
        make_rows(16),
        make_rows(8, 1),
        task=TASK,
        config=options(epochs=1, accumulate=2),
        hooks=[recorder("Second", 20), recorder("First", 10)],
        run_dir=tmp_path,
    )
    batch = ["on_batch", "on_forward", "on_loss"]
    expected = ["on_start", *batch, *batch, "on_backward", "on_step", "on_evaluate", "on_end"]
    assert [event for event, name in calls if name == "First"] == expected
    assert [name for _, name in calls] == ["First", "Second"] * len(expected)


def test_hooks_get_hidden_states_and_attentions_only_if_asked(make_rows, make_model, tmp_path):
    seen = []

    class Asks(Hook):
        needs_hidden_states = needs_attentions = True

        def on_forward(self, state: RunState) -> None:
            seen.append((state.output.hidden_states, state.output.attentions))

    class Quiet(Asks):
        needs_hidden_states = needs_attentions = False

    for hook in (Asks(), Quiet()):
        config = options(max_steps=1)
        train(
            make_model(),
            make_rows(16),
            None,
            task=TASK,
            config=config,
            hooks=[hook],
            run_dir=tmp_path,
        )
    assert len(seen[0][0]) == 3 and len(seen[0][1]) == 2
    assert seen[1] == (None, None)


def test_a_projection_of_a_hook_is_trained_and_logged(make_rows, make_model, tmp_path):
    class Projection(Hook):
        def on_start(self, state: RunState) -> None:
            self.linear = nn.Linear(3, 1)
            self.before = self.linear.weight.detach().clone()

        def trainable_parameters(self):
            return [self.linear]

        def on_loss(self, state: RunState) -> None:
            state.add_loss("test/term", self.linear(state.output.logits).square().squeeze(-1))

    hook = Projection()
    config = options(epochs=1)
    train(
        make_model(),
        make_rows(32),
        None,
        task=TASK,
        config=config,
        hooks=[hook],
        run_dir=tmp_path,
    )
    assert not torch.equal(hook.linear.weight, hook.before)
    assert all(line["test/term"] > 0 for line in read_journal(tmp_path))


def test_early_stopping_after_patience_evaluations(make_rows, make_model, tmp_path):
    class Worse(Hook):
        def on_evaluate(self, state: RunState) -> None:
            state.metrics["accuracy"] = {3: 0.5, 6: 0.9}.get(state.step, 0.9)

    result = train(
        make_model(),
        make_rows(48),
        make_rows(8, 1),
        task=TASK,
        config=options(epochs=5, patience=2),
        hooks=[Worse()],
        run_dir=tmp_path,
    )
    assert result.steps == 12 and result.best_score == 0.9
    assert "no better accuracy in 2 evaluations" in result.stopped


def test_a_hook_may_stop_the_run_and_it_is_evaluated_then(make_rows, make_model, tmp_path):
    def stop(state: RunState) -> None:
        if state.step == 2:
            state.stop("enough")

    result = train(
        make_model(),
        make_rows(48),
        make_rows(8, 1),
        task=TASK,
        config=options(),
        hooks=[Watch("on_step", stop)],
        run_dir=tmp_path,
    )
    assert (result.steps, result.stopped) == (2, "enough")
    assert result.best_score == read_journal(tmp_path)[-1]["eval_accuracy"]


def test_max_steps_spans_the_schedule_and_minutes_end_the_run(make_rows, make_model, tmp_path):
    rows = make_rows(48)
    config = options(max_steps=4, schedule="linear", warmup=0.0)
    result = train(make_model(), rows, None, task=TASK, config=config, run_dir=tmp_path)
    assert result.steps == 4 and result.best_score is None and result.metrics == {}
    rates = [line["lr"] for line in read_journal(tmp_path)]
    assert rates == pytest.approx([3e-3 * share for share in (1, 0.75, 0.5, 0.25)])
    config = options(minutes=1e-6)
    result = train(make_model(), rows, make_rows(8, 1), task=TASK, config=config, run_dir=tmp_path)
    assert result.steps == 1 and result.stopped == "time limit" and result.best_score is not None


def test_a_run_whose_moment_has_passed_is_saved_and_goes_on_to_the_same_weights(
    make_rows, make_model, tmp_path
):
    rows, config = make_rows(48), options(max_steps=6)
    whole, broken = make_model(), make_model()
    train(whole, rows, None, task=TASK, config=config, run_dir=tmp_path / "whole")

    def at_three(state: RunState) -> None:
        if state.step == 3:
            deadline._MOMENT.set(0.0)

    common = {"task": TASK, "config": config, "run_dir": tmp_path / "broken"}
    with deadline.until(math.inf), pytest.raises(TimeUpError, match="after 3 of 6 steps"):
        train(broken, rows, None, hooks=[Watch("on_step", at_three)], **common)
    assert not deadline.time_is_up(), "the moment was the block's"
    again = make_model()
    idle = Watch("on_step", lambda state: None)
    result = train(again, rows, None, resume=True, hooks=[idle], **common)
    assert result.steps == 6 and len(read_journal(tmp_path / "broken")) == 6
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def poison(step: int):
    def act(state: RunState) -> None:
        if state.step == step:
            state.per_example_loss = state.per_example_loss * float("nan")

    return Watch("on_loss", act)


@pytest.mark.parametrize("checkpoint_steps", [2, None])
def test_a_loss_that_is_not_a_number_stops_with_the_rows_and_keeps_a_good_checkpoint(
    make_rows, make_model, tmp_path, checkpoint_steps
):
    model, batches = make_model(), []
    config = options(checkpoint_steps=checkpoint_steps, evals_per_epoch=1)
    watch = Watch("on_batch", lambda state: batches.append(state.batch["rows"].tolist()))
    watch.order = 5
    with pytest.raises(NonFiniteLossError, match="loss became nan at step 4") as caught:
        train(
            model,
            make_rows(48),
            make_rows(8, 1),
            task=TASK,
            config=config,
            hooks=[watch, poison(3)],
            run_dir=tmp_path,
        )
    assert caught.value.rows == list(map(str, batches[-1])) and len(batches) == 4
    assert "--lr" in str(caught.value)
    step = 2 if checkpoint_steps else 3
    folder = tmp_path / "checkpoints" / f"step-{step:08}"
    assert str(folder) in str(caught.value)
    saved = torch.load(folder / "state.pt")["model"]
    assert all(torch.isfinite(value).all() for value in saved.values())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert len(read_journal(tmp_path)) == 3


def test_an_infinite_gradient_stops_before_it_reaches_the_weights(make_rows, make_model, tmp_path):
    def spoil(state: RunState) -> None:
        next(p for p in state.model.parameters() if p.grad is not None).grad.fill_(math.inf)

    model = make_model()
    with pytest.raises(NonFiniteLossError, match="gradient became"):
        train(
            model,
            make_rows(48),
            None,
            task=TASK,
            config=options(),
            hooks=[Watch("on_backward", spoil)],
            run_dir=tmp_path,
        )
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_the_gradient_is_clipped_to_a_global_norm(make_rows, make_model, tmp_path):
    norms = []

    class Optimizer(Hook):
        def on_batch(self, state: RunState) -> None:
            if not hasattr(self, "seen"):
                self.seen = state.optimizer.register_step_pre_hook(self.note)

        def note(self, optimizer, *_):
            gradients = [
                p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None
            ]
            norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    for clip in (0.01, 0.0):
        config = options(max_steps=2, clip_norm=clip)
        train(
            make_model(),
            make_rows(16),
            None,
            task=TASK,
            config=config,
            hooks=[Optimizer()],
            run_dir=tmp_path,
        )
    assert norms[:2] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert all(norm > 0.02 for norm in norms[2:]) and len(norms) == 4
    assert read_journal(tmp_path)[0]["grad_norm"] == pytest.approx(norms[2], rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_others(make_rows, make_model, tmp_path):
    found = []
    for seed in (0, 0, 1):
        model = make_model()
        config = options(max_steps=3, seed=seed)
        train(model, make_rows(48), None, task=TASK, config=config, run_dir=tmp_path)
        found.append(compute_logits(model, make_rows(8, 1), precision="fp32"))
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2], atol=1e-4)


def test_frozen_parts_stay_as_they_were(make_rows, make_model, tmp_path):
    model = make_model()
    before = [p.detach().clone() for p in model.encoder.parameters()]
    freeze = Watch("on_start", lambda state: state.model.encoder.requires_grad_(False))
    config = options(epochs=1)
    train(model, make_rows(48), None, task=TASK, config=config, hooks=[freeze], run_dir=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder.parameters(), strict=True))
    everything = Watch("on_start", lambda state: state.model.requires_grad_(False))
    with pytest.raises(ConfigError, match="frozen"):
        train(
            model,
            make_rows(48),
            None,
            task=TASK,
            config=config,
            hooks=[everything],
            run_dir=tmp_path,
        )


def test_rows_without_labels_are_refused(make_rows, make_model, tmp_path):
    rows = make_rows(16)
    rows = rows.without_targets()
    with pytest.raises(DataError, match="no labels"):
        train(make_model(), rows, None, task=TASK, config=options(), run_dir=tmp_path)


def test_the_result_of_a_finished_run_is_small_on_disk(make_rows, make_model, tmp_path):
    config = options(checkpoint_steps=1)
    train(make_model(), make_rows(48), make_rows(8, 1), task=TASK, config=config, run_dir=tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert len(names) == 2 and names[1] == "step-00000012"
    assert (
        set(torch.load(tmp_path / "checkpoints" / names[1] / "state.pt"))
        & {
            "model",
            "optimizer",
        }
        == set()
    )
