"""Choices from measured figures, for given limits and for the usual cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptive_search.analysis import CASES, analyze
from adaptive_search.errors import QueryError, WeightsError

NO_LIMIT = float("inf")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    rows = [
        {"dim": dim, "granularity": g, "accuracy": quality - 0.01 * (g - 1), "latency_ms": 4 / g}
        for dim, quality in ((64, 0.7), (512, 0.96), (1536, 1.0))
        for g in (1, 2)
    ]
    (tmp_path / "measurements.json").write_text(json.dumps({"source": "a report", "rows": rows}))
    return tmp_path


def test_choices(weights: Path) -> None:
    found = analyze(weights, 0.0, NO_LIMIT, NO_LIMIT, 1000).to_dict()
    assert (found["recommended"]["dim"], found["recommended"]["granularity"]) == (1536, "1")
    assert found["recommended"]["megabytes"] == pytest.approx(1536 * 2 * 1000 / 1e6)
    small = analyze(weights, 0.9, NO_LIMIT, NO_LIMIT, 1000).to_dict()["recommended"]
    assert (small["dim"], small["granularity"]) == (512, "1/2")
    fast = analyze(weights, 0.0, 3.0, 2.0, 1000).to_dict()["recommended"]
    assert (fast["dim"], fast["granularity"]) == (512, "1/2")
    assert set(found["cases"]) == set(CASES)
    assert found["cases"]["general API"]["dim"] == 1536
    assert "no measured choice" in found["cases"]["real-time search"]
    json.dumps(found)


def test_text_names_figures_and_their_source(weights: Path) -> None:
    text = analyze(weights, 0.0, NO_LIMIT, NO_LIMIT, 2_000_000).to_text()
    assert "MB for 2,000,000" in text.splitlines()[0]
    assert "recommended: 1536 dims, width 1: " in text
    assert text.endswith("measured: a report\n")


def test_limits_that_nothing_meets(weights: Path, tmp_path: Path) -> None:
    for limits in ((1.0, 1.0, NO_LIMIT), (0.0, 0.1, NO_LIMIT), (0.0, NO_LIMIT, 0.001)):
        with pytest.raises(QueryError, match="no measured choice"):
            analyze(weights, *limits, 1000)
    with pytest.raises(WeightsError, match="measurements"):
        analyze(tmp_path / "nowhere", 0.0, NO_LIMIT, NO_LIMIT, 1000)
