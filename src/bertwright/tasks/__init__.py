"""The tasks by name."""

from __future__ import annotations

from bertwright.config import config_from_strings
from bertwright.registry import Choices, split_spec
from bertwright.tasks.base import Task
from bertwright.tasks.classify import Classify
from bertwright.tasks.embed import Embed
from bertwright.tasks.multilabel import Multilabel, Powerset
from bertwright.tasks.regress import Regress
from bertwright.tasks.rerank import Rerank
from bertwright.tasks.senses import Senses
from bertwright.tasks.span import Span
from bertwright.tasks.tag import Tag

__all__ = [
    "TASKS",
    "Classify",
    "Embed",
    "Multilabel",
    "Powerset",
    "Regress",
    "Rerank",
    "Senses",
    "Span",
    "Tag",
    "Task",
    "find_task",
]

TASKS = Choices[type[Task]](
    "task",
    {
        task.name: task
        for task in (Classify, Embed, Multilabel, Powerset, Regress, Rerank, Senses, Span, Tag)
    },
)


def find_task(spec: str) -> Task:
    """Return the task of this name, with options if there are any: `multilabel:thresholds=each`.

    Raises:
        UnknownChoiceError: no task has this name.
        ConfigError: an option is unknown, or its value is not of its type.
    """
    name, options = split_spec(spec, "--task")
    return config_from_strings(TASKS[name], options, source=f"--task {spec}")
