"""What a search gives: chunks, best first, with the stages behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from adaptive_search.documents import Scalar
from adaptive_search.encoder.granularity import Granularity, granularity_name

# Granularities are spelled in the same way wherever hits are printed.
__all__ = ["Granularity", "Hit", "Hits", "granularity_name"]

# Of a hit, as `query` prints it in every format but the table.
HIT_FIELDS = ("rank", "score", "id", "document_id", "path", "line_start", "line_end", "text")

if TYPE_CHECKING:
    import pandas as pd

    from adaptive_search.indexes.funnel import Stage


@dataclass(frozen=True)
class Hit:
    """One chunk that answers a query.

    Attributes:
        rank: from 1.
        score: cosine at the final dimension, -1 to 1.
        id: chunk id, "<document id>#<ordinal>".
        document_id: of the document that the chunk is from.
        path: file, relative to the corpus; empty for texts that came from no file.
        line_start: first line of the chunk in the file, from 1.
        line_end: last line.
        text: of the chunk.
        metadata: of the document.
    """

    rank: int
    score: float
    id: str
    document_id: str
    path: str
    line_start: int
    line_end: int
    text: str
    metadata: Mapping[str, Scalar]


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """The hits of one query, best first.

    Attributes:
        query: its text; empty for a search by vector.
        dim: dimension of the scores.
        shortlist: candidates asked of the 64-d stage, given or by default; None for exact search.
        granularity: that the query was encoded with; see `Encoder.encode`.
        hits: the hits.
        timings_ms: wall time of the stages encode, shortlist, rerank and total. For a
            batch, of the whole batch.
        stages: what each stage scored and kept.
    """

    query: str
    dim: int
    shortlist: int | None
    granularity: Granularity
    hits: tuple[Hit, ...]
    timings_ms: Mapping[str, float]
    stages: tuple[Stage, ...]

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        """The hit at a place, or several."""
        return self.hits[index]

    def __len__(self) -> int:
        """Number of hits."""
        return len(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """The hits as plain values, in the shape that `query --format json` prints."""
        return {
            "query": self.query,
            "dim": self.dim,
            "shortlist": self.shortlist,
            "granularity": granularity_name(self.granularity),
            "hits": [{name: getattr(hit, name) for name in HIT_FIELDS} for hit in self.hits],
            "timings_ms": dict(self.timings_ms),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a hit."""
        import pandas as pd

        columns = list(Hit.__dataclass_fields__)
        return pd.DataFrame([[getattr(h, c) for c in columns] for h in self.hits], columns=columns)
