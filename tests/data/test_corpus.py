from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bertwright.data import corpus, load_rows
from bertwright.errors import DataError


def sentences(docstring):
    return list(corpus._sentences(docstring))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "Return the :class:`~a.b.Thing` of all ``rows`` in *order*.",
            "Return the Thing of all rows in order.",
        ),
        (
            "See the `user guide <https://x.y>`_ for all of the details [1]_ .",
            "See the user guide for all of the details.",
        ),
        (
            "Read [the long page](https://x.y/z) before you call [`make_it`].",
            "Read the long page before you call make_it.",
        ),
        (
            "As in :ref:`the chapter <target-x>`, values are kept as they are.",
            "As in the chapter, values are kept as they are.",
        ),
    ],
)
def test_markup_is_removed(given, expected):
    assert sentences(given) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "Too short to be used.",
        "lower case begins a sentence which is cut from its head.",
        "This one has no end and so it is not a sentence",
        "A numpy array is what this function returns to you.",
        "Pass np or another module that looks like it here.",
        "Wraps PyTorch modules so that they can be used here.",
        "This is a scikit-learn compatible estimator for all users.",
        "It is found on the Hugging Face servers under this name.",
        "Uses the as_python_constant of the object when it is there.",
        "Calls foo.bar on each of the values that are given.",
        "Set x = 3 before you call this function again later.",
        "See :ref:`some_target` for all of the details of it.",
        "- A list item that is long enough to be one.",
        ">>> A prompt that is long enough to be one.",
        "word " * 41 + "end.",
    ],
)
def test_what_is_no_clean_prose_is_left_out(text):
    assert sentences(text) == []


def test_only_the_description_is_used():
    text = """Compute the sum of all values in a row.

    The sum is taken in the order of the rows. It is exact.

    Parameters
    ----------
    x : array
        The values which are to be added up here.

    Returns:
        The sum of all of the values that were given.
    """
    import inspect

    assert sentences(inspect.cleandoc(text)) == [
        "Compute the sum of all values in a row.",
        "The sum is taken in the order of the rows.",
    ]


def test_near_duplicates_share_a_form():
    one, *others = (
        corpus._normal_forms(sentence)
        for sentence in (
            "Constructs a BertTokenizer of the usual kind, version 2.",
            "Constructs a RobertaTokenizer of the usual kind, version 3.",
            "constructs a GPT2Tokenizer, of the usual kind version 14.",
            "Constructs a berttokenizer of the USUAL kind (version 7).",
        )
    )
    assert all(one & other for other in others)
    assert not one & corpus._normal_forms("Constructs another of the usual kind.")


def library(root: Path, name: str, number: int) -> Path:
    folder = root / name
    (folder / "tests").mkdir(parents=True)
    words = [chr(97 + i) * 3 + chr(97 + j) * 3 for i in range(26) for j in range(26)]
    functions = [
        f'def f{i}():\n    """The {name} maker gives {words[i]} to all who ask."""\n'
        for i in range(number)
    ]
    shared = 'class Shared:\n    """This sentence stands in both of the libraries."""\n'
    (folder / "code.py").write_text("\n".join([*functions, shared]))
    hidden = '"""This sentence of a test is not to be used."""\n'
    (folder / "tests" / "test_code.py").write_text(hidden)
    (folder / "broken.py").write_text("def (:\n")
    compiled = 'add_newdoc("m", "f", """\n    Sum that the {} library compiled for us.\n    """)\n'
    (folder / "added.py").write_text(compiled.format(name))
    return folder


def test_build_is_balanced_split_and_without_shared_sentences(tmp_path):
    folders = {"apple": library(tmp_path, "apple", 60), "pear": library(tmp_path, "pear", 40)}
    rows = corpus._build(folders)
    assert {split: len(part) for split, part in rows.items()} == {"train": 66, "dev": 8, "test": 8}
    for part in rows.values():
        counts = Counter(label for _, label in part)
        assert counts["apple"] == counts["pear"]
    texts = [text for part in rows.values() for text, _ in part]
    assert len(set(texts)) == len(texts) == 82
    assert "Sum that the pear library compiled for us." in texts
    assert not any("both of the libraries" in text or "of a test" in text for text in texts)
    assert all(label in text for part in rows.values() for text, label in part)
    assert corpus._build(folders) == rows


def test_one_library_is_not_enough(tmp_path):
    with pytest.raises(DataError, match="two libraries"):
        corpus._build({"apple": library(tmp_path, "apple", 30)})


def test_corpus_is_cached_and_loaded_by_name(tmp_path, monkeypatch):
    folders = {"torch": library(tmp_path, "torche", 40), "numpy": library(tmp_path, "nump", 40)}
    monkeypatch.setattr(corpus, "_library_folders", lambda: folders)
    monkeypatch.setattr(corpus, "_TELLTALE", corpus.re.compile("never"))
    cache = tmp_path / "cache"
    paths = corpus.builtin_corpus(cache)
    assert list(paths) == ["train", "dev", "test"]
    before = {split: path.read_bytes() for split, path in paths.items()}
    rows = load_rows("builtin:test", cache_dir=cache)
    assert rows.labels is not None
    assert rows.labels.names == ("numpy", "torch")
    assert len(load_rows("builtin", cache_dir=cache)) == len(before["train"].splitlines())
    monkeypatch.setattr(corpus, "_build", lambda folders: pytest.fail("built again"))
    assert corpus.builtin_corpus(cache) == paths
    monkeypatch.undo()
    monkeypatch.setattr(corpus, "_library_folders", lambda: folders)
    monkeypatch.setattr(corpus, "_TELLTALE", corpus.re.compile("never"))
    paths["dev"].write_text("damaged")
    assert {s: p.read_bytes() for s, p in corpus.builtin_corpus(cache).items()} == before


@pytest.fixture(scope="module")
def real():
    return {
        split: [json.loads(line) for line in path.read_text().splitlines()]
        for split, path in corpus.builtin_corpus().items()
    }


@pytest.mark.slow
def test_real_corpus_is_large_balanced_and_clean(real):
    sizes = {split: len(rows) for split, rows in real.items()}
    total = sum(sizes.values())
    assert 8_000 < total < 11_000
    assert sizes["dev"] == sizes["test"] == pytest.approx(total / 10, rel=0.02)
    for rows in real.values():
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == set(corpus.CORPUS_LIBRARIES)
        assert len(set(counts.values())) == 1
    everything = [row for rows in real.values() for row in rows]
    for row in everything:
        assert 6 <= len(row["text"].split()) <= 40
        low = row["text"].lower()
        for name in ("numpy", "scipy", "sklearn", "scikit", "torch", "python", "hugging"):
            assert name not in low
        assert not {"np", "tf", "transformers", "hf"} & set(low.replace(".", " ").split())
    stripped = ["".join(c for c in row["text"].lower() if c.isalpha()) for row in everything]
    assert len(set(stripped)) == len(stripped) == total


@pytest.mark.slow
def test_real_corpus_is_learnable_but_not_trivial(real):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def columns(split):
        return [row["text"] for row in real[split]], [row["label"] for row in real[split]]

    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    score = model.fit(*columns("train")).score(*columns("test"))
    assert 0.65 < score < 0.85


@pytest.mark.slow
def test_real_corpus_is_deterministic(real):
    again = corpus._build(corpus._library_folders())
    assert again["test"] == [(row["text"], row["label"]) for row in real["test"]]
