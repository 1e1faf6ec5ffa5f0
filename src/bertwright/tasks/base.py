"""What a task is: its rows, what it trains for, and how its outputs become answers.

Shapes: N features, R rows, C outputs. Most tasks have one feature a row; a long text may have
several (windows).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from bertwright.data.encode import Inputs, RowEncoder, TextEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.models.outputs import Outputs
from bertwright.tasks.objective import Objective

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task(Objective):
    """One kind of question asked of a text. Stateless; its fields are its options.

    What most tasks do alike is done here; a task says what is its own.
    """

    schema: ClassVar[RowSchema]
    """What its rows hold."""
    inputs: ClassVar[tuple[str, ...]] = ("text", "text_b")
    """Stored columns that ask the question; the others are its answer."""
    shown: ClassVar[tuple[str, ...]] = ("text", "text_b")
    """Those of them that stand beside a prediction."""
    encoder: ClassVar[RowEncoder] = TextEncoder()
    """How its rows become features."""
    names_outputs: ClassVar[bool] = True
    """Whether the labels of the rows, where they have any, name the outputs of the model."""

    @property
    def answers_numbers(self) -> bool:
        """Whether `describe` words a number, of which none is just right or wrong."""
        return False

    @property
    def training_encoder(self) -> RowEncoder:
        """How rows to train on become features; as all rows do, but for few tasks."""
        return self.encoder

    @property
    def taught_encoder(self) -> RowEncoder:
        """How they become features where a teacher answers them, labels or not."""
        return self.training_encoder

    @property
    def spec(self) -> str:
        """Its name with the options that are not as usual, as `find_task` takes it."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self)]
        usual = {f.name: f.default for f in fields(self)}
        options = ",".join(f"{key}={value}" for key, value in given if value != usual[key])
        return f"{self.name}:{options}" if options else self.name

    @abstractmethod
    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return what a model of these labels has to give."""

    @abstractmethod
    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return one answer a row from the outputs of its features."""

    def label_in(self, answer: Mapping[str, Any]) -> Any:
        """Return an answer of `decode` as the label of a row of this task.

        Raises:
            UsageError: an answer is no label here; texts without labels cannot be learned from.
        """
        raise self._no_labels()

    def refuse_texts_without_labels(self) -> None:
        """Raise a UsageError where no answer can be a label; see `label_in`."""
        if type(self).label_in is Task.label_in:
            raise self._no_labels()

    def _no_labels(self) -> UsageError:
        return UsageError(
            f"texts without labels cannot be added for the task {self.name}",
            hint="it works for tasks with one answer a text: leave --more-text and --generate out",
        )

    @abstractmethod
    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return an answer of `decode` in a few words, and how sure it is if it says so."""

    @abstractmethod
    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the right answer of each row, worded as `describe` does, [R]."""
