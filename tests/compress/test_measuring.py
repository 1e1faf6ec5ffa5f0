"""Groups, ratios inside a group, and targets whose process dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertwright.compress import measuring
from bertwright.errors import WorkerError
from bertwright.evaluate.measure import Measurement, Target


def target(name: str) -> Target:
    return Target(name=name, path=Path(name))


def measurement(name: str, speed: float) -> Measurement:
    return Measurement(
        name=name,
        engine="torch",
        precision="fp32",
        throughput_texts_s=speed,
        throughput_tokens_s=speed,
        throughput_spread_texts_s=0.0,
        latency_p50_ms=1.0,
        latency_p95_ms=1.0,
        size_mb=1.0,
        peak_memory_mb=1.0,
        load_s=1.0,
        repeats=1,
    )


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """A machine that grows slower with each group, and on which `bad` targets die."""
    seen: list[list[str]] = []

    def fake(targets, rows, **options):
        names = [t.name for t in targets]
        seen.append(names)
        if any(name.startswith("bad") for name in names):
            raise WorkerError("it died")
        slow = 1 / len(seen)
        return [measurement(n, slow * (100 if n == "base" else 500)) for n in names]

    monkeypatch.setattr(measuring, "measure_targets", fake)
    monkeypatch.setattr(measuring, "GROUP_SIZE", 4)
    return seen


def measure(names: list[str]) -> measuring.Measured:
    return measuring.measure_beside_baseline(
        target("base"),
        [target(n) for n in names],
        {"text": ["a text"]},
        threads=1,
        repeats=1,
        latency_rows=1,
    )


def test_a_speed_up_is_over_the_baseline_of_the_same_group(calls):
    names = [f"m{i}" for i in range(6)]
    found = measure(names)
    assert calls == [["base", *names[:4]], ["base", *names[4:]]]
    assert found.speedups == dict.fromkeys(names, 5.0) and found.failed == {}
    assert found.measurements["m0"].throughput_texts_s == 500
    assert found.measurements["m5"].throughput_texts_s == 250
    assert found.baseline.throughput_texts_s == 100


def test_one_bad_target_costs_only_itself(calls):
    found = measure(["m0", "bad", "m2", "m3", "m4"])
    assert set(found.measurements) == {"m0", "m2", "m3", "m4"}
    assert found.failed == {"bad": "it died"}


def test_only_bad_targets_still_leave_the_baseline(calls):
    found = measure(["bad1", "bad2"])
    assert set(found.failed) == {"bad1", "bad2"} and found.baseline.name == "base"
    with pytest.raises(WorkerError):
        measuring.measure_beside_baseline(
            target("bad"), [], {"text": ["a"]}, threads=1, repeats=1, latency_rows=1
        )
