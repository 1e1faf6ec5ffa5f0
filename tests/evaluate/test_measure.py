"""The measuring protocol, with foreseeable targets and with transformers' own pipeline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from bertwright.errors import UsageError, WorkerError
from bertwright.evaluate import measure
from bertwright.evaluate.measure import Target, measure_targets, model_folder
from bertwright.evaluate.worker import PipelineRunner, peak_memory_mb

TEXTS = ["one two three", "four five", "six", "seven eight nine ten"]
ROWS = {"text": TEXTS}
FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function from specs to targets that run in the fake worker."""
    monkeypatch.setattr(measure, "WORKER_COMMAND", FAKE)
    (tmp_path / "weights").write_bytes(b"x" * 3_000_000)

    def targets(*specs: str) -> list[Target]:
        return [Target(name=f"{i}-{s}", path=tmp_path, spec=s) for i, s in enumerate(specs)]

    return targets


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list:
    """Return the list that every worker started from now on is put in."""
    started: list = []
    enter = measure._Worker.__enter__

    def enter_and_note(self):
        started.append(self)
        return enter(self)

    monkeypatch.setattr(measure._Worker, "__enter__", enter_and_note)
    return started


def test_times_are_those_of_the_target(fake) -> None:
    slow, fast = measure_targets(
        fake("sleep=0.02", "sleep=0.002"), ROWS, threads=1, repeats=3, latency_rows=4
    )
    assert slow.name == "0-sleep=0.02"
    assert 20 <= slow.latency_p50_ms < 100
    assert 2 <= fast.latency_p50_ms < 20
    assert 10 < slow.throughput_texts_s <= 50
    assert 50 < fast.throughput_texts_s <= 500
    assert slow.latency_p95_ms >= slow.latency_p50_ms
    assert slow.throughput_spread_texts_s >= 0
    assert slow.throughput_tokens_s == pytest.approx(slow.throughput_texts_s * 10 / 4)
    assert slow.size_mb == pytest.approx(3.0)
    assert (slow.engine, slow.precision, slow.repeats) == ("fake", "fp32", 3)
    assert slow.load_s > 0


def test_pairs_count_both_texts(fake) -> None:
    (measured,) = measure_targets(
        fake("sleep=0.001"), {**ROWS, "text_b": ["a b"] * 4}, threads=1, repeats=1, latency_rows=1
    )
    assert measured.throughput_tokens_s == pytest.approx(measured.throughput_texts_s * 18 / 4)


def test_the_first_round_is_thrown_away(fake) -> None:
    (measured,) = measure_targets(fake("warm=1.0"), ROWS, repeats=1, latency_rows=1, threads=1)
    assert measured.throughput_texts_s > 10
    (cold,) = measure_targets(
        fake("warm=1.0"), ROWS, repeats=1, latency_rows=1, threads=1, warmup=0
    )
    assert cold.throughput_texts_s < 5


def test_peak_memory_is_that_of_the_worker_alone(fake) -> None:
    ballast = bytearray(os.urandom(1)) * 300_000_000
    small, big = measure_targets(
        fake("memory=1", "memory=200"), ROWS, threads=1, repeats=1, latency_rows=1
    )
    del ballast
    assert 150 < big.peak_memory_mb - small.peak_memory_mb < 260
    assert 5 < small.peak_memory_mb < 300


def test_every_target_gets_the_same_threads(fake) -> None:
    found = measure_targets(fake("threads", "threads"), ROWS, threads=3, repeats=1, latency_rows=1)
    assert [m.precision for m in found] == ["3", "3"]


def test_others_are_stopped_while_one_is_measured(
    fake, workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []
    real_read = measure._Worker._read_line

    def state(worker) -> str:
        text = Path(f"/proc/{worker.process.pid}/stat").read_text(encoding="ascii")
        return text.rpartition(")")[2].split()[0]

    def read_line(self, doing):
        time.sleep(0.02)
        seen.append((doing, [state(other) for other in workers if other is not self]))
        return real_read(self, doing)

    monkeypatch.setattr(measure._Worker, "_read_line", read_line)
    measure_targets(
        fake("sleep=0.01", "sleep=0.01", "sleep=0.01"), ROWS, threads=1, repeats=2, latency_rows=2
    )
    measuring = [states for doing, states in seen if doing == "throughput"]
    assert len(measuring) == 6
    assert all(states == ["T", "T"] for states in measuring)
    assert all(worker.process.returncode == 0 for worker in workers)


def test_turns_go_round(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = measure._Worker.ask

    def ask(self, request):
        if request["op"] == "throughput":
            order.append(self.name[0])
        return real(self, request)

    monkeypatch.setattr(measure._Worker, "ask", ask)
    measure_targets(fake("s", "s", "s"), ROWS, threads=1, repeats=3, latency_rows=3)
    assert "".join(order) == "012120201"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("die=11", ["SIGSEGV", "the last words of the worker"]),
        ("die=9", ["SIGKILL", "memory"]),
        ("exit=3", ["exit status 3"]),
        ("noload", ["ValueError: cannot load this", "load"]),
        ("few", ["0 answers for 4 rows"]),
    ],
)
def test_a_failing_worker_is_a_worker_error(fake, workers, spec, words) -> None:
    targets = fake("sleep=0.001", spec)
    began = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        measure_targets(targets, ROWS, threads=1, repeats=1, latency_rows=1)
    assert targets[1].name in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert time.monotonic() - began < 20
    _all_ended(workers, 2)


