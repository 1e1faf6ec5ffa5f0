"""The runs of the table of tasks, and what the reference trainers do by themselves."""

from __future__ import annotations

import argparse
import subprocess

import numpy as np
import pytest


@pytest.fixture
def options(tmp_path, monkeypatch, benchmark_module):
    monkeypatch.setattr(benchmark_module("task_runs"), "RESULTS", tmp_path / "results")
    return argparse.Namespace(
        data_dir=tmp_path / "data", work_dir=tmp_path / "work", threads=1, seed=0, smoke=False
    )


def test_each_run_has_a_name_of_its_own_and_a_trainer(benchmark_module):
    runs = benchmark_module("task_runs").RUNS
    assert len({run.name for run in runs}) == len(runs) > 5
    assert {run.task.partition(":")[0] for run in runs if run.plain} <= set(
        benchmark_module("plain_tasks").TASKS
    )


def test_what_is_there_is_not_done_again(benchmark_module, options, monkeypatch, tmp_path):
    task_runs = benchmark_module("task_runs")
    done = []
    for kind in ("ours", "plain"):

        def work(run, folder, out, args, kind=kind):
            done.append((kind, run.name))
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("{}")

        monkeypatch.setattr(task_runs, f"run_{kind}", work)
    run, alone = task_runs.RUNS[0], next(run for run in task_runs.RUNS if not run.plain)
    for _ in range(2):
        task_runs.do_run(run, options)
        task_runs.do_run(alone, options)
    assert done == [("ours", run.name), ("plain", run.name), ("ours", alone.name)]
    (tmp_path / "results" / run.name / "plain-s0.json").unlink()
    task_runs.do_run(run, options)
    assert done[3:] == [("plain", run.name)]


def test_the_reference_is_not_run_after_ours_failed(benchmark_module, options, monkeypatch):
    task_runs = benchmark_module("task_runs")

    def fail(run, folder, out, args):
        raise subprocess.CalledProcessError(1, "bertwright")

    monkeypatch.setattr(task_runs, "run_ours", fail)
    monkeypatch.setattr(task_runs, "run_plain", lambda *_: pytest.fail("it was run"))
    with pytest.raises(subprocess.CalledProcessError):
        task_runs.do_run(task_runs.RUNS[0], options)


def test_ours_and_the_reference_get_the_same_options(benchmark_module, options):
    task_runs = benchmark_module("task_runs")
    words = task_runs.shared_options(task_runs.RUNS[0], options)
    given = dict(zip(words[::2], words[1::2], strict=True))
    run = task_runs.RUNS[0]
    assert given["--epochs"] == str(run.epochs) and float(given["--lr"]) == run.lr
    assert given["--batch-size"] == str(run.batch_size) and given["--threads"] == "1"
    assert "--max-steps" not in given


def test_the_reference_places_and_finds_an_answer(benchmark_module):
    span = benchmark_module("plain.span")
    row = {"context": "in the old town", "answers": [{"text": "old town", "answer_start": 7}]}
    window = {
        **{"row": 0, "input_ids": [1, 5, 2, 6, 7, 8, 9, 2], "token_type_ids": [0] * 8},
        "offsets": [None, None, None, (0, 2), (3, 6), (7, 10), (11, 15), None],
    }
    feature = span.place_answer(window, row)
    assert (feature["start_positions"], feature["end_positions"]) == (5, 6)
    half = {**window, "offsets": [*window["offsets"][:6], None, None]}
    assert span.place_answer(half, row)["start_positions"] == 0
    logits = np.zeros((8, 2))
    logits[5, 0], logits[6, 1] = 3, 2
    logits[1], logits[3, 1] = 9, 2.5  # not of the context; ends before it starts
    assert span.best_answers([window], [logits], [row]) == ["old town"]


def test_the_reference_scores_as_squad_does(benchmark_module):
    span = benchmark_module("plain.span")
    rows = [
        {"answers": [{"text": "The old Town!"}, {"text": "Rome"}]},
        {"answers": [{"text": "a b c d"}]},
    ]
    scores = span.score(["old town", "b x"], rows)
    # "a" is an article: gold is b c d, answer b x; precision 1/2, recall 1/3
    assert scores == pytest.approx({"exact": 0.5, "f1": (1 + 0.4) / 2})


def test_a_batch_is_padded_to_its_longest(benchmark_module):
    common = benchmark_module("plain.common")
    batch = common.collate(
        [
            {"input_ids": [4, 5, 6], "token_type_ids": [0, 0, 1], "labels": [-100, 2, 1]},
            {"input_ids": [7], "token_type_ids": [0], "labels": [3]},
        ],
        pad_id=9,
    )
    assert batch["input_ids"].tolist() == [[4, 5, 6], [7, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 1], [3, -100, -100]]


def test_an_epoch_has_every_row_once(benchmark_module):
    common = benchmark_module("plain.common")
    args = argparse.Namespace(seed=0, epochs=2, batch_size=4)
    batches = list(common.random_batches(10, args))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    for epoch in (batches[:3], batches[3:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(10))
    assert batches[:3] != batches[3:]
