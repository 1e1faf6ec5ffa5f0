"""The tables of the README and of docs/: what they say, and that they are made from results/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def entry(name, score, speedup, **more):
    return {
        "name": name,
        "score": score,
        "score_low": score - 0.01,
        "score_high": score + 0.01,
        "kept": score / 0.9,
        "speedup": speedup,
        "throughput_texts_s": 100 * speedup,
        "size_mb": 10.0,
        "primary": "accuracy",
        "num_rows": 1000,
        **more,
    }


@pytest.fixture
def results(tmp_path):
    candidates = [
        entry("slow-good", 0.89, 4.0),
        entry("beaten", 0.80, 3.0),
        entry("fast-fair", 0.85, 12.0),
        {"name": "hopeless", "dropped": "last of its round", "score": 0.3},
    ]
    frontier = {
        "teacher": entry("teacher", 0.9, 1.5),
        "baseline": entry("pipeline", 0.9, 1.0, size_mb=90.0),
        "machine": {"processor": "Processor", "cores": 2},
        "candidates": candidates,
        "chosen": "slow-good",
        "reason": "the fastest that keeps 98%",
    }
    (tmp_path / "intents").mkdir()
    (tmp_path / "intents" / "frontier.json").write_text(json.dumps(frontier))
    memory = {
        "num_tokens": 11_000_000,
        "peak_mb": 612.34,
        "peak_after_import_mb": 300.0,
        "load_s": 8.0,
        "tokenise_s": 41.26,
        "tokenise_from_cache_s": 0.119,
        "one_epoch_of_batches_s": 2.0,
        "machine": {"cores": 2},
    }
    (tmp_path / "memory_million_rows.json").write_text(json.dumps(memory))
    return tmp_path


def test_the_frontier_table_has_teacher_chosen_and_the_unbeaten(make_tables, results):
    lines = make_tables.frontier_table(results).splitlines()
    assert lines[0] == "**intents**, accuracy on 1,000 rows, 2 cores of Processor"
    assert lines[4:] == [
        "| teacher, `transformers` pipeline | 90.0 [89.0, 91.0] | 100.0% | 1.0x | 90.0 |",
        "| **slow-good** | 89.0 [88.0, 90.0] | 98.9% | 4.0x | 10.0 |",
        "| fast-fair | 85.0 [84.0, 86.0] | 94.4% | 12.0x | 10.0 |",
    ]


def test_a_baseline_in_torch_is_called_so(make_tables, results):
    path = results / "intents" / "frontier.json"
    frontier = json.loads(path.read_text())
    frontier["baseline"]["engine"] = "torch"
    path.write_text(json.dumps(frontier))
    assert make_tables.frontier_table(results).splitlines()[4].startswith("| teacher, torch | 90.0")


def test_the_chosen_one_is_shown_even_when_another_beats_it(make_tables, results):
    path = results / "intents" / "frontier.json"
    path.write_text(path.read_text().replace('"chosen": "slow-good"', '"chosen": "beaten"'))
    assert "| **beaten** |" in make_tables.frontier_table(results)


def test_the_memory_table_has_the_figures(make_tables, results):
    lines = make_tables.memory_table(results).splitlines()
    assert lines[2:4] == [
        "| tokens | 11,000,000 |",
        "| most resident memory, reading to batches | 612 MiB |",
    ]
    assert "| tokenising, once | 41.3 s |" in lines and len(lines) == 9


def test_filling_changes_only_what_is_between_the_markers(make_tables, results):
    text = "a\n<!-- table:memory -->\nold\n<!-- end:memory -->\nb\n"
    filled = make_tables.fill_tables(text, results)
    assert filled.startswith("a\n<!-- table:memory -->\n| one million short rows |")
    assert filled.endswith("|\n<!-- end:memory -->\nb\n")
    assert "old" not in filled
    assert make_tables.fill_tables(filled, results) == filled


def test_without_results_a_table_is_empty(make_tables, tmp_path):
    text = "<!-- table:frontier -->\nold\n<!-- end:frontier -->"
    filled = make_tables.fill_tables(text, tmp_path)
    assert filled == "<!-- table:frontier -->\n<!-- end:frontier -->"


def test_a_marker_without_a_table_is_refused(make_tables, tmp_path):
    with pytest.raises(KeyError, match="nothing"):
        make_tables.fill_tables("<!-- table:nothing -->\n<!-- end:nothing -->", tmp_path)


def test_every_table_has_one_place(make_tables):
    pages = [REPOSITORY / name for name in make_tables.PAGES]
    placed = [
        name
        for page in pages
        if page.exists()
        for _, name, _, _ in make_tables.MARKER.findall(page.read_text(encoding="utf-8"))
    ]
    tables = set(make_tables.TABLES)
    assert sorted(placed) == sorted(
        tables if all(p.exists() for p in pages) else tables - {"tasks"}
    )


def test_the_pages_are_made_from_the_results(make_tables):
    assert make_tables.main(["--check"]) == 0, "run `make report`"


def test_every_page_there_is_gets_its_tables(make_tables, results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_tables, "REPOSITORY", tmp_path)
    (tmp_path / "results").mkdir()
    results.joinpath("memory_million_rows.json").rename(
        tmp_path / "results" / "memory_million_rows.json"
    )
    marked = "<!-- table:memory -->\n<!-- end:memory -->\n"
    (tmp_path / "README.md").write_text(marked)
    assert make_tables.main(["--check"]) == 1
    assert (tmp_path / "README.md").read_text() == marked
    assert make_tables.main([]) == 0 and make_tables.main(["--check"]) == 0
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tasks.md").write_text(marked)
    assert make_tables.main(["--check"]) == 1
    assert "docs/tasks.md is not made from results/" in capsys.readouterr().err
    assert make_tables.main([]) == 0
    assert "11,000,000" in (tmp_path / "docs" / "tasks.md").read_text()


def test_the_table_of_teachers_has_means_over_seeds_beside_the_plain_ones(make_tables, tmp_path):
    (tmp_path / "intents").mkdir()
    for kind, what, scores in (
        ("teacher", "bertwright finetune", [0.9, 0.92]),
        ("plain", "plain transformers", [0.89]),
    ):
        for seed, score in enumerate(scores):
            facts = {
                **{"what": what, "data": "intents", "epochs": 3.0, "lr": 1e-4, "batch_size": 32},
                **{"seed": seed, "dev_accuracy": score, "test_accuracy": score - 0.1},
            }
            path = tmp_path / "intents" / f"{kind}-s{seed}.json"
            path.write_text(json.dumps(facts))
    assert make_tables.teachers_table(tmp_path).splitlines()[2:] == [
        "| intents, bertwright finetune | 3 / 0.0001 / 32 | 2 | 91.0 ± 1.4 | 81.0 ± 1.4 |",
        "| intents, plain transformers | 3 / 0.0001 / 32 | 1 | 89.0 | 79.0 |",
    ]
    assert make_tables.teachers_table(tmp_path / "nothing") == ""


def test_the_table_of_students_has_means_of_what_several_seeds_kept(make_tables, tmp_path):
    def student(name, seed, kept, **more):
        ends = {f"{p}kept_{e}": kept for p in ("", "test_") for e in ("low", "high")}
        facts = {
            "method": "distil",
            "layers": 3,
            "seed": seed,
            "kept": kept,
            "test_kept": kept - 0.1,
        }
        return {"name": f"{name}@openvino:int8", **facts, **ends, **more}

    candidates = [
        student("distil-3L", 0, 0.99),
        student("distil-3L-s1", 1, 0.97),
        student("distil-1L", 0, 0.9, layers=1),
        {**student("distil-3L", 0, 0.99), "name": "distil-3L@torch:fp32"},
    ]
    (tmp_path / "intents").mkdir()
    frontier = {"chosen": "distil-3L@openvino:int8", "candidates": candidates}
    (tmp_path / "intents" / "frontier.json").write_text(json.dumps(frontier))
    assert make_tables.students_table(tmp_path).splitlines()[4:] == [
        "| distil-3L@openvino:int8 | 99.0% [99.0, 99.0] | 89.0% [99.0, 99.0] "
        "| 98.0 ± 1.4 (2) | 88.0 ± 1.4 (2) |",
        "| distil-1L@openvino:int8 | 90.0% [90.0, 90.0] | 80.0% [90.0, 90.0] | – | – |",
    ]


def task_result(seed=0, threads=1, **more):
    options = {"epochs": 5, "lr": 2e-4, "batch_size": 32, "seed": seed, "threads": threads}
    score = more.get("score", 0.431)
    return {
        **{"task": "tag", "options": options, "train_seconds": 200.0, "throughput_texts_s": 900.0},
        **{"primary": "f1", "score": score, "score_low": 0.38, "score_high": 0.478},
        **{"metrics": {"dev": {}, "test": {"f1": score, "pearson": score}}, **more},
    }


def write_run(tmp_path, name, who, result):
    folder = tmp_path / "tasks" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{who}-s{result['options']['seed']}.json").write_text(json.dumps(result))


def test_the_table_of_tasks_has_ours_beside_the_library(make_tables, tmp_path):
    numbers = {"task": "regress", "primary": "pearson"}
    write_run(tmp_path, "a", "ours", task_result(threads=2, train_seconds=1000.0, **numbers))
    write_run(tmp_path, "wnut17-crf", "ours", task_result())
    for seed, threads, score in ((1, 2, 0.451), (0, 1, 0.431)):
        write_run(tmp_path, "wnut17", "ours", task_result(seed, threads, score=score))
    plain = {"library": "transformers", "metrics": {"test": {"f1": 0.427, "precision": 0.5}}}
    for seed, threads, seconds in ((0, 1, 9000.0), (1, 2, 1250.0)):
        result = task_result(seed, threads, **plain, train_seconds=seconds)
        write_run(tmp_path, "wnut17", "plain", result)
    speed = {"ours": [2400.0, 2500.0, 900.0], "plain": [1200.0, 1100.0, 1300.0], "ratio": 2.0}
    (tmp_path / "tasks" / "wnut17" / "speed.json").write_text(json.dumps(speed))
    options, score = "5 / 0.0002 / 32", "43.1 [38.0, 47.8]"
    assert make_tables.tasks_table(tmp_path).splitlines()[2:] == [
        f"| a | regress, pearson | {options} | {score} | – | – | – | – | 1,000 | – | – | – | – |",
        f"| wnut17 | tag, f1 | {options} | {score} | 44.1 ± 1.4 (2) "
        "| transformers | 42.7 | 42.7 ± 0.0 (2) | 200 | 1,250 | 2,400 | 1,200 | 2.00x |",
        f"| wnut17-crf | tag, f1 | {options} | {score} | – | – | – | – | – | – | – | – | – |",
    ]
    assert make_tables.tags_table(tmp_path).splitlines()[2:] == [
        "| wnut17 | 44.1 ± 1.4 | 2 | 200 | 900 |"
    ]
    nothing = tmp_path / "nothing"
    assert make_tables.tasks_table(nothing) == make_tables.tags_table(nothing) == ""


def test_the_table_of_poolings_has_a_row_a_vector(make_tables, tmp_path):
    assert make_tables.sts_poolings_table(tmp_path) == ""
    spearman = {"mean": {"2012": 0.7, "2013": 0.8, "mean": 0.75}}
    (tmp_path / "sts_poolings.json").write_text(json.dumps({"spearman": spearman}))
    assert make_tables.sts_poolings_table(tmp_path).splitlines() == [
        "| vector | 2012 | 2013 | mean |",
        "| --- | ---: | ---: | ---: |",
        "| mean | 70.0 | 80.0 | 75.0 |",
    ]


def test_the_tables_of_senses_and_of_several_tasks(make_tables, tmp_path):
    def scored(score, **more):
        return {"score": score, "score_low": score - 0.1, "score_high": score + 0.1, **more}

    assert make_tables.senses_table(tmp_path) == make_tables.multitask_table(tmp_path) == ""
    (tmp_path / "tasks" / "mcl-wic-en").mkdir(parents=True)
    layers = {
        "nearest": [scored(0.5, layers=1), scored(0.6, layers=2)],
        "finetuned": [scored(0.7, layers=2)],
    }
    (tmp_path / "tasks" / "mcl-wic-en" / "layers.json").write_text(json.dumps(layers))
    assert make_tables.senses_table(tmp_path).splitlines()[2:] == [
        "| 1 | 50.0 [40.0, 60.0] | – |",
        "| 2 | 60.0 [50.0, 70.0] | 70.0 [60.0, 80.0] |",
    ]
    (tmp_path / "tasks" / "multitask").mkdir()
    three = {
        "single": {
            "a": scored(0.8, primary="accuracy", seconds=100.0),
            "b": scored(0.7, primary="pearson", seconds=50.4),
        },
        "joint": {"seconds": 140.0, "heads": {"a": scored(0.9), "b": scored(0.6)}},
    }
    (tmp_path / "tasks" / "multitask" / "three.json").write_text(json.dumps(three))
    assert make_tables.multitask_table(tmp_path).splitlines()[2:] == [
        "| a | accuracy | 80.0 [70.0, 90.0] | 90.0 [80.0, 100.0] |",
        "| b | pearson | 70.0 [60.0, 80.0] | 60.0 [50.0, 70.0] |",
        "| training | seconds | 150 | 140 |",
    ]


def test_the_tables_of_frozen_encoders_and_contenders(make_tables, tmp_path, write):
    tables = (
        *(make_tables.pooling_runs_table, make_tables.frozen_or_tuned_table),
        *(make_tables.document_vectors_table, make_tables.compare_table),
    )
    assert [table(tmp_path) for table in tables] == [""] * 4

    def write(place, **facts):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))

    for seed, score in enumerate((0.7, 0.8)):
        run = {"pooling": "mean", "mode": "frozen", "train_s": 10, "peak_mb": 1000}
        write(f"poolings/stsb/mean-frozen-s{seed}.json", **run, test={"spearman": score})
    write(
        "poolings/stsb/cls-tuned-s0.json",
        **{"pooling": "cls", "mode": "tuned", "train_s": 90, "peak_mb": 2000},
        test={"spearman": 0.85},
    )
    write("poolings/stsb/reading.json", seconds=1)
    assert make_tables.pooling_runs_table(tmp_path).splitlines()[-2:] == [
        "| cls | – | 85.0 | – | – | 90 s | 2,000 |",
        "| mean | 75.0 ± 7.1 | – | 10 s | 1,000 | – | – |",
    ]
    shared = {"set": "sst2", "rows": 100, "train_s": 5.0}
    write("poolings/stsb/untrained.json", test={"mean": {"spearman": 0.654}})
    assert make_tables.pooling_runs_table(tmp_path).splitlines()[-2:] == [
        "| cls | – | – | 85.0 | – | – | 90 s | 2,000 |",
        "| mean | 65.4 | 75.0 ± 7.1 | – | 10 s | 1,000 | – | – |",
    ]
    write("frozen_or_tuned/a.json", **shared, contender="frozen:learner=best", score=0.8)
    write("frozen_or_tuned/b.json", **shared, contender="finetune:lr=1", score=0.7)
    expected = "| sst2, 100 rows | 80.0 | 70.0 |"
    assert make_tables.frozen_or_tuned_table(tmp_path).splitlines()[-1] == expected
    write(
        "document_vectors/a.json",
        **{"set": "ag_news", "vector": "lda", "width": 100, "accuracy": 0.8, "low": 0.7},
        **{"high": 0.9, "precision_at_5": 0.6, "nmi": 0.5, "vectors_s": 3, "peak_mb": 400},
    )
    expected = "| ag_news, lda | 100 | 80.0 [70.0, 90.0] | 60.0 | 0.50 | 3 s | 400 |"
    assert make_tables.document_vectors_table(tmp_path).splitlines()[-1] == expected
    one = {"name": "tfidf", "primary": "accuracy", "score": 0.8, "score_low": 0.7}
    one |= {"score_high": 0.9, "train_s": 2.4, "throughput_texts_s": 12345.6, "size_mb": 1.25}
    rows = {"train": 1000, "dev": 1, "test": 200}
    write("compare/sst2.json", contenders=[one, {**one, "name": "lda", "score": 0.9}], rows=rows)
    lines = make_tables.compare_table(tmp_path).splitlines()
    assert lines[0] == "**sst2**, 1,000 rows to learn from, 200 to judge"
    assert lines[-2].startswith("| lda | 90.0 [70.0, 90.0] |")
    assert lines[-1] == "| tfidf | 80.0 [70.0, 90.0] | 2 s | 12,346 | 1.2 |"


def test_students_stand_by_recipe_and_size(make_tables, tmp_path, write):
    folder = tmp_path / "transfer" / "toy"
    folder.mkdir(parents=True)

    def write(name, score, **more):
        test = {"score": score, "score_low": score - 0.01, "score_high": score + 0.01}
        (folder / f"{name}.json").write_text(json.dumps({"test": test, **more}))

    write("teacher-s0", 0.9)
    for seed, score in enumerate((0.7, 0.8)):
        write(f"2-control-s{seed}", score, recipe="control", size="2", cpu_s=100 + 20 * seed)
    write("1-soft-s0", 0.65, recipe="soft", size="1", cpu_s=50)
    write("2-soft-3x-s0", 0.66, recipe="soft-3x", size="2", cpu_s=330)
    table = make_tables.TABLES["transfer"](tmp_path)
    assert "**toy**, accuracy on test; the teacher has 90.0" in table
    assert "| learned from | 2 layers | 1 layer | processor time |" in table
    assert "| labels alone (control) | 75.0 ± 7.1 (2) | – | 1.0x |" in table
    assert "| soft targets | – | 65.0 [64.0, 66.0] | – |" in table
    assert "| soft targets, 3 times the epochs | 66.0 [65.0, 67.0] | – | 3.0x |" in table
    assert make_tables.TABLES["transfer"](tmp_path / "nothing") == ""


def test_students_without_attention_stand_beside_tfidf(make_tables, tmp_path, write):
    score = {"score": 0.8, "score_low": 0.79, "score_high": 0.81}
    speeds = [
        {"name": f"static@{engine}:fp32", "throughput_texts_s": rate, "size_mb": 14.05}
        for engine, rate in (("torch", 5000.0), ("openvino", 20000.0))
    ]
    speeds += [
        {"name": "pipeline", "throughput_texts_s": 200.0, "size_mb": 90.0},
        {"name": "1@openvino:int8", "throughput_texts_s": 8000.0, "size_mb": 9.0},
    ]
    found = {
        "set": "toy",
        "teacher": {**score, "score": 0.9},
        "int8": {"1": score},
        "baseline": "pipeline",
        "tfidf": {**score, "throughput_texts_s": 10000.0, "size_mb": 2.0},
        "students": {
            "static": [{"test": {"score": one}} for one in (0.84, 0.86)],
            "1": [{"test": score}],
        },
        "speeds": speeds,
    }
    write(tmp_path, "static/toy.json", found)
    lines = make_tables.static_table(tmp_path).splitlines()
    assert lines[2].endswith("pipeline | 90.0 [79.0, 81.0] | 100% | 200 | 1.0 | 90.0 |")
    assert lines[3] == "| toy, TF-IDF | 80.0 [79.0, 81.0] | 88.9% | 10,000 | 50.0 | 2.0 |"
    assert lines[4].startswith("| toy, static, torch:fp32 | 85.0 ± 1.4 | 94.4% | 5,000 | 25.0 |")
    assert "| toy, static, openvino:fp32 | 85.0 ± 1.4 | 94.4% | 20,000 | 100.0 |" in lines[5]
    assert lines[6].startswith("| toy, 1 layer, openvino:int8 | 80.0 [79.0, 81.0] | 88.9% | 8,000")
    assert make_tables.static_table(tmp_path / "nothing") == ""


def test_privileged_students_stand_beside_the_control_of_their_seed(make_tables, tmp_path, write):
    scores = {"control": (0.5, 0.6), "privileged-more": (0.54, 0.66), "distilled": (0.5,)}
    for who, of_who in scores.items():
        for seed, score in enumerate(of_who):
            found = {"set": "toy", "who": who, "seed": seed, "test": {"score": score}}
            write(tmp_path, f"privileged/toy-{who}-s{seed}.json", found)
    lines = make_tables.privileged_table(tmp_path).splitlines()
    assert lines[2] == "| toy, 2 layers, labels alone (control) | 55.0 ± 7.1 (2) | – |"
    assert lines[3].endswith("| 50.0 (1) | 0.0 |") and lines[4].endswith("| 5.0 ± 1.4 |")
    assert len(lines) == 5 and make_tables.privileged_table(tmp_path / "nothing") == ""
