"""One elastic training for a whole search: its sizes priced, scored by their cuts, few trained on.

A supernet is trained once a seed (`students/elastic-supernet`). Every size of it has a price from
the latency table, for each engine, and a dev score of what is cut out. Of the sizes that nothing
beats in both, those that come nearest to what the budget asks are trained on and measured like all
other students.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.compress.budget import Budget, Prefer
from bertwright.compress.candidates import StudentPlan
from bertwright.compress.frontier import find_frontier
from bertwright.compress.latency_table import LayerShape
from bertwright.compress.pricing import PriceList, make_price_list
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.base import EngineSpec
from bertwright.methods.prune.elastic import ElasticConfig, elastic_grids
from bertwright.methods.prune.train_elastic import train_elastic
from bertwright.models.build import copy_with_first, copy_with_layers
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of
from bertwright.progress import Progress, console
from bertwright.tasks import find_task
from bertwright.training.evaluation import evaluate_model

if TYPE_CHECKING:
    from bertwright.compress.students import StudentContext

__all__ = [
    "ElasticSize",
    "choose_sizes",
    "cut_size",
    "promising",
    "size_plans",
    "supernet_of",
    "supernet_plan",
]

METHOD = "elastic"
KEPT_SLACK = 0.03
"""How far below what is to be kept a cut may be: it is trained on."""
LATENCY_SLACK = 1.1
"""How far above a limit of latency a price may be: prices are not exact."""
FOLDER = "elastic-supernet"


@dataclass(frozen=True)
class ElasticSize:
    """A size of a supernet before it is trained on."""

    plan: StudentPlan
    kept: float
    """Dev score of what is cut out, as a share of the teacher's."""
    throughput_texts_s: float
    """Of the engine in which it is fastest, priced."""
    latency_p50_ms: float
    """Of the engine that answers soonest, priced."""

    def facts(self) -> dict[str, Any]:
        """Return what `find_frontier` looks at."""
        return {
            "name": self.plan.name,
            "kept": self.kept,
            "throughput_texts_s": self.throughput_texts_s,
            "answers_s": 1e3 / self.latency_p50_ms,
        }


def supernet_plan(context: StudentContext, seed: int) -> StudentPlan:
    """Return the whole of a supernet as a student."""
    return StudentPlan(context.teacher.roles.num_layers, METHOD, seed)


def supernet_of(context: StudentContext, seed: int) -> Path:
    """Return the folder of the supernet of a seed, trained where it is not there yet."""
    folder = context.folder / (FOLDER if seed == 0 else f"{FOLDER}-s{seed}")
    if not (folder / "model").exists():
        console.print(f"[bold]{folder.name}[/]: all sizes at once")
        rows = context.rows_of(supernet_plan(context, seed))
        model, _ = train_elastic(
            context.teacher,
            context.teacher,
            rows,
            context.dev_rows,
            config=ElasticConfig(),
            methods=context.soft_targets,
            training=dataclasses.replace(context.training, seed=seed),
            run_dir=folder,
            resume=True,
            cache_folder=context.folder / "teacher-answers",
        )
        model.save(folder / "model")
    return folder


def cut_size(supernet: TaskModel, plan: StudentPlan) -> TaskModel:
    """Return the first layers of a supernet, with the first heads and neurons of each."""
    smaller = supernet
    if plan.layers < supernet.roles.num_layers:
        smaller = copy_with_layers(supernet, range(plan.layers))
    widths = widths_of(supernet.encoder)
    return copy_with_first(
        smaller,
        heads=round(plan.heads * widths.heads[0]) if widths.heads else None,
        neurons=round(plan.neurons * widths.neurons[0]) if widths.neurons else None,
    )


