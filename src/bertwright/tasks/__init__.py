"""The tasks by name."""

from __future__ import annotations

from bertwright.registry import Choices
from bertwright.tasks.base import Task
from bertwright.tasks.classify import Classify
from bertwright.tasks.multilabel import Multilabel, Powerset
from bertwright.tasks.regress import Regress
from bertwright.tasks.span import Span
from bertwright.tasks.tag import Tag

__all__ = ["TASKS", "Classify", "Multilabel", "Powerset", "Regress", "Span", "Tag", "Task"]

TASKS = Choices[Task](
    "task",
    {task.name: task for task in (Classify(), Multilabel(), Powerset(), Regress(), Span(), Tag())},
)
