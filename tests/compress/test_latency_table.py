"""Times are put together from layers: exact where the machine is as the model of it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.compress.latency_table import (
    LatencyTable,
    LayerShape,
    MeasuredModel,
    table_cells,
    table_models,
)
from bertwright.data.batching import plan_batches
from bertwright.errors import UsageError

WHOLE = LayerShape(12, 1536)
CELLS = table_cells(100, 1024, 32)


def layer_s(shape: LayerShape, rows: float, length: float) -> float:
    """A layer of a machine without surprises; the last term is attention's."""
    tokens = rows * length
    return 1e-6 * (3 + tokens * (0.5 + 0.3 * shape.heads + 0.004 * shape.neurons))


def model_s(layers: list[LayerShape], rows: float, length: float) -> float:
    last_saves = 0.4 * layer_s(layers[-1], rows, length)
    return (
        2e-5
        + 2e-7 * rows * length
        + sum(layer_s(shape, rows, length) for shape in layers)
        - last_saves
    )


def table_of(cells=CELLS) -> LatencyTable:
    models = table_models(WHOLE, 6, heads=True, neurons=True)
    return LatencyTable(
        whole=WHOLE,
        cells=tuple(cells),
        seconds={
            m: tuple(model_s([m.shape] * m.layers, rows, length) for rows, length in cells)
            for m in models
        },
    )


@given(
    widths=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 1536)), min_size=1, max_size=8),
    batch=st.tuples(st.integers(1, 32), st.integers(1, 100)).filter(lambda b: b[0] * b[1] <= 1024),
)
@settings(max_examples=200, deadline=None)
def test_any_depth_and_widths_are_priced_exactly_where_times_are_sums(widths, batch):
    layers = [LayerShape(*one) for one in widths]
    found = table_of().batch_seconds(layers, [batch])
    # rows and length multiply, so between lengths the product of two lines is exact as well
    assert found == pytest.approx([model_s(layers, *batch)], rel=1e-9)


def test_attention_grows_with_the_square_and_is_met_at_the_cells_and_near_between():
    def with_square(m: MeasuredModel, rows: int, length: int) -> float:
        return m.layers * 1e-6 * rows * (10 * length + 0.02 * length**2)

    cells = table_cells(512, 1024, 32)
    models = table_models(WHOLE, 6, heads=False, neurons=False)
    table = LatencyTable(
        whole=WHOLE,
        cells=tuple(cells),
        seconds={m: tuple(with_square(m, *cell) for cell in cells) for m in models},
    )
    four = MeasuredModel(4, WHOLE)
    at_cells = table.batch_seconds([WHOLE] * 4, cells)
    assert at_cells == pytest.approx([with_square(four, *cell) for cell in cells])
    between = table.batch_seconds([WHOLE] * 4, [(2, 400)])[0]
    assert between == pytest.approx(with_square(four, 2, 400), rel=0.05)


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=300),
    batch_tokens=st.sampled_from([64, 1024, 4096]),
    batch_size=st.sampled_from([1, 8, 32, None]),
)
@settings(max_examples=200, deadline=None)
def test_every_batch_of_a_predictor_lies_between_cells(lengths, batch_tokens, batch_size):
    cells = table_cells(max(lengths), batch_tokens, batch_size)
    plan = plan_batches(
        np.array(lengths),
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        seed=0,
        epoch=0,
        shuffle=False,
        pad_multiple=1,
    )
    most_rows: dict[int, int] = {}
    for rows, length in cells:
        most_rows[length] = max(rows, most_rows.get(length, 0))
    grid = sorted(most_rows)
    for batch in plan:
        length = max(lengths[i] for i in batch)
        above = min(one for one in grid if one >= length)
        assert len(batch) <= most_rows[above]
        below = [one for one in grid if one < length]
        assert all(len(batch) <= most_rows[one] for one in below[-1:])


def test_what_is_measured():
    models = table_models(WHOLE, 6, heads=True, neurons=True)
    assert len(models) == 10 and {m.layers for m in models} == {1, 3}
    assert {m.shape.heads for m in models} == {12, 6, 3}
    assert {m.shape.neurons for m in models} == {1536, 768, 384}
    assert len(table_models(LayerShape(0, 0), 2, heads=False, neurons=False)) == 2
    assert len(table_models(LayerShape(1, 64), 2, heads=True, neurons=False)) == 2
    with pytest.raises(UsageError, match="one layer"):
        table_models(WHOLE, 1, heads=True, neurons=True)


def test_times_never_fall_below_nothing():
    table = table_of()
    noisy = {m: tuple(reversed(times)) for m, times in table.seconds.items()}
    broken = LatencyTable(whole=WHOLE, cells=table.cells, seconds=noisy)
    assert (broken.batch_seconds([LayerShape(1, 1)] * 9, CELLS) >= 0).all()
    with pytest.raises(UsageError, match="without layers"):
        table.batch_seconds([], CELLS)


def test_a_table_is_written_and_read():
    table = table_of()
    assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table
