"""Several heads on one encoder: what they compute, and the folder that they are saved in."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from bertwright.engines.artifact import hash_model
from bertwright.errors import CheckpointError, ModelLoadError, UnknownChoiceError
from bertwright.files import folder_size_mb
from bertwright.models.build import build_task_model
from bertwright.models.encoder import encoder_home, load_encoder, saved_size_mb
from bertwright.models.multi import MultiModel, head_folder, head_names
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.optim import parameter_groups
from tiny import tiny_batch, tiny_encoder

HEADS = {"topic": "classify", "type": "regress", "keys": "tag"}
LABELS = {"classify": ["bad", "good", "so-so"], "regress": [], "tag": ["O", "B-x", "I-x"]}


def part_of(task: str, *, seed: int = 0) -> TaskModel:
    """A model whose encoder and head depend on the seed."""
    encoder, tokenizer = tiny_encoder("bert", seed=seed)
    return build_task_model(
        encoder,
        task=task,
        labels=LABELS[task],
        config=ModelConfig(head_crf=task == "tag", head_dropout=0.5),
        tokenizer=tokenizer,
        max_length=32,
        seed=seed,
        outputs=find_task(task).outputs(LABELS[task]),
    )


def parts_of(heads=HEADS) -> dict[str, TaskModel]:
    return {name: part_of(task) for name, task in heads.items()}


@pytest.fixture
def joined() -> MultiModel:
    return MultiModel(parts_of())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A run with a model of three heads."""
    run = tmp_path_factory.mktemp("runs") / "three"
    model = MultiModel(parts_of())
    model.decoding = {"topic": {"a": 1}, "type": {}, "keys": {"b": [0.5]}}
    for name, part in model.parts.items():
        part.lineage = {"scores": {"of": name}}
    model.save(run / "model", {"base_model": "tiny"})
    return run


def output_of(model: nn.Module, **options):
    batch = tiny_batch(tiny_encoder("bert")[1])
    with torch.no_grad():
        return model(**batch, **options)


def total(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_encoder_is_counted_once(joined):
    alone = parts_of()
    heads = sum(total(part.head) + total(part.scale) for part in alone.values())
    assert total(joined) == total(alone["topic"].encoder) + heads
    assert total(joined) < sum(total(part) for part in alone.values())
    parameters = list(joined.parameters())
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    groups = parameter_groups([joined], lr=1.0, weight_decay=0.1)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, parameters))


def test_the_state_has_the_encoder_once_and_every_heads_weights_and_buffers(joined):
    state = joined.state_dict()
    assert {name.split(".")[0] for name in state} == {"encoder", "heads"}
    places = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    assert len(set(places)) == len(places)
    for part in joined.parts.values():
        own = {tensor.data_ptr() for tensor in part.state_dict().values() if tensor.numel()}
        assert own <= set(places)
    other = MultiModel({name: part_of(task, seed=1) for name, task in HEADS.items()})
    for name in HEADS:
        assert not torch.equal(
            output_of(other, head=name).logits, output_of(joined, head=name).logits
        )
    joined.parts["type"].scale.fit(torch.tensor([5.0]), torch.tensor([3.0]))
    other.load_state_dict(joined.state_dict())
    for name in HEADS:
        ours, theirs = output_of(joined, head=name), output_of(other, head=name)
        assert torch.equal(ours.logits, theirs.logits)


def test_a_head_computes_what_its_model_does_alone(joined):
    for name, alone in parts_of().items():
        expected = output_of(alone, output_hidden_states=True, output_attentions=True)
        found = output_of(joined, head=name, output_hidden_states=True, output_attentions=True)
        assert torch.equal(found.logits, expected.logits) and found.logits.std() > 1e-4
        for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
            assert torch.equal(ours, theirs)
        assert len(found.attentions) == len(expected.attentions) == 4
        types = torch.ones_like(tiny_batch(alone.tokenizer)["input_ids"])
        other = output_of(joined, head=name, token_type_ids=types).logits
        assert torch.equal(other, output_of(alone, token_type_ids=types).logits)
        assert not torch.equal(other, found.logits)


def test_all_heads_get_the_encoder_of_the_first():
    first, second = part_of("classify", seed=0), part_of("regress", seed=1)
    before = output_of(second).logits
    joined = MultiModel({"a": first, "b": second})
    assert (
        second.encoder is first.encoder is joined.encoder and joined.roles.encoder is first.encoder
    )
    assert not torch.equal(output_of(joined, head="b").logits, before)
    with torch.no_grad():
        next(joined.encoder.parameters()).add_(1.0)
    assert torch.equal(output_of(joined, head="b").logits, output_of(second).logits)


