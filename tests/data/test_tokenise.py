from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from bertwright.data import encode_texts, load_rows, tokenise
from bertwright.data import tokenise as tokenise_function
from bertwright.data.encode import uses_token_types
from bertwright.data.tokenise import hash_tokenizer
from bertwright.errors import ConfigError, ModelLoadError, RowTooLongError, UnknownChoiceError
from tiny import FAMILY_NAMES, tiny_tokenizer

TEXTS = ["the good film", "bad!", "a dog and a cat in the house " * 9, "Zebra 7"]
OTHERS = ["no", "a very slow old car " * 5, "yes", "the dog"]


def source(pairs=False, labels=True):
    return [
        {"text": a, **({"text_b": b} if pairs else {}), **({"label": i % 2} if labels else {})}
        for i, (a, b) in enumerate(zip(TEXTS, OTHERS, strict=True))
    ]


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("pairs", [False, True])
def test_tokens_are_those_of_the_tokenizer(family, pairs):
    tokenizer = tiny_tokenizer(family)
    encoded = tokenise(load_rows(source(pairs)), tokenizer, max_length=20)
    tokens = encoded.tokens(np.arange(4))
    types = encoded.token_types(np.arange(4))
    num_long = 0
    for i in range(4):
        texts = (TEXTS[i], OTHERS[i]) if pairs else (TEXTS[i],)
        one = tokenizer(*texts, truncation="longest_first", max_length=20)
        assert tokens[i].tolist() == one["input_ids"]
        assert encoded.dataset[i]["input_ids"] == one["input_ids"]
        if types is not None:
            assert types[i].tolist() == one["token_type_ids"]
        num_long += len(tokenizer(*texts)["input_ids"]) > 20
        whole = tokenizer(*texts)["input_ids"]
        ends = [token for token in (whole[0], whole[-1]) if token in tokenizer.all_special_ids]
        assert ends
        assert set(ends) <= set(tokens[i].tolist())
    assert encoded.num_truncated == num_long > 0
    assert encoded.lengths.tolist() == [len(t) for t in tokens]
    assert encoded.lengths.dtype == np.int32
    assert encoded.lengths.max() == 20
    assert tokens[0].dtype == np.int32
    assert (types is not None) == uses_token_types(tokenizer, pairs=pairs)
    assert encoded.label_ids.tolist() == [0, 1, 0, 1]
    assert encoded.row_numbers.tolist() == [0, 1, 2, 3]
    assert encoded.pad_token_id == tokenizer.pad_token_id


def test_token_types_are_kept_only_where_they_say_something():
    assert not uses_token_types(tiny_tokenizer("bert"), pairs=False)
    assert uses_token_types(tiny_tokenizer("bert"), pairs=True)
    assert not uses_token_types(tiny_tokenizer("roberta"), pairs=True)
    assert not uses_token_types(tiny_tokenizer("distilbert"), pairs=True)


