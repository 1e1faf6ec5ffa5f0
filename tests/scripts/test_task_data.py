"""The sets that benchmarks make of others."""

from __future__ import annotations

import gzip
import json

import pytest


@pytest.fixture
def task_data(benchmark_module):
    return benchmark_module("task_data")


@pytest.fixture
def source(tmp_path, monkeypatch, task_data):
    """A folder like SQuAD's: 40 contexts with 3 questions each; dev has 12 articles of 10 rows."""
    monkeypatch.setattr(task_data, "SQUAD_TEST_ROWS", 7)
    folder = tmp_path / "data" / "squad"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        rows = [
            {"context": f"c{i // 3}", "question": f"q{i}", "title": f"t{i // 10}", "of": split}
            for i in range(120)
        ]
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def test_squad_is_split_by_contexts_and_the_sample_is_fixed(task_data, source):
    made = task_data.squad(source)
    assert made == task_data.squad(source)
    assert [len(made[split]) for split in task_data.SPLITS] == [114, 6, 7]
    contexts = [{row["context"] for row in made[split]} for split in ("train", "dev")]
    assert not contexts[0] & contexts[1]
    assert [{row["of"] for row in made[split]} for split in task_data.SPLITS] == [
        {"train"},
        {"train"},
        {"dev"},
    ]


def test_dev_and_test_share_no_article(task_data, source, monkeypatch):
    monkeypatch.setattr(task_data, "ARTICLE_ROWS", {"dev": 20, "test": 30})
    made = task_data.squad_by_article(source)
    assert [len(made[split]) for split in task_data.SPLITS] == [114, 20, 30]
    titles = [{row["title"] for row in made[split]} for split in ("dev", "test")]
    assert not titles[0] & titles[1]


def test_a_question_stands_with_its_own_paragraph_and_others_of_its_article(
    task_data, source, monkeypatch
):
    monkeypatch.setattr(task_data, "ARTICLES", {"train": 6, "dev": 2})
    monkeypatch.setattr(task_data, "QUESTIONS", {"train": 30, "dev": 9, "test": 50})
    monkeypatch.setattr(task_data, "PASSAGES", {"train": 2, "dev": 3, "test": 20})
    made = task_data.passages(source)
    assert [len(made[split]) for split in task_data.SPLITS] == [30, 9, 40]
    contexts_of = {
        title: {row["context"] for row in rows}
        for title, rows in task_data.articles(source).items()
    }
    of_question = {
        row["question"]: row for rows in task_data.articles(source).values() for row in rows
    }
    articles = []
    for split in task_data.SPLITS:
        for row in made[split]:
            asked = of_question[row["query"]]
            assert set(row["candidates"]) <= contexts_of[asked["title"]]
            assert len(set(row["candidates"])) == len(row["candidates"]) == len(row["relevance"])
            relevant = [c for c, r in zip(row["candidates"], row["relevance"], strict=True) if r]
            assert relevant == [asked["context"]]
        articles.append({of_question[row["query"]]["title"] for row in made[split]})
    assert not articles[0] & articles[1] and not articles[2] & (articles[0] | articles[1])
    assert len({row["relevance"].index(1) for row in made["test"]}) > 1
    assert {len(row["candidates"]) for row in made["train"]} == {2}


def test_kinds_are_the_types_of_a_texts_entities(task_data, tmp_path):
    rows = [
        {"tokens": ["Ada", "in", "New", "York"], "tags": ["B-per", "O", "B-loc", "I-loc"]},
        {"tokens": ["hm"], "tags": ["O"]},
    ]
    for split in task_data.SPLITS:
        task_data.write_rows(tmp_path / f"{split}.jsonl", rows)
    assert task_data.kinds_of_entities(tmp_path)["dev"] == [
        {"text": "Ada in New York", "label": ["loc", "per"]},
        {"text": "hm", "label": []},
    ]


def test_a_set_is_made_only_where_it_is_of_others(task_data, source, tmp_path):
    data = source.parent
    made = task_data.data_folder("squad", data, tmp_path / "made")
    assert made == tmp_path / "made" / "squad"
    assert len(task_data.read_rows(made / "test.jsonl")) == 7
    assert task_data.data_folder("mrpc", data, tmp_path / "made") == data / "mrpc"
    assert task_data.split_file(made, "train") == str(made / "train.jsonl")
    assert task_data.split_file(source, "train") == str(source / "train.jsonl.gz")
