"""Which dimension and granularity for which use, from measured figures."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_search.encoder.granularity import granularity_name
from adaptive_search.encoder.selection import Limits, Measurements, Preference, select
from adaptive_search.errors import QueryError

if TYPE_CHECKING:
    from adaptive_search.encoder.selection import Measurement, Selection

__all__ = ["CASES", "Analysis", "Case", "Limits", "Preference", "analyze"]


@dataclass(frozen=True)
class Case:
    """A usual case: what matters there, and what that asks of a choice.

    Attributes:
        name: of the case.
        why: what its limits follow from.
        prefer: what to prefer among the choices within the limits.
        min_accuracy: least share of the full vector's nDCG@10.
        max_latency_ms: most milliseconds to encode one query.
        memory_share: most memory, as a share of the full vectors'.
    """

    name: str
    why: str
    prefer: Preference
    min_accuracy: float = 0.0
    max_latency_ms: float = float("inf")
    memory_share: float = float("inf")

    def limits(self, full_mb: float, vectors: int) -> Limits:
        """The limits for this many vectors, which at full size take full_mb."""
        memory = self.memory_share * full_mb
        return Limits(self.min_accuracy, self.max_latency_ms, memory, vectors, self.prefer)


CASES = (
    Case(
        "real-time search",
        "people wait for each query, and one core should answer 200 a second",
        prefer="speed",
        min_accuracy=0.95,
        max_latency_ms=5.0,
    ),
    Case(
        "semantic similarity",
        "scores are compared with thresholds and each other, so that small errors count",
        prefer="size",
        min_accuracy=0.99,
    ),
    Case(
        "classification",
        "a classifier learns to make up for small losses, and costs less with fewer dimensions",
        prefer="size",
        min_accuracy=0.96,
    ),
    Case(
        "clustering",
        "each round reads all vectors, which therefore should be few bytes; encoding is done once",
        prefer="accuracy",
        memory_share=0.17,
    ),
    Case(
        "storage",
        "bytes decide, and encoding is done once",
        prefer="accuracy",
        memory_share=0.09,
    ),
    Case(
        "general API",
        "uses are not known, so nearly everything should be kept and nobody should wait long",
        prefer="size",
        min_accuracy=0.98,
        max_latency_ms=20.0,
    ),
)


@dataclass(frozen=True)
class Analysis:
    """Measured trade-offs, the choice for given limits, and one for each usual case.

    Attributes:
        measured: what all choices are from.
        vectors: how many are to be stored.
        selection: the choice for the given limits.
        cases: the choice for each usual case, or why there is none.
    """

    measured: Measurements
    vectors: int
    selection: Selection
    cases: dict[Case, Selection | str]

    def to_dict(self) -> dict[str, Any]:
        """The analysis as plain values."""
        return {
            "source": self.measured.source,
            "vectors": self.vectors,
            "rows": [_plain(row, self.vectors) for row in self.measured.rows],
            "recommended": self._choice(self.selection),
            "cases": {
                case.name: {"why": case.why}
                | ({"unmet": found} if isinstance(found, str) else self._choice(found))
                for case, found in self.cases.items()
            },
        }

    def to_text(self) -> str:
        """The analysis for a terminal."""
        import pandas as pd

        from adaptive_search.tables import to_text

        quality, time, memory = "quality kept", "ms a query", f"MB for {self.vectors:,}"
        names = {"accuracy": quality, "latency_ms": time, "megabytes": memory}
        cells = {quality: "{:.1%}".format, time: "{:.2f}".format, memory: "{:,.1f}".format}
        rows = [_plain(row, self.vectors) for row in self.measured.rows]
        lines = [to_text(pd.DataFrame(rows).rename(columns=names), cells), ""]
        lines += _lines("recommended", self.selection)
        for case, found in self.cases.items():
            lines += _lines(case.name, found, case.why)
        return "\n".join([*lines, "", f"measured: {self.measured.source}"]) + "\n"

    def _choice(self, found: Selection) -> dict[str, Any]:
        return _plain(found.choice, self.vectors) | {"reason": found.reason}


def analyze(weights: Path | None, limits: Limits) -> Analysis:
    """Choose for these limits and for each usual case; see `Encoder.select_optimal_dimension`.

    Args:
        weights: their directory; the shipped ones by default.
        limits: of the recommended choice; the usual cases have their own.

    Raises:
        QueryError: nothing measured fits the limits.
        WeightsError: the weights cannot be read, or come without measurements of their own.
    """
    from adaptive_search.encoder.checkpoint import load, shipped_weights

    directory = weights or shipped_weights()
    measured = Measurements.read(directory, load(directory).fingerprint)
    full_mb = max(row.megabytes(limits.vectors) for row in measured.rows)
    cases: dict[Case, Selection | str] = {}
    for case in CASES:
        try:
            cases[case] = select(measured, case.limits(full_mb, limits.vectors))
        except QueryError as error:
            cases[case] = str(error)
    return Analysis(measured, limits.vectors, select(measured, limits), cases)


def _plain(row: Measurement, vectors: int) -> dict[str, Any]:
    return dataclasses.asdict(row) | {
        "granularity": granularity_name(row.granularity),
        "megabytes": row.megabytes(vectors),
    }


def _lines(name: str, found: Selection | str, why: str = "") -> list[str]:
    lines = [f"    {why}"] if why else []
    if isinstance(found, str):
        return [f"{name}: {found}", *lines]
    width = granularity_name(found.choice.granularity)
    reason = textwrap.wrap(found.reason, 92, initial_indent="    ", subsequent_indent="    ")
    return [f"{name}: --dim {found.choice.dim} --granularity {width}", *lines, *reason]
