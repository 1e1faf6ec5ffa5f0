from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch

import bertwright
from bertwright.cli.main import main
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, ModelLoadError, UnknownChoiceError, UsageError
from bertwright.models.build import build_task_model
from bertwright.models.outputs import Outputs
from bertwright.models.widths import LayerWidths, widths_of
from bertwright.tasks.embed_rows import TextsEncoder
from tiny import tiny_encoder
from verbs.conftest import make_rows

QUICK = {"max_steps": 4, "max_length": 16, "precision": "fp32", "evals_per_epoch": 1}


def distil(teacher: Path, data: dict[str, str], out: Path, **changed):
    given = {"teacher": str(teacher), "data": data["train"], "eval_data": data["dev"], "layers": 2}
    return bertwright.distil(**{**given, "out": str(out), **QUICK, **changed})


@pytest.mark.parametrize(
    "method",
    [
        (),
        ("soft_targets:temperature=4",),
        ("soft_targets", "hidden_matching"),
        ("soft_targets", "qat:decay=0.9"),
        ("theseus",),
        ("none",),
    ],
)
def test_a_student_is_made_by_each_method(teacher, data, tmp_path, method):
    result = distil(teacher, data, tmp_path / "s", method=method)
    assert result.num_layers == 2
    student = bertwright.load(str(tmp_path / "s"))
    assert student.roles.num_layers == 2 and student.labels == ["bad", "good"]
    lineage = json.loads((result.model_dir / "bertwright.json").read_text())["lineage"]
    assert lineage["teacher"] == str(teacher)
    assert lineage["teacher_scores"]["accuracy"] > 0.9
    ids = torch.ones(1, 4, dtype=torch.long)
    assert torch.isfinite(student(ids, torch.ones_like(ids)).logits).all()


def test_methods_differ_and_repeat(teacher, data, tmp_path):
    def weights(name: str) -> dict[str, torch.Tensor]:
        return bertwright.load(str(tmp_path / name)).state_dict()

    distil(teacher, data, tmp_path / "a")
    distil(teacher, data, tmp_path / "b", method=("soft_targets",))
    distil(teacher, data, tmp_path / "c", method=("none",))
    a, b, c = weights("a"), weights("b"), weights("c")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_layers_can_be_chosen_by_number(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "a", layer_choice="0+3", max_steps=1, lr=1e-12)
    student, parent = bertwright.load(str(tmp_path / "a")), bertwright.load(str(teacher))
    for mine, theirs in ((0, 0), (1, 3)):
        ours = student.roles.part(mine, "query").weight
        assert torch.allclose(ours, parent.roles.part(theirs, "query").weight, atol=1e-6)
        assert not torch.allclose(ours, parent.roles.part(1, "query").weight, atol=1e-6)


def test_a_student_may_be_narrow_at_the_teachers_depth_or_below(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "a", layers=None, heads="0.5", neurons="0.25")
    student = bertwright.load(str(tmp_path / "a"))
    assert widths_of(student.encoder) == LayerWidths((2,) * 4, (32,) * 4)
    assert [op["op"] for op in student.surgery.ops].count("keep_heads") == 4
    neurons = "share=0.5,by=magnitude,multiple=8,scope=global"
    distil(teacher, data, tmp_path / "b", layers=2, neurons=neurons, method=("none",))
    student = bertwright.load(str(tmp_path / "b"))
    widths = widths_of(student.encoder)
    assert len(widths.neurons) == 2 and all(n % 8 == 0 and n < 48 for n in widths.neurons)
    assert widths.heads == (4, 4)
    answers = bertwright.predict(model=str(tmp_path / "b"), text=("a good film", "a bad film"))
    assert len(answers.rows) == 2


