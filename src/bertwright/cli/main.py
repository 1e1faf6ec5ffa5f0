"""`bertwright`: find the verb, read its options, do it, print what it returns."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from bertwright.errors import BertwrightError, UnknownChoiceError, UsageError
from bertwright.verbs import VERBS, VerbEntry

__all__ = ["main"]

INTERRUPTED = 130
RESUMABLE = ("finetune", "multitask", "distil", "run", "compress", "compare")
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed), 2 (bad usage or input)."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return _dispatch(words)
    except BertwrightError as error:
        _print_error(error, words)
        return error.exit_code
    except KeyboardInterrupt:
        hint = "; the same command with --resume carries it on" if words[0] in RESUMABLE else ""
        _stderr().print(f"\ninterrupted{hint}", style="yellow", highlight=False)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of stdout went away; keep Python from complaining again while it shuts down
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2


def _dispatch(words: list[str]) -> int:
    if not words:
        _print_overview(_stderr())
        return UsageError.exit_code
    first, rest = words[0], words[1:]
    if first in ("-h", "--help") or (first == "help" and not rest):
        _print_overview(Console())
        return 0
    if first in ("-V", "--version"):
        sys.stdout.write(f"bertwright {importlib.metadata.version('bertwright')}\n")
        return 0
    if first == "help":
        first, rest = rest[0], ["--help"]
    if first.startswith("-"):
        raise UsageError(
            f"unknown option {first}", hint="a command comes first: bertwright COMMAND [OPTIONS]"
        )
    return _run_verb(VERBS[first], rest)


def _run_verb(entry: VerbEntry, words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        from bertwright.cli.help import print_verb_help

        print_verb_help(Console(), entry)
        return 0
    as_json = entry.offers_json and "--json" in words
    if as_json:
        words = [word for word in words if word != "--json"]
    from bertwright.cli.parse import parse_command_line

    config = parse_command_line(entry.config_type, words, prog=f"bertwright {entry.name}")
    front = importlib.import_module(f"bertwright.cli.{entry.name}")
    result = getattr(front, "call", entry.function)(config)
    return front.show(result, as_json=as_json)


def _print_overview(console: Console) -> None:
    from bertwright.cli.help import print_overview

    print_overview(console)


def _print_error(error: BertwrightError, words: list[str]) -> None:
    console = _stderr()
    console.print(
        Text.assemble(("error: ", "bold red"), error.message), highlight=False, soft_wrap=True
    )
    hint = error.hint
    if isinstance(error, UnknownChoiceError) and words and words[0] not in VERBS:
        hint += ". bertwright --help describes them"
    if hint:
        console.print(Text.assemble(("  -> ", "green"), hint), highlight=False, soft_wrap=True)


def _stderr() -> Console:
    return Console(stderr=True)
