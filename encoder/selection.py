"""The dimension and granularity for given limits, chosen from measured figures.

`measurements.json` beside the weights is written by `benchmarks/quality.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from adaptive_search.errors import QueryError, WeightsError

MEASUREMENTS = "measurements.json"
BYTES_PER_NUMBER = 2  # float16, as an index stores it


@dataclass(frozen=True)
class Measurement:
    """One way to encode, as it was measured.

    Attributes:
        dim: nesting dimension.
        granularity: divisor of the inner width, of documents and queries alike.
        accuracy: share kept of the nDCG@10 of full width and the largest dimension.
        latency_ms: median to encode one query, milliseconds, one thread.
    """

    dim: int
    granularity: int
    accuracy: float
    latency_ms: float

    def __post_init__(self) -> None:
        """Refuse what is not a number, since measurements are read from disk.

        Raises:
            ValueError: a field is no finite number, or a size no whole one.
        """
        sizes, figures = (self.dim, self.granularity), (self.accuracy, self.latency_ms)
        whole = all(type(size) is int for size in sizes)
        real = all(type(x) in (int, float) and math.isfinite(x) for x in figures)
        if not (whole and real):
            raise ValueError(f"{self} must hold numbers")

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a stored vector at this dimension."""
        return BYTES_PER_NUMBER * self.dim


@dataclass(frozen=True)
class Selection:
    """A choice, and where its figures are from."""

    choice: Measurement
    reason: str
    source: str


def read_measurements(weights: Path) -> tuple[str, list[Measurement]]:
    """What was measured of the weights in a directory, and the report it is from.

    Raises:
        WeightsError: there are no measurements, or they cannot be read.
    """
    path = weights / MEASUREMENTS
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rows = [Measurement(**row) for row in raw["rows"]]
        if not rows:
            raise ValueError("it has no rows")
        return str(raw["source"]), rows
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path} holds no measurements ({error}); make them with benchmarks/quality.py"
        ) from None


def select(
    weights: Path,
    min_accuracy: float,
    max_latency_ms: float,
    max_memory_mb: float,
    vectors: int,
) -> Selection:
    """Choose; see `Encoder.select_optimal_dimension`.

    With a least accuracy the smallest vectors that keep it win, then the faster
    encoding; without one the most accurate choice within the limits wins.
    """
    source, rows = read_measurements(weights)
    within = [
        row
        for row in rows
        if row.latency_ms <= max_latency_ms
        and row.bytes_per_vector * vectors <= max_memory_mb * 1e6
    ]
    good = [row for row in within if row.accuracy >= min_accuracy]
    if not good:
        raise QueryError(_why_none(rows, within, vectors))
    if min_accuracy > 0:
        choice = min(good, key=lambda row: (row.dim, row.latency_ms))
        why = f"the fewest dimensions, then the fastest, that keep {min_accuracy:.1%}"
    else:
        choice = max(good, key=lambda row: (row.accuracy, -row.dim))
        why = "the most accurate within the limits"
    reason = (
        f"{why}: {choice.accuracy:.1%} of the full vector's nDCG@10, {choice.latency_ms:.2f} ms "
        f"a query, {choice.bytes_per_vector * vectors / 1e6:.1f} MB for {vectors:,} vectors"
    )
    return Selection(choice, reason, source)


def _why_none(rows: list[Measurement], within: list[Measurement], vectors: int) -> str:
    if within:
        best = max(within, key=lambda row: row.accuracy)
        return (
            f"no measured choice keeps so much within these limits; the most is "
            f"{best.accuracy:.1%}, at {best.dim} dims and granularity 1/{best.granularity}"
        )
    latency = min(row.latency_ms for row in rows)
    memory = min(row.bytes_per_vector for row in rows) * vectors / 1e6
    return (
        f"no measured choice is that small and fast; the least is {latency:.2f} ms a query and "
        f"{memory:.1f} MB for {vectors:,} vectors"
    )