@pytest.mark.parametrize(
    ("methods", "widths"),
    [
        (("gradual_pruning:heads=0.5,neurons=0.5,multiple=8",), LayerWidths((2,) * 4, (24,) * 4)),
        (("soft_targets", "learned_gates:heads=1,neurons=0.5,multiple=48"), None),
    ],
)
def test_heads_and_neurons_may_leave_while_it_learns(teacher, data, tmp_path, methods, widths):
    result = distil(teacher, data, tmp_path / "a", layers=None, method=methods, max_steps=8)
    student = bertwright.load(str(tmp_path / "a"))
    assert widths_of(student.encoder) == (widths or LayerWidths((4,) * 4, (48,) * 4))
    assert result.steps == 4 and (tmp_path / "a/prune/metrics.jsonl").exists()
    soft = "soft_targets/hard" in (tmp_path / "a/metrics.jsonl").read_text()
    assert soft == (methods[0] == "soft_targets")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layers": None}, "no size of its own"),
        ({"heads": "1.5"}, "share"),
        ({"heads": "many"}, "share"),
        ({"neurons": "share=0.5,by=luck"}, "luck"),
        ({"heads": "0.5", "method": ["theseus"]}, "whole layers"),
        ({"layers": 5}, "--layers 5"),
        ({"layers": 0}, "--layers 0"),
        ({"layers": 3, "method": ["theseus"]}, "3"),
        ({"layer_choice": "middle"}, "--layer-choice middle"),
        ({"layer_choice": "0+9"}, "--layer-choice"),
        ({"method": ["theseus", "soft_targets"]}, "no other method"),
        ({"method": ["none", "soft_targets"]}, "excludes"),
        ({"method": ["int8_ptq"]}, "int8_ptq"),
        ({"method": ["qat"]}, "not how it learns"),
        ({"method": ["theseus:num_layers=1"]}, "--layers says 2"),
        ({"heads": "0.5", "method": ["gradual_pruning"]}, "says itself how many"),
        ({"start": "minilm", "method": ["learned_gates"]}, "knows the task"),
        ({"method": ["gradual_pruning", "learned_gates"]}, "in one way only"),
        ({"method": ["gradual_pruning:neurons=1.0"]}, "nothing is to be taken out"),
        ({"method": ["theseus", "gradual_pruning"]}, "no other method"),
        ({"heads": "0.5", "method": ["elastic"]}, "says itself how many"),
        ({"method": ["elastic", "gradual_pruning"]}, "in one way only"),
        ({"method": ["elastic", "fitted_head"]}, "leave fitted_head out"),
        ({"method": ["elastic", "hidden_matching"]}, "every depth is"),
    ],
)
def test_what_cannot_be_done_is_refused(teacher, data, tmp_path, changed, words):
    with pytest.raises(ValueError) as caught:
        distil(teacher, data, tmp_path / "a", **changed)
    assert words in str(caught.value)


def test_a_teacher_that_is_not_there_is_named(data, tmp_path):
    with pytest.raises(ModelLoadError, match="--teacher nowhere: not a trained model"):
        distil(Path("nowhere"), data, tmp_path / "a")


def test_the_command_line(teacher, data, tmp_path, capsys):
    words = ["distil", "--teacher", str(teacher), "--data", data["train"], "--layers", "1"]
    words += ["--max-steps", "2", "--precision", "fp32", "--out", str(tmp_path / "s")]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "1 layer, " in captured.err


def test_resume_needs_the_same_options(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "a")
    again = distil(teacher, data, tmp_path / "a", resume=True)
    assert again.steps == 4
    with pytest.raises(ConfigError, match="layers: 2 -> 1"):
        distil(teacher, data, tmp_path / "a", resume=True, layers=1)


def test_more_texts_are_answered_by_the_teacher_and_learned_from(teacher, data, tmp_path):
    more = tmp_path / "more.jsonl"
    texts = ["the film was great", "a poor book", "hate it"]
    more.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = {"more_text": (str(more),), "generate": "copies=2,crop=0.5"}
    result = distil(teacher, data, tmp_path / "s", **options)
    lines = [json.loads(x) for x in (tmp_path / "s/transfer.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines[160:163]] == texts
    assert [line["label"] for line in lines[160:163]] == ["good", "bad", "bad"]
    lineage = json.loads((result.model_dir / "bertwright.json").read_text())["lineage"]
    assert lineage["num_rows"] == 160 and lineage["num_added_rows"] == len(lines) - 160 > 163
    assert result.num_rows == len(lines)


def test_a_resumed_run_reads_the_texts_that_were_made(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "s", generate="1", max_steps=2)
    before = (tmp_path / "s/transfer.jsonl").read_text()
    again = distil(teacher, data, tmp_path / "s", generate="1", max_steps=2, resume=True)
    assert (tmp_path / "s/transfer.jsonl").read_text() == before
    assert again.num_rows == len(before.splitlines()) > 160


def test_a_generated_set_with_an_unknown_option_is_refused(teacher, data, tmp_path):
    with pytest.raises(ConfigError, match="copys"):
        distil(teacher, data, tmp_path / "s", generate="copys=2")


@pytest.mark.parametrize("student", ["static:ngrams=2,buckets=999", "cnn:width=8", "lstm"])
def test_a_student_without_attention(teacher, data, tmp_path, student):
    given = {"layers": None, "student": student, "lr": 1e-2, "max_steps": None, "epochs": 12}
    result = distil(teacher, data, tmp_path / "s", **given)
    assert result.score > 0.9, "the words tell the label"
    small = bertwright.load(str(tmp_path / "s"))
    assert small.roles.family == "bertwright-small"
    answers = bertwright.predict(model=str(tmp_path / "s"), text=("great film", "bad film")).rows
    assert [row["label"] for row in answers] == ["good", "bad"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"student": "static"}, "has no layers"),
        ({"student": "statik", "layers": None}, "statik"),
        ({"student": "cnn", "layers": None, "method": ("theseus",)}, "whole layers"),
        ({"layers": None}, "--student"),
    ],
)
def test_a_student_that_cannot_be_is_refused(teacher, data, tmp_path, changed, reason):
    with pytest.raises(ConfigError, match=reason):
        distil(teacher, data, tmp_path / "s", **changed)
    assert not (tmp_path / "s").exists()


