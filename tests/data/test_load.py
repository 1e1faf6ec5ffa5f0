from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from bertwright.data import LabelSet, load_rows, split_rows
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    UnknownChoiceError,
    UnknownLabelError,
)

TABLE = [
    {"text": "a plain one", "label": "no"},
    {"text": 'with, commas and "quotes"', "label": "yes"},
    {"text": "accents: déjà vu, 中文, 🙂", "label": "no"},
    {"text": "tab-free line", "label": "oos"},
]


def pairs_of(rows):
    names = [rows.labels.name_of(i) for i in rows.label_ids()]
    return list(zip(rows.texts(), names, strict=True))


def write_table(path: Path, kind: str) -> Path:
    frame = pd.DataFrame(TABLE)
    packed = "gzip" if kind.endswith(".gz") else None
    base = kind.removesuffix(".gz")
    target = path / f"table.{kind}"
    if base == "csv":
        frame.to_csv(target, index=False, compression=packed)
    elif base == "tsv":
        frame.to_csv(target, index=False, sep="\t", compression=packed)
    elif base in ("jsonl", "json"):
        frame.to_json(target, orient="records", lines=True, compression=packed)
    elif base == "parquet":
        frame.to_parquet(target)
    else:
        datasets.Dataset.from_pandas(frame).save_to_disk(str(target))
    return target


@pytest.mark.parametrize(
    "kind",
    ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "json", "parquet", "arrow_folder"],
)
def test_every_format_gives_the_same_rows(tmp_path, kind):
    rows = load_rows(write_table(tmp_path, kind))
    reference = load_rows(TABLE)
    assert pairs_of(rows) == [(row["text"], row["label"]) for row in TABLE]
    assert rows.labels == LabelSet(("no", "oos", "yes"))
    assert rows.fingerprint == reference.fingerprint
    assert rows.row_numbers().tolist() == [0, 1, 2, 3]
    assert len(rows) == 4
    assert not rows.has_pairs
    assert rows.texts_b() is None


def test_fingerprint_follows_the_content():
    changed = [dict(row) for row in TABLE]
    changed[2]["label"] = "yes"
    ordered = LabelSet(("yes", "oos", "no"))
    prints = {
        load_rows(TABLE).fingerprint,
        load_rows(changed).fingerprint,
        load_rows(TABLE[:3]).fingerprint,
        load_rows(TABLE[::-1]).fingerprint,
        load_rows(TABLE, labels=ordered).fingerprint,
        load_rows(TABLE, need_label=False).fingerprint,
    }
    assert len(prints) == 6


def test_csv_agrees_with_pandas_on_line_breaks_in_fields(tmp_path):
    path = tmp_path / "x.csv"
    frame = pd.DataFrame({"text": ["one\ntwo", "three", 'a "b"\n\nc'], "label": [1, 0, 1]})
    frame.to_csv(path, index=False)
    rows = load_rows(path)
    assert rows.texts() == frame["text"].tolist()
    assert rows.label_ids().tolist() == [1, 0, 1]
    assert rows.locate(1) == (str(path), 4)


