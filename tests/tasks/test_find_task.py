"""Tasks by name, with options."""

from __future__ import annotations

import pytest

from bertwright.errors import ConfigError, UnknownChoiceError
from bertwright.tasks import TASKS, find_task


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_name_alone_is_the_task_as_usual_and_its_own_spec(name):
    task = find_task(name)
    assert task.name == task.spec == name and task == find_task(task.spec)
    assert task.primary in task.metric_names


@pytest.mark.parametrize(
    "spec", ["multilabel:thresholds=each", "embed:scale=30.0,by=ranking", "senses:how=nearest"]
)
def test_options_follow_a_colon_and_stand_in_the_spec(spec):
    task = find_task(spec)
    assert task.spec == spec and find_task(task.spec) == task != find_task(task.name)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("sense", UnknownChoiceError, "did you mean 'senses'"),
        ("embed:foo=1", ConfigError, "unknown key 'foo'"),
        ("embed:scale=-1", ConfigError, "above 0"),
        ("multilabel:thresholds=some", ConfigError, "not a choice"),
        ("rerank:loss", ConfigError, "not key=value"),
        ("classify:scale=2", ConfigError, "unknown key 'scale'"),
    ],
)
def test_what_cannot_be_says_what_is_wrong(spec, error, message):
    with pytest.raises(error, match=message):
        find_task(spec)