def with_column(path: Path, out: Path) -> Path:
    """Write the rows with a column that gives the label away."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["hint"] = "great" if row["label"] == "good" else "hate"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def test_teachers_may_read_a_column_of_their_own(encoder_dir, data, tmp_path):
    train = with_column(Path(data["train"]), tmp_path / "train.jsonl")
    dev = with_column(Path(data["dev"]), tmp_path / "dev.jsonl")
    given = {**QUICK, "max_steps": 30, "epochs": 8, "lr": 3e-3}
    bertwright.finetune(
        model=str(encoder_dir),
        data=str(train),
        eval_data=str(dev),
        column=("text_b=hint",),
        out=str(tmp_path / "t"),
        **given,
    )
    files = {"train": str(train), "dev": str(dev)}
    result = distil(tmp_path / "t", files, tmp_path / "s", teacher_column=("text_b=hint",))
    assert result.num_layers == 2 and result.num_rows == 160
    more = tmp_path / "more.jsonl"
    texts = [("the same words", "great"), ("the same words", "hate"), ("other words", "great")]
    more.write_text("".join(json.dumps({"text": t, "hint": hint}) + "\n" for t, hint in texts))
    given = {"teacher_column": ("text_b=hint",), "more_text": (str(more),)}
    result = distil(tmp_path / "t", files, tmp_path / "m", **given)
    assert result.num_rows == 163
    lines, as_read = (
        [json.loads(line) for line in (tmp_path / "m" / name).read_text().splitlines()]
        for name in ("transfer.jsonl", "transfer-teachers.jsonl")
    )
    assert [line["label"] for line in lines[160:]] == ["good", "bad", "good"]
    assert all(line.keys() == {"text", "label"} for line in lines)
    assert [(line["text"], line["text_b"]) for line in as_read[160:]] == texts
    assert [line["text"] for line in as_read] == [line["text"] for line in lines]
    again = distil(tmp_path / "t", files, tmp_path / "m", resume=True, **given)
    assert again.num_rows == 163
    with pytest.raises(ConfigError, match="--teacher-column.*generated"):
        distil(tmp_path / "t", files, tmp_path / "x", generate="1", **given)
    with pytest.raises(UsageError, match="hint"):
        given["more_text"] = (str(data["train"]),)
        distil(tmp_path / "t", files, tmp_path / "y", **given)


def test_several_teachers_and_a_start_from_another_family(teacher, data, tmp_path):
    encoder, tokenizer = tiny_encoder("roberta")
    encoder.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    given = {"start": str(tmp_path / "start"), "co_teacher": (str(teacher),), "layers": 3}
    result = distil(teacher, data, tmp_path / "s", **given)
    student = bertwright.load(str(tmp_path / "s"))
    assert student.roles.family == "roberta" and result.num_layers == 3
    assert student.labels == ["bad", "good"]
    for method in ("hidden_matching:layers=1+2+3", "relations"):
        with pytest.raises(UsageError):
            distil(teacher, data, tmp_path / method[:3], method=(method,), **given)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"start": "minilm", "heads": "0.5"}, "has not learned the task"),
        ({"co_teacher": ("x",), "method": ("theseus",)}, "asks no teacher"),
        ({"start": "minilm", "layers": None, "student": "cnn"}, "--start out"),
    ],
)
def test_options_that_exclude_each_other_are_refused(teacher, data, tmp_path, changed, reason):
    with pytest.raises(ConfigError, match=reason):
        distil(teacher, data, tmp_path / "s", **changed)


def test_a_thinner_student_in_all_ways(teacher, data, tmp_path):
    given = {"layers": 3, "heads": "0.5", "embeddings": "8", "width": "share=0.5,multiple=8"}
    distil(teacher, data, tmp_path / "s", neurons="share=0.5,multiple=8", **given)
    student = bertwright.load(str(tmp_path / "s"))
    assert student.roles.hidden_size == 16 and student.roles.num_layers == 3
    with pytest.raises(ConfigError, match="--heads share=0.5,by=luck"):
        distil(teacher, data, tmp_path / "x", heads="share=0.5,by=luck")


def test_an_encoder_is_distilled_from_texts_that_nobody_labelled(
    encoder_dir, tmp_path, monkeypatch
):
    encoders = []

    def noted(*args, encoder, **options):
        encoders.append(encoder)
        return tokenise(*args, encoder=encoder, **options)

    monkeypatch.setattr(sys.modules["bertwright.data.tokenise"], "tokenise", noted)
    vectors = Outputs(0, kind="vectors")
    whole = build_task_model(str(encoder_dir), task="embed", labels=[], outputs=vectors)
    whole.save(tmp_path / "teacher")
    texts = [text for text, _ in make_rows(40, 5)]
    pairs = [
        {"text": a, "text_b": b, "score": i % 5}
        for i, (a, b) in enumerate(zip(texts, texts[::-1], strict=True))
    ]
    for name, rows in (("texts", [{"text": text} for text in texts]), ("pairs", pairs)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    data = {"train": str(tmp_path / "texts.jsonl"), "dev": str(tmp_path / "pairs.jsonl")}
    taught = ("soft_targets:alpha=1", "hidden_matching")
    more = {"batch_size": 8, "epochs": 2, "max_steps": None, "lr": 3e-3}
    distil(tmp_path / "teacher", data, tmp_path / "small", method=taught, **more)
    lines = (tmp_path / "small" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert encoders == [TextsEncoder(), TextsEncoder()], "each text once"
    assert 0 < losses[-1] < losses[0]
    distil(tmp_path / "teacher", data, tmp_path / "alone", method=("none",), **more)
    assert encoders[2] == TextsEncoder(twice=True), "its own second view, without a teacher"
    bertwright.finetune(
        model=str(tmp_path / "small"),
        data=data["dev"],
        eval_data=data["dev"],
        task="regress",
        out=str(tmp_path / "task"),
        **QUICK,
    )
    assert bertwright.load(str(tmp_path / "task")).roles.num_layers == 2


def test_a_student_may_pool_in_another_way_than_its_teacher(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "mean", pooling="mean", layer_choice="first")
    student, parent = bertwright.load(str(tmp_path / "mean")), bertwright.load(str(teacher))
    assert (student.pooling.spec, parent.pooling.spec) == ("mean", "cls")
    distil(teacher, data, tmp_path / "new", pooling="mean", max_steps=1, lr=1e-12)
    untrained = bertwright.load(str(tmp_path / "new"))
    for ours, theirs in zip(untrained.head.parameters(), parent.head.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    distil(teacher, data, tmp_path / "wide", pooling="mean-max")
    assert bertwright.load(str(tmp_path / "wide")).pooling.width == 64
    for refused in ({"student": "static", "layers": None}, {"method": ("theseus",)}):
        with pytest.raises(ConfigError, match="--pooling mean: a static"):
            distil(teacher, data, tmp_path / "no", pooling="mean", **refused)
    with pytest.raises(UnknownChoiceError, match="median"):
        distil(teacher, data, tmp_path / "no", pooling="median")


def test_a_head_can_be_fitted_first_or_alone(teacher, data, tmp_path):
    shallow = {"layer_choice": "first", "pooling": "mean"}
    alone = distil(teacher, data, tmp_path / "a", method=("fitted_head",), **shallow)
    assert alone.steps == 0 and alone.score > 0.8
    fitted = bertwright.load(str(tmp_path / "a"))
    parent = bertwright.load(str(teacher))
    for index in (0, 1):
        ours, theirs = (one.roles.part(index, "ffn_in").weight for one in (fitted, parent))
        assert torch.equal(ours, theirs)
    both = ("fitted_head", "soft_targets")
    still = distil(teacher, data, tmp_path / "b", method=both, lr=1e-12, **shallow)
    assert still.steps == 4 and still.score == alone.score
    trained = distil(teacher, data, tmp_path / "c", method=both, lr=3e-3, **shallow)
    weights = bertwright.load(str(tmp_path / "c")).roles.part(0, "ffn_in").weight
    assert trained.steps == 4
    assert not torch.equal(weights, parent.roles.part(0, "ffn_in").weight)
    with pytest.raises(ConfigError, match="how the student rounds"):
        distil(teacher, data, tmp_path / "d", method=("fitted_head", "qat"))
