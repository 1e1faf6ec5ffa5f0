"""The report as a reader's browser gets it: whole, offline, escaped, and true to its figures."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bertwright.insight.report import render_report
from insight.synthetic import make_extras, make_frontier

VOID = {"meta", "link", "br", "rect", "line", "path", "circle"}


class Page(HTMLParser):
    """Collects text, tags and attributes, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def render(tmp_path: Path, frontier, extras) -> tuple[str, Page]:
    path = render_report(frontier, extras, tmp_path / "deep" / "report.html")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


@pytest.mark.parametrize("num_labels", [2, 6, 151])
def test_page_is_whole_and_needs_no_network(tmp_path: Path, num_labels: int) -> None:
    html, page = render(tmp_path, make_frontier(), make_extras(num_labels))
    assert not re.search(r"https?://|//cdn|@import|url\(", html)
    for tag, attributes in page.found:
        assert tag not in ("img", "iframe", "object")
        assert "src" not in attributes
        href = attributes.get("href") or "#"
        assert href.startswith("#") or href == "data:,"
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    named = [a[k] for _, a in page.found for k in ("aria-labelledby",) if k in a]
    named += [(a["href"] or "")[1:] for t, a in page.found if t == "a"]
    assert named and set(named) <= set(ids)
    assert all("nan" not in v for _, a in page.found for v in a.values() if v and "d" in a)
    assert len(html) < 1_000_000


def test_svgs_have_names_and_tables_have_scopes(tmp_path: Path) -> None:
    _, page = render(tmp_path, make_frontier(), make_extras(2))
    drawings = [a for t, a in page.found if t == "svg"]
    assert drawings
    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" for a in drawings)
    heads = [a for t, a in page.found if t == "th"]
    assert heads and all(a.get("scope") in ("col", "row") for a in heads)


def test_figures_are_those_of_the_frontier(tmp_path: Path) -> None:
    frontier, extras = make_frontier(), make_extras(2)
    html, page = render(tmp_path, frontier, extras)
    chosen = next(c for c in frontier["candidates"] if c["name"] == frontier["chosen"])
    assert f"{chosen['name']} keeps {chosen['kept']:.1%} of the teacher’s accuracy" in page.text
    assert f"{chosen['throughput_texts_s']:,.0f}" in page.text
    assert "The budget is not met" not in page.text
    assert page.text.count("✓ yes") == 3 and "✗ no" not in page.text
    assert frontier["reason"] in page.text and frontier["command"] in page.text
    rows = [a for t, a in page.found if t == "th" and a.get("scope") == "row" and "data-v" in a]
    assert len(rows) == len(frontier["candidates"]) + 2
    for candidate in frontier["candidates"]:
        assert html.count(f'data-v="{candidate["name"]}"') == 1
        # one mark with its whisker in the wide and one in the narrow drawing
        assert html.count(f"<title>{candidate['name']}: ") == 2
    assert html.count('class="ring"') == 2 + 1
    for count in (extras["confusion"]["teacher"][0][0], extras["confusion"]["chosen"][1][0]):
        assert f">{count}</td>" in html
    assert "theseus-1L-s1" in page.text and "71.2% on 300 dev rows" in page.text
    assert "2.13.0" in page.text and "avx512_vnni" in page.text


def test_beaten_candidates_are_pale_and_the_chosen_one_is_not(tmp_path: Path) -> None:
    frontier = make_frontier()
    html, _ = render(tmp_path, frontier, {})
    for candidate in frontier["candidates"]:
        beaten = candidate["name"] != frontier["chosen"] and any(
            other["score"] > candidate["score"]
            and other["throughput_texts_s"] > candidate["throughput_texts_s"]
            for other in frontier["candidates"]
        )
        group = re.search(rf'<g class="([^"]*)"><title>{re.escape(candidate["name"])}: ', html)
        assert group is not None
        assert ("beaten" in group[1]) == beaten
        assert ("full" in group[1]) == (candidate["precision"] == "int8")


def test_when_nothing_meets_the_budget_it_says_so_and_by_how_much(tmp_path: Path) -> None:
    frontier = make_frontier(met=False)
    _, page = render(tmp_path, frontier, make_extras(2))
    assert "No candidate meets the budget. The nearest" in page.text
    assert "The budget is not met." in page.text
    assert "Size on disk: 44 MB against the 40 MB asked for, off by 10.0%" in page.text
    assert "✗ no , off by 10.0%" in page.text
    frontier["failed_constraints"] = ["size: too big by 4 MB"]
    assert "size: too big by 4 MB" in render(tmp_path, frontier, {})[1].text


