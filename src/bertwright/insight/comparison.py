"""The page of `compare`: scores with intervals against training time and throughput."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertwright.insight.charts import SHAPES, Plot, find_unbeaten, layout_frontier, marker_path
from bertwright.insight.formats import score_formatter
from bertwright.insight.pages import render_page

__all__ = ["render_comparison"]

_FAMILIES = (
    ("counts", "Words counted or summed", ("tfidf", "lda", "words", "ngrams")),
    ("scratch", "Language models from scratch", ("bilstm-lm", "causal-lm")),
    ("frozen", "Frozen encoder", ("frozen",)),
    ("tuned", "Fine-tuned encoder", ("finetune", "student")),
)
_SIZES = {"broad": (900.0, 440.0), "narrow": (400.0, 440.0)}
_SHORTEST_S = 0.01
_POOLING = "frozen:pooling="


def render_comparison(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of what `compare` writes to compare.json, and return its path.

    Raises:
        DiskFullError: there is no room for it.
    """
    contenders = [dict(one) for one in summary["contenders"]]
    taken = {one["name"] for one in contenders}
    for one in contenders:
        one["family"] = _family_of(one["name"])
        one["short"] = _short(one["name"], taken)
    primary = contenders[0]["primary"] if contenders else "score"
    ranked = sorted(contenders, key=lambda one: -one["score"])
    context = {
        "primary": primary,
        "score": score_formatter(primary),
        "contenders": ranked,
        "best": ranked[0] if ranked else None,
        "families": _families(contenders),
        "failed": summary["failed"],
        "by_time": _plots(contenders, primary, _slowness),
        "by_rate": _plots(contenders, primary, _rate),
        "facts": _facts(summary),
        "command": summary["command"],
        "marker_path": marker_path,
    }
    return render_page("comparison.html", context, path)


def _slowness(one: Mapping[str, Any]) -> float:
    return max(one["train_s"], _SHORTEST_S)


def _rate(one: Mapping[str, Any]) -> float:
    return one["throughput_texts_s"]


def _family_of(name: str) -> dict[str, str]:
    first = name.partition(":")[0]
    for place, (_, words, members) in enumerate(_FAMILIES):
        if first in members:
            return {"css": f"f{place}", "shape": SHAPES[place], "words": words}
    return {"css": "other", "shape": "circle", "words": "Others"}


def _families(contenders: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the families that occur, each once, in the order of the legend."""
    found = {one["family"]["words"]: one["family"] for one in contenders}
    return sorted(found.values(), key=lambda family: family["css"])


def _plots(
    contenders: Sequence[Mapping[str, Any]], primary: str, x_of: Any
) -> dict[str, Plot | None]:
    """Return the plot of scores against `x_of`, for broad and for narrow pages."""
    return {css: _plot(contenders, primary, x_of, *size) for css, size in _SIZES.items()}


def _plot(
    contenders: Sequence[Mapping[str, Any]],
    primary: str,
    x_of: Any,
    width: float,
    height: float,
) -> Plot | None:
    if not contenders:
        return None
    score = score_formatter(primary)
    best_at = find_unbeaten(
        [
            {**one, "throughput_texts_s": 1 / x_of(one) if x_of is _slowness else x_of(one)}
            for one in contenders
        ]
    )
    taken = {one["name"] for one in contenders}
    models = [
        {
            **{key: one[key] for key in ("name", "score", "score_low", "score_high")},
            "throughput_texts_s": x_of(one),
            "css": one["family"]["css"] + (" full" if one["name"] in best_at else " hollow"),
            "shape": one["family"]["shape"],
            "label": _label(one["name"], one["name"] in best_at, taken, width),
            "must_label": False,
            "title": f"{one['name']}: {score(one['score'])} "
            f"({score(one['score_low'])} to {score(one['score_high'])}), "
            f"trained in {one['train_s']:.0f} s, {one['throughput_texts_s']:,.0f} texts/s",
        }
        for one in sorted(contenders, key=lambda one: (one["name"] in best_at, one["score"]))
    ]
    return layout_frontier(
        models, width=width, height=height, format_score=score, line_of=sorted(best_at)
    )


def _label(name: str, is_best: bool, taken: Collection[str], width: float) -> str | None:
    """Return `max` for `frozen:pooling=max` (the mark says the rest), unless that is another's.

    A narrow chart names such a one only where none beats it.
    """
    pooling = name.removeprefix(_POOLING)
    if pooling == name:
        return _short(name, taken)
    if width < _SIZES["broad"][0] and not is_best:
        return None
    return f"frozen {pooling}" if pooling in taken else pooling


def _short(name: str, taken: Collection[str]) -> str:
    """Return a contender's kind, without its options, unless another is of the same kind."""
    kind = name.partition(":")[0]
    return name if sum(other.partition(":")[0] == kind for other in taken) > 1 else kind


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    rows = summary["rows"]
    return {
        "data": summary["data"],
        "judged on": summary["test_data"],
        "rows": f"{rows['train']:,} to learn from, {rows['dev']:,} to choose on, "
        f"{rows['test']:,} to judge",
        "classes": summary["num_classes"],
        "threads": summary["threads"],
        **summary["machine"],
        **summary["versions"],
    }
