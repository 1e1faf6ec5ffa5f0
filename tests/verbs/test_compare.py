"""`compare`, as a user runs it: every contender in a process of its own, one page at the end."""

from __future__ import annotations

import csv
import json
import re

import pytest

import bertwright
from bertwright.cli.main import main
from bertwright.compare import CONTENDERS
from bertwright.compare.worker import Job, run_job
from bertwright.errors import BertwrightError, ConfigError, DataError, UnknownChoiceError
from bertwright.files import write_json
from bertwright.verbs.compare import CompareConfig, _specs

LIST = ("tfidf", "frozen:pooling=max")
BROKEN = "frozen:pooling=cls-layer:99"


@pytest.fixture(scope="module")
def compared(encoder_dir, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "run"
    words = ["--data", data["train"], "--eval-data", data["dev"], "--test-data", data["test"]]
    for name in (*LIST, BROKEN):
        words += ["--contender", name]
    words += ["--model", str(encoder_dir), "--max-length", "16", "--threads", "1"]
    words += ["--repeats", "1", "--speed-rows", "20", "--out", str(out)]
    assert main(["compare", *words]) == 0
    return out, words


def test_each_contender_is_judged_on_the_test_rows(compared):
    facts = json.loads((compared[0] / "compare.json").read_text())
    assert [one["name"] for one in facts["contenders"]] == list(LIST)
    assert facts["rows"] == {"train": 160, "dev": 60, "test": 60}
    for one in facts["contenders"]:
        assert one["score_low"] <= one["score"] <= one["score_high"]
        assert one["train_s"] > 0 and one["throughput_texts_s"] > 0 and one["size_mb"] > 0
        assert one["metrics"]["accuracy"] == one["score"] and one["seeds"] == 1
    tfidf = facts["contenders"][0]
    assert tfidf["score"] > 0.9, "one word gives the label away"
    assert facts["machine"] and facts["versions"]["bertwright"]


def test_the_page_shows_them_all(compared):
    page = (compared[0] / "compare.html").read_text()
    for name in LIST:
        assert name in page
    assert page.count('<svg class="broad"') == 2 and page.count('<svg class="narrow"') == 2
    assert not re.search(r"(src|href)=\"https?:", page), "it needs no network"


def test_a_contender_that_fails_is_named_and_the_others_go_on(compared):
    facts = json.loads((compared[0] / "compare.json").read_text())
    assert list(facts["failed"]) == [BROKEN] and "must be 1 to 4" in facts["failed"][BROKEN]
    assert facts["failed"][BROKEN].count("must be 1 to 4") == 1
    assert "Not finished" in (compared[0] / "compare.html").read_text()


def test_done_contenders_are_not_run_again_and_more_may_be_added(compared, capsys):
    out, words = compared
    place = words.index(BROKEN)
    words = [*words[: place - 1], *words[place + 1 :], "--contender", "lda", "--resume", "--json"]
    before = {path: path.stat().st_mtime_ns for path in (out / "contenders").iterdir()}
    assert main(["compare", *words]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in facts["contenders"]] == ["tfidf", "lda", LIST[1]]
    assert not facts["failed"]
    assert all(path.stat().st_mtime_ns == before[path] for path in before)


def test_a_student_counts_its_teachers_time(encoder_dir, data, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    for split, name in (("train", "train"), ("dev", "dev"), ("test", "test")):
        with open(data[name], encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        labels = [int(row["label"] == "good") for row in read]
        write_json(rows / f"{split}.json", {"texts": [r["text"] for r in read], "labels": labels})

    def job(contender):
        return Job(
            **{"contender": contender, "rows": str(rows), "out": "", "num_classes": 2},
            **{"models": str(tmp_path / "models"), "model": str(encoder_dir), "max_length": 16},
            **{"seed": 0, "threads": 1, "repeats": 1, "speed_rows": 10},
        )

    teacher = run_job(job("finetune:epochs=12,lr=0.003"))
    student = run_job(job("student:epochs=12,lr=0.003,layers=1,student_epochs=8,student_lr=0.003"))
    other = run_job(job("student:epochs=1,lr=0.003,layers=1"))
    assert teacher["teacher_s"] == 0 and teacher["score"] > 0.9
    assert student["teacher_s"] == pytest.approx(teacher["train_s"])
    assert student["train_s"] > student["teacher_s"] and student["score"] > 0.8
    assert other["teacher_s"] == 0, "a teacher with other options is another"
    assert student["options"]["layers"] == 1 and "folder" not in student["options"]


def test_teachers_come_before_students_and_all_poolings_are_many():
    def specs(**more):
        return _specs(CompareConfig(data="a", test_data="b", out="c", **more))

    assert sorted(specs()) == sorted(CONTENDERS)
    order = specs(contender=("student", "finetune", "tfidf"))
    assert order == ["tfidf", "finetune", "student"]
    assert len(specs(all_poolings=True)) == len(CONTENDERS) + 17


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"contender": ("tfdf",)}, UnknownChoiceError, "tfidf"),
        ({"contender": ("tfidf:depth=3",)}, ConfigError, "depth"),
        ({"contender": ("tfidf", "tfidf")}, ConfigError, "twice"),
        ({"seeds": 0}, ConfigError, "--seeds 0"),
        ({"test_data": "nowhere.csv"}, BertwrightError, "nowhere.csv"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(more, error, says, data, tmp_path):
    given = {"data": data["train"], "test_data": data["test"], "out": str(tmp_path / "r")}
    with pytest.raises(error, match=says):
        bertwright.compare(**(given | more))


def test_pairs_of_texts_are_refused(data, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("text,text_b,label\n" + "red,blue,a\nblue,red,b\n" * 20)
    with pytest.raises(DataError, match="pairs of texts"):
        bertwright.compare(data=str(pairs), test_data=str(pairs), out=str(tmp_path / "r"))
