"""The page a person decides from: one self-contained `report.html` made of a frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertwright.evaluate.evaluate import as_judged
from bertwright.insight.answers import confusion_view, disagreement_view
from bertwright.insight.calibration import calibration_view
from bertwright.insight.charts import (
    SHAPES,
    Plot,
    find_unbeaten,
    layout_curves,
    layout_frontier,
    marker_path,
)
from bertwright.insight.formats import milliseconds, p_value, score_formatter, share
from bertwright.insight.importance import importance_view
from bertwright.insight.pages import render_page
from bertwright.insight.steps import speed_steps

__all__ = ["render_report"]

MAX_CURVE_LABELS = 12

_MAIN_FAMILIES = ("theseus", "distil", "control")
_FAMILY_WORDS = {
    "theseus": "Theseus",
    "distil": "Distilled",
    "control": "Control (no teacher)",
    "fitted": "First layers, head fitted",
    "exits": "Stopping early",
    "teacher": "Teacher's own depth",
}
_CONSTRAINTS = (
    ("keep", "kept", "Share of the teacher’s score kept", "at least"),
    ("min_speedup", "speedup", "Throughput, times the baseline", "at least"),
    ("max_latency_ms", "latency_p50_ms", "Latency of one text (p50)", "at most"),
    ("max_size_mb", "size_mb", "Size on disk", "at most"),
)


def render_report(frontier: Mapping[str, Any], extras: Mapping[str, Any], path: str | Path) -> Path:
    """Write the report as one html file that needs no network, and return its path.

    Args:
        frontier: what `compress` writes to frontier.json. Beside the documented keys it may have
            `met` (bool), `failed_constraints` (a list of words, or of objects with `constraint`,
            `limit`, `value`), `dropped` ({name: reason}, or a list of objects with `name` and
            `reason`) and `seeds` (as `summarise_seeds` returns); a candidate may have `p_value`
            (against the teacher, by the test that `p_test` names) and `dropped` (the reason).
        extras: any of `curves` {name: rows of metrics.jsonl}, `confusion` {"labels", "teacher",
            "chosen"} with counts [true][predicted], `calibration` {"teacher", "chosen"} with bins
            of `sure`, `right` and `rows`, `importance` as `importance_view` takes it,
            `disagreements` [{"text", "label", "teacher",
            "chosen", "teacher_score", "chosen_score"}] with an optional `text_b`, `data`
            {words: value}, `notes` [words], `title`.
        path: where the page goes; written whole or not at all.

    Raises:
        DiskFullError: there is no room for it.
    """
    return render_page("report.html", _context(frontier, extras), path)


def _context(frontier: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    teacher, baseline = as_judged(frontier["teacher"]), as_judged(frontier["baseline"])
    teacher.setdefault("name", "teacher")
    if baseline.get("engine") == "torch":
        baseline["name"] = "baseline"
    baseline.setdefault("name", "baseline")
    scored = [as_judged(c) for c in frontier["candidates"] if not c.get("dropped")]
    chosen = next((c for c in scored if c["name"] == frontier["chosen"]), None)
    primary = str(teacher.get("primary", "score"))
    families = _families(scored)
    unbeaten = find_unbeaten([c for c in scored if _is_measured(c)])
    for candidate in scored:
        candidate["family"] = families[candidate["method"]]
        candidate["unbeaten"] = candidate["name"] in unbeaten
        candidate["is_chosen"] = candidate is chosen
    budget = {k: v for k, v in dict(frontier.get("budget") or {}).items() if v is not None}
    goals = _goals(budget, teacher, baseline)
    checks = _checks(budget, chosen)
    return {
        "title": extras.get("title") or "Compression report",
        "primary": primary,
        "score": score_formatter(primary),
        "teacher": teacher,
        "baseline": baseline,
        "chosen": chosen,
        "met": frontier.get("met", all(check["met"] for check in checks)),
        "failed": _failed_words(frontier.get("failed_constraints") or ()),
        "reason": frontier.get("reason", ""),
        "checks": checks,
        "wishes": _other_wishes(budget),
        "verdict": _verdict(chosen, budget),
        "judging": _judging(chosen),
        "families": list(families.values()),
        "has_int8": any(c.get("precision") == "int8" for c in scored),
        "wide_plot": _frontier_plot(scored, teacher, baseline, chosen, goals, primary, 900, 460),
        "narrow_plot": _frontier_plot(scored, teacher, baseline, chosen, goals, primary, 400, 440),
        "candidates": sorted(scored, key=_by_speed),
        "dropped": _dropped(frontier),
        "seeds": frontier.get("seeds") or extras.get("seeds") or [],
        "curves": _curve_plots(extras.get("curves") or {}, scored, teacher, chosen, primary),
        "steps": speed_steps(chosen, scored, teacher, baseline),
        "importance": importance_view(extras.get("importance")),
        "calibration": calibration_view(extras.get("calibration")),
        "confusion": confusion_view(extras.get("confusion")),
        "disagreements": disagreement_view(extras.get("disagreements")),
        "data": extras.get("data") or {},
        "notes": extras.get("notes") or [],
        "machine": frontier.get("machine") or {},
        "versions": frontier.get("versions") or {},
        "command": frontier.get("command") or "",
        "marker_path": marker_path,
    }


def _judging(chosen: Mapping[str, Any] | None) -> str:
    """Return of which rows the scores are, where they are not of those that chose."""
    if chosen is None or "search_num_rows" not in chosen:
        return ""
    return (
        f"Scores are of {chosen['num_rows']:,} rows that the search did not use; it chose by "
        f"{chosen['search_num_rows']:,} others, on which {chosen['name']} keeps "
        f"{share(chosen['search_kept'])}."
    )


def _is_measured(model: Mapping[str, Any]) -> bool:
    return model.get("score") is not None and (model.get("throughput_texts_s") or 0) > 0


def _by_speed(candidate: Mapping[str, Any]) -> tuple[float, str]:
    return -(candidate.get("throughput_texts_s") or 0), candidate["name"]


def _families(candidates: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Give each method a colour class and a marker shape; the well-known ones keep theirs."""
    found = {str(c["method"]) for c in candidates}
    order = [*_MAIN_FAMILIES, *sorted(found - set(_MAIN_FAMILIES))]
    families = {}
    for number, method in enumerate(order):
        if method in found:
            families[method] = {
                "method": method,
                "words": _FAMILY_WORDS.get(method, method),
                "css": f"f{number % len(SHAPES)}",
                "shape": SHAPES[number % len(SHAPES)],
            }
    return families