def test_long_csv_fields_are_read_and_the_global_limit_is_kept(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "x.csv"
    path.write_text(f"text,label\n{'word ' * 50_000},a\n")
    assert len(load_rows(path).texts()[0]) == 250_000
    assert csv.field_size_limit() == before


def test_tsv_with_lone_quotes_loses_no_row(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('sentence\tlabel\n"a lone quote\t0\nfine\t1\n"whole ""field"""\t1\nends"\t0\n')
    rows = load_rows(path)
    assert rows.texts() == ['"a lone quote', "fine", 'whole "field"', 'ends"']


def test_byte_order_mark_and_crlf(tmp_path):
    for name in ("x.csv", "x.tsv"):
        path = tmp_path / name
        comma = "," if name == "x.csv" else "\t"
        path.write_bytes(
            b"\xef\xbb\xbf" + f"text{comma}label\r\none{comma}a\r\n\r\ntwo{comma}b\r\n".encode()
        )
        assert pairs_of(load_rows(path)) == [("one", "a"), ("two", "b")]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one", "label": "a"}\r\n')
    assert pairs_of(load_rows(path)) == [("one", "a")]


def test_pairs_and_aliases(write_jsonl):
    path = write_jsonl([{"idx": 4, "premise": "p", "hypothesis": "h", "target": 1}])
    rows = load_rows(path)
    assert rows.has_pairs
    assert rows.texts_b() == ["h"]
    assert rows.labels == LabelSet(("1",))


def test_keys_may_come_in_any_order_and_extra_ones_are_ignored(write_jsonl):
    path = write_jsonl([{"text": "a", "label": 0}, {"id": 9, "label": 1, "text": "b"}])
    assert pairs_of(load_rows(path)) == [("a", "0"), ("b", "1")]


def test_integer_and_text_labels_mean_the_same(write_jsonl):
    ints = load_rows([{"text": str(i), "label": i} for i in range(12)])
    texts = load_rows([{"text": str(i), "label": str(i)} for i in range(12)])
    assert ints.labels.names == tuple(str(i) for i in range(12))
    assert ints.fingerprint == texts.fingerprint


def test_given_labels_keep_their_order():
    rows = load_rows(TABLE, labels=LabelSet(("yes", "no", "oos", "unused")))
    assert rows.label_ids().tolist() == [1, 0, 1, 2]
    assert rows.labels.names == ("yes", "no", "oos", "unused")


def test_class_labels_of_datasets_keep_their_order(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])}
    )
    table = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]}, features=features)
    table.to_parquet(str(tmp_path / "x.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    for source in (table, tmp_path / "x.parquet", tmp_path / "saved"):
        rows = load_rows(source)
        assert rows.labels == LabelSet(("z", "a"))
        assert pairs_of(rows) == [("one", "z"), ("two", "a")]
    by_name = load_rows(table, labels=LabelSet(("a", "z")))
    assert pairs_of(by_name) == [("one", "z"), ("two", "a")]


def test_a_class_id_of_minus_one_is_no_label():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])}
    )
    table = datasets.Dataset.from_dict({"text": ["one"], "label": [-1]}, features=features)
    with pytest.raises(UnknownLabelError, match="has no label"):
        load_rows(table)


def test_labels_are_not_read_when_not_needed(write_jsonl):
    rows = load_rows([{"text": "a"}, {"text": "b", "label": 0.5}], need_label=False)
    assert rows.labels is None
    assert rows.label_ids() is None
    assert rows.dataset.column_names == ["row", "text"]


def test_dataset_with_indices_is_read_in_its_order():
    table = datasets.Dataset.from_list(TABLE).select([3, 1])
    assert load_rows(table).texts() == [TABLE[3]["text"], TABLE[1]["text"]]


def test_folder_takes_the_files_of_the_split(write_jsonl, tmp_path):
    for name in ("train", "dev", "test"):
        write_jsonl([{"text": name, "label": 0}], f"d/{name}.jsonl")
    assert load_rows(tmp_path / "d").texts() == ["train"]
    assert load_rows(tmp_path / "d", split="validation").texts() == ["dev"]
    (tmp_path / "d" / "dev.jsonl").unlink()
    with pytest.raises(FileFormatError, match="no dev file, but test"):
        load_rows(tmp_path / "d", split="dev")


def test_folder_without_split_names_takes_all_files_and_numbers_rows_through(write_jsonl, tmp_path):
    write_jsonl([{"text": "a", "label": 0}, {"text": "b", "label": 0}], "d/part1.jsonl")
    write_jsonl([{"text": "c", "label": 1}], "d/part2.jsonl.gz")
    (tmp_path / "d" / "labels.txt").write_text("not data")
    rows = load_rows(tmp_path / "d")
    assert rows.texts() == ["a", "b", "c"]
    assert rows.row_numbers().tolist() == [0, 1, 2]
    assert rows.locate(2) == (str(tmp_path / "d" / "part2.jsonl.gz"), 1)


def test_glob(write_jsonl, tmp_path):
    write_jsonl([{"text": "a", "label": 0}], "g/1.jsonl")
    write_jsonl([{"text": "b", "label": 0}], "g/2.jsonl")
    assert load_rows(str(tmp_path / "g" / "*.jsonl")).texts() == ["a", "b"]
    with pytest.raises(FileFormatError, match="no file matches"):
        load_rows(str(tmp_path / "g" / "*.csv"))


def test_dataset_dict_on_disk(tmp_path):
    table = datasets.Dataset.from_list(TABLE)
    datasets.DatasetDict(train=table, validation=table.select([1])).save_to_disk(tmp_path / "dd")
    assert len(load_rows(tmp_path / "dd")) == 4
    assert len(load_rows(tmp_path / "dd", split="dev")) == 1
    with pytest.raises(FileFormatError, match="no split 'test', but train, validation"):
        load_rows(tmp_path / "dd", split="test")


