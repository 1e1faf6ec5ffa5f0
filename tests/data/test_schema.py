from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertwright.data.labels import LabelSet, label_name
from bertwright.data.schema import classes, resolve_columns
from bertwright.errors import ConfigError, FileFormatError, MissingColumnError, UnknownLabelError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["text", "label"], ("text", None, "label")),
        (["text", "text_b", "label"], ("text", "text_b", "label")),
        (["id", "sentence1", "sentence2", "labels"], ("sentence1", "sentence2", "labels")),
        (["premise", "hypothesis", "class"], ("premise", "hypothesis", "class")),
        (["query", "intent"], ("query", None, "intent")),
        ([" Text ", "LABEL"], (" Text ", None, "LABEL")),
        (["text", "sentence", "label", "category"], ("text", None, "label")),
    ],
)
def test_columns_are_found_by_name(names, expected):
    found = resolve_columns(names, classes())
    assert (found["text"], found.get("text_b"), found["label"]) == expected


def test_given_columns_win_over_names():
    names = ["text", "title", "label", "topic"]
    found = resolve_columns(names, classes(), {"text": "title", "label": "topic"})
    assert found == {"text": "title", "label": "topic"}


def test_two_candidates_are_not_guessed_between():
    with pytest.raises(
        FileFormatError, match=r"x\.csv.*'sentence', 'query' could each be the text"
    ):
        resolve_columns(["sentence", "query", "label"], classes(), path="x.csv")
    with pytest.raises(FileFormatError, match="--label-column"):
        resolve_columns(["text", "intent", "target"], classes())


def test_missing_columns_are_named_with_what_is_there():
    with pytest.raises(MissingColumnError, match=r"no text column among 'body_html', 'label'"):
        resolve_columns(["body_html", "label"], classes())
    with pytest.raises(MissingColumnError, match="--label-column"):
        resolve_columns(["text"], classes())
    with pytest.raises(MissingColumnError, match="did you mean --text-column 'sentence'"):
        resolve_columns(["sentence", "label"], classes(), {"text": "sentense"})


def test_labels_are_left_out_when_not_needed():
    found = resolve_columns(["text", "intent", "target"], classes(), need_label=False)
    assert found == {"text": "text"}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (" yes ", "yes"), (3, "3"), (-1, "-1"), (2.0, "2"), (True, "true"), (False, "false"),
        ("", None), ("  ", None), (None, None), (float("nan"), None), ("1.0", "1.0"),
    ],
)  # fmt: skip
def test_label_name(value, name):
    assert label_name(value) == name


@pytest.mark.parametrize("value", [0.5, float("inf"), [1], {"a": 1}])
def test_label_name_refuses_what_is_no_class(value):
    with pytest.raises(TypeError, match="neither a string nor an integer"):
        label_name(value)


def test_integer_labels_are_sorted_by_value():
    assert LabelSet.from_values([10, 9, 2, 10, None]).names == ("2", "9", "10")
    assert LabelSet.from_values(["10", "9", "-2"]).names == ("-2", "9", "10")
    assert LabelSet.from_values(["10", "9", "b"]).names == ("10", "9", "b")


def test_label_set_round_trips():
    labels = LabelSet(("no", "yes", "oos"))
    assert [labels.name_of(labels.id_of(name)) for name in labels] == ["no", "yes", "oos"]
    assert LabelSet.from_json(labels.to_json()) == labels
    assert len(labels) == 3
    assert "yes" in labels
    assert "maybe" not in labels


def test_label_set_refuses_nonsense():
    with pytest.raises(ConfigError, match="empty"):
        LabelSet(())
    with pytest.raises(ConfigError, match="named twice: a"):
        LabelSet(("a", "b", "a"))
    with pytest.raises(ConfigError, match="list of strings"):
        LabelSet.from_json({"a": 0})
    with pytest.raises(IndexError):
        LabelSet(("a",)).name_of(-1)


def test_unknown_label_names_place_and_closest():
    with pytest.raises(UnknownLabelError, match=r"d\.jsonl:7: unknown label 'positiv'") as caught:
        LabelSet(("negative", "positive")).id_of("positiv", path="d.jsonl", line=7)
    assert "did you mean 'positive'" in str(caught.value)
    assert caught.value.exit_code == 2


@given(st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1))
def test_label_order_does_not_depend_on_row_order(values):
    if any(label_name(value) for value in values):
        labels = LabelSet.from_values(values)
        assert labels == LabelSet.from_values(reversed(values))
        assert len(labels) == len({label_name(v) for v in values} - {None})
