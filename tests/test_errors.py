from __future__ import annotations

import inspect

import pytest

from bertwright import errors
from bertwright.errors import (
    BertwrightError,
    DataError,
    MissingDependencyError,
    NonFiniteLossError,
    UnknownChoiceError,
    UsageError,
    closest_match,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, BertwrightError)
]


def test_every_error_is_public_and_described():
    assert len(CLASSES) > 15
    for kind in CLASSES:
        assert kind.__name__ in errors.__all__
        assert kind.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_bad_usage_exits_2_and_failed_work_1(kind):
    failed_work = {
        "BertwrightError", "CheckpointError", "ArtifactError", "DiskFullError",
        "NonFiniteLossError", "ParityError", "TimeUpError", "WorkerError",
    }  # fmt: skip
    assert kind.exit_code == (1 if kind.__name__ in failed_work else 2)
    assert issubclass(kind, ValueError) == (kind.exit_code == 2)


def test_the_hint_follows_the_message():
    error = UsageError("wrong", hint="do this")
    assert (error.message, error.hint) == ("wrong", "do this")
    assert str(error) == "wrong\n  -> do this"
    assert str(UsageError("wrong")) == "wrong"


@pytest.mark.parametrize(
    ("path", "line", "start"),
    [(None, None, "bad"), ("a.csv", None, "a.csv: bad"), ("a.csv", 7, "a.csv:7: bad")],
)
def test_data_errors_name_file_and_line(path, line, start):
    error = DataError("bad", path=path, line=line)
    assert str(error) == start
    assert (error.path, error.line) == (path, line)


def test_an_unknown_choice_lists_the_legal_ones_and_the_closest():
    text = str(UnknownChoiceError("pooling", "maen", ["mean", "cls"]))
    assert "unknown pooling 'maen'" in text
    assert "did you mean 'mean'?" in text
    assert "cls, mean" in text
    assert "did you mean" not in str(UnknownChoiceError("pooling", "zzz", ["mean", "cls"]))


def test_a_missing_library_says_what_to_install():
    assert "pip install 'bertwright[openvino]'" in str(MissingDependencyError("x", "openvino"))


def test_a_loss_that_is_not_finite_names_step_rows_and_what_was_kept():
    error = NonFiniteLossError(float("nan"), 12, range(20), kept="runs/x/checkpoints/step-10")
    assert error.rows == [str(row) for row in range(20)]
    text = str(error)
    assert "nan at step 12" in text and "0, 1, 2" in text and "15 ..." in text
    assert "runs/x/checkpoints/step-10" in text
    assert "..." not in str(NonFiniteLossError(float("inf"), 1, [3]))


def test_closest_match():
    assert closest_match("lerning_rate", ["learning_rate", "epochs"]) == "learning_rate"
    assert closest_match("xyz", ["learning_rate", "epochs"]) is None
