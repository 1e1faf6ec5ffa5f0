"""The tasks by name."""

from __future__ import annotations

from bertwright.registry import Choices
from bertwright.tasks.base import Task
from bertwright.tasks.classify import Classify

__all__ = ["TASKS", "Classify", "Task"]

TASKS = Choices[Task]("task", {"classify": Classify()})
