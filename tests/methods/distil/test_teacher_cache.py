from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.batching import collate
from bertwright.methods.distil import teacher_cache, teacher_source
from bertwright.methods.distil.soft_targets import soft_target_loss
from bertwright.methods.distil.teacher_cache import LiveTeacher, TeacherCache, teacher_hash
from methods.cases import inputs_of, some_batch, tiny_rows, tiny_teacher


@pytest.fixture
def teacher():
    return tiny_teacher()


def built(teacher, rows, tmp_path, **options):
    folder = tmp_path / "caches"
    return TeacherCache.build(teacher, rows, folder=folder, batch_tokens=100, **options)


def shuffled_batch(rows):
    return collate(rows, np.array([40, 3, 17, 3, 0, 29]))


def test_cache_says_what_the_live_teacher_says(teacher, tmp_path):
    rows = tiny_rows(teacher)
    cache = built(teacher, rows, tmp_path, hidden_layers=[0, 2, 4], attention_layers=[1, 4])
    live = LiveTeacher(teacher)
    assert len(cache) == len(rows) == 48
    batch = shuffled_batch(rows)
    mask = batch["attention_mask"].bool()
    assert not mask.all()
    logits = live.logits(batch)
    assert logits.std() > 1e-3
    torch.testing.assert_close(cache.logits(batch), logits, atol=1e-6, rtol=1e-5)
    for layer in (0, 2, 4):
        hidden = live.hidden(batch, layer)
        torch.testing.assert_close(
            cache.hidden(batch, layer)[mask], hidden[mask], atol=2e-3, rtol=2e-3
        )
        assert not cache.hidden(batch, layer)[~mask].any()
    both = (mask.unsqueeze(2) & mask.unsqueeze(1)).unsqueeze(1).expand(-1, 4, -1, -1)
    for layer in (1, 4):
        maps = live.attention(batch, layer)
        assert maps.shape == (6, 4, batch["input_ids"].shape[1], batch["input_ids"].shape[1])
        torch.testing.assert_close(
            cache.attention(batch, layer)[both], maps[both], atol=1e-3, rtol=2e-3
        )
    with pytest.raises(KeyError):
        cache.hidden(batch, 1)


def test_projections_are_kept_token_after_token_in_half_precision(teacher, tmp_path):
    rows = tiny_rows(teacher)
    cache = built(teacher, rows, tmp_path, projection_layers=[4, 2, 2])
    live = LiveTeacher(teacher)
    batch = shuffled_batch(rows)
    mask = batch["attention_mask"].bool()
    for layer in (2, 4):
        assert cache.projection_shape(layer) == live.projection_shape(layer) == (4, 32)
        kept, asked = cache.projections(batch, layer), live.projections(batch, layer)
        for ours, theirs in zip(kept, asked, strict=True):
            assert ours.shape == (*mask.shape, 32) and theirs[mask].std() > 0.01
            torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-3, rtol=1e-3)
            assert not ours[~mask].any()
        for one, other in ((0, 1), (1, 2), (0, 2)):  # none stands in another's place
            assert not torch.allclose(kept[one][mask], asked[other][mask], atol=1e-2)
    file = cache.folder / "projections_4.npy"
    num_tokens = int(rows.lengths.sum())
    assert np.load(file).shape == (num_tokens, 3, 32) and np.load(file).dtype == np.float16
    with pytest.raises(KeyError):
        cache.projections(batch, 3)
    with pytest.raises(KeyError):
        cache.projection_shape(3)


def test_loss_is_the_same_from_cache_and_live_and_not_from_other_rows(teacher, tmp_path):
    rows = tiny_rows(teacher)
    cache, live = built(teacher, rows, tmp_path), LiveTeacher(teacher)
    batch = shuffled_batch(rows)
    logits_s = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    from_live = soft_target_loss(logits_s, live.logits(batch), 2.0)
    from_cache = soft_target_loss(logits_s, cache.logits(batch), 2.0)
    torch.testing.assert_close(from_cache, from_live, atol=1e-6, rtol=1e-5)
    wrong = cache.logits({**batch, "indices": np.arange(6)})
    assert not torch.allclose(soft_target_loss(logits_s, wrong, 2.0), from_live, rtol=1e-4)


def test_teacher_is_asked_in_eval_mode_without_gradients_and_left_in_its_mode(teacher, tmp_path):
    rows = tiny_rows(teacher)
    batch = some_batch(rows)
    expected = LiveTeacher(teacher).logits(batch)
    teacher.train()
    live = LiveTeacher(teacher)
    logits = live.logits(batch)
    assert torch.equal(logits, expected) and not logits.requires_grad
    with torch.no_grad():
        assert not torch.equal(teacher(**inputs_of(batch)).logits, expected)  # dropout is there
    assert all(module.training for module in teacher.modules())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LiveTeacher(teacher).logits(batch), expected)


