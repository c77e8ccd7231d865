"""Plans: what they say, how they are kept, and which of them are refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.indexes.plan import Plan


@given(
    head=st.integers(1, 4096),
    shortlist=st.integers(1, 10**6),
    kept=st.integers(1, 10**6),
    lists=st.integers(0, 10**5),
    margins=st.lists(st.floats(0, 2), max_size=7),
    recall=st.floats(0, 1),
    tail=st.floats(0, 4),
    bits=st.sampled_from([8, 4]),
)
def test_plans_survive_json(
    head: int,
    shortlist: int,
    kept: int,
    lists: int,
    margins: list[float],
    recall: float,
    tail: float,
    bits: int,
) -> None:
    nprobe, tail = (lists + 1) // 2, tail if lists else 0.0
    plan = Plan(head, shortlist, kept, lists, nprobe, tuple(margins), 7, 0.9, recall, tail, bits)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 0},
        {"shortlist": 0},
        {"kept": -1},
        {"lists": 3, "nprobe": 4},
        {"lists": 3},
        {"nprobe": 1},
        {"recall_target": 0.0},
        {"recall": 1.5},
        {"rows": -1},
        {"tail": 0.5},
        {"lists": 3, "nprobe": 2, "tail": -0.5},
        {"lists": 3, "nprobe": 2, "tail": float("nan")},
        {"lists": 3, "nprobe": 2, "tail": float("inf")},
        {"bits": 0},
        {"bits": 5},
        {"bits": 16},
    ],
)
def test_plans_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sense|lists|recall|tail|bits"):
        dataclasses.replace(Plan(64), **change)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"head_dim": 64', '"head_dim": true'),
        ('"head_dim": 64', '"head_dim": "64"'),
        ('"kept": 250', '"kept": 2.5'),
        ('"margins": []', '"margins": 3'),
        ('"margins": []', '"margins": ["a"]'),
        ('"recall": 0.0', '"recall": null'),
        ('"rows": 0', '"row": 0'),
        ('"tail": 0.0', '"tail": "0"'),
        ('"bits": 8', '"bits": 2'),
        ('"bits": 8', '"bits": 8.0'),
    ],
)
def test_damaged_plans_are_refused(old: str, new: str) -> None:
    text = Plan(64).to_json()
    assert old in text
    with pytest.raises(ValueError, match="plan|must be|sense|bits"):
        Plan.from_json(text.replace(old, new))


@pytest.mark.parametrize("names", [["bits"], ["bits", "tail"]])
def test_plans_of_earlier_versions_have_8_bits_and_no_tail_term(names: list[str]) -> None:
    plan = Plan(64, 300, lists=400, nprobe=50)
    fields = json.loads(plan.to_json())
    for name in names:
        del fields[name]
    assert Plan.from_json(json.dumps(fields)) == plan


def test_longer_shortlists_probe_more_lists() -> None:
    plan = Plan(64, 500, 100, lists=400, nprobe=50, tail=0.5)
    assert plan.for_hits(10) == plan
    twice = plan.for_hits(10, 1000)
    assert twice.tail == 0.5
    assert (twice.shortlist, twice.kept, twice.nprobe) == (1000, 200, 100)
    many = plan.for_hits(1000)
    assert many.shortlist >= many.kept >= 4000 and many.nprobe == 400
    assert plan.without_lists().kind == "flat"


def test_plans_in_words() -> None:
    assert Plan(64).to_text() == "flat, 64 dims, shortlist 1,000, not measured"
    plan = Plan(64, 500, lists=400, nprobe=50, rows=12_000, recall=0.9812)
    assert plan.to_text() == (
        "lists, 64 dims, 50 of 400 lists, shortlist 500; recall@10 0.981 of 0.98 asked for, "
        "at 12,000 chunks"
    )
    assert (
        dataclasses.replace(plan, tail=0.25)
        .to_text()
        .startswith("lists, 64 dims, 50 of 400 lists, tail 0.25, shortlist 500; ")
    )


def test_plans_in_words_name_narrow_codes() -> None:
    assert Plan(64, bits=4).to_text() == "flat, 64 dims in 4 bits, shortlist 1,000, not measured"


def test_a_plan_fits_until_the_index_has_doubled_or_halved() -> None:
    plan = Plan(64, rows=1000)
    assert [plan.fits(rows) for rows in (499, 500, 1000, 2000, 2001)] == [0, 1, 1, 1, 0]
