"""Which dimension and granularity for which use, from measured figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_search.encoder.granularity import granularity_name
from adaptive_search.errors import QueryError

if TYPE_CHECKING:
    from adaptive_search.encoder.selection import Measurement, Selection

# Limits of the usual cases: least share of quality kept, and most memory as a share of
# the full vectors'.
CASES = {
    "real-time search": (0.90, 0.10),
    "semantic similarity": (0.97, 0.50),
    "classification": (0.95, 0.35),
    "clustering": (0.90, 0.20),
    "least storage": (0.80, 0.10),
    "general API": (0.98, 1.00),
}


@dataclass(frozen=True)
class Analysis:
    """Measured trade-offs, the choice for given limits, and one for each usual case."""

    source: str
    vectors: int
    rows: list[Measurement]
    selection: Selection
    cases: dict[str, Selection | str]

    def to_dict(self) -> dict[str, Any]:
        """The analysis as plain values."""
        return {
            "source": self.source,
            "vectors": self.vectors,
            "rows": [_plain(row, self.vectors) for row in self.rows],
            "recommended": _plain(self.selection.choice, self.vectors)
            | {"reason": self.selection.reason},
            "cases": {
                name: found if isinstance(found, str) else _plain(found.choice, self.vectors)
                for name, found in self.cases.items()
            },
        }

    def to_text(self) -> str:
        """The analysis for a terminal."""
        import pandas as pd

        from adaptive_search.tables import to_text

        quality, time, memory = "quality kept", "ms a query", f"MB for {self.vectors:,}"
        names = {"accuracy": quality, "latency_ms": time, "megabytes": memory}
        cells = {quality: "{:.1%}".format, time: "{:.2f}".format, memory: "{:,.1f}".format}
        table = pd.DataFrame([_plain(row, self.vectors) for row in self.rows]).rename(columns=names)
        lines = [to_text(table, cells), "", _choice("recommended", self.selection), ""]
        lines += [_choice(name, found) for name, found in self.cases.items()]
        return "\n".join([*lines, "", f"measured: {self.source}"]) + "\n"


def analyze(
    weights: Path | None,
    min_accuracy: float,
    max_latency_ms: float,
    max_memory_mb: float,
    vectors: int,
) -> Analysis:
    """Choose for these limits and for each usual case; see `Encoder.select_optimal_dimension`.

    Raises:
        QueryError: nothing measured fits the limits.
        WeightsError: the weights come without measurements.
    """
    from adaptive_search.encoder.checkpoint import shipped_weights
    from adaptive_search.encoder.selection import read_measurements, select

    directory = weights or shipped_weights()
    source, rows = read_measurements(directory)
    selection = select(directory, min_accuracy, max_latency_ms, max_memory_mb, vectors)
    full = max(row.bytes_per_vector for row in rows) * vectors / 1e6
    cases: dict[str, Selection | str] = {}
    for name, (accuracy, memory) in CASES.items():
        try:
            cases[name] = select(directory, accuracy, float("inf"), memory * full, vectors)
        except QueryError as error:
            cases[name] = str(error)
    return Analysis(source, vectors, rows, selection, cases)


def _plain(row: Measurement, vectors: int) -> dict[str, Any]:
    return {
        "dim": row.dim,
        "granularity": granularity_name(row.granularity),
        "accuracy": row.accuracy,
        "latency_ms": row.latency_ms,
        "megabytes": row.bytes_per_vector * vectors / 1e6,
    }


def _choice(name: str, found: Selection | str) -> str:
    if isinstance(found, str):
        return f"{name}: {found}"
    choice = found.choice
    width = granularity_name(choice.granularity)
    return f"{name}: {choice.dim} dims, width {width}: {found.reason}"
