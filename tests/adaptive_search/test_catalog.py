from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptive_search.catalog import Catalog


def test_grows_segment_by_segment_like_all_at_once(tmp_path: Path, kit: Any) -> None:
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
