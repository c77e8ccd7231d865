"""Choices from measured figures, for given limits and for the usual cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from adaptive_search.analysis import CASES, analyze
from adaptive_search.encoder.checkpoint import load
from adaptive_search.encoder.selection import Limits
from adaptive_search.errors import QueryError, WeightsError


def write(weights: Path, rows: list[dict[str, float]]) -> None:
    record = {"source": "a report", "fingerprint": load(weights).fingerprint, "rows": rows}
    (weights / "measurements.json").write_text(json.dumps(record))


@pytest.fixture
def weights(tmp_path: Path, tiny_weights_dir: Path) -> Path:
    directory = tmp_path / "weights"
    shutil.copytree(tiny_weights_dir, directory)
    rows = [
        {"dim": dim, "granularity": g, "accuracy": quality - 0.01 * (g - 1), "latency_ms": 4 / g}
        for dim, quality in ((64, 0.7), (512, 0.96), (1536, 1.0))
        for g in (1, 2)
    ]
    write(directory, rows)
    return directory


def test_choices(weights: Path) -> None:
    found = analyze(weights, Limits(vectors=1000)).to_dict()
    assert (found["recommended"]["dim"], found["recommended"]["granularity"]) == (1536, "1")
    assert found["recommended"]["megabytes"] == pytest.approx(1536 * 2 * 1000 / 1e6)
    small = analyze(weights, Limits(min_accuracy=0.9)).to_dict()["recommended"]
    assert (small["dim"], small["granularity"]) == (512, "1/2")
    assert "keep 90.0% of nDCG@10" in small["reason"]
    fast = analyze(weights, Limits(0, 3.0, 2.0, 1000)).to_dict()["recommended"]
    assert (fast["dim"], fast["granularity"]) == (512, "1/2")
    json.dumps(found)


def test_usual_cases(weights: Path) -> None:
    cases = analyze(weights, Limits()).to_dict()["cases"]
    assert list(cases) == [
        "real-time search",
        "semantic similarity",
        "classification",
        "clustering",
        "storage",
        "general API",
    ]
    assert len({case["why"] for case in cases.values()}) == len(CASES)
    chosen = {name: (case["dim"], case["granularity"]) for name, case in cases.items()}
    assert chosen["real-time search"] == (512, "1/2")  # the faster, at 95 %
    assert "take at most 5 ms" in cases["real-time search"]["reason"]
    assert chosen["semantic similarity"] == (1536, "1/2")  # 99 %
    assert chosen["clustering"] == chosen["storage"] == (64, "1")
    assert "that fit 52.2 MB" in cases["clustering"]["reason"]
    assert chosen["general API"] == (1536, "1/2")
    limited = analyze(weights, Limits(vectors=10)).to_dict()["cases"]
    assert {n: (c["dim"], c["granularity"]) for n, c in limited.items()} == chosen


def test_a_case_that_nothing_meets_says_so(weights: Path) -> None:
    row = {"dim": 512, "granularity": 1, "accuracy": 0.9, "latency_ms": 4.0}
    write(weights, [row])
    found = analyze(weights, Limits())
    cases = found.to_dict()["cases"]
    assert "no measured choice keeps 95.0%" in cases["real-time search"]["unmet"]
    assert "is that small and fast" in cases["storage"]["unmet"]
    assert "real-time search: no measured choice keeps 95.0%" in found.to_text()


def test_text_names_figures_and_their_source(weights: Path) -> None:
    text = analyze(weights, Limits(vectors=2_000_000)).to_text()
    assert "MB for 2,000,000" in text.splitlines()[0]
    assert "recommended: --dim 1536 --granularity 1\n" in text
    assert max(map(len, text.splitlines())) <= 92
    for case in CASES:
        assert f"{case.name}: --dim " in text and case.why in text
    assert text.endswith("measured: a report\n")


def test_limits_that_nothing_meets(weights: Path, tiny_weights_dir: Path) -> None:
    for limits in (Limits(1.0, 1.0), Limits(max_latency_ms=0.1), Limits(max_memory_mb=0.001)):
        with pytest.raises(QueryError, match="no measured choice"):
            analyze(weights, limits)
    with pytest.raises(WeightsError, match="measurements"):
        analyze(tiny_weights_dir, Limits())
    with pytest.raises(WeightsError, match="not a weights directory"):
        analyze(weights / "nowhere", Limits())


def test_the_shipped_weights_have_a_choice_for_each_case() -> None:
    cases = analyze(None, Limits()).to_dict()["cases"]
    assert [name for name, case in cases.items() if "unmet" in case] == []
