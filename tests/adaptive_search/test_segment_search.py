"""Plans kept in the manifest, lists kept beside segments, and filters, over a small store."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptive_search.codes_cache import CODES, CODES_FILE
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import QueryError
from adaptive_search.index import AdaptiveIndex
from adaptive_search.indexes import funnel as funnels
from adaptive_search.indexes import tuning
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.heads import CLUSTER_DIM, ROUTE_DIM, Lists, dim_up_to, router
from adaptive_search.indexes.plan import Plan
from adaptive_search.lists_cache import CACHE_FILE, LISTS, LISTS_FILE
from adaptive_search.segment_search import (
    PLAN,
    is_plan_due,
    open_funnel,
    plan_text,
    read_lists,
    read_plan,
)

ROWS = 150
WORDS = "plants store energy light leaf cell water sun green heat".split()


def tuned(
    segments: Sequence[FunnelSegment], dims: Sequence[int], *, recall_target: float, **_: Any
) -> tuning.Tuned:
    """A plan with lists, which no measurement of so few rows would choose."""
    own, route = (dim_up_to(dims, dim) for dim in (CLUSTER_DIM, ROUTE_DIM))
    whole = [np.concatenate(part.bands, axis=1).astype(np.float32) for part in segments]
    rows = np.concatenate(whole)
    centroids = unit_rows(rows[:12, :own])
    of = (rows[:, :own] @ centroids.T).argmax(axis=1)
    rows = unit_rows(rows[:, :route])
    means = np.stack([rows[of == number].sum(axis=0) for number in range(12)])
    means /= np.maximum(np.bincount(of, minlength=12), 1)[:, None]
    lists = Lists(centroids.astype(np.float16), means.astype(np.float16))
    assigned = np.split(of.astype(np.uint32), np.cumsum([part.rows for part in segments])[:-1])
    options: dict[str, Any] = {"rows": len(rows), "recall_target": recall_target, "tail": 0.5}
    plan = Plan(dims[0], 60, 20, lists=12, nprobe=10, **options)
    return tuning.Tuned(plan, lists, assigned)


@pytest.fixture
def index(tmp_path: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> AdaptiveIndex:
    """An index that is searched through lists, although it is small."""
    monkeypatch.setattr(tuning, "MIN_TUNED_ROWS", 100)
    monkeypatch.setattr(tuning, "tune", tuned)
    created = AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder, threads=1)
    texts = [f"{WORDS[n % 10]} {WORDS[n // 10 % 10]} {n}" for n in range(ROWS)]
    created.add_texts(texts, metadata=[{"even": n % 2 == 0, "n": n} for n in range(ROWS)])
    return created


def answer(index: AdaptiveIndex, **options: Any) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in index.search("plants and light", 5, **options)]


def cache(index: AdaptiveIndex) -> Path:
    return index.path / "segments" / index.store.segments[0].name / CACHE_FILE


def reopened(index: AdaptiveIndex) -> AdaptiveIndex:
    return AdaptiveIndex.open(index.path, encoder=index.encoder, threads=1)


def test_a_plan_is_made_and_kept(index: AdaptiveIndex) -> None:
    plan = read_plan(index.store.attributes)
    assert plan is not None and plan.lists and plan.rows == ROWS and plan.recall_target == 0.98
    assert cache(index).is_file() and (index.path / LISTS_FILE).is_file()
    again = reopened(index)
    assert again.funnel.plan == plan
    assert answer(again) == answer(index)
    assert again.verify().ok and not again.verify().orphans


def test_a_plan_is_made_anew_when_the_index_has_doubled(index: AdaptiveIndex) -> None:
    before = read_plan(index.store.attributes)
    index.add_texts(["one more"], ids=["more"])
    assert read_plan(index.store.attributes) == before and not is_plan_due(index.store)
    index.add_texts([f"text {n}" for n in range(2 * ROWS)], ids=[f"t{n}" for n in range(2 * ROWS)])
    after = read_plan(index.store.attributes)
    assert after is not None and after.rows == 3 * ROWS + 1


def test_status_says_when_a_plan_is_due(index: AdaptiveIndex) -> None:
    assert plan_text(index.store).endswith("at 150 chunks")
    with index.store.writer() as writer:
        plan = Plan(index.dims[0], rows=ROWS // 3)
        writer.set_attributes({PLAN: plan.to_json()})
    assert plan_text(reopened(index).store).endswith("fit the index any more: run `tune`")


def test_the_recall_asked_for_last_stays(index: AdaptiveIndex) -> None:
    assert index.tune(0.9).recall_target == 0.9
    index.add_texts([f"text {n}" for n in range(2 * ROWS)], ids=[f"t{n}" for n in range(2 * ROWS)])
    plan = read_plan(index.store.attributes)
    assert plan is not None and (plan.recall_target, plan.rows) == (0.9, 3 * ROWS)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "folder", "foreign"])
def test_damaged_lists_of_rows_are_made_anew(index: AdaptiveIndex, damage: str) -> None:
    expected, path = answer(index), cache(index)
    data = bytearray(path.read_bytes())
    path.unlink()
    (index.path / CODES_FILE).unlink()  # which spares a reader the lists of rows
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        path.write_bytes(b"something else of a fair length, " * 10)
    again = reopened(index)
    assert answer(again) == expected
    assert again.verify().ok
    if damage != "folder":
        assert cache(again).read_bytes() != b"" and not again.verify().damaged_caches


def codes_made(index: AdaptiveIndex) -> int:
    """Rows whose codes an index makes when it is opened."""
    funnel = open_funnel(reopened(index).store, threads=1)
    return funnel.rows - (0 if funnel._kept is None else funnel._kept.rows)


def test_codes_are_kept_and_mapped(index: AdaptiveIndex) -> None:
    assert codes_made(index) == 0
    plain = open_funnel(index.store, threads=1, kept_codes=False)
    queries = index.encode_queries(["plants and light", "cold water"], 1)
    for shortlist in (30, 60, ROWS):
        expected = plain.search(queries, 5, shortlist=shortlist)
        found = reopened(index).funnel.search(queries, 5, shortlist=shortlist)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)
    report = index.verify()
    assert report.ok and not report.orphans and not report.damaged_caches


def test_codes_of_the_lists_are_kept_and_mapped(index: AdaptiveIndex) -> None:
    lists = read_lists(index.store)
    assert lists is not None and index.funnel._router is not None
    made = router(lists.means)
    np.testing.assert_array_equal(lists.router.data, made.data)
    assert (lists.router.centre.tolist(), lists.router.step.tolist()) == (
        made.centre.tolist(),
        made.step.tolist(),
    )
    queries = index.encode_queries(["plants and light", "cold water"], 1)
    asked = np.ascontiguousarray(queries[:, : made.dim])
    nearest = made.nearest(asked, len(lists.means))
    np.testing.assert_array_equal(index.funnel._router.nearest(asked, len(lists.means)), nearest)


@pytest.mark.parametrize("value", [0, np.nan, -1, np.inf])
def test_lists_of_an_impossible_scale_are_not_used(index: AdaptiveIndex, value: float) -> None:
    lists = read_lists(index.store)
    assert lists is not None
    step = 2 * (lists.centroids.size + lists.means.size) + 4 * len(lists.router.centre)
    data = bytearray((index.path / LISTS_FILE).read_bytes())
    data[step : step + 4] = np.float32(value).tobytes()
    with index.store.writer() as writer:
        writer.write_lists(bytes(data))
        writer.set_attributes({LISTS: hashlib.sha256(data).hexdigest()})
    again = reopened(index)
    assert read_lists(again.store) is None and again.funnel.plan.lists == 0
    assert answer(again, shortlist=ROWS) == answer(again, exact=True)


def test_only_added_rows_are_coded_anew(index: AdaptiveIndex) -> None:
    before = (index.path / CODES_FILE).read_bytes()
    index.add_texts([f"plants {n}" for n in range(9)], ids=[f"more{n}" for n in range(9)])
    index.delete(["3", "more4"])
    assert codes_made(index) == 9 and (index.path / CODES_FILE).read_bytes() == before
    again = reopened(index)
    assert answer(again, shortlist=2 * ROWS) == answer(again, exact=True)
    plain = open_funnel(again.store, threads=1, kept_codes=False)
    queries = again.encode_queries(["plants 3", "light"], 1)
    every = {"shortlist": 100, "k": 50}
    shared = np.isin(
        again.funnel.search(queries, **every).rows, plain.search(queries, **every).rows
    )
    assert shared.mean() > 0.9  # the scale of the codes is that of the rows before
    index.add_texts([f"light {n}" for n in range(40)], ids=[f"late{n}" for n in range(40)])
    assert codes_made(index) == 0 and (index.path / CODES_FILE).read_bytes() != before
    assert index.verify().ok and not index.verify().damaged_caches


def test_merged_segments_have_no_kept_codes_until_the_next_change(index: AdaptiveIndex) -> None:
    index.delete(["3", "4"])
    index.compact()
    assert codes_made(index) == ROWS - 2
    assert answer(reopened(index)) == answer(index)
    index.add_texts(["one more"], ids=["more"])
    assert codes_made(index) == 0


@pytest.mark.parametrize(
    "damage", ["flip", "head", "cut", "long", "empty", "gone", "folder", "link", "foreign"]
)
def test_damaged_codes_are_made_anew(index: AdaptiveIndex, damage: str) -> None:
    expected, path = answer(index), index.path / CODES_FILE
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage in ("flip", "head"):
        data[-1 if damage == "flip" else 50] ^= 1
        path.write_bytes(data)
    elif damage in ("cut", "long"):
        path.write_bytes(data[:-64] if damage == "cut" else data + bytes(64))
    elif damage in ("empty", "foreign"):
        path.write_bytes(b"" if damage == "empty" else b"something else " * 400)
    elif damage == "folder":
        path.mkdir()
    elif damage == "link":
        path.with_name("elsewhere").write_bytes(data)
        path.symlink_to("elsewhere")
    assert codes_made(index) == ROWS
    assert answer(reopened(index)) == expected
    report = index.verify()
    assert report.ok and report.damaged_caches == (() if damage == "gone" else (str(path),))
    index.add_texts(["one more"], ids=["more"])
    assert codes_made(index) == 0 and not index.verify().damaged_caches


def test_a_commit_does_not_vouch_for_damaged_codes(index: AdaptiveIndex) -> None:
    path = index.path / CODES_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    index.delete(["3"])
    assert not index.store.attributes[CODES] and not path.exists()
    assert codes_made(index) == ROWS


def test_a_commit_does_not_vouch_for_damaged_lists(index: AdaptiveIndex) -> None:
    path = index.path / LISTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with index.store.writer() as writer:
        writer.delete_documents(["3"])
    store = index.store.reopened()
    assert not store.attributes[LISTS] and not path.exists()
    assert is_plan_due(store) and open_funnel(store, threads=1).plan.lists == 0


def test_codes_of_another_width_are_made_anew_and_kept(index: AdaptiveIndex) -> None:
    before = (index.path / CODES_FILE).read_bytes()
    plan = read_plan(index.store.attributes)
    assert plan is not None
    with index.store.writer() as writer:
        writer.set_attributes({PLAN: dataclasses.replace(plan, bits=4).to_json()})
    assert codes_made(index) == ROWS
    again = reopened(index)
    again.add_texts(["one more"], ids=["more"])
    after = (index.path / CODES_FILE).read_bytes()
    assert codes_made(again) == 0 and len(after) < len(before)
    plain = open_funnel(again.store, threads=1, kept_codes=False)
    queries = again.encode_queries(["plants and light", "cold water"], 1)
    for shortlist in (30, 60, ROWS + 1):
        expected = plain.search(queries, 5, shortlist=shortlist)
        found = reopened(again).funnel.search(queries, 5, shortlist=shortlist)
        np.testing.assert_array_equal(found.rows, expected.rows)
    assert again.verify().ok and not again.verify().damaged_caches


@pytest.mark.parametrize(("bits", "made"), [(0, 0), (8, 0), (4, ROWS), (7, ROWS)])
def test_codes_say_their_width_but_for_those_of_earlier_versions(
    index: AdaptiveIndex, bits: int, made: int
) -> None:
    data = bytearray((index.path / CODES_FILE).read_bytes())
    assert data[52:56] == struct.pack("<I", 8)
    data[52:56] = struct.pack("<I", bits)
    with index.store.writer() as writer:
        writer.set_attributes({CODES: writer.write_codes(iter([bytes(data)]))})
    assert codes_made(index) == made


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(places=st.lists(st.integers(0, 1 << 14), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_codes_that_lie_only_spoil_the_shortlist(
    index: AdaptiveIndex, places: list[int], seed: int
) -> None:
    """Even where the checksum is right, no row is out of range and no score is wrong."""
    kept = open_funnel(index.store, threads=1)
    assert kept._kept is not None
    data = kept._kept.data.copy()
    data[np.array(places) % len(data)] = np.random.default_rng(seed).integers(0, 256, len(places))
    kept._kept = dataclasses.replace(kept._kept, data=data)
    queries = index.encode_queries(["plants and light", "cold water"], 1)
    found = kept.search(queries, 5, shortlist=40)
    scores = kept.search(queries, ROWS, exact=True)
    for q in range(2):
        true = dict(zip(scores.rows[q].tolist(), scores.scores[q].tolist(), strict=True))
        hits = [row for row in found.rows[q].tolist() if row >= 0]
        assert [true[row] for row in hits] == found.scores[q][: len(hits)].tolist()


def test_many_queries_move_mapped_codes_to_memory(
    index: AdaptiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnels, "_MAPPED_QUERIES", 3)
    again, expected = reopened(index), answer(index)
    mapped, mapped_router = again.funnel._kept, again.funnel._kept_router
    assert [answer(again) for _ in range(5)] == [expected] * 5
    assert mapped is not None and again.funnel._kept is not mapped
    assert mapped_router is not None and again.funnel._kept_router is not mapped_router


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "link"])
def test_without_its_lists_an_index_scans_all_codes(index: AdaptiveIndex, damage: str) -> None:
    path = index.path / LISTS_FILE
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[0] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-2])
    elif damage == "link":
        path.with_name("elsewhere").write_bytes(data)
        path.symlink_to("elsewhere")
    again = reopened(index)
    assert again.funnel.plan.lists == 0
    assert answer(again, shortlist=ROWS) == answer(again, exact=True)
    report = again.verify()
    assert report.ok and report.damaged_caches == (() if damage == "gone" else (str(path),))
    assert AdaptiveIndex.repair(index.path).damaged_caches == report.damaged_caches
    report = again.verify()
    assert not path.exists() and report.damaged_caches == report.orphans[1:] == ()
    assert is_plan_due(again.store)
    again.tune()
    assert again.funnel.plan.lists > 0 and not is_plan_due(reopened(again).store)


def test_lists_that_no_plan_names_are_removed_by_the_next_writer(index: AdaptiveIndex) -> None:
    with index.store.writer() as writer:
        writer.set_attributes({PLAN: Plan(index.dims[0], rows=ROWS).to_json(), LISTS: ""})
    assert not (index.path / LISTS_FILE).exists()
    leftovers = [index.path / name for name in (LISTS_FILE, f"{LISTS_FILE}.tmp")]
    for leftover in leftovers:
        leftover.write_bytes(b"x")
    assert index.verify().orphans == tuple(map(str, sorted(leftovers)))
    index.delete([])
    assert index.verify().orphans == ()


@pytest.mark.parametrize("text", ["", "{}", "[1]", "nonsense", "1" * 5000, '{"head_dim": 3}'])
def test_a_plan_of_another_kind_is_as_none(index: AdaptiveIndex, text: str) -> None:
    with index.store.writer() as writer:
        writer.set_attributes({PLAN: text, LISTS: "x"})
    again = reopened(index)
    assert again.funnel.plan.rows == 0 and is_plan_due(again.store)
    assert answer(again, shortlist=ROWS) == answer(again, exact=True)


def test_a_whole_shortlist_is_the_exact_answer(index: AdaptiveIndex) -> None:
    for dim in index.dims:
        assert answer(index, dim=dim, shortlist=ROWS) == answer(index, dim=dim, exact=True)


def test_compaction_does_not_change_exact_hits(index: AdaptiveIndex) -> None:
    index.add_texts([f"late text {n}" for n in range(5)], ids=[f"late{n}" for n in range(5)])
    index.delete(["0", "7"])
    before = answer(index, exact=True)
    assert answer(index, shortlist=2 * ROWS) == before
    index.compact()
    assert answer(index, exact=True) == answer(index, shortlist=2 * ROWS) == before


def test_filters_hold_in_every_path_of_the_funnel(index: AdaptiveIndex) -> None:
    index.delete(["0", "1"])
    for options in ({"exact": True}, {"shortlist": 30}, {"shortlist": 1000}, {"dim": "auto"}):
        found = index.search("plants", 5, filter={"even": True}, **options)
        assert len(found) == 5
        assert all(hit.metadata["even"] and hit.document_id != "0" for hit in found)
    few = index.search("plants", 5, filter={"n": [0, 2, 4]}, shortlist=5)
    assert {hit.document_id for hit in few} == {"2", "4"}


def test_automatic_depth_gives_the_dim_of_each_answer(index: AdaptiveIndex) -> None:
    hits = index.search("plants", 5, dim="auto")
    assert len(hits) == 5 and hits.dim in index.dims


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.1, float("nan")])
def test_recall_must_be_a_share(index: AdaptiveIndex, recall: float) -> None:
    with pytest.raises(QueryError, match="recall="):
        index.tune(recall)


def test_an_empty_index_has_no_plan(tmp_path: Path, tiny_encoder: Encoder) -> None:
    empty = AdaptiveIndex.create(tmp_path / "empty", encoder=tiny_encoder)
    with pytest.raises(QueryError, match="no rows"):
        empty.tune()
