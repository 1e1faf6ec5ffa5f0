"""TaskModel: what it computes, how it is saved, and what it says when a saved one is damaged."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from bertwright.errors import (
    CheckpointError,
    ConfigError,
    ModelLoadError,
    UsageError,
)
from bertwright.models.build import build_task_model, copy_with_layers, copy_with_pooling
from bertwright.models.encoder import load_encoder
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import ModelConfig, TaskModel
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

LABELS = ["bad", "good", "so-so"]


def tiny_model(family="bert", config=None, seed=0, **overrides):
    encoder, tokenizer = tiny_encoder(family, **overrides)
    return build_task_model(
        encoder,
        task="classify",
        labels=LABELS,
        config=config,
        tokenizer=tokenizer,
        max_length=32,
        seed=seed,
    )


def logits_of(model, batch, **options):
    with torch.no_grad():
        return model(**batch, **options).logits


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_padding_makes_no_difference(family, pooling):
    model = tiny_model(family, ModelConfig(pooling=pooling))
    batch = tiny_batch(model.tokenizer)
    logits = logits_of(model, batch)
    assert logits.shape == (4, 3) and logits.std() > 1e-4
    for row in range(4):
        n = int(batch["attention_mask"][row].sum())
        alone = {name: values[row : row + 1, :n] for name, values in batch.items()}
        torch.testing.assert_close(logits_of(model, alone)[0], logits[row], atol=1e-5, rtol=0)


def test_xlnet_may_be_padded_on_either_side():
    model = tiny_model("xlnet")
    right = logits_of(model, tiny_batch(model.tokenizer, padding_side="right"))
    left = logits_of(model, tiny_batch(model.tokenizer, padding_side="left"))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_xlnet_without_segments_gets_those_of_its_tokenizer():
    model = tiny_model("xlnet")
    given = model.tokenizer(["a good film", "no"], padding=True, return_tensors="pt")
    assert given["token_type_ids"][0, -1] == 2
    with_segments = logits_of(model, given)
    del given["token_type_ids"]
    assert torch.equal(logits_of(model, given), with_segments)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_hidden_states_and_attentions_are_those_of_transformers(family):
    model = tiny_model(family)
    batch = tiny_batch(model.tokenizer)
    before = logits_of(model, batch)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, output_attentions=True)
    reference = copy.deepcopy(model.encoder)
    reference.set_attn_implementation("eager")
    if family == "xlnet":
        batch["token_type_ids"] = (batch["attention_mask"].cumsum(1) == 0).long()
        last = batch["attention_mask"].sum(1) - 1
        batch["token_type_ids"][torch.arange(4), last] = 2
    with torch.no_grad():
        expected = reference(**batch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == len(expected.hidden_states) == 5
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert len(output.attentions) == len(expected.attentions) == 4
    for ours, theirs in zip(output.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        real = tiny_batch(model.tokenizer)["attention_mask"].bool()
        sums = ours.sum(-1).transpose(1, 2)[real]
        torch.testing.assert_close(sums, torch.ones_like(sums))
    del batch
    again = logits_of(model, tiny_batch(model.tokenizer))
    assert torch.equal(again, before), "asking for more must not change the model"


def test_states_are_recorded_whatever_stands_in_the_place_of_a_layer():
    model = tiny_model()
    batch = tiny_batch(model.tokenizer)
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    roles = model.roles
    layers = roles.layers

    class Pair(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = torch.nn.ModuleList(inner)

        def forward(self, *args, **kwargs):
            return roles.run_layers(list(self.inner), args, kwargs)

    roles.set_layers([Pair(layers[:2]), Pair(layers[2:])])
    with torch.no_grad():
        got = model(**batch, output_hidden_states=True).hidden_states
    assert len(got) == 3
    for ours, theirs in zip(got, expected[::2], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_token_types_matter_where_they_exist_and_are_ignored_elsewhere():
    for family, matters in [("bert", True), ("roberta", False), ("distilbert", False)]:
        model = tiny_model(family)
        assert model.uses_token_types is matters
        batch = tiny_batch(model.tokenizer)
        ones = torch.ones_like(batch["input_ids"])
        same = torch.equal(logits_of(model, batch), logits_of(model, batch, token_type_ids=ones))
        assert same is not matters


CONFIGS = [
    ModelConfig(),
    ModelConfig(pooling="mean", head="linear"),
    ModelConfig(head="mlp", head_layers=2, head_hidden=16, head_activation="gelu"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["stock", "linear", "mlp"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_save_and_load_give_the_same_model(family, config, tmp_path):
    model = copy_with_layers(tiny_model(family, config), [0, 2])
    model.lineage["scores"] = {"accuracy": 0.5}
    batch = tiny_batch(model.tokenizer)
    before = logits_of(model, batch)
    model.save(tmp_path / "run" / "model")
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        loaded = TaskModel.load(place)
        assert torch.equal(logits_of(loaded, batch), before)
    assert not loaded.training
    assert loaded.labels == LABELS and loaded.task == "classify" and loaded.max_length == 32
    assert loaded.config == model.config and loaded.lineage == model.lineage
    assert loaded.surgery.to_json() == [{"op": "keep_layers", "indices": [0, 2]}]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    text = "the film was good"
    ids = model.tokenizer(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model")(text)["input_ids"] == ids
    stock = AutoModel.from_pretrained(tmp_path / "run" / "model" / "encoder")
    assert stock.config.num_hidden_layers == 2
    manifest = json.loads((tmp_path / "run" / "model" / "bertwright.json").read_text())
    assert manifest["format_version"] == 1 and manifest["pooling"] == model.config.pooling


def test_saving_over_a_model_replaces_it_whole(tmp_path):
    tiny_model(seed=0).save(tmp_path / "m")
    (tmp_path / "m" / "left-over.txt").write_text("old")
    model = tiny_model("roberta", seed=1)
    model.save(tmp_path / "m")
    assert TaskModel.load(tmp_path / "m").roles.family == "roberta"
    assert not (tmp_path / "m" / "left-over.txt").exists()


def test_a_saved_model_or_run_is_a_source_for_a_new_one(tmp_path):
    model = tiny_model()
    model.save(tmp_path / "run" / "model")
    again = build_task_model(tmp_path / "run", task="classify", labels=["x", "y"], max_length=16)
    batch = tiny_batch(model.tokenizer)
    assert logits_of(again, batch).shape == (4, 2)
    for ours, theirs in zip(
        again.encoder.state_dict().values(), model.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert again.tokenizer is not None


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGES = {
    "heads cut": ("heads.safetensors", truncate),
    "heads gone": ("heads.safetensors", lambda path: path.unlink()),
    "heads empty": ("heads.safetensors", lambda path: path.write_bytes(b"")),
    "weights cut": ("encoder/model.safetensors", truncate),
    "weights gone": ("encoder/model.safetensors", lambda path: path.unlink()),
    "config cut": ("encoder/config.json", truncate),
    "config gone": ("encoder/config.json", lambda path: path.unlink()),
    "tokenizer cut": ("tokenizer.json", truncate),
    "manifest cut": ("bertwright.json", truncate),
    "newer": ("bertwright.json", lambda path: edit(path, format_version=99)),
    "no version": ("bertwright.json", lambda path: edit(path, format_version=None)),
    "no labels": ("bertwright.json", lambda path: edit(path, labels=[])),
    "other labels": ("bertwright.json", lambda path: edit(path, labels=["a", "b"])),
    "surgery": ("bertwright.json", lambda path: edit(path, surgery=[{"op": "trepanation"}])),
    "head key": ("bertwright.json", lambda path: edit(path, head={"hat": 1})),
    "pooling": ("bertwright.json", lambda path: edit(path, pooling="maximum")),
    "max length": ("bertwright.json", lambda path: edit(path, max_length=100_000)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_named(damage, tmp_path):
    name, spoil = DAMAGES[damage]
    model_dir = tmp_path / "m"
    tiny_model().save(model_dir)
    assert TaskModel.load(model_dir).labels == LABELS
    spoil(model_dir / name)
    with pytest.raises(CheckpointError) as caught:
        TaskModel.load(model_dir)
    assert str(model_dir / name) in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    tiny_model().save(tmp_path / "m")
    edit(tmp_path / "m" / "encoder" / "config.json", num_hidden_layers=6)
    with pytest.raises(CheckpointError, match="lacks"):
        TaskModel.load(tmp_path / "m")


def test_what_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match=r"bertwright\.json"):
        TaskModel.load(tmp_path)
    with pytest.raises(ModelLoadError):
        TaskModel.load(tmp_path / "nowhere")


def test_copy_with_layers_takes_everything_but_the_dropped_layers():
    model = tiny_model()
    batch = tiny_batch(model.tokenizer)
    before = logits_of(model, batch)
    student = copy_with_layers(model, [1, 3])
    assert student.roles.num_layers == 2 and student.num_parameters < model.num_parameters
    for ours, theirs in zip(student.head.parameters(), model.head.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours is not theirs
    for kept, index in enumerate([1, 3]):
        ours, theirs = student.roles.layers[kept], model.roles.layers[index]
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b) and a is not b
    twice = copy_with_layers(student, [1])
    assert [op["indices"] for op in twice.surgery.to_json()] == [[1, 3], [1]]
    assert torch.equal(logits_of(copy_with_layers(model, range(4)), batch), before)
    with torch.no_grad():
        next(student.parameters()).add_(1.0)
    assert torch.equal(logits_of(model, batch), before)
    with pytest.raises(UsageError):
        copy_with_layers(model, [3, 1])


def test_the_head_depends_on_the_seed_alone():
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, second, other = tiny_model(seed=3), tiny_model(seed=3), tiny_model(seed=4)
    copy_with_layers(first, [0])
    assert torch.equal(torch.random.get_rng_state(), state), "global random state was touched"
    assert torch.equal(first.head.out.weight, second.head.out.weight)
    assert not torch.equal(first.head.out.weight, other.head.out.weight)


def test_the_object_given_is_left_as_it_was():
    model = AutoModel.from_config(tiny_encoder()[0].config)
    before = copy.deepcopy(model.state_dict())
    built = build_task_model(model, task="classify", labels=LABELS)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
    assert model.pooler is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_deepcopy_is_independent_and_equal():
    model = tiny_model()
    batch = tiny_batch(model.tokenizer)
    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin, batch), logits_of(model, batch))
    assert twin.roles.encoder is twin.encoder


def test_wrong_requests_are_refused(tmp_path):
    encoder, tokenizer = tiny_encoder()
    with pytest.raises(UsageError, match="labels"):
        build_task_model(encoder, task="classify", labels=[])
    with pytest.raises(UsageError, match="labels"):
        build_task_model(encoder, task="classify", labels=["a", "a"])
    for length in (0, 129):
        with pytest.raises(ConfigError, match="--max-length"):
            build_task_model(encoder, task="classify", labels=LABELS, max_length=length)
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="tokenizer"):
        build_task_model(tmp_path, task="classify", labels=LABELS)
    tokenizer.save_pretrained(tmp_path)
    built = build_task_model(tmp_path, task="classify", labels=LABELS, max_length=128)
    assert built.lineage == {"base_model": str(tmp_path), "family": "bert"}
    assert load_encoder(tmp_path)[1] is not None


def test_a_model_without_a_tokenizer_saves_and_loads(tmp_path):
    encoder, tokenizer = tiny_encoder()
    model = build_task_model(encoder, task="classify", labels=LABELS, max_length=8)
    model.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    assert loaded.tokenizer is None
    batch = tiny_batch(tokenizer)
    assert torch.equal(logits_of(loaded, batch), logits_of(model, batch))


def test_another_pooling_keeps_the_head_where_it_fits_and_draws_by_the_seed():
    model = tiny_model()
    mean = copy_with_pooling(model, "mean", seed=0)
    assert (mean.pooling.spec, model.pooling.spec) == ("mean", "cls")
    assert all(map(torch.equal, mean.head.state_dict().values(), model.head.state_dict().values()))
    wide = [copy_with_pooling(model, "mean-max", seed=seed) for seed in (0, 0, 1)]
    first, again, other = (
        next(p for p in one.head.parameters() if p.ndim == 2 and p.shape[1] == 64) for one in wide
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    tagger = build_task_model(
        tiny_encoder("bert")[0], task="tag", labels=["O"], outputs=Outputs(1, level="token")
    )
    with pytest.raises(UsageError, match="outputs a token, and no pooling"):
        copy_with_pooling(tagger, "mean", seed=0)
