"""What matters in a teacher, for the report: every family has an answer."""

from __future__ import annotations

import math

import pytest

from bertwright.compress.importance import measure_importance
from bertwright.tasks import find_task
from methods.cases import tiny_rows, tiny_teacher
from tiny import FAMILY_NAMES


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_has_what_it_can_have(family):
    teacher = tiny_teacher(family)
    found = measure_importance(teacher, tiny_rows(teacher, 12), find_task("classify"))
    assert found is not None
    assert ("heads" in found) == (family not in ("albert", "modernbert", "mpnet", "xlnet"))
    assert ("neurons" in found) == (family not in ("albert", "mobilebert", "modernbert"))
    for part in ("layers", "neurons"):
        if part in found:
            assert len(found[part]) == teacher.roles.num_layers
            assert all(math.isfinite(one) for one in found[part])
