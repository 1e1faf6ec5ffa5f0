"""What the documents say is there is there, and what they show works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import bertwright
from bertwright.cli.parse import parse_command_line
from bertwright.config import config_from_dict, flat_fields, load_recipe
from bertwright.verbs import VERBS

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "LOG.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
RECIPES = sorted((REPOSITORY / "recipes").rglob("*.yaml"))
LIMITS = {
    "max_rows": 240,
    "max_steps": 2,
    "depths": (2,),
    "students": ("distil",),
    "engines": ("torch",),
    "exits": (0.0,),
    "repeats": 1,
    "measure_rows": 20,
    "latency_rows": 5,
}
FOLDERS = {"src", "tests", "docs", "recipes", "benchmarks", "results", "scripts", "examples", ".ci"}
ROOT_FILE = re.compile(r"[A-Z]+(\.md)?|Makefile|pyproject\.toml|constraints\.txt")


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def mentioned_paths(text: str) -> set[str]:
    """Return the repository paths in backticks: those that start with one of its folders."""
    found = set()
    for quoted in re.findall(r"`([^`\n]+)`", text):
        for word in quoted.split():
            if "/" in word and word.split("/")[0] in FOLDERS and not re.search(r"[<>*{]", word):
                found.add(word)
            elif "." in word and ROOT_FILE.fullmatch(word):
                found.add(word)
    return found


def linked_paths(text: str) -> set[str]:
    """Return the relative targets of Markdown links and images, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return {t.split("#")[0] for t in targets if "://" not in t and not t.startswith("#")}


def fenced_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shown_commands(text: str) -> list[str]:
    """Return every `bertwright VERB ...` line of the shell blocks, continued lines joined."""
    lines = "\n".join(fenced_blocks(text, "(?:bash|sh|shell|console)")).replace("\\\n", " ")
    stripped = (line.strip().removeprefix("$ ") for line in lines.splitlines())
    return [line for line in stripped if re.match(r"(\.venv/bin/)?bertwright ", line)]


def commands_of_documents() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for command in shown_commands(document.read_text(encoding="utf-8")):
            found.append((name_of(document), command))
    return found


def check_command(command: str) -> None:
    """Parse the command as the command line would; an error names what is wrong."""
    _, verb, *options = shlex.split(command, comments=True)
    if verb.startswith("--"):
        return
    entry = VERBS[verb]
    options = [word for word in options if not (word == "--json" and entry.offers_json)]
    for position, word in enumerate(options):
        if word in ("|", ">", "<", "&&"):
            options = options[:position]
            break
    parse_command_line(entry.config_type, options, prog=f"bertwright {verb}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_path_in_a_document_exists(document):
    text = document.read_text(encoding="utf-8")
    missing = {path for path in mentioned_paths(text) if not (REPOSITORY / path).exists()}
    missing |= {link for link in linked_paths(text) if not (document.parent / link).exists()}
    assert not missing


def test_the_paths_are_seen():
    text = "`src/nothing.py`, `runs/x`, `GONE.md`, [a](docs/gone.md#part) and [b](https://x.org/y)"
    assert mentioned_paths(text) == {"src/nothing.py", "GONE.md"}
    assert linked_paths(text) == {"docs/gone.md"}


def test_the_documents_name_the_rooms_there_are():
    text = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)) | {"cli"}
    package = REPOSITORY / "src" / "bertwright"
    assert described == {path.parent.name for path in package.glob("*/*.py")}
    files = set(re.findall(r"^\| `([a-z_]+\.py)` \|", text, re.MULTILINE))
    assert files | {"__init__.py", "__main__.py"} >= {path.name for path in package.glob("*.py")}


@pytest.mark.parametrize(("document", "command"), commands_of_documents())
def test_every_command_in_a_document_parses(document, command):
    check_command(command)


def test_a_wrong_command_is_noticed():
    text = "```bash\n$ bertwright evaluate \\\n  --modle runs/x --data test.jsonl  # a remark\n```"
    (command,) = shown_commands(text)
    with pytest.raises(ValueError, match="--modle"):
        check_command(command)


def keep_small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give every verb the limits in `LIMITS` that it knows; return the list of verbs called."""
    called: list[str] = []
    call_verb = bertwright._call_verb

    def call_small(name: str, options: dict[str, Any]) -> Any:
        called.append(name)
        known = {field for field, _ in flat_fields(VERBS[name].config_type)}
        return call_verb(name, options | {k: v for k, v in LIMITS.items() if k in known})

    monkeypatch.setattr(bertwright, "_call_verb", call_small)
    return called


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_python_of_a_document_runs(document, tmp_path, monkeypatch):
    blocks = fenced_blocks(document.read_text(encoding="utf-8"), "python")
    called = keep_small(monkeypatch)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, name_of(document), "exec"), names)
    verbs = re.findall(r"\bbertwright\.(\w+)\(", "\n".join(blocks))
    assert called == [verb for verb in verbs if verb in VERBS]


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_every_recipe_is_understood(recipe):
    verb, values = load_recipe(recipe)
    config_from_dict(VERBS[verb].config_type, values, source=name_of(recipe))


def test_there_are_recipes():
    assert RECIPES
