"""The built-in corpus: sentences from the docstrings of installed libraries.

The task is to say which library a sentence was written for. Source files are parsed, never
imported. Every step is deterministic, so the same library versions give the same corpus.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from bertwright.data.cache import cache_root, open_folder, publish_folder, scratch_folder
from bertwright.errors import DataError
from bertwright.files import atomic_write_text
from bertwright.progress import Progress

__all__ = ["CORPUS_LIBRARIES", "CORPUS_SPLITS", "builtin_corpus"]

CORPUS_SPLITS = ("train", "dev", "test")
CORPUS_LIBRARIES = ("numpy", "scikit-learn", "scipy", "standard library", "torch", "transformers")
"""The labels."""

_FORMAT_VERSION = 1
_ROWS_PER_LIBRARY = 1667
_CANDIDATES_PER_LIBRARY = 2400
_HELD_SHARE = 0.1
_SEED = 0
_MIN_WORDS, _MAX_WORDS = 6, 40
_MAX_FILE_BYTES = 400_000

_IMPORT_NAMES = {"scikit-learn": "sklearn"}
_SKIPPED_FOLDERS = {
    "tests", "test", "testing", "_vendor", "vendor", "_vendored_packages", "externals", "extern",
    "array_api_compat", "array_api_extra", "site-packages", "idlelib", "lib2to3", "distutils",
    "turtledemo", "ensurepip", "pip", "__pycache__", "_pyinstaller", "include", "node_modules",
}  # fmt: skip
"""Tests, and copies of other libraries."""

_DOC_SETTERS = {"add_newdoc", "add_docstr"}

_SECTION = re.compile(
    r"""^[ \t]*(
        \S[^\n]*\n[ \t]*[-=~^"]{3,}[ \t]*$
      | (Args?|Arguments|Parameters?|Params|Returns?|Raises|Yields|Examples?|Notes?|References?
        |Attributes|Usage|Shape|Inputs?|Outputs?|Keyword\ [Aa]rg\w*|See\ [Aa]lso|Warnings?|Tips?)
        [ \t]*:
    )""",
    re.MULTILINE | re.VERBOSE,
)
_NOT_PROSE = re.compile(r"\s*(>>>|\.\.|[-*+#|:]|\d+[.)]|```|[\w.]+\(|@)|^[ \t]{2,}")
_MARKUP = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r":[\w:]+:`([^`<]+?)\s*<[^>]*>`", r"\1"),
        (r":(?!ref|doc)[\w:]+:`~?(?:[\w.]*[.])?(\w+)(?:\(\))?`", r"\1"),
        (r"`([^`<]+?)\s*<[^>]*>`_*", r"\1"),
        (r"\[([^\]]+)\]\([^)]*\)", r"\1"),
        (r"\s*\[\d+\]_?", ""),
        (r"\[`~?(?:[\w.]*\.)?(\w+)`\]", r"\1"),
        (r"`+([^`]*)`+_*", r"\1"),
        (r"(?<!\w)\*{1,2}(\w[^*]*?)\*{1,2}(?!\w)", r"\1"),
        (r"\(\s*\)", ""),
        (r"\s+([.,;:])", r"\1"),
    )
]
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"'][.!?])\s+(?=[\"'(]?[A-Z])")
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()/_%+*.!?-]*[a-z0-9)][.]")
_CODE = re.compile(
    r"\w[.](?!g[.]|e[.])[A-Za-z_]|__|--|\*\*|\w\(|https?:|\bwww\b|\b\w+/\w+/|[:]\w|TODO|XXX"
)

_TELLTALE = re.compile(
    r"""numpy|num\s+py|scipy|sklearn|scikit|torch|python|hugging\s?face|tensor[\s-]?flow
      | dynamo|inductor|autograd|stdlib|standard\s+library
      | (?<![a-z])(np|f2py|aten|transformers?|hf|tf|keras|flax|jax|peps?|py)(?![a-z])
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Names of the libraries, of their kin, and short forms of them."""


def builtin_corpus(cache_dir: str | Path | None = None) -> dict[str, Path]:
    """Return the files of the built-in corpus, building them if this is the first time.

    About 10,000 sentences, as many from each library, without library names, without duplicates
    (nor near-duplicates that differ in case, digits, names or punctuation), 80% train, 10% dev and
    10% test, each class in proportion.

    Args:
        cache_dir: root of the cache; None: the user's.

    Returns:
        {"train", "dev", "test"} to JSON Lines files of {"text", "label"}.

    Raises:
        DataError: fewer than two of the libraries are installed as source.
    """
    folders = _library_folders()
    key = json.dumps([_FORMAT_VERSION, _versions(folders)])
    target = (
        cache_root("corpus", cache_dir) / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    )
    if open_folder(target) is None:
        with scratch_folder(target.parent) as scratch:
            for split, rows in _build(folders).items():
                lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
                atomic_write_text(scratch / f"{split}.jsonl", "".join(f"{x}\n" for x in lines))
            publish_folder(scratch, target, {"versions": _versions(folders)})
    return {split: target / f"{split}.jsonl" for split in CORPUS_SPLITS}


def _library_folders() -> dict[str, Path]:
    folders = {}
    for label in CORPUS_LIBRARIES:
        if label == "standard library":
            folders[label] = Path(sysconfig.get_path("stdlib"))
            continue
        spec = importlib.util.find_spec(_IMPORT_NAMES.get(label, label))
        if spec is not None and spec.submodule_search_locations:
            folders[label] = Path(next(iter(spec.submodule_search_locations)))
    return folders


def _versions(folders: dict[str, Path]) -> dict[str, str]:
    return {
        label: platform.python_version()
        if label == "standard library"
        else importlib.metadata.version(label)
        for label in folders
    }


def _build(folders: dict[str, Path]) -> dict[str, list[tuple[str, str]]]:
    """Return the rows (text, label) of each split."""
    found = {}
    with Progress("build corpus", total=len(folders), unit="libraries") as bar:
        for label, folder in folders.items():
            found[label] = _candidates(folder)
            bar.advance()
    found = {label: sentences for label, sentences in _without_shared(found).items() if sentences}
    if len(found) < 2:
        raise DataError("the built-in corpus needs the source files of two libraries")
    number = min(_ROWS_PER_LIBRARY, min(map(len, found.values())))
    rng = np.random.default_rng(_SEED)
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in CORPUS_SPLITS}
    held = round(_HELD_SHARE * number)
    for label, sentences in found.items():
        order = rng.permutation(len(sentences))[:number]
        drawn = [(sentences[index], label) for index in order]
        rows["dev"] += drawn[:held]
        rows["test"] += drawn[held : 2 * held]
        rows["train"] += drawn[2 * held :]
    return {split: [part[i] for i in rng.permutation(len(part))] for split, part in rows.items()}


def _candidates(folder: Path) -> list[str]:
    """Return usable sentences of a library without near-duplicates, files in a scattered order."""
    found: list[str] = []
    seen: set[str] = set()
    for path in _source_files(folder):
        for sentence in chain.from_iterable(map(_sentences, _docstrings(path))):
            forms = _normal_forms(sentence)
            if seen.isdisjoint(forms):
                found.append(sentence)
            seen |= forms
        if len(found) >= _CANDIDATES_PER_LIBRARY:
            break
    return found


def _source_files(folder: Path) -> list[Path]:
    files = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).parts
        if _SKIPPED_FOLDERS.isdisjoint(parts[:-1]) and path.stat().st_size <= _MAX_FILE_BYTES:
            files.append(path)

    def scattered(path: Path) -> str:
        return hashlib.blake2b(path.relative_to(folder).as_posix().encode()).hexdigest()

    return sorted(files, key=scattered)


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file, and those it gives to compiled functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            if name.lstrip("_") in _DOC_SETTERS:
                yield from map(inspect.cleandoc, _long_strings(node.value.args))


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the tree and every statement in it; expressions are not entered, which is quick."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, block, None)
            if isinstance(inner, list):
                waiting += reversed(inner)


def _long_strings(arguments: list[ast.expr]) -> Iterator[str]:
    for argument in arguments:
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if "\n" in node.value:
                    yield node.value


def _sentences(docstring: str) -> Iterator[str]:
    """Yield the usable sentences of a docstring's description, its paragraphs before any section.

    Usable: 6-40 words, plain English prose in ASCII without code, and no library is named.
    """
    description = _SECTION.split(docstring, maxsplit=1)[0]
    for paragraph in re.split(r"\n\s*\n", description):
        if _NOT_PROSE.match(paragraph):
            continue
        prose = " ".join(paragraph.split())
        for pattern, plain in _MARKUP:
            prose = pattern.sub(plain, prose)
        for sentence in _SENTENCE_END.split(prose):
            if _is_usable(sentence):
                yield sentence


def _is_usable(sentence: str) -> bool:
    return (
        _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS
        and _PLAIN.fullmatch(sentence) is not None
        and _CODE.search(sentence) is None
        and _TELLTALE.search(sentence) is None
    )


def _normal_forms(sentence: str) -> set[str]:
    """Return what is left of a sentence; near-duplicates share a form.

    The first form has only the letters, in lower case. The second also lacks names and
    identifiers: words with capitals, digits or underscores after the first word.
    """
    first, *rest = sentence.split()
    common = [first, *(word for word in rest if not re.search(r"[A-Z0-9_]", word))]
    return {re.sub(r"[^a-z]", "", " ".join(words).lower()) for words in ([first, *rest], common)}


def _without_shared(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Drop sentences that two libraries have: they have no right answer."""
    forms = {
        label: [_normal_forms(sentence) for sentence in sentences]
        for label, sentences in found.items()
    }
    owners = Counter(form for of_label in forms.values() for form in set().union(*of_label))
    return {
        label: [
            sentence
            for sentence, its_forms in zip(sentences, forms[label], strict=True)
            if all(owners[form] == 1 for form in its_forms)
        ]
        for label, sentences in found.items()
    }
