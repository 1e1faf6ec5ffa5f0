from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bertwright.cli import tables
from bertwright.cli.tables import format_parameters, format_speed, print_json, print_rows

HEADERS = ("name", "score", "texts/s", "peak MB")
ROWS = [("a-rather-long-name@openvino:int8", "0.9123", "12,345", "512")]


def shown_on_a_terminal(monkeypatch, width: int, **options) -> str:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(tables, "Console", lambda **kwargs: terminal)
    print_rows(HEADERS, ROWS, **options)
    return screen.getvalue()


def test_a_wide_terminal_shows_all_columns(monkeypatch):
    text = shown_on_a_terminal(monkeypatch, 100, spare=("peak MB", "score"))
    for word in (*HEADERS, *ROWS[0]):
        assert word in text


def test_a_narrow_one_does_without_spare_columns_and_breaks_no_number(monkeypatch):
    text = shown_on_a_terminal(monkeypatch, 60, spare=("peak MB", "score"))
    assert "peak MB" not in text and "score" in text
    text = shown_on_a_terminal(monkeypatch, 48, spare=("peak MB", "score"))
    assert "score" not in text and "12,345" in text and ROWS[0][0] in text


def test_without_a_terminal_nothing_is_left_out(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_rows(HEADERS, ROWS, spare=HEADERS[1:])
    text = capsys.readouterr().out
    for word in (*HEADERS, *ROWS[0]):
        assert word in text


def test_json_is_one_line_without_nan(capsys):
    print_json({"a": "ä", "b": [1.5]})
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"a": "ä", "b": [1.5]}
    with pytest.raises(ValueError, match="JSON"):
        print_json(float("inf"))


def test_numbers():
    assert [format_speed(v) for v in (6.25, 99.94, 1234.5)] == ["6.2", "99.9", "1,234"]
    assert [format_parameters(n) for n in (22_713_216, 5_400)] == ["22.7M", "5k"]
