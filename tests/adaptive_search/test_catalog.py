from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_search import catalog as catalogs
from adaptive_search.catalog import Catalog


@pytest.mark.parametrize("factor", [0, 1, 8])  # parts that are never, sometimes, soon merged
def test_grows_segment_by_segment_like_all_at_once(
    tmp_path: Path, kit: Any, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "_PART_FACTOR", factor)
    store = kit.create(tmp_path / "i")
    for start in range(0, 60, 20):
        with store.writer() as writer:
            for number in range(start, start + 20):
                kit.add(writer, f"d{number}", 1)
    segments = kit.open(store.path).segments
    grown = Catalog([])
    for segment in segments:
        grown = Catalog([segment], grown)
    whole = Catalog(segments)
    assert len(grown) == len(whole) == 60
    for number in range(60):
        for catalog in (grown, whole):
            ((segment, place),) = catalog.find(f"d{number}")
            assert segment is segments[number // 20] and place == number % 20
    assert whole.find("d60") == []
    for catalog in (grown, whole):
        assert catalog.in_order(np.arange(60)).tolist() == [
            catalog.positions(f"d{number}")[0] for number in range(60)
        ]
        of_segments = [np.arange(20) % 2 == 0, np.zeros(20, np.bool_), np.ones(20, np.bool_)]
        chosen = np.flatnonzero(catalog.in_entries(of_segments)).tolist()
        expected = [catalog.positions(f"d{n}")[0] for n in (*range(0, 20, 2), *range(40, 60))]
        assert chosen == sorted(expected)
    asked = ("d59", "d60", "d0", "d61")
    for catalog in (grown, whole):
        assert catalog.may_hold(asked) == [True, False, True, False]
    assert whole.may_hold(()) == [] and Catalog([]).may_hold(asked) == [False] * 4


def test_a_writer_goes_on_from_the_catalog_of_the_writer_before(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    keys = catalogs.document_keys
    monkeypatch.setattr(
        catalogs, "document_keys", lambda segment: hashed.append(segment.name) or keys(segment)
    )

    def known(store: Any) -> set[str]:
        with store.writer() as writer:
            return set(writer.known_documents())

    store = kit.create(tmp_path / "i")
    names = [f"d{number}" for number in range(12)]
    for name in names[:6]:
        with store.writer() as writer:
            assert set(writer.known_documents()) == set(names[: names.index(name)])
            kit.add(writer, name, 1)
        store = store.reopened()
    assert len(hashed) == len(set(hashed)) == 6
    with kit.open(store.path).writer() as another:  # which this store knows nothing of
        kit.add(another, names[6], 2)
        another.delete_documents([names[0]])
    assert known(store) == set(names[1:7])
    with store.writer() as writer:
        writer.compact()
    assert known(store) == set(names[1:7])
    with store.writer() as writer:
        kit.add(writer, names[7], 1)
        kit.add(writer, names[2], 3)  # replaces
    assert known(store) == known(kit.open(store.path)) == set(names[1:8])
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        kit.add(writer, names[8], 1)
        raise ZeroDivisionError
    assert known(store.reopened()) == set(names[1:8])
