"""The metrics against figures worked out by hand and against their properties."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.metrics import ndcg_at_k, recall_at_k, spearman


def test_recall_counts_the_relevant_among_the_first_k() -> None:
    ranking = ["a", "x", "b", "y", "c"]
    relevant = {"a", "b", "c", "d"}
    assert [recall_at_k(ranking, relevant, k) for k in (1, 2, 3, 9)] == [0.25, 0.25, 0.5, 0.75]


def test_ndcg_of_a_known_ranking() -> None:
    gains = {"a": 3, "b": 2, "c": 1, "d": 0}
    dcg = 2 / math.log2(2) + 0 + 3 / math.log2(4) + 1 / math.log2(5)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at_k(["b", "d", "a", "c"], gains, 10) == pytest.approx(dcg / ideal)


def test_ndcg_judges_only_the_first_k() -> None:
    assert ndcg_at_k(["x", "a"], {"a": 1}, 1) == 0
    assert ndcg_at_k(["a", "x"], {"a": 1, "b": 1, "c": 1}, 1) == 1


def test_ndcg_takes_negative_grades_as_zero() -> None:
    assert ndcg_at_k(["bad", "good"], {"good": 1, "bad": -2}, 5) == pytest.approx(1 / math.log2(3))


@given(
    gains=st.dictionaries(st.integers(0, 30), st.integers(0, 4), min_size=1),
    ranking=st.lists(st.integers(0, 40), unique=True),
    k=st.integers(1, 50),
)
def test_metrics_lie_between_nothing_and_the_ideal(
    gains: dict[int, int], ranking: list[int], k: int
) -> None:
    relevant = [item for item, gain in gains.items() if gain > 0]
    if not relevant:
        return
    ideal = sorted(gains, key=lambda item: -gains[item])
    assert 0 <= ndcg_at_k(ranking, gains, k) <= 1 + 1e-12
    assert ndcg_at_k(ideal, gains, k) == pytest.approx(1)
    assert 0 <= recall_at_k(ranking, relevant, k) <= 1
    assert recall_at_k(ideal, relevant, 50) == 1
    assert recall_at_k(ranking, relevant, k) <= recall_at_k(ranking, relevant, k + 1)


def test_metrics_without_anything_relevant_are_undefined() -> None:
    with pytest.raises(ValueError, match="undefined"):
        recall_at_k(["a"], [], 3)
    with pytest.raises(ValueError, match="undefined"):
        ndcg_at_k(["a"], {"a": 0}, 3)
    with pytest.raises(ValueError, match="k=0"):
        recall_at_k(["a"], ["a"], 0)


def test_correlation_of_known_ranks() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, -1]) == pytest.approx(-1)
    # Without ties 1 - 6 sum(d^2) / (n^3 - n), d = 0, 1, -1, 0.
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 12 / 60)
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_equal_numbers_share_their_mean_rank(pairs: list[tuple[int, int]]) -> None:
    expected = pd.DataFrame(pairs, dtype=float).corr(method="spearman").iloc[0, 1]
    found = spearman(*zip(*pairs, strict=True))
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_correlation_needs_numbers_in_pairs() -> None:
    assert math.isnan(spearman([1, 2], [3, 3]))
    for a, b in (([1], [1]), ([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]]), ([1, np.nan], [1, 2])):
        with pytest.raises(ValueError):
            spearman(a, b)