def size_plans(supernet: TaskModel, seed: int) -> list[StudentPlan]:
    """Return every size of a supernet but the whole."""
    config = ElasticConfig()
    grids = elastic_grids(supernet, config)
    depths = range(config.layers, supernet.roles.num_layers + 1)
    plans = [
        StudentPlan(depth, METHOD, seed, heads, neurons)
        for depth in depths
        for heads in _shares(grids.get("heads"))
        for neurons in _shares(grids.get("neurons"))
    ]
    return [plan for plan in plans if plan.layers < depths[-1] or plan.is_narrow]


def _shares(grid: Sequence[int] | None) -> list[float]:
    return [count / grid[-1] for count in grid] if grid else [1.0]


def choose_sizes(
    context: StudentContext,
    specs: Sequence[EngineSpec],
    rows: Mapping[str, Sequence[Any]],
    slice_rows: EncodedRows,
    *,
    teacher_score: float,
    budget: Budget,
    prefer: Prefer,
    count: int,
) -> list[StudentPlan]:
    """Train the supernet, price and score its sizes, and return those that are worth more.

    Args:
        context: of the search.
        specs: the engines that are tried.
        rows: by column, of the latency table.
        slice_rows: dev rows on which cuts are scored.
        teacher_score: on the same rows.
        budget: what is asked.
        prefer: what to have most of.
        count: how many sizes.
    """
    seed = context.training.seed
    folder = supernet_of(context, seed)
    supernet = TaskModel.load(folder)
    plans = size_plans(supernet, seed)
    lists = [
        make_price_list(
            folder, spec, rows, context.dev_rows.lengths, threads=context.training.threads, rounds=3
        )
        for spec in specs
    ]
    task = find_task(supernet.task).judging(slice_rows)
    sizes = []
    with Progress("score the sizes", total=len(plans), unit="sizes") as bar:
        for plan in plans:
            size = cut_size(supernet, plan)
            metrics, _ = evaluate_model(size, slice_rows, task)
            sizes.append(_priced(plan, size, metrics[task.primary] / teacher_score, lists))
            bar.advance()
    return promising(sizes, budget=budget, prefer=prefer, count=count)


def _priced(
    plan: StudentPlan, size: TaskModel, kept: float, lists: Sequence[PriceList]
) -> ElasticSize:
    widths = widths_of(size.encoder)
    heads, neurons = ((have or (0,))[0] for have in (widths.heads, widths.neurons))
    layers = [LayerShape(heads, neurons)] * plan.layers
    return ElasticSize(
        plan=plan,
        kept=kept,
        throughput_texts_s=max(prices.throughput_texts_s(layers) for prices in lists),
        latency_p50_ms=min(prices.latency_p50_ms(layers) for prices in lists),
    )


def promising(
    sizes: Sequence[ElasticSize], *, budget: Budget, prefer: Prefer, count: int
) -> list[StudentPlan]:
    """Return the sizes to train on: those at the edge of what the budget asks.

    Among the sizes that no other beats in both score and speed (or latency, where that is
    preferred), the fastest whose cut keeps nearly enough; if these are too few, the best of the
    rest. A size that is priced above the limit of latency counts only where there is no other.

    Args:
        sizes: priced and scored.
        budget: `keep` and `max_latency_ms` count here; what else it asks is measured later.
        prefer: with `score`, the best cuts come first.
        count: how many at most.
    """
    limit = budget.max_latency_ms
    if limit is not None:
        within = [one for one in sizes if one.latency_p50_ms <= LATENCY_SLACK * limit]
        sizes = within or sizes
    cost = "answers_s" if prefer == "latency" else "throughput_texts_s"
    facts = {one.plan.name: one.facts() for one in sizes}
    names = find_frontier(list(facts.values()), cost=cost, value="kept")
    keep = 1.0 if budget.keep is None else budget.keep
    if prefer == "score":
        names = sorted(names, key=lambda name: -facts[name]["kept"])
    near = [name for name in names if facts[name]["kept"] >= keep - KEPT_SLACK]
    rest = sorted(set(names) - set(near), key=lambda name: -facts[name]["kept"])
    plans = {one.plan.name: one.plan for one in sizes}
    return [plans[name] for name in (*near, *rest)[:count]]
