from __future__ import annotations

import gzip
import json

import pytest

from bertwright.data.load import load_rows
from bertwright.data.readers import file_part
from bertwright.data.records import BadLine
from bertwright.data.squad_json import looks_like_squad, read_squad
from bertwright.errors import FileFormatError
from bertwright.tasks.span_rows import SPAN_SCHEMA

FILM = "The film was made in Zürich 😀 in 1999."
DOG = "A dog and a cat."
CONTENT = {
    "version": "v2.0",
    "data": [
        {
            "title": "Film",
            "paragraphs": [
                {
                    "context": FILM,
                    "qas": [
                        {
                            "id": "f1",
                            "question": "Where?",
                            "answers": [{"text": "Zürich", "answer_start": 21}],
                            "is_impossible": False,
                        },
                        {
                            "id": "f2",
                            "question": "Why?",
                            "answers": [],
                            "plausible_answers": [{"text": "1999", "answer_start": 33}],
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "No question.", "qas": []},
            ],
        },
        {
            "title": "Dog",
            "paragraphs": [
                {
                    "context": DOG,
                    "qas": [
                        {
                            "id": "d1",
                            "question": "Who?",
                            "answers": [
                                {"text": "A dog", "answer_start": 0},
                                {"text": "a cat", "answer_start": 10},
                            ],
                        }
                    ],
                }
            ],
        },
    ],
}


def write(path, content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def one(question, **more):
    return {"data": [{"paragraphs": [{"context": DOG, "qas": [question]} | more]}]}


@pytest.mark.parametrize("name", ["squad.json", "squad.json.gz", "SQUAD.JSON.GZ"])
def test_questions_come_one_by_one(tmp_path, name):
    path = tmp_path / name
    data = json.dumps(CONTENT, indent=1).encode()
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    found = list(read_squad(path))
    assert found == [
        (
            1,
            {
                "id": "f1",
                "title": "Film",
                "context": FILM,
                "question": "Where?",
                "answers": [{"text": "Zürich", "answer_start": 21}],
            },
        ),
        (
            2,
            {"id": "f2", "title": "Film", "context": FILM, "question": "Why?", "answers": []},
        ),
        (
            3,
            {
                "id": "d1",
                "title": "Dog",
                "context": DOG,
                "question": "Who?",
                "answers": CONTENT["data"][1]["paragraphs"][0]["qas"][0]["answers"],
            },
        ),
    ]
    assert list(read_squad(str(path))) == found


def test_the_records_are_rows_of_the_span_schema(tmp_path):
    path = write(tmp_path / "squad.json", CONTENT)
    rows = load_rows([record for _, record in read_squad(path)], schema=SPAN_SCHEMA)
    assert rows.dataset["answer_text"][:] == [["Zürich"], [], ["A dog", "a cat"]]
    assert rows.dataset["answer_start"][:] == [[21], [], [0, 10]]
    assert rows.dataset["context"][:] == [FILM, FILM, DOG]


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ({"answers": []}, []),
        ({"answers": None}, []),
        ({}, "not given"),
        ({"is_impossible": True}, []),
        ({"is_impossible": True, "answers": None}, []),
        ({"is_impossible": False}, "not given"),
        ({"is_impossible": False, "answers": []}, "not given"),
        ({"is_impossible": False, "answers": [{"text": "A"}]}, [{"text": "A"}]),
        ({"answers": "A dog"}, "A dog"),
    ],
)
def test_answers_are_empty_only_where_there_is_none(tmp_path, question, answers):
    path = write(tmp_path / "squad.json", one({"id": 1, "question": "Who?"} | question))
    ((number, record),) = read_squad(path)
    assert number == 1
    wanted = {"id": 1, "title": None, "context": DOG, "question": "Who?"}
    assert record == wanted | ({} if answers == "not given" else {"answers": answers})


def test_bad_questions_are_set_aside_and_counted(tmp_path):
    bad = [
        ("Who?", "a question is not an object but str"),
        ({"question": "é", "is_impossible": "no"}, "is_impossible is neither true nor false"),
        ({"is_impossible": True, "answers": [{"text": "A"}]}, "but there are answers"),
    ]
    good = {"id": 7, "question": "Who?", "answers": []}
    content = one(good)
    content["data"][0]["paragraphs"][0]["qas"] = [*(question for question, _ in bad), good]
    *found, last = read_squad(write(tmp_path / "squad.json", content))
    for number, (got, (question, reason)) in enumerate(zip(found, bad, strict=True), start=1):
        assert got[0] == number
        assert isinstance(got[1], BadLine)
        assert reason in got[1].reason
        assert json.loads(got[1].raw) == question
    assert last[0] == 4 and last[1]["id"] == 7


def test_what_is_missing_from_a_question_is_left_to_the_loader(tmp_path):
    content = {"data": [{"paragraphs": [{"qas": [{"id": 1}]}]}]}
    ((_, record),) = read_squad(write(tmp_path / "squad.json", content))
    assert record == {"id": 1, "title": None}


DAMAGED = {
    "no JSON": (b'{"data": [\n{"title": ]}', 2, "not valid JSON: Expecting value"),
    "cut short": (json.dumps(CONTENT).encode()[:-200], 1, "not valid JSON"),
    "one object a line": (b'{"a": 1}\n{"a": 2}\n', 2, "Extra data"),
    "no UTF-8": (b'{"data": "\xe9"}', None, "not valid JSON: 'utf-8'"),
    "too deep": (b"[" * 200_000, None, "not valid JSON"),
    "empty": (b"", 1, "not valid JSON"),
    "a list": ([], None, "the file is not an object but list"),
    "no data": ({"version": "v2.0"}, None, "the file has no 'data'"),
    "data is an object": ({"data": {}}, None, "'data' that is no list"),
    "an article is a text": ({"data": ["Film"]}, None, r"data\[0\] is not an object but str"),
    "no paragraphs": (
        {"data": [{"paragraphs": []}, {"title": "x"}]},
        None,
        r"data\[1\] has no 'paragraphs'",
    ),
    "no questions": (
        {"data": [{"paragraphs": [{"context": "x", "qas": []}, {"context": "x"}]}]},
        None,
        r"data\[0\]\.paragraphs\[1\] has no 'qas'",
    ),
    "a paragraph is null": (
        {"data": [{"paragraphs": [None]}]},
        None,
        r"data\[0\]\.paragraphs\[0\] is not an object but NoneType",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("name", ["squad.json", "squad.json.gz"])
def test_damage_names_the_file(tmp_path, name, case):
    content, line, message = DAMAGED[case]
    path = write(tmp_path / name, content)
    with pytest.raises(FileFormatError, match=message) as caught:
        list(read_squad(path))
    assert caught.value.path == path
    assert caught.value.line == line
    assert str(caught.value).startswith(str(path))


def test_files_that_cannot_be_read(tmp_path):
    packed = gzip.compress(json.dumps(CONTENT).encode() * 50)
    for data in (b"plain", packed[: len(packed) // 2], b"", packed[:-4] + b"\0\0\0\0"):
        path = tmp_path / "squad.json.gz"
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=f"^{path}"):
            list(read_squad(path))
    with pytest.raises(FileFormatError, match="no such file"):
        list(read_squad(tmp_path / "none.json"))


def test_a_byte_order_mark_is_no_damage(tmp_path):
    path = write(tmp_path / "squad.json", b"\xef\xbb\xbf" + json.dumps(CONTENT).encode())
    assert len(list(read_squad(path))) == 3
    assert looks_like_squad(path.read_bytes())


LINES = b"".join(json.dumps({"question": "q", "data": [{"x": 1}]}).encode() + b"\n" for _ in "ab")


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (json.dumps(CONTENT).encode(), True),
        (json.dumps(CONTENT, indent=4).encode(), True),
        (json.dumps(CONTENT).encode()[:120], True),
        (json.dumps({"data": CONTENT["data"], "version": "1.1"}).encode(), True),
        (json.dumps({"version": 1.1, "of": 'a "}{ b\\', "data": CONTENT["data"]}).encode(), True),
        (json.dumps({"data": [{"paragraphs": []}]}).encode(), True),
        (json.dumps(CONTENT).encode()[:30], False),
        (json.dumps({"data": []}).encode(), False),
        (json.dumps([CONTENT]).encode(), False),
        (json.dumps({"x": {"data": [{"paragraphs": []}]}}).encode(), False),
        (json.dumps({"question": "q", "context": '"data": [{"paragraphs"'}).encode(), False),
        (LINES, False),
        (b'{"question": "q", "context": "c", "answers": []}\n', False),
        (b"text,label\na,b\n", False),
        (b"", False),
    ],
)
def test_files_are_told_apart_by_their_head(head, wanted):
    assert looks_like_squad(head) is wanted


@pytest.mark.timeout(20)
def test_odd_heads_are_checked_quickly():
    for head in (b'{"a":1,' * 20_000, b'{"' + b'\\"' * 20_000, b"{" + b'"a": "b",' * 20_000):
        assert not looks_like_squad(head)


def test_a_json_file_of_this_form_is_read_as_one(tmp_path):
    text = "Ada wrote it."
    answer = {"text": "Ada", "answer_start": 0}
    question = {"id": "1", "question": "Who?", "answers": [answer], "is_impossible": False}
    data = [{"title": "t", "paragraphs": [{"context": text, "qas": [question]}]}]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    ((number, record),) = file_part(path).read(())
    assert (number, record["context"], record["answers"]) == (1, text, [answer])
    path.write_text(json.dumps({"text": "a", "label": 1}) + "\n")
    assert list(file_part(path).read(())) == [(1, {"text": "a", "label": 1})]
