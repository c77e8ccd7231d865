"""Retrieval metrics for one query, whose mean reports show, and the correlation of rankings."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Item = TypeVar("Item", bound=Hashable)


def recall_at_k(ranking: Sequence[Item], relevant: Collection[Item], k: int) -> float:
    """Share of the relevant items that are among the first k.

        recall@k = |{ranking[0], ..., ranking[k-1]} & relevant| / |relevant|

    With the k best items of an exact search as `relevant`, it tells how much of them an
    approximate search finds.

    Args:
        ranking: item ids, best first, each at most once.
        relevant: ids of the relevant items, at least one.
        k: length of the ranking that counts, at least 1.

    Raises:
        ValueError: there is no relevant item, or k is below 1.

    Source: Manning, Raghavan and Schuetze, Introduction to Information Retrieval, section 8.4.
    """
    _check(k, bool(relevant))
    relevant = frozenset(relevant)
    return len(relevant.intersection(ranking[:k])) / len(relevant)


def ndcg_at_k(ranking: Sequence[Item], gains: Mapping[Item, float], k: int) -> float:
    """Discounted gain of the first k items, as a share of the best possible.

        DCG@k  = sum over ranks r = 1 ... k of gain(item at r) / log2(r + 1)
        nDCG@k = DCG@k of the ranking / DCG@k of all items by descending gain

    Gains enter linearly, as in trec_eval and BEIR; items without a gain count as 0.

    Args:
        ranking: item ids, best first, each at most once.
        gains: graded relevance by item id, at least one above 0.
        k: length of the ranking that counts, at least 1.

    Raises:
        ValueError: no gain is above 0, or k is below 1.

    Source: Jaervelin and Kekaelaeinen 2002, Cumulated gain-based evaluation of IR techniques,
        section 2, with the discount of trec_eval's `ndcg_cut`.
    """
    _check(k, any(gain > 0 for gain in gains.values()))
    ideal = sorted((max(gain, 0.0) for gain in gains.values()), reverse=True)
    found = [max(gains.get(item, 0.0), 0.0) for item in ranking]
    return _dcg(found[:k]) / _dcg(ideal[:k])


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Correlation of the ranks of two columns of numbers; equal numbers share their mean rank.

    Args:
        a: float (n,).
        b: float (n,), what belongs to each number of a.

    Returns:
        From -1 to 1; NaN where all numbers of a column are equal.

    Raises:
        ValueError: the columns are no two lists of equal length, at least 2, or hold NaN.

    Source: Spearman 1904, The proof and measurement of association between two things.
    """
    columns = [np.asarray(values, dtype=np.float64) for values in (a, b)]
    if columns[0].ndim != 1 or columns[0].shape != columns[1].shape or len(columns[0]) < 2:
        raise ValueError(f"shapes {columns[0].shape} and {columns[1].shape}; expected (n,), n > 1")
    if np.isnan(columns).any():
        raise ValueError("the rank of NaN is undefined")
    x, y = (ranks - ranks.mean() for ranks in map(_mean_ranks, columns))
    lengths = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / lengths) if lengths else math.nan


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return ranks[places]


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def _check(k: int, has_relevant: bool) -> None:
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    if not has_relevant:
        raise ValueError("the metric is undefined without a relevant item")