def test_few_labels_get_matrices_and_many_get_pairs(tmp_path: Path) -> None:
    few = render(tmp_path, make_frontier(), make_extras(12))[0]
    assert few.count('class="matrix') == 2
    extras = make_extras(151)
    many, page = render(tmp_path, make_frontier(), extras)
    assert "<caption>Teacher</caption>" not in many
    assert "<caption>Most confused pairs</caption>" in many
    labels, chosen = extras["confusion"]["labels"], extras["confusion"]["chosen"]
    worst = max((chosen[i][j], i, j) for i in range(151) for j in range(151) if i != j)
    assert re.search(rf"<tr><td>{labels[worst[1]]}</td><td>{labels[worst[2]]}</td>", many), (
        "the most confused pair is missing"
    )
    drops = [extras["confusion"]["teacher"][i][i] - chosen[i][i] for i in range(151)]
    assert f"{sum(d > 0 for d in drops)} labels have fewer right answers" in page.text


def test_disagreements_are_grouped_and_cut(tmp_path: Path) -> None:
    extras = make_extras(2)
    _, page = render(tmp_path, make_frontier(), extras)
    assert "on 60 rows" in page.text
    assert "The teacher was right, the chosen model is wrong 48 rows" in page.text
    assert "The chosen model is right, the teacher was wrong 12 rows" in page.text
    assert "And 8 more." in page.text
    empty = render(tmp_path, make_frontier(), {"disagreements": []})[1]
    assert "the same answer on every row" in empty.text


def test_numbers_are_told_by_how_far_apart_they_are(tmp_path: Path) -> None:
    rows = [
        {"text": f"row {n}", "label": "3.0", "teacher": "2.5", "chosen": f"{2.5 - gap:g}"}
        | {"teacher_score": None, "chosen_score": None, "gap": gap}
        for n, gap in enumerate((2.0, 1.0, 0.5))
    ]
    html, page = render(tmp_path, make_frontier(), {"disagreements": rows})
    assert "differs from the teacher’s on 3 rows." in page.text
    assert "The farthest apart come first 3 rows" in page.text and "True number" in page.text
    assert page.text.index("row 0") < page.text.index("row 2")
    assert "✗" not in html and "the chosen model is wrong" not in page.text


def test_the_test_against_the_teacher_is_named(tmp_path: Path) -> None:
    frontier = make_frontier()
    assert "exact McNemar" in render(tmp_path, frontier, {})[1].text
    for candidate in frontier["candidates"]:
        candidate["p_test"] = "paired bootstrap"
    assert (
        "Test against the teacher (paired bootstrap): p = "
        in render(tmp_path, frontier, {})[1].text
    )


def judged(frontier: dict[str, Any], kept: float) -> dict[str, Any]:
    """Give all of it scores on 500 other rows, the chosen one this share of the teacher's."""
    facts = {"test_num_rows": 500, "test_score_low": 0.7, "test_score_high": 0.9}
    for one in (*frontier["candidates"], frontier["teacher"], frontier["baseline"]):
        share = kept if one.get("name") == frontier["chosen"] else 0.9
        score = share * 0.8
        one |= facts | {"test_score": score, "test_metrics": {"accuracy": score}}
        if "kept" in one:
            one |= {"test_kept": share, "test_kept_low": share - 0.02, "test_kept_high": 1.0}
            one["test_p_value"] = 0.5
    return frontier


def test_scores_are_those_of_the_rows_that_the_search_did_not_use(tmp_path: Path) -> None:
    frontier = judged(make_frontier(), 0.9123)
    chosen = next(c for c in frontier["candidates"] if c["name"] == frontier["chosen"])
    page = render(tmp_path, frontier, {})[1]
    lead = page.text.partition("Asked and chosen")[0]
    assert "keeps 91.2%" in lead and "500 rows that the search did not use" in lead
    assert f"chose by 872 others, on which {chosen['name']} keeps {chosen['kept']:.1%}" in lead
    budget = page.text.partition("Met")[2].partition("Throughput")[0]
    assert f"{100 * chosen['kept']:.2f}".rstrip("0") in budget and "✓" in budget
    assert "That is less than the 98% asked for" in page.text
    assert f"{chosen['score']:.1%}"[:-1] not in page.text