def test_max_rows_is_a_sample_over_the_whole_file():
    source = [{"text": f"t{i}", "label": i // 100} for i in range(1000)]
    rows = load_rows(source, max_rows=50)
    assert len(rows) == 50
    assert len(rows.labels) == 10
    assert len(set(rows.label_ids().tolist())) > 7
    numbers = rows.row_numbers()
    assert (np.diff(numbers) > 0).all()
    assert rows.texts() == [f"t{i}" for i in numbers]
    again = load_rows(source, max_rows=50)
    assert again.fingerprint == rows.fingerprint
    assert load_rows(source, max_rows=50, seed=1).fingerprint != rows.fingerprint
    assert load_rows(source, max_rows=5000).fingerprint == load_rows(source).fingerprint


def test_select_keeps_row_numbers():
    rows = load_rows(TABLE).select([2, 0])
    assert rows.texts() == [TABLE[2]["text"], TABLE[0]["text"]]
    assert rows.row_numbers().tolist() == [2, 0]
    assert rows.label_ids().tolist() == [0, 0]
    assert rows.fingerprint != load_rows(TABLE).select([0, 2]).fingerprint
    assert rows.select([1]).texts() == [TABLE[0]["text"]]


def test_split_rows_is_stratified_and_seeded():
    rows = load_rows([{"text": f"t{i}", "label": "ab"[i % 4 == 0]} for i in range(400)])
    rest, held = split_rows(rows, share=0.1, seed=3)
    assert sorted([*rest.row_numbers(), *held.row_numbers()]) == list(range(400))
    assert np.bincount(held.label_ids()).tolist() == [30, 10]
    same, _ = split_rows(rows, share=0.1, seed=3)
    other, _ = split_rows(rows, share=0.1, seed=4)
    assert same.fingerprint == rest.fingerprint != other.fingerprint


# ---- bad input ---------------------------------------------------------------------------------

GOOD = {"text": "fine", "label": "a"}
BAD = {
    "not JSON": ('{"text": "x", ', FileFormatError, "not valid JSON"),
    "no object": ("[1, 2]", FileFormatError, "not a JSON object but list"),
    "no text key": ({"label": "a"}, MissingColumnError, "no text column"),
    "no label key": ({"text": "x"}, MissingColumnError, "no label column"),
    "empty text": ({"text": "", "label": "a"}, EmptyTextError, "text is empty"),
    "blank text": ({"text": " \n\t", "label": "a"}, EmptyTextError, "text is empty"),
    "null text": ({"text": None, "label": "a"}, EmptyTextError, "text is empty"),
    "text a number": ({"text": 5, "label": "a"}, FileFormatError, "text is not text but int"),
    "label null": ({"text": "x", "label": None}, UnknownLabelError, "has no label"),
    "label blank": ({"text": "x", "label": " "}, UnknownLabelError, "has no label"),
    "label a list": ({"text": "x", "label": ["a"]}, UnknownLabelError, "neither a string"),
    "label a fraction": ({"text": "x", "label": 2.75}, UnknownLabelError, "neither a string"),
    "unknown label": ({"text": "x", "label": "zzz"}, UnknownLabelError, "unknown label 'zzz'"),
    "half a character": ('{"text": "\\ud83d", "label": "a"}', FileFormatError, "not valid UTF-8"),
    "a second text": (
        {"text": "x", "text_b": "y", "label": "a"},
        MissingColumnError,
        "second text",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_the_first_bad_row_stops_with_file_and_line(write_jsonl, case):
    row, error, message = BAD[case]
    path = write_jsonl([GOOD, GOOD, row, GOOD])
    with pytest.raises(error, match=message) as caught:
        load_rows(path, labels=LabelSet(("a", "b")))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert caught.value.exit_code == 2


def test_bad_rows_are_set_aside_shown_and_counted(write_jsonl, tmp_path, capsys):
    bad = [row for row, _, _ in BAD.values()]
    path = write_jsonl([GOOD, *bad, GOOD])
    target = tmp_path / "out" / "rejected.jsonl"
    rows = load_rows(path, labels=LabelSet(("a",)), on_bad_row="skip", rejected_path=target)
    assert rows.texts() == ["fine", "fine"]
    assert rows.num_rejected == len(BAD)
    assert rows.row_numbers().tolist() == [0, len(BAD) + 1]
    assert rows.locate(len(BAD) + 1) == (str(path), len(BAD) + 2)
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert [record["line"] for record in records] == list(range(2, len(BAD) + 2))
    assert {record["path"] for record in records} == {str(path)}
    for record, (row, _, message) in zip(records, BAD.values(), strict=True):
        assert set(record) == {"path", "line", "reason", "row"}
        assert message in record["reason"]
        assert not record["reason"].startswith(str(path))
        if isinstance(row, dict):
            assert record["row"] == row
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("rejected /") == 5
    assert f"rejected {len(BAD)} of {len(BAD) + 2} rows" in err
    assert str(target) in err


def test_rejected_rows_without_a_path_go_to_the_cache(write_jsonl, tmp_path, capsys):
    rows = load_rows(write_jsonl([GOOD, "{"]), on_bad_row="skip", cache_dir=tmp_path / "cache")
    assert rows.num_rejected == 1
    (kept,) = (tmp_path / "cache" / "rejected").iterdir()
    assert json.loads(kept.read_text())["row"] == "{"
    assert str(kept) in capsys.readouterr().err


def test_nothing_left_says_why(write_jsonl, tmp_path):
    path = write_jsonl([{"txet": "x", "label": "a"}] * 3)
    with pytest.raises(FileFormatError, match="none of the 3 rows can be used.*no text column"):
        load_rows(path, on_bad_row="skip", rejected_path=tmp_path / "r.jsonl")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3
    with pytest.raises(FileFormatError, match="has no rows"):
        load_rows(write_jsonl([], "empty.jsonl"))


def test_no_rejects_no_file(write_jsonl, tmp_path):
    load_rows(write_jsonl([GOOD]), on_bad_row="skip", rejected_path=tmp_path / "r.jsonl")
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('text,label\nfine,a\none, two,a\n', 3, "has 3 fields, the first line names 2"),
        ('text,label\nfine,a\n"x\ny",a\nonly\n', 5, "has 1 fields"),
        ('text,label\nfine,a\n"never closed,a\nmore,a\n', 3, "not valid CSV"),
        ('text,label\nfine,a\n"half" quoted,a\n', 3, "not valid CSV"),
        ("text,label\nfine,a\n,a\n", 3, "text is empty"),
        ("text,label\nfine,a\nx,\n", 3, "has no label"),
    ],
)  # fmt: skip
def test_bad_csv_rows(tmp_path, text, line, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert "fine" in load_rows(path, on_bad_row="skip").texts()


def test_bytes_that_are_not_utf8(tmp_path):
    for name, data in (
        ("x.csv", b"text,label\nfine,a\ncaf\xe9,a\n"),
        ("x.tsv", b"text\tlabel\nfine\ta\ncaf\xe9\ta\n"),
        ("x.jsonl", b'{"text": "fine", "label": "a"}\n\n{"text": "caf\xe9", "label": "a"}\n'),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=r":3: .*(UTF-8|utf-8)"):
            load_rows(path)
        rows = load_rows(path, on_bad_row="skip")
        assert (len(rows), rows.num_rejected) == (1, 1)


def test_files_that_cannot_be_read(tmp_path, write_jsonl):
    def check(name, data, message):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=message) as caught:
            load_rows(path, on_bad_row="skip")
        assert str(path) in str(caught.value)

    whole = gzip.compress(b"".join(b'{"text": "%d", "label": "a"}\n' % i for i in range(5000)))
    check("cut.jsonl.gz", whole[: len(whole) // 2], "damaged after this line")
    check("fake.jsonl.gz", b'{"text": "a", "label": "b"}\n', "cannot be read")
    check("fake.parquet", b"PAR1 no", "not a readable parquet file")
    check("wide.csv", "text,label\nx,a\n".encode("utf-16"), "UTF-16")
    check("array.json", b'[{"text": "a", "label": "b"}]', "one JSON array")
    check("array2.json", b'[\n{"text": "a", "label": "b"}\n]', "one JSON array")
    check("empty.csv", b"", "is empty")
    check("twice.csv", b"text,text,label\na,b,c\n", "named twice: text")
    check("notes.docx", b"x", "files of type '.docx' are not read")


def test_missing_files_and_folders(tmp_path, write_jsonl):
    write_jsonl([GOOD], "train.jsonl")
    with pytest.raises(
        FileFormatError, match=r"no such file or folder\n.*did you mean .*train.jsonl"
    ):
        load_rows(tmp_path / "trian.jsonl")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileFormatError, match="holds no data file"):
        load_rows(tmp_path / "bare")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{}")
    with pytest.raises(FileFormatError, match="saved dataset is damaged"):
        load_rows(tmp_path / "broken")


def test_hub_name_without_network_is_explained():
    with pytest.raises(FileFormatError, match="as a Hub dataset it cannot be loaded") as caught:
        load_rows("nobody/never-there")
    assert "without a network" in str(caught.value)


def test_hub_datasets_are_read_by_split_and_configuration(monkeypatch):
    asked = []

    def load_dataset(name, configuration):
        asked.append((name, configuration))
        table = datasets.Dataset.from_list(TABLE)
        return datasets.DatasetDict(train=table, validation=table.select([0]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_rows("owner/name")) == 4
    assert len(load_rows("owner/name:config", split="dev")) == 1
    assert asked == [("owner/name", None), ("owner/name", "config")]


def test_options_are_checked():
    with pytest.raises(UnknownChoiceError, match="--on-bad-row"):
        load_rows(TABLE, on_bad_row="ignore")  # type: ignore[arg-type]
    with pytest.raises(UnknownChoiceError, match="built-in corpus"):
        load_rows("builtin:validatoin")


def test_rows_are_memory_mapped(write_jsonl, tmp_path):
    rows = load_rows(write_jsonl([GOOD] * 25_000), cache_dir=tmp_path / "c")
    assert len(rows) == 25_000
    (file,) = rows.dataset.cache_files
    assert Path(file["filename"]).is_relative_to(tmp_path / "c" / "rows")
    assert rows.dataset[24_999]["row"] == 24_999


def test_labels_first_seen_late_are_renumbered_everywhere(tmp_path):
    source = [{"text": f"t{i}", "label": "z" if i < 15_000 else "a"} for i in range(20_000)]
    rows = load_rows(source, cache_dir=tmp_path)
    assert rows.labels == LabelSet(("a", "z"))
    assert rows.label_ids().tolist() == [1] * 15_000 + [0] * 5_000


@pytest.mark.parametrize(
    ("file", "num_rows", "num_labels", "pairs"),
    [
        ("clinc150/dev.jsonl", 2480, 151, False),
        ("sst2/train_sentences.jsonl", 6920, 2, False),
        ("mrpc/dev.jsonl", 400, 2, True),
        ("waimai_10k/dev.jsonl", 809, 2, False),
    ],
)
def test_real_data(shared_data, file, num_rows, num_labels, pairs):
    folder, name = file.split("/")
    rows = load_rows(shared_data(folder) / name)
    assert (len(rows), len(rows.labels), rows.has_pairs) == (num_rows, num_labels, pairs)


def test_real_folder_uses_its_train_split(shared_data):
    assert len(load_rows(shared_data("clinc150"))) == 15100


def test_column_choice_on_real_data(shared_data):
    path = shared_data("sick") / "dev.jsonl"
    with pytest.raises(UnknownLabelError, match=r"dev\.jsonl:1: label 3\.6 is neither"):
        load_rows(path)
    rows = load_rows(path, columns={"label": "entailment"})
    assert rows.labels.names == ("CONTRADICTION", "ENTAILMENT", "NEUTRAL")


def rows_of(*counts: int):
    return load_rows(
        [{"text": f"t{k} {i}", "label": f"l{k}"} for k, n in enumerate(counts) for i in range(n)]
    )


def test_a_split_keeps_the_shares_and_repeats():
    rows = rows_of(50, 100, 25)
    rest, held = split_rows(rows, share=0.2, seed=0)
    assert (len(rest), len(held)) == (140, 35)
    assert np.bincount(held.label_ids()).tolist() == [10, 20, 5]
    assert not set(rest.texts()) & set(held.texts())
    assert sorted(rest.texts() + held.texts()) == sorted(rows.texts())
    again, _ = split_rows(rows, share=0.2, seed=0)
    other, _ = split_rows(rows, share=0.2, seed=1)
    assert again.texts() == rest.texts() != other.texts()


def test_many_small_classes_still_give_the_share_asked_for():
    _, held = split_rows(rows_of(*[3] * 50), share=0.1, seed=0)
    assert len(held) == 15
    rest, _ = split_rows(rows_of(*[3] * 50), share=0.9, seed=0)
    assert np.bincount(rest.label_ids(), minlength=50).min() >= 1, "each class is still trained on"


def test_too_few_rows_cannot_be_split():
    with pytest.raises(DataError, match="2 rows are too few"):
        split_rows(rows_of(1, 1), share=0.1, seed=0)
