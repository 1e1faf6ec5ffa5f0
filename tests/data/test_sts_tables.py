"""Tables of sentence similarity as they are published, read for `regress` and `embed`."""

from __future__ import annotations

import gzip
import json

import pytest

from bertwright.data import load_rows
from bertwright.data.readers import file_part
from bertwright.data.sts_tables import is_sts_input, sts_part
from bertwright.errors import DataError, FileFormatError, MissingColumnError
from bertwright.tasks.embed_rows import EMBED_SCHEMA
from bertwright.tasks.regress import Regress
from bertwright.verbs.predict import PredictConfig, predict

TARGETS = {"regress": (Regress.schema, "label"), "embed": (EMBED_SCHEMA, "score")}

PAIRS = [
    ('"A whole sentence in quotes."', 'A "quoted" word', 5.0),
    ('" A lone quote', "It's déjà vu, 中文", 0.25),
    ("Ends with one\"", '"', 2.5),
    ("#3 Commas, too", "NA", 3.867),
]  # fmt: skip
BENCHMARK = "\n".join(
    (
        'main-captions\tMSRvid\t2012test\t0001\t5.000\t"A whole sentence in quotes."\t'
        'A "quoted" word',
        "main-forums\tanswer-answer\t2016\t0987\t.25\t\" A lone quote\tIt's déjà vu, 中文\t"
        "StackExchange Network: http://a Author: b\t",
        'main-news\theadlines\t2013\t2\t2.5\tEnds with one"\t"',
        "main-news\tMSRpar\t2012train\t0003\t3.867\t#3 Commas, too\tNA",
    )
)
INPUT = "".join(f"{text}\t{text_b}\n" for text, text_b, _ in PAIRS)
GOLD = "".join(f"{score}\n" for *_, score in PAIRS)
SICK_HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
SICK = "\n".join(
    [SICK_HEADER, *(f"{i}\t{a}\t{b}\t{s}\tNEUTRAL" for i, (a, b, s) in enumerate(PAIRS))]
)
SICK_FULL = "\n".join(
    [
        "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\tentailment_AB"
        "\tsentence_A_original\tSemEval_set",
        *(f"{i}\t{a}\t{b}\tNEUTRAL\t{s}\tx\tother\tTRIAL" for i, (a, b, s) in enumerate(PAIRS)),
    ]
)
GLUE_HEADER = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
)
GLUE = "\n".join(
    [
        GLUE_HEADER,
        *(f"{i}\tnews\tx\t2012\t7\tnone\tnone\t{a}\t{b}\t{s}" for i, (a, b, s) in enumerate(PAIRS)),
    ]
)
KORSTS = "\n".join(
    [
        "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2",
        *(f"news\tx\t2012test\t{i}\t{s}\t{a}\t{b}" for i, (a, b, s) in enumerate(PAIRS)),
    ]
)
FORMS = {
    "sts-train.csv": BENCHMARK,
    "sts-dev.tsv": BENCHMARK,
    "sts-test.txt": BENCHMARK,
    "STS-Train.CSV": BENCHMARK,
    "STS.input.surprise.OnWN.txt": INPUT,
    "STS2016.input.answer-answer.txt": INPUT.replace("\n", "\tfrom http://a\t\n"),
    "SICK.txt": SICK_FULL,
    "SICK_train.txt": SICK,
    "sick.csv": SICK,
    "train.tsv": GLUE,
    "sts-dev.csv": KORSTS,
}


def put(path, text):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def put_gold(path, text=GOLD):
    return put(path.with_name(path.name.replace(".input.", ".gs.")), text)


def read(path, task="regress", **options):
    schema, field = TARGETS[task]
    rows = load_rows(path, schema=schema, **options)
    return list(zip(rows.texts(), rows.texts_b() or (), rows.dataset[field][:], strict=True))


