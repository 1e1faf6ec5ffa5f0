from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from bertwright.cli.main import main
from bertwright.errors import BudgetError, DiskFullError
from bertwright.verbs import VERBS


def run_python(code: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_goes_to_stdout(words, capsys):
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "finetune" in captured.out and captured.err == ""


@pytest.mark.parametrize("words", [["methods", "--help"], ["help", "methods"], ["methods", "-h"]])
def test_help_of_a_verb(words, capsys):
    assert main(words) == 0
    assert "bertwright methods" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "bertwright" and version[0].isdigit()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Usage"),
        (["finetun"], "did you mean 'finetune'?"),
        (["--fast"], "unknown option --fast"),
        (["help", "nothing"], "unknown command 'nothing'"),
        (["methods", "thesus"], "did you mean 'theseus'?"),
        (["methods", "--jsn"], "unknown option --jsn"),
        (["run"], "RECIPE is missing"),
        (["run", "none.yaml"], "none.yaml: no such recipe file"),
        (["finetune", "--data", "d"], "--out is missing"),
        (["finetune", "--data", "d", "--out", "o", "--lr", "fast"], "--lr"),
        (["finetune", "--data", "d", "--out", "o", "--lr", "-1"], "--lr"),
        (["finetune", "--data", "d", "--out", "o", "--task", "tagg"], "did you mean 'tag'?"),
        (["predict", "--model", "m"], "give either --text or --input"),
        (["benchmark"], "--target is missing"),
        (["export", "--model", "m", "--out", "o"], "--format is missing"),
        (["evaluate", "--model", "nowhere", "--data", "d"], "--model nowhere: not a trained model"),
    ],
)
def test_bad_usage_exits_2_and_says_why_on_stderr(words, told, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


class Fake:
    """A verb's front that fails, or returns what it is told to."""

    def __init__(self, outcome) -> None:
        self.outcome = outcome

    def call(self, config):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def show(self, result, *, as_json=False):
        return result


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (DiskFullError("no room [here]", hint="make some"), 1, "error: no room [here]\n  -> make"),
        (BudgetError("--keep 2"), 2, "error: --keep 2"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_exit_status_and_message(outcome, code, told, capsys, monkeypatch):
    real = importlib.import_module
    fake = Fake(outcome)
    monkeypatch.setattr(
        "bertwright.cli.main.importlib.import_module",
        lambda name: fake if name == "bertwright.cli.methods" else real(name),
    )
    monkeypatch.setattr("bertwright.cli.main.os.dup2", lambda a, b: None)
    assert main(["methods"]) == code
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_an_unexpected_error_shows_where_and_exits_1():
    code = (
        "import sys, bertwright.verbs.methods as m, bertwright.cli.main as c\n"
        "def broken(config): raise KeyError('surprise')\n"
        "m.methods = broken\n"
        "sys.exit(c.main(['methods']))"
    )
    done = run_python(code)
    assert done.returncode == 1
    assert "surprise" in done.stderr and "Traceback" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_start_up_does_not_load_torch(word):
    code = (
        "import sys\nfrom bertwright.cli.main import main\n"
        f"assert main([{word!r}]) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_every_verb_has_a_front():
    for name in VERBS:
        assert callable(importlib.import_module(f"bertwright.cli.{name}").show)


def test_the_script_and_the_module_are_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "bertwright", "finetun"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 2 and "did you mean" in done.stderr and done.stdout == ""


def test_methods_as_a_list_a_page_and_json(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert main(["methods", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert len(cards) >= 5
    for card in cards:
        assert f"  {card['name']}" in listed
    assert main(["methods", "theseus"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    theseus = next(card for card in cards if card["name"] == "theseus")
    for text in theseus.values():
        assert " ".join(str(text).split()) in shown
    for option in ("replace_share", "base_rate"):
        assert option in shown


def test_doctor_as_a_page_and_json(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for title in ("Machine", "Processor features", "Libraries", "Engines"):
        assert title in shown
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True and report["machine"]["cores"] >= 1
    assert report["libraries"]["core"]["torch"]
