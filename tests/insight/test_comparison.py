"""The page of a comparison: every contender in both charts and in the table."""

from __future__ import annotations

import re

import pytest

from bertwright.insight.comparison import _label, _plot, _rate, _slowness, render_comparison


def contender(name, score, train_s, rate, **more):
    return {
        **{"name": name, "score": score, "score_low": score - 0.02, "score_high": score + 0.02},
        **{"train_s": train_s, "throughput_texts_s": rate, "size_mb": 12.3, "seeds": 1},
        **{"peak_memory_mb": 456.0, "primary": "accuracy", **more},
    }


CONTENDERS = [
    contender("tfidf", 0.80, 2.0, 40000.0),
    contender("lda", 0.60, 30.0, 9000.0),
    contender("frozen:pooling=max", 0.85, 40.0, 800.0),
    contender("finetune", 0.90, 300.0, 790.0),
    contender("mine", 0.70, 0.0, 50.0),
]


def summary(**more):
    return {
        **{"rows": {"train": 1000, "dev": 100, "test": 500}, "num_classes": 7, "failed": {}},
        **{"data": "train.csv", "test_data": "test.csv", "threads": 2},
        **{
            "machine": {"processor": "P"},
            "versions": {"torch": "2"},
            "command": "bertwright run x",
        },
        "contenders": CONTENDERS,
        **more,
    }


def test_every_contender_is_drawn_and_listed(tmp_path):
    page = render_comparison(summary(), tmp_path / "c.html").read_text()
    for one in CONTENDERS:
        assert page.count(f"<title>{one['name']}: ") == 4, "two charts, broad and narrow"
        assert f'<th scope="row" data-v="{one["name"]}">' in page
    assert "finetune</span> has the highest accuracy, 90.0%" in page
    assert "1,000 to learn from, 100 to choose on, 500 to judge" in page
    assert not re.search(r'(src|href)="https?:', page)
    assert "Not finished" not in page


@pytest.mark.parametrize(
    ("x_of", "best"),
    [
        (_rate, {"tfidf", "frozen:pooling=max", "finetune"}),
        (_slowness, {"tfidf", "frozen:pooling=max", "finetune", "mine"}),
    ],
)
def test_the_line_joins_those_that_none_beats(x_of, best):
    contenders = [{**one, "family": {"css": "f0", "shape": "circle"}} for one in CONTENDERS]
    plot = _plot(contenders, "accuracy", x_of, 900, 440)
    assert plot is not None and plot.line.count("L") == len(best) - 1
    filled = [point.title.partition(": ")[0] for point in plot.points if "full" in point.css]
    assert set(filled) == best
    for point in plot.points:
        assert plot.area.left <= point.x <= plot.area.right
        assert plot.area.top <= point.high <= point.y <= point.low <= plot.area.bottom


def test_labels_are_short_unless_they_are_anothers():
    taken = {"tfidf", "frozen:pooling=tfidf", "frozen:pooling=max"}
    assert _label("frozen:pooling=max", False, taken, 900) == "max"
    assert _label("frozen:pooling=tfidf", False, taken, 900) == "frozen tfidf"
    assert _label("tfidf", False, taken, 400) == "tfidf"
    two = {"student:layers=2", "student:layers=1", "finetune:epochs=5"}
    assert _label("finetune:epochs=5", False, two, 400) == "finetune"
    assert _label("student:layers=1", False, two, 900) == "student:layers=1"
    assert _label("frozen:pooling=max", False, taken, 400) is None
    assert _label("frozen:pooling=max", True, taken, 400) == "max"


def test_a_page_without_a_finished_contender_says_why(tmp_path):
    told = summary(contenders=[], failed={"lda": "no <words>"})
    page = render_comparison(told, tmp_path / "c.html").read_text()
    assert "No contender came to its end" in page and "no &lt;words&gt;" in page