def test_train_and_eval_mode_reach_every_head(joined):
    for name in HEADS:
        joined.eval()
        assert torch.equal(output_of(joined, head=name).logits, output_of(joined, head=name).logits)
        joined.train()
        part = joined.parts[name]
        modules = [*part.encoder.modules(), *part.head.modules(), *part.scale.modules()]
        assert all(module.training for module in modules)
        assert any(isinstance(module, nn.Dropout) for module in part.head.modules())
        assert not torch.equal(
            output_of(joined, head=name).logits, output_of(joined, head=name).logits
        )
        joined.eval()
        assert not any(module.training for module in modules)


@pytest.mark.parametrize("where", [{"dtype": torch.float64}, {"device": "meta"}], ids=str)
def test_moves_reach_every_head_and_its_buffers(joined, where):
    joined.to(**where)
    for part in joined.parts.values():
        for tensor in part.state_dict().values():
            if tensor.is_floating_point():
                assert all(
                    str(getattr(tensor, key)) == str(wanted) for key, wanted in where.items()
                )
        assert part.encoder is joined.encoder


def test_a_copy_is_independent_and_shares_its_own_encoder(joined):
    twin = copy.deepcopy(joined)
    assert all(part.encoder is twin.encoder for part in twin.parts.values())
    before = output_of(joined, head="topic").logits
    assert torch.equal(output_of(twin, head="topic").logits, before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(output_of(joined, head="topic").logits, before)
    assert not output_of(twin, head="topic").logits.any()


def test_decoding_is_each_heads_own(joined):
    assert joined.decoding == {"topic": {}, "type": {}, "keys": {}}
    joined.decoding = {"topic": {"thresholds": [0.5]}, "type": {}, "keys": {"x": 1}}
    assert joined.parts["topic"].decoding == {"thresholds": [0.5]}
    assert joined.parts["keys"].decoding == {"x": 1}
    assert joined.decoding == {"topic": {"thresholds": [0.5]}, "type": {}, "keys": {"x": 1}}


def test_the_encoder_is_saved_once_and_each_head_is_a_model(saved):
    model = saved / "model"
    assert [p.relative_to(model).as_posix() for p in model.rglob("model.safetensors")] == [
        "encoder/model.safetensors"
    ]
    assert len(list(model.rglob("tokenizer.json"))) == 1
    assert list(head_names(saved)) == list(head_names(model)) == list(HEADS)
    sizes = {name: folder_size_mb(model / "heads" / name) for name in HEADS}
    shared = folder_size_mb(model) - sum(sizes.values())
    for name, alone in parts_of().items():
        loaded = TaskModel.load(head_folder(saved, name))
        assert torch.equal(output_of(loaded).logits, output_of(alone).logits)
        assert loaded.task == HEADS[name] and loaded.labels == LABELS[HEADS[name]]
        assert loaded.lineage == {"scores": {"of": name}} and loaded.max_length == 32
        assert loaded.tokenizer is not None and not loaded.training
        assert saved_size_mb(head_folder(saved, name)) == pytest.approx(shared + sizes[name])
    assert TaskModel.load(head_folder(saved, "keys")).decoding == {"b": [0.5]}
    assert saved_size_mb(model) == pytest.approx(folder_size_mb(model))
    again, tokenizer = load_encoder(saved)
    assert total(again) == total(parts_of()["topic"].encoder) and tokenizer is not None
    assert json.loads((model / "bertwright.json").read_text())["lineage"] == {"base_model": "tiny"}


def test_saving_again_replaces_the_whole_folder(tmp_path):
    MultiModel(parts_of()).save(tmp_path / "m", {})
    MultiModel(parts_of({"other": "classify", "topic": "regress"})).save(tmp_path / "m", {})
    assert sorted(p.name for p in (tmp_path / "m" / "heads").iterdir()) == ["other", "topic"]
    assert TaskModel.load(tmp_path / "m" / "heads" / "topic").task == "regress"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_head_has_to_be_named_and_to_be_there(saved, tmp_path):
    assert head_folder(saved, "topic") == saved / "model" / "heads" / "topic"
    assert head_folder(saved / "model", "topic") == head_folder(saved, "topic")
    with pytest.raises(
        ModelLoadError, match="three has several heads: topic, type, keys"
    ) as caught:
        head_folder(saved, None)
    assert "--head NAME" in caught.value.hint and f"{saved}/model/heads/NAME" in caught.value.hint
    for wrong in ("topics", "../topic", "", "topic/"):
        with pytest.raises(UnknownChoiceError, match="Choose from: keys, topic, type"):
            head_folder(saved, wrong)
    one = head_folder(saved, "topic")
    assert head_folder(one, None) == one and not head_names(one)
    with pytest.raises(ModelLoadError, match="topic has one head only"):
        head_folder(one, "topic")
    for nothing in (tmp_path, tmp_path / "gone"):
        assert head_folder(nothing, None) == nothing
        with pytest.raises(ModelLoadError, match=f"{nothing} is not a saved model"):
            head_folder(nothing, "topic")


def test_a_manifest_that_is_no_object_has_no_heads(tmp_path):
    (tmp_path / "bertwright.json").write_text("[1]")
    assert list(head_names(tmp_path)) == []


@pytest.mark.parametrize("place", ["topic", "heads/topic"])
def test_a_head_that_was_copied_alone_says_what_is_missing(saved, tmp_path, place):
    shutil.copytree(saved / "model" / "heads" / "topic", tmp_path / place)
    with pytest.raises(CheckpointError, match="config.json is missing") as caught:
        TaskModel.load(tmp_path / place)
    assert str(tmp_path / place / "encoder" / "config.json") in str(caught.value)
    assert "copied in part" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["encoder/model.safetensors", "encoder/config.json", "heads/topic/heads.safetensors"]
)
def test_a_head_of_a_damaged_folder_names_the_file(saved, tmp_path, name):
    model = shutil.copytree(saved / "model", tmp_path / "m")
    (model / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        TaskModel.load(model / "heads" / "topic")
    assert f"{model / name} is missing" in str(caught.value)


def test_a_head_is_found_from_inside_its_folder_and_through_a_link(saved, tmp_path, monkeypatch):
    expected = output_of(TaskModel.load(head_folder(saved, "topic"))).logits
    (tmp_path / "link").symlink_to(saved / "model" / "heads" / "topic")
    assert torch.equal(output_of(TaskModel.load(tmp_path / "link")).logits, expected)
    monkeypatch.chdir(saved / "model" / "heads")
    assert torch.equal(output_of(TaskModel.load("topic")).logits, expected)
    monkeypatch.chdir("topic")
    assert torch.equal(output_of(TaskModel.load(".")).logits, expected)
    assert saved_size_mb(".") == pytest.approx(saved_size_mb(head_folder(saved, "topic")))


def test_a_folder_that_only_happens_to_be_called_heads_shares_nothing(saved, tmp_path, monkeypatch):
    """Such as `export --out heads/mine`: without an encoder folder, and a model by itself."""
    mine = tmp_path / "heads" / "mine"
    mine.mkdir(parents=True)
    (mine / "model.onnx").write_bytes(b"x" * 1000)
    (tmp_path / "large.bin").write_bytes(b"x" * 9000)
    assert encoder_home(mine) == mine and saved_size_mb(mine) == pytest.approx(0.001)
    monkeypatch.chdir(tmp_path)
    assert encoder_home(Path("heads/mine")) == Path("heads/mine")
    whole = tmp_path / "heads" / "whole"
    part_of("classify").save(whole)
    assert encoder_home(whole) == whole and TaskModel.load(whole).task == "classify"


def test_hashes_of_heads_differ_and_depend_on_the_encoder_they_share(saved, tmp_path):
    model = shutil.copytree(saved / "model", tmp_path / "m")

    def hashes():
        return {name: hash_model(model / "heads" / name) for name in HEADS}

    before = hashes()
    assert len(set(before.values())) == len(HEADS)
    assert before == {name: hash_model(saved / "model" / "heads" / name) for name in HEADS}
    manifest = model / "heads" / "topic" / "bertwright.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "lineage": {"other": 1}}))
    assert hashes() == before, "where it came from makes no other model"
    manifest.write_text(json.dumps({**facts, "labels": ["x", "y", "z"]}))
    after = hashes()
    assert after["topic"] != before["topic"] and after["type"] == before["type"]
    part_of("classify", seed=1).encoder.save_pretrained(model / "encoder")
    assert all(hashes()[name] != after[name] for name in HEADS)


def test_two_heads_alike_in_all_but_the_weights_have_other_hashes(tmp_path):
    parts = {"a": part_of("classify", seed=0), "b": part_of("classify", seed=1)}
    MultiModel(parts).save(tmp_path / "m", {})
    assert hash_model(tmp_path / "m" / "heads" / "a") != hash_model(tmp_path / "m" / "heads" / "b")
