"""The dimension and granularity for given limits, chosen from measured figures.

`measurements.json` beside the weights is written by `benchmarks/quality.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptive_search.encoder.granularity import Granularity, granularity_name
from adaptive_search.errors import QueryError, WeightsError
from adaptive_search.json_text import parse_json

MEASUREMENTS = "measurements.json"
BYTES_PER_NUMBER = 2  # float16, as an index stores it
NOISE = 1.1  # latencies within this factor of each other count as equal

Preference = Literal["size", "speed", "accuracy"]
PREFERENCES: dict[Preference, str] = {
    "size": "the fewest dimensions, then the fastest",
    "speed": "the fastest to encode a query, then the fewest dimensions",
    "accuracy": "the most accurate, then the fewest dimensions",
}

_MAX_FILE_BYTES = 1 << 20
_MAX_DIM, _MAX_HEADS, _MAX_LAYERS, _MAX_VECTORS = 1 << 16, 1 << 16, 1 << 10, 10**15


@dataclass(frozen=True)
class Measurement:
    """One way to encode, as it was measured.

    Attributes:
        dim: nesting dimension.
        granularity: of documents and queries alike; see `Encoder.encode`.
        accuracy: share kept of the nDCG@10 of full width and the largest dimension.
        latency_ms: median to encode one query, milliseconds, one thread.
    """

    dim: int
    granularity: Granularity
    accuracy: float
    latency_ms: float

    def __post_init__(self) -> None:
        """Refuse what cannot have been measured, since measurements are read from disk.

        Raises:
            ValueError: a field is no number, or out of all proportion.
        """
        heads = self.granularity if isinstance(self.granularity, tuple) else (self.granularity,)
        if type(self.dim) is not int or not 1 <= self.dim <= _MAX_DIM:
            raise ValueError(f"dim must be a whole number from 1 to {_MAX_DIM}")
        if not 1 <= len(heads) <= _MAX_LAYERS or not all(
            type(number) is int and 1 <= number <= _MAX_HEADS for number in heads
        ):
            raise ValueError("granularity must be a divisor, or the heads of each layer")
        for name, most in (("accuracy", 10.0), ("latency_ms", 1e9)):
            figure = getattr(self, name)
            if type(figure) not in (int, float) or not 0 <= figure <= most:
                raise ValueError(f"{name} must be a number from 0 to {most:,.0f}")

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a stored vector at this dimension."""
        return BYTES_PER_NUMBER * self.dim

    def megabytes(self, vectors: int) -> float:
        """Megabytes (10^6 bytes) of stored vectors."""
        return self.bytes_per_vector * vectors / 1e6


@dataclass(frozen=True)
class Measurements:
    """What was measured of some weights, and the report it is from."""

    source: str
    rows: tuple[Measurement, ...]

    @classmethod
    def read(cls, weights: Path, fingerprint: str) -> Measurements:
        """Read those of a weights directory whose weights have this fingerprint.

        Raises:
            WeightsError: there are no measurements, they cannot be used, or they are of other
                weights.
        """
        path = weights / MEASUREMENTS
        try:
            with path.open("rb") as file:
                raw = parse_json(file.read(_MAX_FILE_BYTES))
            rows = tuple(map(_measurement, raw["rows"]))
            source = raw["source"]
            if raw["fingerprint"] != fingerprint:
                raise ValueError(f"its fingerprint is not that of the weights, {fingerprint}")
            if not rows or not isinstance(source, str) or not source.isprintable():
                raise ValueError("it needs rows, and a source of printable text")
            if len({(row.dim, row.granularity) for row in rows}) < len(rows):
                raise ValueError("a dim and granularity occur twice")
            return cls(source, rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path} holds no measurements ({error}); make them with benchmarks/quality.py"
            ) from None