def test_a_hanging_worker_is_ended(fake, workers) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match="no answer within 2 s"):
        measure_targets(fake("hang"), ROWS, threads=1, repeats=1, latency_rows=1, timeout_s=2)
    assert time.monotonic() - began < 20
    _all_ended(workers, 1)


def test_a_flood_on_stderr_blocks_nobody(fake) -> None:
    (measured,) = measure_targets(
        fake("flood"), ROWS, threads=1, repeats=1, latency_rows=1, timeout_s=20
    )
    assert measured.repeats == 1


def test_stopped_workers_die_with_their_parent(tmp_path: Path) -> None:
    code = f"""
import sys, os, signal, time
from pathlib import Path
from bertwright.evaluate import measure
measure.WORKER_COMMAND = {FAKE!r}
real = measure._Worker.ask
def ask(self, request):
    answer = real(self, request)
    print(self.process.pid, flush=True)
    time.sleep(60)
measure._Worker.ask = ask
target = measure.Target(name="a", path=Path({str(tmp_path)!r}), spec="s")
measure.measure_targets([target], {{"text": ["x"]}})
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def _all_ended(workers: list, count: int) -> None:
    assert len(workers) == count
    assert all(worker.process.returncode is not None for worker in workers)


def test_useless_requests_are_refused_before_anything_starts(tmp_path: Path) -> None:
    target = Target(name="a", path=tmp_path)
    for targets, rows, options, words in (
        ([], ROWS, {}, "no targets"),
        ([target], {"text": []}, {}, "no rows"),
        ([target, target], ROWS, {}, "same name"),
        ([target], {**ROWS, "text_b": ["x"]}, {}, "different lengths"),
        ([target], ROWS, {"repeats": 0}, "repeats"),
        ([target], ROWS, {"latency_rows": 0}, "latency_rows"),
    ):
        with pytest.raises(UsageError, match=words):
            measure_targets(targets, rows, **options)


def test_a_run_directory_is_its_model(tmp_path: Path) -> None:
    assert model_folder(tmp_path) == tmp_path
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bertwright.json").write_text("{}", encoding="utf-8")
    assert model_folder(tmp_path) == tmp_path / "model"
    (tmp_path / "bertwright.json").write_text("{}", encoding="utf-8")
    assert model_folder(tmp_path) == tmp_path


def test_peak_memory_grows_and_does_not_shrink() -> None:
    before = peak_memory_mb()
    ballast = bytearray(os.urandom(1)) * int(80e6 + 1e6 * max(0.0, before - _resident_mb()))
    grown = peak_memory_mb()
    del ballast
    assert grown - before > 70
    assert peak_memory_mb() > grown - 5  # the kernel counts by thread, a little late


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.fixture(scope="module")
def stock_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny random stock BERT classifier and its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(TEXTS).split()]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        )
    )
    folder = tmp_path_factory.mktemp("stock")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_tokens_are_counted_without_padding_and_as_cut(stock_model: Path) -> None:
    request = {"path": str(stock_model), "threads": 1, "max_length": 32, "batch_size": 2}
    runner = PipelineRunner(request)
    assert runner.count_tokens(ROWS) == 10 + 2 * 4
    assert runner.count_tokens({**ROWS, "text_b": TEXTS}) == 20 + 3 * 4
    assert PipelineRunner({**request, "max_length": 4}).count_tokens(ROWS) == 4 + 4 + 3 + 4


@pytest.mark.parametrize("pairs", [False, True])
def test_the_baseline_is_transformers_own_pipeline(stock_model: Path, pairs: bool) -> None:
    texts = [*TEXTS, " ".join(["six"] * 100)]  # longer than the model has positions
    target = Target(name="baseline", path=stock_model, kind="pipeline", max_length=16)
    (measured,) = measure_targets(
        [target],
        {"text": texts, **({"text_b": texts} if pairs else {})},
        threads=1,
        repeats=2,
        latency_rows=5,
    )
    assert (measured.engine, measured.precision) == ("transformers", "fp32")
    tokens = (5 + 4 + 3 + 6 + 16) if not pairs else (9 + 7 + 5 + 11 + 16)
    assert measured.throughput_tokens_s == pytest.approx(measured.throughput_texts_s * tokens / 5)
    assert 0 < measured.latency_p50_ms <= measured.latency_p95_ms < 5000
    assert 100 < measured.peak_memory_mb < 3000
    size = sum(f.stat().st_size for f in stock_model.iterdir()) / 1e6
    assert measured.size_mb == pytest.approx(size)
    assert json.dumps(measured.load_s)