def test_the_lower_end_is_what_a_confident_budget_is_checked_by(tmp_path: Path) -> None:
    frontier = make_frontier()
    chosen = next(c for c in frontier["candidates"] if c["name"] == frontier["chosen"])
    frontier["budget"]["confident"] = True
    text = render(tmp_path, frontier, {})[1].text
    row = text.partition("lower end of the 95% interval")[2][:60]
    assert f"{100 * chosen['kept_low']:.2f}" in row and "✗ no" in row
    assert "confident" not in text.partition("Also:")[2][:40]


def test_a_baseline_in_torch_is_not_called_a_pipeline(tmp_path: Path) -> None:
    frontier = make_frontier()
    frontier["baseline"] |= {"name": "pipeline", "engine": "torch"}
    page = render(tmp_path, frontier, {})[1]
    assert "pipeline" not in page.text.partition("All candidates")[2].partition("Training")[0]


def test_every_string_is_escaped(tmp_path: Path) -> None:
    evil = '</script><script>alert("x")</script>"\'<img src=x onerror=alert(1)>&'
    frontier, extras = make_frontier(), make_extras(2)
    renamed = frontier["chosen"]
    for candidate in frontier["candidates"]:
        if candidate["name"] == renamed:
            candidate["name"] = evil
        candidate["method"] = evil if candidate["method"] == "control" else candidate["method"]
    frontier |= {"chosen": evil, "reason": evil, "command": evil, "machine": {evil: evil}}
    frontier |= {"versions": {evil: evil}, "dropped": {evil: evil}}
    frontier |= {"failed_constraints": [evil], "met": False}
    extras["disagreements"] = [
        dict.fromkeys(("text", "text_b", "label", "teacher"), evil) | {"chosen": "no"}
    ]
    extras["confusion"]["labels"] = [evil, "positive"]
    extras["curves"][evil] = extras["curves"]["teacher"]
    extras |= {"title": evil, "notes": [evil], "data": {evil: evil}}
    html, page = render(tmp_path, frontier, extras)
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert page.text.count('alert("x")') > 10


def test_a_bare_frontier_is_enough(tmp_path: Path) -> None:
    full = make_frontier()
    candidate = {"name": "a", "method": "distil", "layers": 1, "dropped": "too weak"}
    bare = {k: full[k] for k in ("budget", "teacher", "baseline", "chosen")}
    bare |= {"candidates": [candidate, copy.deepcopy(full["candidates"][0])]}
    bare["chosen"] = full["candidates"][0]["name"]
    _, page = render(tmp_path, bare, {})
    assert "too weak" in page.text
    assert "Training loss" not in page.text and "Most confused" not in page.text
    nothing = {"budget": {}, "teacher": {}, "baseline": {}, "candidates": [], "chosen": None}
    _, page = render(tmp_path, nothing, {})
    assert "No model was chosen." in page.text and "Nothing was measured." in page.text


def test_an_unmeasured_score_metric_is_not_a_percentage(tmp_path: Path) -> None:
    frontier = make_frontier()
    for model in (frontier["teacher"], frontier["baseline"], *frontier["candidates"]):
        model["primary"] = "mcc"
    _, page = render(tmp_path, frontier, {})
    assert "0.874" in page.text and "87.4%" not in page.text


def test_seeds_are_shown(tmp_path: Path) -> None:
    frontier = make_frontier()
    frontier["seeds"] = [
        {
            **{"method": "theseus", "layers": 2, "engine": "openvino", "precision": "int8"},
            **{"seeds": [0, 1, 2], "scores": [0.85, 0.86, 0.87], "mean": 0.86, "std": 0.01},
            **{"min": 0.85, "max": 0.87, "kept_mean": 0.984},
        }
    ]
    _, page = render(tmp_path, frontier, {})
    assert "Over seeds" in page.text and "86.0%" in page.text


@pytest.mark.parametrize(
    ("engine", "words"), [("transformers", "own pipeline in fp32"), ("torch", "in torch in fp32")]
)
def test_the_page_says_what_the_baseline_is(tmp_path: Path, engine: str, words: str) -> None:
    frontier = make_frontier()
    frontier["baseline"]["engine"] = engine
    _, page = render(tmp_path, frontier, make_extras(2))
    assert words in page.text and ("own pipeline" in page.text) == (engine == "transformers")
