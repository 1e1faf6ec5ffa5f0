from __future__ import annotations

import pytest
import torch

from bertwright.training.journal import Journal, Meter


def test_a_journal_can_go_back(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.cut(0)
    journal.write({"step": 1})
    size = journal.size()
    journal.write({"step": 2})
    with journal.path.open("a") as file:
        file.write('{"step": 3, "lo')  # a run killed while writing
    journal.cut(size)
    assert journal.path.read_text() == '{"step": 1}\n'
    journal.cut(10**6)
    assert journal.path.read_text() == '{"step": 1}\n'


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        Journal(tmp_path / "metrics.jsonl").write({"loss": float("nan")})


def test_means_are_over_rows_not_batches():
    meter = Meter()
    part = torch.tensor(4.0, requires_grad=True)
    meter.add_batch(rows=1, tokens=10, loss_sum=4.0, parts={"a/x": part, "b/y": 1.0})
    meter.add_batch(rows=3, tokens=30, loss_sum=3.0, parts={"a/x": torch.tensor(0.0), "b/y": 1.0})
    meter.add_seconds(2.0)
    copy = Meter()
    copy.load_state_dict(meter.state_dict())
    for each in (meter, copy):
        assert each.take() == {"loss": 7 / 4, "tokens_per_s": 20.0, "a/x": 1.0, "b/y": 1.0}
        assert each.take()["loss"] == 0.0
        assert each.tokens == 40 and each.tokens_per_s() == 20.0