def _goals(
    budget: Mapping[str, Any], teacher: Mapping[str, Any], baseline: Mapping[str, Any]
) -> dict[str, Any]:
    goals: dict[str, Any] = {"score": None, "throughput": None, "labels": ("", "")}
    words = ["", ""]
    if "keep" in budget and _is_measured(teacher):
        goals["score"] = budget["keep"] * teacher["score"]
        words[0] = f"{_in_units('keep', budget['keep'])} kept"
    if "min_speedup" in budget and _is_measured(baseline):
        goals["throughput"] = budget["min_speedup"] * baseline["throughput_texts_s"]
        words[1] = f"{budget['min_speedup']:g}× baseline"
    goals["labels"] = (words[0], words[1])
    return goals


def _checks(budget: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    checks = []
    found = chosen or {}
    for constraint, key, words, sense in _CONSTRAINTS:
        if constraint not in budget:
            continue
        if constraint == "keep" and budget.get("confident"):
            key, words = "kept_low", f"{words}, lower end of the 95% interval"
        if f"search_{key}" in found:
            words += ", by the rows that choose"
        value, limit = found.get(f"search_{key}", found.get(key)), budget[constraint]
        met = value is not None and (value >= limit if sense == "at least" else value <= limit)
        checks.append(
            {
                "constraint": constraint,
                "words": words,
                "asked": f"{sense} {_in_units(constraint, limit)}",
                "value": "–" if value is None else _in_units(constraint, value),
                "met": met,
                "missed_by": None if met or value is None else f"{abs(value / limit - 1):.1%}",
            }
        )
    return checks


def _in_units(constraint: str, value: float) -> str:
    if constraint == "keep":
        return f"{100 * value:.2f}".rstrip("0").rstrip(".") + "%"
    if constraint == "min_speedup":
        return f"{value:.3g}×"
    return f"{value:.3g} ms" if constraint == "max_latency_ms" else f"{value:.4g} MB"


def _other_wishes(budget: Mapping[str, Any]) -> dict[str, str]:
    known = {"confident", *(constraint for constraint, *_ in _CONSTRAINTS)}
    return {key.replace("_", " "): str(v) for key, v in budget.items() if key not in known}


def _failed_words(failed: Sequence[Any]) -> list[str]:
    words = []
    names = {constraint: text for constraint, _, text, _ in _CONSTRAINTS}
    for item in failed:
        if isinstance(item, Mapping) and {"constraint", "limit", "value"} <= set(item):
            constraint, limit, value = item["constraint"], item["limit"], item["value"]
            words.append(
                f"{names.get(constraint, constraint)}: {_in_units(constraint, value)} against the "
                f"{_in_units(constraint, limit)} asked for, off by {abs(value / limit - 1):.1%}"
            )
        else:
            words.append(str(item))
    return words


def _verdict(chosen: Mapping[str, Any] | None, budget: Mapping[str, Any]) -> dict[str, str]:
    """Return what the numbers of the chosen model allow one to say, in plain words."""
    if chosen is None:
        return {}
    verdict = {}
    if chosen.get("p_value") is not None:
        p = chosen["p_value"]
        meaning = (
            "a difference from the teacher beyond chance"
            if p < 0.05
            else "no difference from the teacher shown on these rows"
        )
        test = chosen.get("p_test", "exact McNemar")
        verdict["p_value"] = f"Test against the teacher ({test}): p = {p_value(p)}, {meaning}."
    low, high, asked = chosen.get("kept_low"), chosen.get("kept_high"), budget.get("keep")
    if low is not None:
        until = "" if high is None else f" to {share(high)}"
        rows = f" on {chosen['num_rows']:,} evaluation rows" if chosen.get("num_rows") else ""
        verdict["kept"] = f"The 95% interval of the share kept is from {share(low)}{until}{rows}."
        kept = chosen.get("kept") or 0
        if asked is not None and low < asked <= kept:
            verdict["kept"] += (
                f" Its lower end is below the {_in_units('keep', asked)} asked for: "
                "more evaluation rows would make this surer."
            )
        if asked is not None and kept < asked <= chosen.get("search_kept", 0):
            verdict["kept"] += (
                f" That is less than the {_in_units('keep', asked)} asked for, which it kept on "
                "the rows that chose it: the best of many is partly lucky."
            )
    return verdict


def _frontier_plot(
    candidates: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any],
    baseline: Mapping[str, Any],
    chosen: Mapping[str, Any] | None,
    goals: Mapping[str, Any],
    primary: str,
    width: float,
    height: float,
) -> Plot | None:
    score = score_formatter(primary)
    models = []

    def add(model: Mapping[str, Any], rank: int, css: str, shape: str, label: str | None) -> None:
        if not _is_measured(model):
            return
        low = model.get("score_low")
        high = model.get("score_high")
        models.append(
            {
                "name": model["name"],
                "score": model["score"],
                "score_low": model["score"] if low is None else low,
                "score_high": model["score"] if high is None else high,
                "throughput_texts_s": model["throughput_texts_s"],
                "css": css,
                "shape": shape,
                "label": label,
                "must_label": rank >= 2,
                "rank": rank,
                "title": _point_title(model, score),
            }
        )

    for candidate in candidates:
        is_chosen = candidate["name"] == (chosen or {}).get("name")
        rank = 4 if is_chosen else 1 if candidate["unbeaten"] else 0
        css = candidate["family"]["css"]
        css += " full" if candidate.get("precision") == "int8" else " hollow"
        css += " chosen" if is_chosen else "" if candidate["unbeaten"] else " beaten"
        label = candidate["name"] if rank and (width > 600 or is_chosen) else None
        add(candidate, rank, css, candidate["family"]["shape"], label)
    add(baseline, 2, "baseline", "cross", "baseline")
    add(teacher, 3, "teacher", "diamond", "teacher")
    if not models:
        return None
    models.sort(key=lambda m: m["rank"])
    return layout_frontier(
        models,
        width=width,
        height=height,
        format_score=score,
        goal_score=goals["score"],
        goal_throughput=goals["throughput"],
        goal_labels=goals["labels"],
        line_of=[c["name"] for c in candidates if c["unbeaten"]],
    )