@dataclass(frozen=True)
class Limits:
    """What a choice must keep, and what to prefer among those that do.

    Attributes:
        min_accuracy: least share of the full vector's nDCG@10.
        max_latency_ms: most milliseconds to encode one query.
        max_memory_mb: most megabytes (10^6 bytes) for all stored vectors.
        vectors: how many vectors are to be stored.
        prefer: "size", "speed" or "accuracy"; by default size where a least accuracy is
            given, else accuracy.
    """

    min_accuracy: float = 0.0
    max_latency_ms: float = math.inf
    max_memory_mb: float = math.inf
    vectors: int = 100_000
    prefer: Preference | None = None

    def __post_init__(self) -> None:
        """Refuse limits that make no sense.

        Raises:
            QueryError: a limit is NaN, negative, or out of range.
        """
        if not 0 <= self.min_accuracy <= 1:
            raise QueryError(f"min_accuracy={self.min_accuracy} must be from 0 to 1")
        for name in ("max_latency_ms", "max_memory_mb"):
            limit = getattr(self, name)
            if not limit > 0:
                raise QueryError(f"{name}={limit} must be above 0")
        if not 1 <= self.vectors <= _MAX_VECTORS:
            raise QueryError(f"vectors={self.vectors} must be from 1 to {_MAX_VECTORS:,}")
        if self.prefer not in (None, *PREFERENCES):
            raise QueryError(f"prefer={self.prefer!r} must be one of {', '.join(PREFERENCES)}")

    @property
    def preference(self) -> Preference:
        """What is preferred, given or by default."""
        return self.prefer or ("size" if self.min_accuracy else "accuracy")

    def allow(self, row: Measurement) -> bool:
        """Whether a choice is fast and small enough."""
        return (
            row.latency_ms <= self.max_latency_ms
            and row.megabytes(self.vectors) <= self.max_memory_mb
        )

    def __str__(self) -> str:
        """The limits in words; empty if there are none."""
        parts = [
            f"keep {self.min_accuracy:.1%} of nDCG@10" if self.min_accuracy else "",
            f"take at most {self.max_latency_ms:g} ms" if self.max_latency_ms < math.inf else "",
            f"fit {self.max_memory_mb:,.1f} MB" if self.max_memory_mb < math.inf else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Selection:
    """A choice, why it was made, and where its figures are from."""

    choice: Measurement
    reason: str
    source: str


def select(measured: Measurements, limits: Limits) -> Selection:
    """Choose; see `Encoder.select_optimal_dimension`.

    Raises:
        QueryError: nothing measured fits; the message names what comes nearest.
    """
    within = [row for row in measured.rows if limits.allow(row)]
    good = [row for row in within if row.accuracy >= limits.min_accuracy]
    if not good:
        raise QueryError(_why_none(measured.rows, within, limits))
    choice = _preferred(good, limits.preference)
    among = f" of those that {limits}" if str(limits) else ""
    reason = (
        f"{PREFERENCES[limits.preference]}{among}: {choice.accuracy:.1%} of the full vector's "
        f"nDCG@10, {choice.latency_ms:.2f} ms a query, "
        f"{choice.megabytes(limits.vectors):,.1f} MB for {limits.vectors:,} vectors"
    )
    return Selection(choice, reason, measured.source)


def _preferred(rows: list[Measurement], preference: Preference) -> Measurement:
    if preference == "accuracy":
        return max(rows, key=lambda row: (row.accuracy, -row.dim, -row.latency_ms))
    if preference == "speed":
        fastest = min(row.latency_ms for row in rows)
        rows = [row for row in rows if row.latency_ms <= NOISE * fastest]
    return min(rows, key=lambda row: (row.dim, row.latency_ms, -row.accuracy))


def _why_none(rows: tuple[Measurement, ...], within: list[Measurement], limits: Limits) -> str:
    if within:
        best = max(within, key=lambda row: row.accuracy)
        return (
            f"no measured choice keeps {limits.min_accuracy:.1%} within these limits; the most is "
            f"{best.accuracy:.1%}, at {best.dim} dims and granularity "
            f"{granularity_name(best.granularity)}"
        )
    fastest = min(row.latency_ms for row in rows)
    smallest = min(row.megabytes(limits.vectors) for row in rows)
    return (
        f"no measured choice is that small and fast; the least is {fastest:.2f} ms a query, and "
        f"{smallest:,.1f} MB for {limits.vectors:,} vectors"
    )


def _measurement(row: object) -> Measurement:
    if not isinstance(row, dict):
        raise ValueError("a row must be an object")
    granularity = row.get("granularity")
    if isinstance(granularity, list):
        row = row | {"granularity": tuple(granularity)}
    return Measurement(**row)
