"""The metrics against figures worked out by hand and against their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.metrics import ndcg_at_k, recall_at_k


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