def _point_title(model: Mapping[str, Any], score: Any) -> str:
    parts = [f"{model['name']}: {score(model['score'])}"]
    if model.get("score_low") is not None:
        parts[0] += f" ({score(model['score_low'])} to {score(model['score_high'])})"
    parts.append(f"{model['throughput_texts_s']:,.0f} texts/s")
    if model.get("latency_p50_ms") is not None:
        parts.append(f"{milliseconds(model['latency_p50_ms'])} ms a text")
    if model.get("size_mb") is not None:
        parts.append(f"{model['size_mb']:.1f} MB")
    return ", ".join(parts)


def _dropped(frontier: Mapping[str, Any]) -> list[dict[str, Any]]:
    dropped = [
        {"name": c["name"], "reason": str(c["dropped"])}
        for c in frontier["candidates"]
        if c.get("dropped")
    ]
    more = frontier.get("dropped") or ()
    if isinstance(more, Mapping):
        return dropped + [{"name": str(k), "reason": str(v)} for k, v in more.items()]
    return dropped + [{"name": str(d["name"]), "reason": str(d["reason"])} for d in more]


def _curve_plots(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    candidates: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any],
    chosen: Mapping[str, Any] | None,
    primary: str,
) -> dict[str, Any]:
    """Lay out the loss and the dev score; the chosen model's curve and the teacher's on top."""
    chosen_curve = _curve_of(chosen["name"], curves) if chosen else None
    series = []
    for name, rows in curves.items():
        style, rank = _curve_style(name, candidates, teacher), 0
        if name == chosen_curve:
            style, rank = f"{style} chosen", 2
        elif style == "teacher":
            rank = 1
        series.append({"name": name, "css": style, "rows": rows, "rank": rank})
    series.sort(key=lambda s: s["rank"])
    few = len(series) <= MAX_CURVE_LABELS

    def plots(key: str, format_value: Any, *, label_all: bool) -> dict[str, Plot | None]:
        lines = [
            {
                "name": s["name"],
                "css": s["css"],
                "labelled": label_all or s["rank"] > 0,
                "points": _curve_points(s["rows"], key),
            }
            for s in series
        ]
        return {
            css: layout_curves(lines, width=width, height=300, format_value=format_value)
            for css, width in (("broad", 530), ("narrow", 360))
        }

    return {
        "loss": plots("loss", lambda v: f"{v:.3g}", label_all=False),
        "dev": plots(f"eval_{primary}", score_formatter(primary), label_all=few),
    }


def _curve_points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = []
    for number, row in enumerate(rows):
        value = row.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            points.append((float(row.get("epoch", row.get("step", number))), float(value)))
    return points


def _curve_of(name: str, curves: Mapping[str, Any]) -> str | None:
    """Return the training run that a candidate's name begins with (the longest such)."""
    return max((c for c in curves if name.startswith(c)), key=len, default=None)


def _curve_style(
    curve: str, candidates: Sequence[Mapping[str, Any]], teacher: Mapping[str, Any]
) -> str:
    if curve in ("teacher", teacher["name"]):
        return "teacher"
    for candidate in candidates:
        if candidate["name"].startswith(curve) or curve.startswith(str(candidate["method"])):
            return candidate["family"]["css"]
    return "other"
