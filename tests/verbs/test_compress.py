"""`compress` as a verb: its files, its exit status, asking again, predicting with the result."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import bertwright
from bertwright.cli.main import main
from bertwright.compress import measuring
from bertwright.data.load import load_rows
from bertwright.errors import ConfigError, DataError
from bertwright.tasks import find_task
from bertwright.verbs.compress import CompressConfig, _rows_that_judge
from compress.fakes import measured_alike


@pytest.fixture(scope="module")
def searched(teacher, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    result = bertwright.compress(
        model=str(teacher),
        data=data["train"],
        eval_data=data["dev"],
        test_data=data["test"],
        keep=0.2,
        depths=(1,),
        students=("control", "distil"),
        engines=("torch",),
        precisions=("fp32",),
        repeats=1,
        latency_rows=4,
        epochs=6,
        lr=3e-3,
        max_length=16,
        precision="fp32",
        out=str(out),
    )
    return out, result


def test_the_folder_holds_everything_that_was_promised(searched):
    out, result = searched
    assert result.met and result.chosen["name"] == result.choice.name
    for name in ("report.html", "frontier.json", "recipe.yaml", "model", "artifact"):
        assert (out / name).exists(), name
    page = (out / "report.html").read_text(encoding="utf-8")
    assert result.choice.name in page and "http://" not in page.replace("http://www.w3.org", "")
    assert f"bertwright run {out / 'recipe.yaml'}" in page


def test_predict_uses_the_chosen_artifact(searched):
    out, _ = searched
    answers = bertwright.predict(model=str(out), text=("a great film", "a bad film")).rows
    assert len(answers) == 2 and {a["label"] for a in answers} <= {"good", "bad"}


def test_asked_anew_nothing_is_trained_and_an_impossible_budget_ends_with_1(
    searched, capsys, monkeypatch
):
    monkeypatch.setattr(measuring, "measure_targets", measured_alike)
    out, _ = searched
    models = {p: p.stat().st_mtime_ns for p in out.glob("students/*/model/*")}
    assert models
    recipe = out / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("max_size_mb: null", "max_size_mb: 0.001"), encoding="utf-8")
    status = main(["run", str(out), "--resume"])
    said = capsys.readouterr().err
    assert status == 1 and "no candidate meets the budget" in said and "max_size_mb" in said
    assert {p: p.stat().st_mtime_ns for p in out.glob("students/*/model/*")} == models
    frontier = json.loads((out / "frontier.json").read_text(encoding="utf-8"))
    assert frontier["met"] is False and frontier["chosen"]


def test_what_students_depend_on_may_not_change(searched, teacher, data):
    out, _ = searched
    with pytest.raises(ConfigError, match="lr"):
        bertwright.compress(
            model=str(teacher), data=data["train"], eval_data=data["dev"], out=str(out), resume=True
        )


def test_without_test_data_a_part_of_the_rows_to_choose_by_judges(data, teacher, tmp_path):
    options = {"model": str(teacher), "data": data["train"], "out": str(tmp_path)}
    config = CompressConfig(**options, judge_share=0.25)
    dev = load_rows(data["dev"])
    chooses, judges = _rows_that_judge(config, dev, find_task("classify"), dev.labels)
    assert judges is not None and (len(chooses), len(judges)) == (45, 15)
    assert sorted(chooses.texts() + judges.texts()) == sorted(dev.texts())
    whole = _rows_that_judge(replace(config, judge_share=0), dev, find_task("classify"), dev.labels)
    assert whole == (dev, None)
    given = replace(config, test_data=data["test"])
    chooses, judges = _rows_that_judge(given, dev, find_task("classify"), dev.labels)
    assert chooses is dev and judges is not None and len(judges) == 60
    with pytest.raises(DataError, match="--judge-share 0") as caught:
        _rows_that_judge(config, dev.select([0, 1]), find_task("classify"), dev.labels)
    assert "too few" in str(caught.value)


@pytest.mark.parametrize(
    "option", [{"judge_share": 1.0}, {"keep": 1.5}, {"min_speedup": 0.0}, {"seeds": 0}]
)
def test_impossible_options_are_named(teacher, data, tmp_path, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
        bertwright.compress(
            model=str(teacher), data=data["train"], out=str(tmp_path / "out"), **option
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_ends_with_a_report_and_labels(tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "demo"
    result = bertwright.demo(max_rows=300, epochs=1, student_epochs=1, out=str(out))
    assert (out / "small" / "report.html").exists()
    assert [p["text"] for p in result.predictions] and all(p["label"] for p in result.predictions)


def test_narrow_and_small_students_and_more_rows_are_searched(teacher, data, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "measure_targets", measured_alike)
    result = bertwright.compress(
        model=str(teacher),
        data=data["train"],
        eval_data=data["dev"],
        depths=(2,),
        narrow=("heads=0.5",),
        small=("static",),
        students=("distil",),
        engines=("torch",),
        precisions=("fp32",),
        generate="1",
        epochs=1,
        max_length=16,
        repeats=1,
        latency_rows=4,
        halving=False,
        out=str(tmp_path / "out"),
    )
    found = {c["name"].partition("@")[0]: c for c in result.frontier["candidates"]}
    sizes = ("2L", "4L-h50", "static")
    assert set(found) == {"teacher", *(f"distil-{size}" for size in sizes)}
    assert {c["shape"] for c in found.values()} == {"4L", *sizes}
    assert found["distil-4L-h50"]["parameters"] < found["teacher"]["parameters"]
    assert found["distil-static"]["layers"] == 0
    assert len((tmp_path / "out" / "transfer.jsonl").read_text().splitlines()) > 160
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "distil-4L-h50" in report and "distil-static" in report


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"narrow": ("heads=2",)}, "heads"),
        ({"small": ("statik",)}, "statik"),
        ({"generate": "copys=1"}, "copys"),
        ({"small_lr": 0.0}, "--small-lr"),
    ],
)
def test_sizes_that_cannot_be_are_refused_at_once(teacher, data, tmp_path, option, reason):
    with pytest.raises(ConfigError, match=reason):
        bertwright.compress(
            model=str(teacher), data=data["train"], out=str(tmp_path / "out"), **option
        )
    assert not (tmp_path / "out").exists()