def test_live_teacher_runs_once_a_batch(teacher, monkeypatch):
    rows = tiny_rows(teacher)
    runs = []
    real = teacher_source.run_teacher
    monkeypatch.setattr(
        teacher_source, "run_teacher", lambda *a, **k: runs.append(1) or real(*a, **k)
    )
    live = LiveTeacher(teacher, hidden=True)
    first, second = some_batch(rows), some_batch(rows)
    live.logits(first)
    live.hidden(first, 2)
    assert len(runs) == 1
    live.logits(second)
    assert len(runs) == 2
    live.attention(second, 1)  # not announced: runs again, with attentions
    assert len(runs) == 3
    live.projections(second, 2)  # likewise
    assert len(runs) == 4
    live.projections(second, 2)
    live.attention(second, 1)
    assert len(runs) == 4
    asked = LiveTeacher(teacher, projection_layers=[2, 3])
    key = live.projections(second, 2).key
    torch.testing.assert_close(asked.projections(second, 2).key, key)
    assert not torch.allclose(asked.projections(second, 3).key, key, atol=1e-2)
    assert len(runs) == 5


def test_a_second_build_reads_and_a_change_of_anything_computes(teacher, tmp_path, monkeypatch):
    rows = tiny_rows(teacher)
    runs = []
    real = teacher_cache.run_teacher
    monkeypatch.setattr(
        teacher_cache, "run_teacher", lambda *a, **k: runs.append(1) or real(*a, **k)
    )

    def computes(*args, **options) -> bool:
        runs.clear()
        built(*args, tmp_path, **options)
        return bool(runs)

    assert computes(teacher, rows)
    assert not computes(teacher, rows)
    assert not computes(tiny_teacher(), rows)  # equal weights, another object
    assert computes(teacher, rows, hidden_layers=[4])
    assert computes(teacher, rows, projection_layers=[4])
    assert computes(teacher, rows, projection_layers=[3])
    assert not computes(teacher, rows, projection_layers=[4])
    assert computes(teacher, tiny_rows(teacher, seed=1))
    assert computes(teacher, rows.select(np.arange(24)))
    with torch.no_grad():
        next(teacher.head.parameters())[0] += 1e-3
    assert computes(teacher, rows)


def test_order_of_selected_rows_is_theirs(teacher, tmp_path):
    rows = tiny_rows(teacher)
    some = rows.select(np.array([5, 2, 40]))
    whole, part = built(teacher, rows, tmp_path), built(teacher, some, tmp_path)
    torch.testing.assert_close(
        part.logits({"indices": [0, 1, 2]}), whole.logits({"indices": [5, 2, 40]})
    )


@pytest.mark.parametrize("damage", ["cut", "remove", "garbage"])
def test_damaged_caches_are_made_again(teacher, tmp_path, damage):
    rows = tiny_rows(teacher)
    cache = built(teacher, rows, tmp_path)
    expected = cache.logits({"indices": np.arange(48)}).clone()
    logits = cache.folder / "logits.npy"
    if damage == "cut":
        logits.write_bytes(logits.read_bytes()[:-8])
    elif damage == "remove":
        logits.unlink()
    else:
        (cache.folder / "cache.json").write_text("{}")
    again = built(teacher, rows, tmp_path)
    torch.testing.assert_close(again.logits({"indices": np.arange(48)}), expected)


def test_a_build_that_fails_leaves_nothing(teacher, tmp_path, monkeypatch):
    rows = tiny_rows(teacher)
    real, runs = teacher_cache.run_teacher, []

    def fail_later(*args, **kwargs):
        runs.append(1)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(teacher_cache, "run_teacher", fail_later)
    with pytest.raises(KeyboardInterrupt):
        built(teacher, rows, tmp_path)
    assert list((tmp_path / "caches").iterdir()) == []


def test_values_too_large_for_half_precision_are_kept_in_full(tmp_path):
    teacher = tiny_teacher("modernbert")
    with torch.no_grad():
        teacher.roles.layers[0].mlp.Wo.weight[0] *= 1e7  # type: ignore[union-attr,index,operator]
    rows = tiny_rows(teacher)
    cache, live = built(teacher, rows, tmp_path, hidden_layers=[2]), LiveTeacher(teacher)
    batch = some_batch(rows)
    mask = batch["attention_mask"].bool()
    hidden = live.hidden(batch, 2)[mask]
    assert hidden.abs().max() > 65504
    torch.testing.assert_close(cache.hidden(batch, 2)[mask], hidden, rtol=1e-4, atol=1e-2)


def test_teacher_hash_sees_one_changed_number():
    teacher = tiny_teacher()
    before = teacher_hash(teacher)
    assert teacher_hash(tiny_teacher()) == before
    with torch.no_grad():
        teacher.roles.part(3, "query").weight[1, 1] += 1e-6  # type: ignore[index,operator]
    assert teacher_hash(teacher) != before
