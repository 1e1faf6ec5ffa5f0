from __future__ import annotations

import pytest

from bertwright.errors import ConfigError
from bertwright.methods.distil.layer_map import layer_map


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, (3, 6, 9, 12)),
        ("uniform", 6, 12, (2, 4, 6, 8, 10, 12)),
        ("uniform", 6, 24, (4, 8, 12, 16, 20, 24)),
        ("uniform", 1, 6, (6,)),
        ("uniform", 4, 6, (2, 3, 5, 6)),
        ("last", 3, 12, (10, 11, 12)),
        ((2, 4, 6, 8, 10, 0), 6, 12, (2, 4, 6, 8, 10, 0)),
    ],
)
def test_layer_map(rule, student, teacher, expected):
    assert layer_map(rule, student, teacher) == expected


@pytest.mark.parametrize("rule", [(1, 2), (1, 2, 13), (0, 0, 0), "every"])
def test_maps_that_do_not_fit_are_refused(rule):
    with pytest.raises(ConfigError, match="--layers"):
        layer_map(rule, 3, 12)


def test_deeper_students_need_an_explicit_map():
    with pytest.raises(ConfigError, match="only 2"):
        layer_map("uniform", 3, 2)
    assert layer_map((1, 1, 2), 3, 2) == (1, 1, 2)