def fails(path, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_pairs(tmp_path, name, task):
    path = put(tmp_path / name, FORMS[name])
    if is_sts_input(name):
        put_gold(path)
    assert read(path, task) == PAIRS
    for ends in ("\n", "\r\n"):
        dressed = "\ufeff" + FORMS[name].rstrip("\n").replace("\n", ends) + ends
        packed = put(tmp_path / f"{name}.gz", dressed)
        for written in (put(path, dressed), packed):
            if is_sts_input(name):
                put_gold(written, "\ufeff" + GOLD.replace("\n", ends))
            assert read(written, task) == PAIRS


def test_a_gold_file_is_found_packed_or_not(tmp_path):
    path = put(tmp_path / "STS.input.x.txt", INPUT)
    put(tmp_path / "STS.gs.x.txt.gz", GOLD)
    assert read(path) == PAIRS
    path.unlink()
    (tmp_path / "STS.gs.x.txt.gz").unlink()
    put(tmp_path / "STS.gs.x.txt", GOLD)
    assert read(put(tmp_path / "STS.input.x.txt.gz", INPUT)) == PAIRS
    put(tmp_path / "STS.gs.x.txt.gz", "0\n1\n2\n3\n")
    assert [score for *_, score in read(tmp_path / "STS.input.x.txt.gz")] == [0, 1, 2, 3]


def test_max_rows_keeps_pairs_with_their_scores(tmp_path):
    path = put(tmp_path / "STS.input.x.txt", INPUT)
    put_gold(path)
    some = read(path, max_rows=2)
    assert len(some) == 2 and set(some) < set(PAIRS)
    path = put(tmp_path / "sts-dev.csv", BENCHMARK)
    assert read(path, max_rows=2) == some


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("name", ["STS.input.x.txt", "sts-dev.csv"])
def test_pairs_without_a_score_are_left_out_and_counted(tmp_path, capsys, name, task):
    if name == "sts-dev.csv":
        text = BENCHMARK.replace("\t5.000\t", "\t\t").replace("\t2.5\t", "\t \t")
        path = put(tmp_path / name, text)
    else:
        path = put(tmp_path / name, INPUT)
        put_gold(path, "\n0.25\n \n3.867\n")
    assert read(path, task) == [PAIRS[1], PAIRS[3]]
    assert "left out 2 of 4 pairs: they have no score" in capsys.readouterr().err
    schema, _ = TARGETS[task]
    rows = load_rows(path, schema=schema)
    assert rows.row_numbers().tolist() == [1, 3] and rows.num_rejected == 0
    unlabelled = load_rows(path, schema=schema, need_label=False)
    assert unlabelled.texts() == [text for text, *_ in PAIRS]
    assert unlabelled.row_numbers().tolist() == [0, 1, 2, 3]
    assert [rows.locate(3), unlabelled.locate(3)] == [(str(path), 4)] * 2


def test_without_any_score_there_are_no_rows(tmp_path):
    path = put(tmp_path / "STS.input.x.txt", INPUT)
    put_gold(path, "\n\n\n\n")
    assert f"{path}: none of its 4 pairs has a score" in fails(path)


@pytest.mark.parametrize("task", TARGETS)
def test_without_the_gold_file_pairs_can_be_predicted_and_not_learned_from(tmp_path, task):
    path = put(tmp_path / "STS.input.x.txt", INPUT)
    message = fails(path, FileFormatError, task=task)
    assert f"{path}:1: has no score: the scores belong in STS.gs.x.txt beside it" in message
    schema, _ = TARGETS[task]
    rows = load_rows(path, schema=schema, need_label=False)
    assert rows.texts_b() == [text_b for _, text_b, _ in PAIRS]
    assert rows.locate(2) == (str(path), 3)


@pytest.mark.parametrize(
    ("gold", "lines"), [("1\n2\n3\n", 3), ("1\n2\n3\n4\n5\n", 5), ("", 0), ("1\n2\n3\n4\n\n5", 6)]
)
def test_a_gold_file_of_another_length_names_both_files(tmp_path, gold, lines):
    path = put(tmp_path / "STS.input.x.txt", INPUT)
    gold = put_gold(path, gold)
    message = fails(path, FileFormatError, on_bad_row="skip")
    assert f"{path}: has 4 lines, but {gold} with its scores has {lines}" in message
    assert "-> each pair has its score on the same line" in message


def test_empty_lines_at_the_end_of_either_file_do_not_count(tmp_path):
    path = put(tmp_path / "STS.input.x.txt", INPUT + "\n \n")
    put_gold(path)
    assert read(path) == PAIRS
    put(path, INPUT.rstrip("\n"))
    put_gold(path, GOLD + "\n\n\n")
    assert read(path) == PAIRS
    assert len(load_rows(path, schema=Regress.schema, need_label=False)) == 4


def test_a_score_of_an_empty_line_says_that_the_files_are_not_of_one_piece(tmp_path):
    path = put(tmp_path / "STS.input.x.txt", INPUT.replace("\n", "\n\n", 1))
    gold = put_gold(path, GOLD + "1\n")
    message = fails(path, FileFormatError, on_bad_row="skip")
    assert f"{path}:2: is empty, but has the score 0.25 in {gold}" in message
    assert "fetch both again" in message


def test_a_file_of_scores_alone_names_its_file_of_pairs(tmp_path):
    message = fails(put(tmp_path / "STS2016.gs.x.txt", GOLD), FileFormatError)
    assert "holds scores and no sentences" in message
    assert "give STS2016.input.x.txt: its scores are read from here" in message


def damaged(name):
    """Return a form with a field too many and a bad score, and the lines where they are."""
    lines = FORMS[name].rstrip("\n").split("\n")
    header = 0 if name.startswith("sts-") else 1
    lines[header] += "\tone more"
    lines[header + 2] = lines[header + 2].replace("2.5", "2,5")
    return "\n".join(lines), header + 1, header + 3


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("name", ["sts-train.csv", "SICK.txt", "train.tsv"])
def test_bad_lines_are_named_by_file_and_line_or_skipped(tmp_path, name, task):
    text, counted, scored = damaged(name)
    path = put(tmp_path / name, text)
    message = fails(path, FileFormatError, task=task)
    assert f"{path}:{counted}: has " in message and " fields, " in message
    assert "leave such rows out with --on-bad-row skip" in message
    put(path, text.replace("\tone more", ""))
    message = fails(path, DataError, task=task)
    assert f"{path}:{scored}: " in message and "score '2,5' is not a number" in message
    assert "leave such rows out with --on-bad-row skip" in message
    put(path, text)
    rejected = tmp_path / "rejected.jsonl"
    options = {"on_bad_row": "skip", "rejected_path": rejected}
    assert read(path, task, **options) == [PAIRS[1], PAIRS[3]]
    first, second = (json.loads(line) for line in rejected.read_text().splitlines())
    assert (first["line"], second["line"]) == (counted, scored)
    assert first["path"] == second["path"] == str(path)
    assert "'2,5' is not a number" in second["reason"] and "score" in second["reason"]
    assert PAIRS[0][0] in first["row"]


@pytest.mark.parametrize("task", TARGETS)
def test_bad_lines_of_pairs_and_bad_scores_beside_them(tmp_path, task):
    path = put(tmp_path / "STS.input.x.txt", INPUT.replace("#3 Commas, ", "#3\tCommas, "))
    put_gold(path, GOLD.replace("0.25", "nan").replace("5.0", "five"))
    assert f"{path}:1: score 'five' in STS.gs.x.txt is not a number" in fails(path, task=task)
    rejected = tmp_path / "rejected.jsonl"
    options = {"on_bad_row": "skip", "rejected_path": rejected}
    assert read(path, task, **options) == [PAIRS[2]]
    rows = [json.loads(line) for line in rejected.read_text().splitlines()]
    reasons = {row["line"]: row["reason"] for row in rows}
    assert reasons == {
        1: "score 'five' in STS.gs.x.txt is not a number",
        2: "score 'nan' in STS.gs.x.txt is not a number",
        4: "has 3 fields, not two sentences, or two and a source of each",
    }


@pytest.mark.parametrize("name", ["sts-dev.csv", "SICK.txt", "STS.input.x.txt"])
def test_bytes_that_are_no_text_an_empty_sentence_and_damage(tmp_path, name):
    text = {"sts-dev.csv": BENCHMARK, "SICK.txt": SICK}.get(name, INPUT)
    path = tmp_path / name
    if is_sts_input(name):
        put_gold(path)
    path.write_bytes(text.encode().replace("中文".encode(), b"\xff"))
    number = 3 if name == "SICK.txt" else 2
    assert f"{path}:{number}: is not valid UTF-8" in fails(path)
    assert read(path, on_bad_row="skip") == [PAIRS[0], *PAIRS[2:]]
    put(path, text.replace("#3 Commas, too", " "))
    message = fails(path)
    assert f"{path}:{number + 2}: " in message and "is empty" in message
    broken = tmp_path / f"{name}.gz"
    broken.write_bytes(gzip.compress(text.encode() * 50)[:-9])
    if is_sts_input(name):
        put_gold(path, GOLD * 50)
    assert "damaged" in fails(broken, FileFormatError, on_bad_row="skip")


def test_other_files_are_read_as_before(tmp_path):
    commas = "genre,sentence1,sentence2,score\n2012,a,b,1\n"
    assert read(put(tmp_path / "sts-train.csv", commas)) == [("a", "b", 1.0)]
    tabs = "text\ttext_b\tlabel\n\"a\"\tb\t1\n"  # fmt: skip
    assert read(put(tmp_path / "sts-dev.tsv", tabs)) == [("a", "b", 1.0)]
    wide = "id\tgenre\tyear\tid2\tscore\tsentence1\tsentence2\n1\tx\t2012\t2\t3\ta\tb\n"
    assert read(put(tmp_path / "sts-test.tsv", wide)) == [("a", "b", 3.0)]
    for path in tmp_path.iterdir():
        assert sts_part(path) is None


def test_a_text_file_without_such_a_header_is_no_table(tmp_path):
    for text in ("one text a line\n", "a\tb\n", "sentence_A\tsentence_B\na\tb\n", ""):
        message = fails(put(tmp_path / "texts.txt", text), FileFormatError)
        assert "files of type '.txt' are not read" in message
        assert "as .txt only SICK and STS.input.NAME.txt" in message
    for name in ("STS.input.none.txt", "gone.txt"):
        with pytest.raises(FileFormatError, match="no such file"):
            file_part(tmp_path / name)
        with pytest.raises(FileFormatError, match="no such file or folder\n"):
            load_rows(name)


@pytest.mark.parametrize("name", ["train.csv", "stsb.tsv", "pairs.txt"])
def test_the_benchmark_under_another_name_is_explained_and_not_guessed(tmp_path, name):
    message = fails(put(tmp_path / name, BENCHMARK), FileFormatError)
    assert f"{tmp_path / name}:1: looks like a table of STS Benchmark" in message
    assert "-> call it sts-train.csv" in message
    with pytest.raises(MissingColumnError):
        read(put(tmp_path / name.replace(".txt", ".tsv"), BENCHMARK.replace("\t2012test", "\tx")))


def test_folders_and_globs(tmp_path):
    for split, text in zip(("train", "dev", "test"), BENCHMARK.split("\n")[1:], strict=True):
        put(tmp_path / f"sts-{split}.csv", text)
    put(tmp_path / "readme.txt", "not data")
    assert read(tmp_path) == [PAIRS[1]]
    assert read(tmp_path, split="validation") == [PAIRS[2]]
    assert read(tmp_path, split="test") == [PAIRS[3]]
    semeval = tmp_path / "STS16"
    semeval.mkdir()
    for name in ("b", "a"):
        put_gold(put(semeval / f"STS2016.input.{name}.txt", INPUT))
    put(semeval / "README.txt", "not data")
    assert read(semeval) == read(str(semeval / "STS*.input.*.txt")) == PAIRS * 2


def test_predict_takes_a_text_file_one_text_a_line(tmp_path, monkeypatch):
    seen = []

    def stop(source, *_, **__):
        seen.extend(source)
        raise RuntimeError

    monkeypatch.setattr("bertwright.verbs.predict.read_rows", stop)
    monkeypatch.setattr("bertwright.verbs.predict.serving_model", lambda *_: (tmp_path, None))
    monkeypatch.setattr("bertwright.verbs.predict.head_folder", lambda *_: tmp_path)
    monkeypatch.setattr("bertwright.verbs.predict.saved_task", lambda _: (None, None))
    monkeypatch.setattr("bertwright.engines.predictor.Predictor", lambda *_, **__: None)
    path = put(tmp_path / "STS.input.x.txt", INPUT)
    with pytest.raises(RuntimeError):
        predict(PredictConfig(model="m", input=str(path)))
    assert seen == [{"text": line} for line in INPUT.rstrip("\n").split("\n")]
