"""How well an encoder does on evaluation sets, beside its peers: the report of `--sets`.

It holds pandas DataFrames and comes out as terminal tables, JSON, CSV and Markdown; the page with
plots is `report_html`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptive_search import tables

if TYPE_CHECKING:
    import pandas as pd

NDCG, RECALL, SPEARMAN = "ndcg@10", "recall@100", "spearman"
# How a row was measured, and what: None for what a peer does not have.
SET_COLUMNS = ["set", "documents", "queries"]
RETRIEVAL_KEYS = ["vectors", "document", "query", "search", "dim", "shortlist"]
RETRIEVAL_COLUMNS = ["set", *RETRIEVAL_KEYS, NDCG, RECALL]
STS_KEYS = ["width", "search", "dim"]
STS_COLUMNS = ["set", *STS_KEYS, SPEARMAN]
_RESERVED = {*RETRIEVAL_COLUMNS, *STS_COLUMNS, "mean", "kept"}
CHUNKS, DOCUMENTS = "chunks", "documents"
TITLES = {NDCG: "nDCG@10", SPEARMAN: "Spearman correlation of sentence pairs"}


@dataclass(frozen=True, eq=False)
class SetReport:
    """Quality of an encoder on retrieval sets and files of sentence pairs.

    Attributes:
        fingerprint: of the weights.
        sets: a row for each retrieval set: set, documents, queries (those with a relevant one).
        retrieval: a row for each set and way to search it: set, vectors (of chunks, of whole
            documents), document and query width, search ("512", "64 -> 512", or a peer), dim,
            shortlist, ndcg@10, recall@100. The first row of a set is exact search at the widest.
        sts: a row for each file of pairs, width and dimension: set, width, search, dim, spearman.
    """

    fingerprint: str
    sets: pd.DataFrame
    retrieval: pd.DataFrame
    sts: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "fingerprint": self.fingerprint,
            "sets": tables.to_records(self.sets, SET_COLUMNS),
            "retrieval": tables.to_records(self.retrieval, RETRIEVAL_COLUMNS),
            "sts": tables.to_records(self.sts, STS_COLUMNS),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def to_csv(self) -> str:
        """The rows as one CSV, told apart by its first column."""
        return tables.to_csv({"retrieval": self.retrieval, "sts": self.sts})

    def to_text(self) -> str:
        """The report for a terminal."""
        parts = [f"Quality: {self.summary()}"]
        for title, table, cells in self._titled():
            parts.append(f"{title}\n\n{tables.to_text(table, cells)}")
        return "\n\n".join(parts) + "\n"

    def to_markdown(self) -> str:
        """The report in Markdown."""
        parts = [f"## Quality\n\n{self.summary()}"]
        for title, table, cells in self._titled():
            parts.append(f"### {title}\n\n{tables.to_markdown(table, cells)}")
        return "\n\n".join(parts) + "\n"

    def summary(self) -> str:
        """One line on what the figures were measured on."""
        documents, queries = (int(self.sets[name].sum()) for name in ("documents", "queries"))
        parts = [f"weights {self.fingerprint}"]
        if len(self.sets):
            parts.append(f"{documents:,} documents, {queries:,} judged queries")
        if len(self.sts):
            parts.append(f"sentence pairs of {', '.join(dict.fromkeys(self.sts['set']))}")
        return "; ".join(parts)

    def by_measure(self) -> dict[str, pd.DataFrame]:
        """What was measured, by measure: a row for each way, a column for each set; see `wide`."""
        measured = {
            NDCG: wide(self.retrieval, RETRIEVAL_KEYS, NDCG),
            SPEARMAN: wide(self.sts, STS_KEYS, SPEARMAN),
        }
        return {measure: table for measure, table in measured.items() if len(table)}

    def _titled(self) -> list[tuple[str, pd.DataFrame, tables.Cells]]:
        return [(TITLES[measure], *to_show(table)) for measure, table in self.by_measure().items()]


def wide(rows: pd.DataFrame, keys: Sequence[str], measure: str) -> pd.DataFrame:
    """One row for each way to measure, and one column for each set.

    Beside them the mean over the sets, the mean recall where there is one, and the mean as a share
    of that of the full vector at the widest (`kept`) and of each peer (`of <name>`).
    """
    import pandas as pd

    found: dict[tuple[Any, ...], dict[str, float]] = {}
    recalls: dict[tuple[Any, ...], list[float]] = {}
    for row in rows.to_dict("records"):
        key = tuple(row[name] for name in keys)
        found.setdefault(key, {})[row["set"]] = row[measure]
        recalls.setdefault(key, []).append(row.get(RECALL, 0.0))
    table = pd.DataFrame(list(found), columns=list(keys), dtype=object)
    for name in dict.fromkeys(rows["set"]):
        # A set may have the name of another column.
        table[f"set {name}" if name in _RESERVED else name] = [
            values.get(name) for values in found.values()
        ]
    table["mean"] = [_mean(values.values()) for values in found.values()]
    if RECALL in rows:
        table[RECALL] = [_mean(values) for values in recalls.values()]
    ours = table["dim"].notna()
    if ours.any():
        highest = table["dim"] == table["dim"].dropna().max()
        table["kept"] = (table["mean"] / table.loc[highest, "mean"].iloc[0]).where(ours)
    for _, peer in table[~ours].iterrows():
        table[f"of {peer['search']}"] = (table["mean"] / peer["mean"]).where(ours)
    return table


def to_show(table: pd.DataFrame) -> tuple[pd.DataFrame, tables.Cells]:
    """A wide table without what the reader knows or can do without, and how to print its cells."""
    hidden = [name for name in ("dim", "shortlist") if name in table]
    if "vectors" in table and DOCUMENTS not in set(table["vectors"]):
        hidden.append("vectors")
    shares = {name for name in table.columns if name == "kept" or name.startswith("of ")}
    keys = {*RETRIEVAL_KEYS, *STS_KEYS}
    cells = {
        name: ("{:.1%}" if name in shares else "{:.4f}").format
        for name in table.columns
        if name not in keys
    }
    return table.drop(columns=hidden), cells


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
