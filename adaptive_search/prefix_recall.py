"""How much of what full vectors find their prefixes find: are they Matryoshka vectors at all?

Any vectors can be cut, but only those trained for it have their meaning in front. So the lowest
prefix is compared with as many coordinates from anywhere behind it: where those find as much, the
order of the coordinates means nothing, and a shortlist by the first of them is a poor one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adaptive_search.evaluation import mean_recall

if TYPE_CHECKING:
    from adaptive_search.store import Store

K = 10
SAMPLE_ROWS = 4096
RUN_ROWS = 64  # that are read together, since a row alone costs a page of each band
QUERIES = 128
GOOD = 0.9  # kept at the lowest dimension, above which nothing is wrong
MARGIN = 0.05  # by which a prefix must find more than other coordinates


@dataclass(frozen=True)
class PrefixRecall:
    """Share of the ten nearest by full vectors that their prefixes find, in a sample.

    Attributes:
        kept: for each nesting dimension, rising.
        elsewhere: of as many coordinates as the lowest prefix has, drawn from behind it; None
            where there are not as many.
        rows: in the sample.
    """

    kept: Mapping[int, float]
    elsewhere: float | None
    rows: int

    @property
    def is_doubtful(self) -> bool:
        """Whether the prefix is no better than other coordinates, as in ordinary vectors."""
        lowest = next(iter(self.kept.values()))
        return self.elsewhere is not None and lowest < min(GOOD, self.elsewhere + MARGIN)

    def to_text(self) -> str:
        """One sentence, which ends with the question if there is a doubt."""
        lowest, *middle = self.kept.items()
        parts = [f"{lowest[1]:.0%} of recall@{K} at {lowest[0]} dims"]
        parts += [f"{share:.0%} at {dim}" for dim, share in middle[:-1]]
        text = f"these vectors keep {', '.join(parts)} (sample of {self.rows:,})"
        if not self.is_doubtful:
            return text
        return (
            f"{text}, and any other {lowest[0]} coordinates {self.elsewhere:.0%}: are they "
            "Matryoshka vectors?"
        )


def prefix_recall(store: Store, *, seed: int = 0) -> PrefixRecall | None:
    """Measure the live vectors of an index on a sample; None where there are fewer than two.

    Takes a fraction of a second, and reads some 4,096 rows whatever the size of the index.
    """
    vectors = _sample(store, np.random.default_rng(seed))
    if len(vectors) < 2:
        return None
    dims, rng = store.dims, np.random.default_rng(seed)
    queries = np.sort(rng.choice(len(vectors), min(QUERIES, len(vectors)), replace=False))
    truth = _nearest(vectors, queries)
    kept = {dim: _recall(vectors[:, :dim], queries, truth) for dim in dims}
    behind = np.arange(dims[0], dims[-1])
    elsewhere = None
    if len(behind) >= dims[0]:
        drawn = np.sort(rng.choice(behind, dims[0], replace=False))
        elsewhere = _recall(vectors[:, drawn], queries, truth)
    return PrefixRecall(kept, elsewhere, len(vectors))


def _sample(store: Store, rng: np.random.Generator) -> NDArray[np.float32]:
    """Some live vectors, in runs of neighbours: float32 (at most SAMPLE_ROWS, dims[-1])."""
    runs = [
        (segment, start) for segment in store.segments for start in range(0, segment.rows, RUN_ROWS)
    ]
    count = SAMPLE_ROWS // RUN_ROWS
    drawn = sorted(rng.choice(len(runs), min(count, len(runs)), replace=False)) if runs else []
    found = [np.zeros((0, store.dims[-1]), np.float32)]
    for segment, start in (runs[at] for at in drawn):
        rows = slice(start, start + RUN_ROWS)
        bands = [segment.band(index)[rows] for index in range(len(store.dims))]
        vectors = np.concatenate(bands, axis=1, dtype=np.float32)
        found.append(vectors if segment.live is None else vectors[segment.live[rows]])
    return np.concatenate(found)


def _recall(
    vectors: NDArray[np.float32], queries: NDArray[np.int64], truth: list[list[int]]
) -> float:
    return mean_recall(_nearest(vectors, queries), truth, K)


def _nearest(vectors: NDArray[np.float32], queries: NDArray[np.int64]) -> list[list[int]]:
    """The ten rows nearest by cosine to each of some rows, which is not among them."""
    lengths = np.linalg.norm(vectors, axis=1)
    scores = vectors[queries] @ vectors.T / np.where(lengths == 0, 1, lengths)
    scores[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    nearest: list[list[int]] = order[:, : min(K, len(vectors) - 1)].tolist()
    return nearest
