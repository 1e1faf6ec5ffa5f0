"""Tables of what int8, exits, trimming and pruned shapes save and cost."""

from __future__ import annotations


def test_round_trips_tell_the_furthest_and_what_was_refused(make_tables, tmp_path, write):
    refused = {"refused": "no such part"}
    whole = {"max_logit": 2.0, "loaded_equal": True, "stock": {"max_abs": 0.0}}
    bert = {**whole, "onnxruntime": {"max_abs": 4e-6}, "openvino": refused}
    albert = {**whole, "loaded_equal": False, "stock": refused}
    albert |= {"onnxruntime": {"max_abs": 2e-6}, "openvino": refused}
    found = {"heads": {"bert": bert, "albert": albert, "xlnet": refused}, "none": {"bert": refused}}
    write(tmp_path, "round_trips.json", {"found": found})
    lines = make_tables.round_trips_table(tmp_path).splitlines()
    assert len(lines) == 3
    assert lines[-1] == "| heads | 2 | xlnet | 1 of 2 | 0e+00 (1 refused) | 2e-06 | refused |"


def test_scores_of_int8_are_points_lost_against_the_same_weights(make_tables, tmp_path, write):
    rows = [
        {"name": "torch-fp32", "score": 0.9, "primary": "accuracy"},
        {"name": "openvino-int8", "score": 0.893, "spared": []},
        {"name": "openvino-int8-repaired", "score": 0.899, "spared": ["layer 2", "head"]},
        {"name": "onnxruntime-int8-repaired", "refused": True},
        {"name": "qat-torch-fp32", "score": 0.91, "primary": "accuracy"},
        {"name": "qat-openvino-int8", "score": 0.911, "spared": []},
    ]
    write(tmp_path, "int8_scores/intents.json", {"rows": rows})
    lines = make_tables.int8_scores_table(tmp_path).splitlines()
    assert lines[0] == "|  | intents, accuracy |"
    figures = [line.rsplit("|", 2)[1].strip() for line in lines[2:]]
    assert figures == ["90.0", "+0.7", "+0.1 (2 spared)", "refused", "91.0", "-0.1"]


def test_exits_stand_beside_the_whole_model(make_tables, tmp_path, write):
    row = {"promised": 0.95, "agreement": 0.961, "average_layers": 3.2}
    row |= {"score_whole": 0.9, "score_early": 0.89}
    speeds = [
        {"latency_p50_ms": 6.0, "throughput_texts_s": 100.0},
        {"latency_p50_ms": 4.0, "throughput_texts_s": 130.0},
    ]
    write(tmp_path, "exits/intents.json", {"set": "intents", "rows": [row], "speeds": speeds})
    last = make_tables.exits_table(tmp_path).splitlines()[-1]
    assert last == "| intents, 0.95 | 0.961 | 3.20 | 90.0 | 89.0 | 1.50 | 1.30 |"


def test_exits_in_an_engine_stand_beside_its_own_whole_model(make_tables, tmp_path, write):
    rows = [
        {"engine": engine, "who": who, "folder": f"{engine}-{who}", "agreement": 0.99, "score": 0.8}
        for engine in ("onnxruntime", "openvino")
        for who in ("whole", "0.95", "whole, int8", "fitted 1", "fitted 3, 0.97")
    ]
    speeds = [
        {"name": row["folder"], "throughput_texts_s": 100.0 * place, "latency_p50_ms": 6.0 / place}
        for place, row in enumerate(rows, start=1)
    ]
    speeds.append({"name": "pipeline", "throughput_texts_s": 40.0, "latency_p50_ms": 6.0})
    found = {"set": "intents", "rows": rows, "speeds": speeds}
    write(tmp_path, "exit_engines/intents.json", found)
    lines = make_tables.exit_engines_table(tmp_path).splitlines()[2:]
    early = "| intents, ONNX Runtime | stopping early, 0.95 | 0.990 | 80.0 | 200 | 5.0 |"
    assert lines[1] == f"{early} 2.00 | 2.00 |"
    assert lines[7].startswith("| intents, OpenVINO | whole, int8 | 0.990 | 80.0 | 800 | 20.0 |")
    words = [line.split(" | ")[1] for line in lines[8:]]
    fitted = [
        "first layers (1), head fitted",
        "first layers (3), head fitted, stopping early, 0.97",
    ]
    assert words == fitted


def test_sizes_pruned_shapes_and_trimmed_sets(make_tables, tmp_path, write):
    sizes = {f"openvino:{one}": {"graph_mb": mb} for one, mb in (("fp32", 400.0), ("int8", 110.0))}
    write(tmp_path, "int8_sizes.json", {"sizes": sizes})
    assert "| openvino | 400.0 | 110.0 | – |" in make_tables.int8_sizes_table(tmp_path)
    whole = {"taken_percent": 0}
    half = {"taken_percent": 50, "flops_ratio": 1.5, "throughput_ratio": 1.4}
    half |= {"latency_ratio": 1.3, "size_mb": 280.0}
    shapes = {"kind": "heads", "engine": "torch", "rows": [whole, half]}
    write(tmp_path, "pruned_shapes/heads-torch.json", shapes)
    lines = make_tables.pruned_shapes_table(tmp_path).splitlines()
    assert lines[2:] == ["| 50% of the heads | torch | 1.50 | 1.40 | 1.30 | 280 |"]
    proof = {"set": "intents", "texts": 10, "num_tokens": 1200, "num_scored": 10}
    proof |= {"pieces_before": 30000, "pieces_after": 700, "size_mb_before": 90.0, "size_mb": 45.0}
    write(tmp_path, "trimmed_corpora/intents.json", proof)
    last = make_tables.trimmed_corpora_table(tmp_path).splitlines()[-1]
    assert last == "| intents | 10 | 1,200 | 10 | 30,000 → 700 | 90.0 → 45.0 |"


def test_what_leaving_tokens_out_saves(make_tables, tmp_path, write):
    row = {"agreement": 0.975, "score_whole": 0.9, "score_shorter": 0.88, "tokens_left": 0.51}
    rows = [{**row, "promised": None, "share": 0.5}, {**row, "promised": 0.95, "share": 0.6}]
    speeds = [
        {"name": f"torch-{who}", "throughput_texts_s": 10.0 * fast, "latency_p50_ms": 90.0 / fast}
        for who, fast in (("whole", 1.0), ("share-0.5", 1.5))
    ]
    write(tmp_path, "shortened/films.json", {"set": "films", "rows": rows, "speeds": speeds})
    lines = make_tables.shortened_table(tmp_path).splitlines()
    assert lines[0].startswith("| films, tokens that go on |") and "torch" in lines[0]
    assert lines[2] == "| 0.5 | 0.51 | 0.975 | 90.0 | 88.0 | 1.50 / 1.50 |"
    assert lines[3] == "| 0.6, found for 0.95 | 0.51 | 0.975 | 90.0 | 88.0 | – |"
    assert make_tables.shortened_table(tmp_path / "nothing") == ""
