from __future__ import annotations

import errno

import pytest
import torch

from bertwright.errors import DiskFullError
from bertwright.training import checkpoints
from bertwright.training.checkpoints import CheckpointStore


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def weights(value: float) -> dict:
    return {"w": torch.full((3,), value)}


def test_the_last_two_and_their_best_weights_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    assert store.load() is None and store.saved() == []
    for step, best_step in ((2, 2), (4, 2), (6, 6), (8, 6), (10, 6)):
        store.save(step, weights(step), best=weights(-best_step), best_step=best_step)
    assert names(store) == ["best-00000006", "step-00000008", "step-00000010"]
    found = store.load()
    assert found is not None and found.best is not None
    assert (found.step, found.best_step) == (10, 6)
    assert torch.equal(found.state["w"], weights(10)["w"])
    assert torch.equal(found.best["w"], weights(-6)["w"])


def test_the_last_one_of_a_run_takes_the_place_of_all(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    store.save(2, weights(2))
    store.save(4, weights(4))
    store.save(5, weights(5), best=weights(1), best_step=4, last=True)
    assert names(store) == ["best-00000004", "step-00000005"]


def test_what_a_killed_run_left_half_written_is_swept_up(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    (tmp_path / "c" / ".step-00000002.abc").mkdir(parents=True)
    store.save(2, weights(2))
    assert names(store) == ["step-00000002"]
    store.clear()
    assert store.load() is None


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path / "c")
    store.save(2, weights(2))

    def fail(value, file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("enforce fail at inline_container.cc") from None

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with pytest.raises(DiskFullError, match="no room"):
        store.save(4, weights(4))
    assert names(store) == ["step-00000002"]
    found = store.load()
    assert found is not None and found.step == 2
