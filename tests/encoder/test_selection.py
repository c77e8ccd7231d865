"""Choosing a dimension: limits honoured, reasons given, measurements that are missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.selection import (
    Limits,
    Measurement,
    Measurements,
    Preference,
    Selection,
    select,
)
from adaptive_search.errors import QueryError, WeightsError

INF, NAN = float("inf"), float("nan")
# dim, granularity, accuracy, latency_ms
ROWS = [
    Measurement(64, 1, 0.70, 1.0),
    Measurement(64, 4, 0.60, 0.5),
    Measurement(512, 1, 0.97, 1.1),
    Measurement(512, 4, 0.90, 0.6),
    Measurement(1536, 1, 1.0, 1.2),
    Measurement(1536, 4, 0.92, 0.7),
]


FINGERPRINT = "0123456789abcdef"
MEASURED = Measurements("benchmarks/results/quality.json", tuple(ROWS))


def choose(**limits: Any) -> Selection:
    return select(MEASURED, Limits(**limits))


def write(
    directory: Path, rows: Any, source: Any = "a report", fingerprint: Any = FINGERPRINT
) -> Path:
    text = json.dumps({"source": source, "fingerprint": fingerprint, "rows": rows})
    (directory / "measurements.json").write_text(text, encoding="utf-8")
    return directory


def test_without_limits_the_most_accurate() -> None:
    selection = choose()
    assert selection.choice == Measurement(1536, 1, 1.0, 1.2)
    assert selection.source == "benchmarks/results/quality.json"
    assert selection.reason == (
        "the most accurate, then the fewest dimensions: 100.0% of the full vector's nDCG@10, "
        "1.20 ms a query, 307.2 MB for 100,000 vectors"
    )


def test_a_least_accuracy_takes_the_smallest_that_keeps_it() -> None:
    assert choose(min_accuracy=0.95).choice == ROWS[2]
    assert choose(min_accuracy=0.9).choice == ROWS[3]  # of equal size, the faster
    assert "of those that keep 95.0% of nDCG@10:" in choose(min_accuracy=0.95).reason


def test_preferences() -> None:
    assert choose(min_accuracy=0.9, prefer="accuracy").choice == ROWS[4]
    assert choose(min_accuracy=0.9, prefer="size").choice == ROWS[3]
    assert choose(prefer="size").choice == ROWS[1]
    # 0.5 ms is the fastest, and 0.6 is more than noise away.
    assert choose(prefer="speed").choice == ROWS[1]
    # 0.7 ms and 0.6 ms differ, though the slower keeps more.
    assert choose(min_accuracy=0.85, prefer="speed").choice == ROWS[3]


def test_latencies_that_differ_by_noise_count_as_equal() -> None:
    rows = (Measurement(1024, 8, 0.9, 1.00), Measurement(256, 8, 0.9, 1.09))
    assert select(Measurements("x", rows), Limits(prefer="speed")).choice.dim == 256
    rows = (Measurement(1024, 8, 0.9, 1.00), Measurement(256, 8, 0.9, 1.11))
    assert select(Measurements("x", rows), Limits(prefer="speed")).choice.dim == 1024


def test_memory_is_of_float16_vectors() -> None:
    assert choose(max_memory_mb=102.4).choice.dim == 512
    assert choose(max_memory_mb=102.3).choice.dim == 64
    assert "that fit 102.4 MB: " in choose(max_memory_mb=102.4).reason


def test_a_latency_limit() -> None:
    selection = choose(max_latency_ms=0.7)
    assert selection.choice == ROWS[5]
    assert "that take at most 0.7 ms: " in selection.reason


@given(
    min_accuracy=st.floats(0, 1),
    max_latency_ms=st.floats(0.01, 2) | st.just(INF),
    max_memory_mb=st.floats(0.01, 400) | st.just(INF),
    prefer=st.sampled_from([None, "size", "speed", "accuracy"]),
)
def test_a_choice_keeps_every_limit_and_one_is_found_if_there_is(
    min_accuracy: float, max_latency_ms: float, max_memory_mb: float, prefer: Preference | None
) -> None:
    limits = Limits(min_accuracy, max_latency_ms, max_memory_mb, prefer=prefer)
    fitting = [
        row
        for row in ROWS
        if row.accuracy >= min_accuracy
        and row.latency_ms <= max_latency_ms
        and row.dim * 2 * 100_000 <= max_memory_mb * 1e6
    ]
    if fitting:
        assert select(MEASURED, limits).choice in fitting
    else:
        with pytest.raises(QueryError, match="no measured choice"):
            select(MEASURED, limits)


def test_what_comes_nearest_is_named() -> None:
    with pytest.raises(QueryError, match="the most is 70.0%, at 64 dims and granularity 1$"):
        choose(min_accuracy=0.9, max_memory_mb=20)
    with pytest.raises(QueryError, match="the least is 0.50 ms a query, and 12.8 MB for 100,000"):
        choose(max_latency_ms=0.1)


@pytest.mark.parametrize(
    "limits",
    [
        {"min_accuracy": NAN},
        {"min_accuracy": -0.1},
        {"min_accuracy": 1.01},
        {"max_latency_ms": NAN},
        {"max_latency_ms": 0},
        {"max_latency_ms": -1},
        {"max_memory_mb": NAN},
        {"max_memory_mb": -INF},
        {"vectors": 0},
        {"vectors": -5},
        {"vectors": NAN},
        {"vectors": 10**400},
        {"prefer": "beauty"},
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any]) -> None:
    (name,) = limits
    with pytest.raises(QueryError, match=f"{name}=.* must be"):
        choose(**limits)


def test_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    mixed = Measurement(64, (24, 12, 3), 0.5, 0.4)
    rows = [dataclasses.asdict(row) for row in (*ROWS, mixed)]
    measured = Measurements.read(write(tmp_path, rows), FINGERPRINT)
    assert measured == Measurements("a report", (*ROWS, mixed))
    assert measured.rows[-1].granularity == (24, 12, 3)


def test_the_encoder_chooses_from_the_measurements_of_its_weights(weights: Path) -> None:
    encoder = Encoder.load(weights, threads=1)
    with pytest.raises(WeightsError, match=r"measurements\.json"):
        encoder.select_optimal_dimension(0.9)
    row = {"dim": 16, "granularity": 2, "accuracy": 0.95, "latency_ms": 1.0}
    write(weights, [row])
    with pytest.raises(WeightsError, match=f"not that of the weights, {encoder.fingerprint}"):
        encoder.select_optimal_dimension(0.9)
    write(weights, [row], fingerprint=encoder.fingerprint)
    selection = encoder.select_optimal_dimension(0.9, 2.0, 100.0, vectors=10, prefer="speed")
    assert (selection.choice.dim, selection.choice.granularity) == (16, 2)
    assert selection.source == "a report"
    with pytest.raises(QueryError, match="max_memory_mb=nan must be above 0"):
        encoder.select_optimal_dimension(max_memory_mb=NAN)


@pytest.mark.parametrize(
    "content",
    [None, "", "[", "[]", "{}", '{"rows": []}', '{"source": "x", "rows": []}', '{"rows": {}}'],
)
def test_no_measurements(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "measurements.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"measurements\.json .*benchmarks/quality\.py"):
        Measurements.read(tmp_path, FINGERPRINT)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        {},
        [3],
        [{"dim": 64}],
        [{"dim": 64, "granularity": 1, "accuracy": 1, "speed": 2}],
        [{"dim": "64", "granularity": 1, "accuracy": 1, "latency_ms": 1}],
        [{"dim": 64, "granularity": 1, "accuracy": None, "latency_ms": 1}],
    ],
)
def test_rows_that_are_no_measurements(tmp_path: Path, rows: object) -> None:
    with pytest.raises(WeightsError, match=r"measurements\.json .*benchmarks/quality\.py"):
        Measurements.read(write(tmp_path, rows), FINGERPRINT)


@pytest.mark.parametrize(
    "row",
    [
        {"dim": 0},
        {"dim": -64},
        {"dim": 10**400},
        {"dim": True},
        {"dim": 64.0},
        {"granularity": 0},
        {"granularity": "1/2"},
        {"granularity": []},
        {"granularity": [24, 0]},
        {"granularity": [[24]]},
        {"granularity": [1] * 2000},
        {"accuracy": NAN},
        {"accuracy": INF},
        {"accuracy": -0.1},
        {"accuracy": 1e9},
        {"accuracy": 10**400},
        {"latency_ms": NAN},
        {"latency_ms": -1},
        {"latency_ms": "fast"},
    ],
)
def test_hostile_rows(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"dim": 64, "granularity": 1, "accuracy": 0.9, "latency_ms": 1.0}
    Measurements.read(write(tmp_path, [good]), FINGERPRINT)
    with pytest.raises(WeightsError, match=f"{next(iter(row))} must be"):
        Measurements.read(write(tmp_path, [good | row]), FINGERPRINT)


@pytest.mark.parametrize("source", [3, None, ["a"], "\x1b[2J", "two\nlines"])
def test_hostile_sources(tmp_path: Path, source: object) -> None:
    rows = [dataclasses.asdict(row) for row in ROWS]
    with pytest.raises(WeightsError, match="source of printable text"):
        Measurements.read(write(tmp_path, rows, source), FINGERPRINT)


def test_hostile_files(tmp_path: Path) -> None:
    row = dataclasses.asdict(ROWS[0])
    with pytest.raises(WeightsError, match="occur twice"):
        Measurements.read(write(tmp_path, [row, row]), FINGERPRINT)
    (tmp_path / "measurements.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(WeightsError, match="holds no measurements"):
        Measurements.read(tmp_path, FINGERPRINT)
    (tmp_path / "measurements.json").write_bytes(b"[" * 100_000)
    with pytest.raises(WeightsError, match="holds no measurements"):
        Measurements.read(tmp_path, FINGERPRINT)
    write(tmp_path, [row] * 30_000)  # over a megabyte
    with pytest.raises(WeightsError, match="holds no measurements"):
        Measurements.read(tmp_path, FINGERPRINT)
