"""`bertwright trim`: what stays, what is proved, and what is refused."""

from __future__ import annotations

import json

import pytest

import bertwright
from bertwright.cli.main import main
from bertwright.errors import BertwrightError, ConfigError, ParityError
from bertwright.methods.prune.vocabulary import prove_tokens_alike, share_of_changed_rows
from bertwright.verbs import trim as trim_verb


@pytest.fixture(scope="module")
def trimmed(teacher, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trim") / "m"
    words = ["--model", str(teacher), "--data", data["train"], "--data", data["dev"]]
    assert main(["trim", *words, "--check-data", data["test"], "--out", str(out)]) == 0
    return out


def test_a_trimmed_model_is_a_model_with_its_proof(trimmed, teacher, data, capsys):
    facts = json.loads((trimmed / "trim.json").read_text())
    assert facts["pieces_after"] < facts["pieces_before"]
    assert facts["parameters_after"] < facts["parameters_before"]
    assert facts["size_mb"] < facts["size_mb_before"]
    assert 0 < facts["num_scored"] <= facts["num_rows"] and facts["num_tokens"] > 0
    assert 0 <= facts["changed_share"] <= 1
    model = bertwright.load(str(trimmed))
    assert model.lineage["trim"]["data"] == [data["train"], data["dev"]]
    texts = ("a good film", "a bad film")
    answers = [bertwright.predict(model=str(m), text=texts).rows for m in (teacher, trimmed)]
    assert answers[0] == answers[1]


def test_a_student_learns_from_a_trimmed_teacher(trimmed, data, tmp_path):
    options = {"max_steps": 2, "max_length": 16, "precision": "fp32", "evals_per_epoch": 1}
    bertwright.distil(
        teacher=str(trimmed), data=data["train"], layers=1, out=str(tmp_path / "s"), **options
    )
    student = bertwright.load(str(tmp_path / "s"))
    assert (
        student.encoder.config.vocab_size == bertwright.load(str(trimmed)).encoder.config.vocab_size
    )
    assert [op["op"] for op in student.surgery.ops] == ["keep_pieces", "keep_layers"]


def test_a_folder_that_is_there_is_left_alone(trimmed, teacher, data):
    before = sorted(path.name for path in trimmed.iterdir())
    with pytest.raises(ConfigError, match="not empty"):
        bertwright.trim(model=str(teacher), data=(data["train"],), out=str(trimmed))
    assert sorted(path.name for path in trimmed.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"data": ()}, "--data is missing"),
        ({"data": ("nowhere.csv",)}, "nowhere.csv"),
        ({"score_rows": 0}, "--score-rows 0"),
        ({"at_least": -1}, "--at-least -1"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_is_said(more, says, teacher, data, tmp_path):
    given = {"model": str(teacher), "data": (data["train"],), "out": str(tmp_path / "m")}
    with pytest.raises(BertwrightError, match=says):
        bertwright.trim(**(given | more))
    assert not (tmp_path / "m").exists()


def test_a_row_that_would_change_stops_it(teacher, data, tmp_path, monkeypatch):
    """A trimming that forgot a piece is caught by the proof, and nothing is written."""
    right = trim_verb.VocabularyTrimming.kept_pieces

    def forgetful(self, model, *corpora):
        return [index for index in right(self, model, *corpora) if index != forgotten]

    word = bertwright.load(str(teacher)).tokenizer("good")["input_ids"][1]
    forgotten = word
    monkeypatch.setattr(trim_verb.VocabularyTrimming, "kept_pieces", forgetful)
    with pytest.raises(ParityError, match="other pieces"):
        bertwright.trim(model=str(teacher), data=(data["train"],), out=str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_shares_are_counted(teacher, data):
    from bertwright.data.load import load_rows
    from bertwright.data.tokenise import tokenise

    model = bertwright.load(str(teacher))
    rows = load_rows([{"text": t, "label": "x"} for t in ("good", "bad dog", "a film")])
    encoded = tokenise(rows, model.tokenizer, max_length=16)
    size = len(model.tokenizer)
    assert prove_tokens_alike(encoded, encoded, range(size)) == int(encoded.lengths.sum())
    other = list(range(size))
    other[model.tokenizer("dog")["input_ids"][1]] = size + 5
    assert share_of_changed_rows(encoded, encoded, other) == pytest.approx(1 / 3)
