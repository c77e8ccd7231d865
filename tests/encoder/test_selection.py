"""Choosing a dimension: limits honoured, reasons given, measurements that are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.encoder.selection import Measurement, Selection, read_measurements, select
from adaptive_search.errors import QueryError, WeightsError

INF = float("inf")
# dim, granularity, accuracy, latency_ms
ROWS = [
    Measurement(64, 1, 0.70, 1.0),
    Measurement(64, 4, 0.60, 0.5),
    Measurement(512, 1, 0.97, 1.1),
    Measurement(512, 4, 0.90, 0.6),
    Measurement(1536, 1, 1.0, 1.2),
    Measurement(1536, 4, 0.92, 0.7),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("measured")
    rows = [
        {"dim": r.dim, "granularity": r.granularity, "accuracy": r.accuracy}
        | {"latency_ms": r.latency_ms}
        for r in ROWS
    ]
    report = json.dumps({"source": "benchmarks/results/quality.json", "rows": rows})
    (directory / "measurements.json").write_text(report, encoding="utf-8")
    return directory


def choose(measured: Path, **limits: float) -> Selection:
    asked = {"min_accuracy": 0.0, "max_latency_ms": INF, "max_memory_mb": INF} | limits
    return select(measured, **asked, vectors=100_000)


def test_without_limits_the_most_accurate(measured: Path) -> None:
    selection = choose(measured)
    assert selection.choice == Measurement(1536, 1, 1.0, 1.2)
    assert selection.source == "benchmarks/results/quality.json"
    assert "100.0% of the full vector's nDCG@10, 1.20 ms a query, 307.2 MB" in selection.reason


def test_a_least_accuracy_takes_the_smallest_that_keeps_it(measured: Path) -> None:
    assert choose(measured, min_accuracy=0.95).choice == ROWS[2]
    assert choose(measured, min_accuracy=0.9).choice == ROWS[3]  # of equal size, the faster
    assert "keep 95.0%" in choose(measured, min_accuracy=0.95).reason


def test_memory_is_of_float16_vectors(measured: Path) -> None:
    assert choose(measured, max_memory_mb=102.4).choice.dim == 512
    assert choose(measured, max_memory_mb=102.3).choice.dim == 64


def test_a_latency_limit(measured: Path) -> None:
    assert choose(measured, max_latency_ms=0.7).choice == ROWS[5]


@given(
    min_accuracy=st.floats(0, 1.1),
    max_latency_ms=st.floats(0, 2) | st.just(INF),
    max_memory_mb=st.floats(0, 400) | st.just(INF),
)
def test_a_choice_keeps_every_limit_and_one_is_found_if_there_is(
    measured: Path, min_accuracy: float, max_latency_ms: float, max_memory_mb: float
) -> None:
    limits = {"max_latency_ms": max_latency_ms, "max_memory_mb": max_memory_mb}
    fitting = [
        row
        for row in ROWS
        if row.accuracy >= min_accuracy
        and row.latency_ms <= max_latency_ms
        and row.dim * 2 * 100_000 <= max_memory_mb * 1e6
    ]
    if fitting:
        assert choose(measured, min_accuracy=min_accuracy, **limits).choice in fitting
    else:
        with pytest.raises(QueryError, match="no measured choice"):
            choose(measured, min_accuracy=min_accuracy, **limits)


def test_what_comes_nearest_is_named(measured: Path) -> None:
    with pytest.raises(QueryError, match="the most is 70.0%, at 64 dims and granularity 1/1"):
        choose(measured, min_accuracy=0.9, max_memory_mb=20)
    with pytest.raises(QueryError, match="the least is 0.50 ms a query and 12.8 MB for 100,000"):
        choose(measured, max_latency_ms=0.1)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "null",
        '{"source": "x"}',
        '{"source": "x", "rows": 3}',
        '{"source": "x", "rows": []}',
        '{"source": "x", "rows": [{"dim": 64}]}',
        '{"source": "x", "rows": [{"dim": 64, "granularity": 1, "accuracy": 1, "speed": 2}]}',
        '{"source": "x", "rows": [{"dim": "64", "granularity": 1, "accuracy": 1, '
        '"latency_ms": 1}]}',
        '{"source": "x", "rows": [{"dim": 64, "granularity": 1, "accuracy": null, '
        '"latency_ms": 1}]}',
    ],
)
def test_no_measurements(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "measurements.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"measurements\.json .*benchmarks/quality\.py"):
        read_measurements(tmp_path)