def test_encode_texts_leaves_the_tokenizer_as_it_found_it_in_effect(tokenizer):
    batch = encode_texts(tokenizer, TEXTS, max_length=8)
    assert [len(ids) for ids in batch.input_ids] == [5, 4, 8, 8]
    assert batch.lengths.tolist() == [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert batch.token_type_ids is None
    assert len(tokenizer(TEXTS[2])["input_ids"]) > 60


def test_slow_tokenizers_work_too(tokenizer):
    class Slow:
        """The part of a tokenizer without a backend that tokenisation uses."""

        model_input_names = ("input_ids", "attention_mask")
        pad_token_id = 0
        all_special_tokens = ("[PAD]",)

        def __call__(self, *args, **options):
            return tokenizer(*args, **options)

        def get_vocab(self):
            return tokenizer.get_vocab()

        def num_special_tokens_to_add(self, pair):
            return tokenizer.num_special_tokens_to_add(pair=pair)

    rows = load_rows(source())
    slow = tokenise(rows, Slow(), max_length=16)  # type: ignore[arg-type]
    fast = tokenise(rows, tokenizer, max_length=16)
    assert slow.fingerprint != fast.fingerprint
    for ours, theirs in zip(slow.tokens(np.arange(4)), fast.tokens(np.arange(4)), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert slow.num_truncated == fast.num_truncated == 1


def count_encodes(monkeypatch):
    module = import_module("bertwright.data.encode")

    calls = []
    original = module.encode_texts

    def counted(*args, **options):
        calls.append(1)
        return original(*args, **options)

    monkeypatch.setattr(module, "encode_texts", counted)
    return calls


def test_a_second_time_comes_from_the_cache(tokenizer, tmp_path, monkeypatch):
    calls = count_encodes(monkeypatch)
    rows = load_rows(source())
    first = tokenise(rows, tokenizer, max_length=16, cache_dir=tmp_path)
    again = tokenise(load_rows(source()), tiny_tokenizer("bert"), max_length=16, cache_dir=tmp_path)
    assert len(calls) == 1
    assert again.fingerprint == first.fingerprint
    assert again.num_truncated == first.num_truncated == 1
    (file,) = again.dataset.cache_files
    assert file["filename"].startswith(str(tmp_path))


def test_the_cache_key_holds_content_tokenizer_and_options(tokenizer, tmp_path):
    rows = load_rows(source())
    other = tiny_tokenizer("bert")
    other.add_tokens(["zebra"])
    prints = {
        tokenise(rows, tokenizer, cache_dir=tmp_path).fingerprint,
        tokenise(rows, tokenizer, max_length=64, cache_dir=tmp_path).fingerprint,
        tokenise(rows, other, cache_dir=tmp_path).fingerprint,
        tokenise(rows, tiny_tokenizer("roberta"), cache_dir=tmp_path).fingerprint,
        tokenise(load_rows(source()[:3]), tokenizer, cache_dir=tmp_path).fingerprint,
        tokenise(load_rows(source(pairs=True)), tokenizer, cache_dir=tmp_path).fingerprint,
    }
    assert len(prints) == 6


def test_hash_ignores_where_it_was_loaded_from_and_what_it_did_last(tokenizer, tmp_path):
    before = hash_tokenizer(tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=9, padding=True)
    assert hash_tokenizer(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    loaded = type(tokenizer).from_pretrained(tmp_path)
    assert hash_tokenizer(loaded) == before


@pytest.mark.parametrize("damage", ["twisted", "truncated", "deleted", "meta"])
def test_a_damaged_cache_is_made_again(tokenizer, tmp_path, monkeypatch, damage):
    rows = load_rows(source())
    first = tokenise(rows, tokenizer, cache_dir=tmp_path)
    expected = [t.tolist() for t in first.tokens(np.arange(4))]
    folder = tmp_path / "tokens" / first.fingerprint
    (tokens,) = folder.glob("*.arrow")
    data = bytearray(tokens.read_bytes())
    del first
    if damage == "twisted":
        data[len(data) // 2] ^= 0xFF
        tokens.unlink()
        tokens.write_bytes(data)
    elif damage == "truncated":
        tokens.unlink()
        tokens.write_bytes(data[: len(data) // 2])
    elif damage == "deleted":
        tokens.unlink()
    else:
        (folder / "meta.json").write_text("{")
    calls = count_encodes(monkeypatch)
    again = tokenise(rows, tokenizer, cache_dir=tmp_path)
    assert len(calls) == 1
    assert [t.tolist() for t in again.tokens(np.arange(4))] == expected


def test_an_interrupted_run_leaves_no_half_cache(tokenizer, tmp_path, monkeypatch):
    module = import_module("bertwright.data.encode")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_texts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenise(load_rows(source()), tokenizer, cache_dir=tmp_path)
    assert list((tmp_path / "tokens").iterdir()) == []
    assert len(tokenise(load_rows(source()), tokenizer, cache_dir=tmp_path)) == 4


def test_a_row_too_long_stops_on_request(tokenizer, write_jsonl):
    path = write_jsonl(["", *source()])
    with pytest.raises(
        RowTooLongError, match=r"rows\.jsonl:4: the row has \d+ tokens, more than 40"
    ):
        tokenise(load_rows(path), tokenizer, max_length=40, long_rows="stop")
    short = load_rows(path).select([0, 1])
    assert tokenise(short, tokenizer, max_length=40, long_rows="stop").num_truncated == 0


def test_options_are_checked(tokenizer):
    rows = load_rows(source())
    with pytest.raises(ConfigError, match=r"--max-length 2: must be at least 3"):
        tokenise(rows, tokenizer, max_length=2)
    with pytest.raises(ConfigError, match=r"--max-length 4: must be at least 5"):
        tokenise(load_rows(source(pairs=True)), tokenizer, max_length=4)
    with pytest.raises(UnknownChoiceError, match="--long-rows"):
        tokenise(rows, tokenizer, long_rows="cut")  # type: ignore[arg-type]
    with pytest.raises(ModelLoadError, match="no tokenizer"):
        tokenise(rows, None)
    tokenizer.pad_token = None
    with pytest.raises(ModelLoadError, match="no padding token"):
        tokenise(rows, tokenizer)


def test_select_composes(tokenizer):
    encoded = tokenise(load_rows(source()), tokenizer)
    part = encoded.select([3, 1, 0]).select([2, 0])
    assert len(part) == 2
    assert part.row_numbers.tolist() == [0, 3]
    assert part.label_ids.tolist() == [0, 1]
    assert [t.tolist() for t in part.tokens(np.arange(2))] == [
        t.tolist() for t in encoded.tokens(np.array([0, 3]))
    ]
    assert part.dataset["row"][:] == [0, 3]
    assert part.lengths.tolist() == [len(t) for t in part.tokens(np.arange(2))]
    assert part.fingerprint not in (encoded.fingerprint, encoded.select([3, 0]).fingerprint)
    assert encoded.select(range(-2, 0)).row_numbers.tolist() == [2, 3]
    with pytest.raises(IndexError):
        encoded.select([4])


def test_rows_across_many_chunks(tokenizer, monkeypatch, tmp_path):
    module = import_module("bertwright.data.tokenise")

    monkeypatch.setattr(module, "_BATCH_ROWS", 7)
    rows = load_rows([{"text": "a " * (1 + i % 5), "label": i % 3} for i in range(100)])
    encoded = tokenise(rows, tokenizer, cache_dir=tmp_path)
    order = np.random.default_rng(0).permutation(100)
    assert [len(t) - 2 for t in encoded.tokens(order)] == [1 + i % 5 for i in order]
    assert encoded.label_ids.tolist() == [i % 3 for i in range(100)]
    assert encoded.lengths.tolist() == [3 + i % 5 for i in range(100)]


def test_the_verb_is_reachable_from_the_package():
    assert tokenise_function is tokenise
    assert callable(tokenise)
