"""The pipeline: incremental runs, items that cannot be read, and runs that are cut short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adaptive_search import indexing
from adaptive_search.documents import Document, Skipped
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import StoreError
from adaptive_search.index import AdaptiveIndex
from adaptive_search.indexing import IndexSummary
from adaptive_search.storage_io import StorageIO


@pytest.fixture
def index(tmp_path: Path, tiny_encoder: Encoder) -> AdaptiveIndex:
    return AdaptiveIndex.create(
        tmp_path / "index", encoder=tiny_encoder, chunk_tokens=32, threads=1
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    (root / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c", "deep/d"):
        (root / f"{name}.txt").write_text(f"plants of {name}\n")
    return root


def counts(summary: IndexSummary) -> tuple[int, int, int, int, int]:
    skipped = len(summary.skipped)
    assert summary.seen == summary.indexed + summary.unchanged + skipped
    return summary.seen, summary.indexed, summary.unchanged, skipped, summary.deleted


def paths(index: AdaptiveIndex) -> set[str]:
    return {row.path for row in index.rows(live(index))}


def live(index: AdaptiveIndex) -> list[int]:
    parts = [np.ones(s.rows, bool) if s.live is None else s.live for s in index.store.segments]
    return list(np.flatnonzero(np.concatenate(parts))) if parts else []


def vectors(index: AdaptiveIndex) -> dict[str, bytes]:
    """The stored vector of each live chunk, by chunk id."""
    found, start = {}, 0
    rows = set(live(index))
    for segment in index.store.segments:
        bands = [segment.band(i) for i in range(segment.bands)]
        for at, row in enumerate(segment.chunks(range(segment.rows))):
            if start + at in rows:
                found[row.chunk_id] = b"".join(band[at].tobytes() for band in bands)
        start += segment.rows
    return found


def long_text(number: int, words: int = 3000) -> str:
    return " ".join(f"{number} plants store energy {i}." for i in range(words))


def test_only_changes_are_encoded(index: AdaptiveIndex, corpus: Path) -> None:
    assert counts(index.add(corpus)) == (4, 4, 0, 0, 0)
    again = index.add(corpus)
    assert counts(again) == (4, 0, 4, 0, 0) and (again.chunks, again.tokens) == (0, 0)
    generation = index.status().generation
    index.add(corpus)
    assert index.status().generation == generation
    (corpus / "a.txt").write_text("changed\n")
    (corpus / "b.txt").unlink()
    (corpus / "e.txt").write_text("new\n")
    assert counts(index.add(corpus)) == (4, 2, 2, 0, 1)
    assert paths(index) == {"a.txt", "deep/c.txt", "deep/d.txt", "e.txt"}
    assert len(index) == index.status().documents == 4


def test_what_cannot_be_read_keeps_its_rows(
    index: AdaptiveIndex, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "records.jsonl").write_text(
        '{"_id": "r1", "text": "x"}\n{"_id": "r2", "text": "y"}\n'
    )
    index.add(corpus)
    before = vectors(index)
    (corpus / "a.txt").write_bytes(b"\x00\x01\x02\x00")
    (corpus / "records.jsonl").write_text('{"_id": "r1", "text": "x"}\nbroken\n')
    assert counts(index.add(corpus)) == (6, 0, 4, 2, 0)
    assert vectors(index) == before
    # A folder that cannot be listed: permissions do not stop the root user of a test machine.
    items = [Document("b.txt", "b.txt", "plants of b\n"), Skipped("deep", "permission denied")]
    monkeypatch.setattr("adaptive_search.corpus.read_corpus", lambda *_, **__: iter(items))
    found = index.add(corpus)
    assert (found.deleted, paths(index)) == (3, {"b.txt", "deep/c.txt", "deep/d.txt"})


def test_a_skipped_corpus_is_not_recorded(index: AdaptiveIndex, corpus: Path) -> None:
    for path in corpus.rglob("*.txt"):
        path.write_bytes(b"\x00\x01")
    assert counts(index.add(corpus)) == (4, 0, 0, 4, 0)
    assert (index.status().generation, dict(index.store.attributes)) == (0, {})


def test_batches_do_not_show(
    corpus: Path, tmp_path: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (corpus / f"long{number}.txt").write_text(long_text(number, 200))
    results = []
    for tokens in (1, 100, 10**9):
        monkeypatch.setattr(indexing, "BATCH_TOKENS", tokens)
        path = tmp_path / f"index{tokens}"
        index = AdaptiveIndex.create(path, encoder=tiny_encoder, chunk_tokens=32, threads=1)
        summary = index.add(corpus)
        assert counts(summary) == (7, 7, 0, 0, 0)
        results.append((summary.chunks, summary.tokens, vectors(index)))
    assert results[0] == results[1] == results[2]
    assert results[0][0] == len(results[0][2])


def test_progress_is_reported(
    index: AdaptiveIndex, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH_TOKENS", 1)
    seen: list[int] = []
    index.add(corpus, report=lambda summary: seen.append(summary.chunks))
    assert seen[-1] == 4 and seen == sorted(seen)


@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_ctrl_c_commits_whole_documents_only(
    index: AdaptiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    corpus = tmp_path / "long"
    corpus.mkdir()
    for number in range(4):
        (corpus / f"{number}.txt").write_text(long_text(number, 200))
    monkeypatch.setattr(indexing, "BATCH_TOKENS", 400)
    batches = 0

    def interrupt(_: IndexSummary) -> None:
        nonlocal batches
        batches += 1
        if batches == stop:
            raise KeyboardInterrupt

    summary = index.add(corpus, report=interrupt)
    assert summary.interrupted
    done = counts(summary)[1]
    assert done < 4 and paths(index) == {f"{n}.txt" for n in range(done)}
    assert index.verify().ok and bool(index.status().generation) == bool(done)
    rest = index.add(corpus)
    assert (rest.unchanged, rest.indexed, rest.interrupted) == (done, 4 - done, False)
    whole = AdaptiveIndex.create(
        tmp_path / "whole", encoder=index.encoder, chunk_tokens=32, threads=1
    )
    whole.add(corpus)
    assert vectors(index) == vectors(whole)


def test_ctrl_c_does_not_delete(index: AdaptiveIndex, corpus: Path) -> None:
    index.add(corpus)
    (corpus / "a.txt").unlink()
    (corpus / "b.txt").write_text("changed\n")

    def interrupt(_: IndexSummary) -> None:
        raise KeyboardInterrupt

    summary = index.add(corpus, report=interrupt)
    assert summary.interrupted and summary.deleted == 0
    assert paths(index) == {"a.txt", "b.txt", "deep/c.txt", "deep/d.txt"}


def test_a_full_disk_loses_nothing(
    index: AdaptiveIndex, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(corpus)
    before = vectors(index)
    (corpus / "new.txt").write_text("new\n")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StorageIO, "write", full)
        with pytest.raises(StoreError, match="No space left.*free some space"):
            index.add(corpus)
    assert vectors(index) == before and index.verify().ok
    assert index.add(corpus).indexed == 1


def test_a_failing_encoder_loses_nothing(
    index: AdaptiveIndex, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(corpus)
    (corpus / "new.txt").write_text("new\n")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_ids", fail)
        with pytest.raises(MemoryError):
            index.add(corpus)
    assert paths(index) == {"a.txt", "b.txt", "deep/c.txt", "deep/d.txt"}
    assert index.add(corpus).indexed == 1


def test_one_writer_at_a_time(index: AdaptiveIndex, corpus: Path) -> None:
    with index.store.writer(), pytest.raises(StoreError, match="another process is writing"):
        AdaptiveIndex.open(index.path, encoder=index.encoder).add(corpus)


def test_documents_are_read_only_as_fast_as_they_are_stored(
    index: AdaptiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH_TOKENS", 8)
    stored = 0
    ahead: list[int] = []

    def count(summary: IndexSummary) -> None:
        nonlocal stored
        stored = summary.indexed

    def read(root: Path, **_: object) -> Iterator[Document]:
        for number in range(50):
            ahead.append(number - stored)
            yield Document(f"{number}", f"{number}", "plants store energy in a leaf")

    monkeypatch.setattr("adaptive_search.corpus.read_corpus", read)
    index.add(index.path.parent, report=count)
    assert max(ahead) <= 4


def test_a_full_disk_is_noticed_before_anything_is_encoded(
    index: AdaptiveIndex, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StorageIO, "free_bytes", lambda self, path: 1000)
    monkeypatch.setattr(index.encoder, "encode_ids", lambda *args, **options: 1 / 0)
    with pytest.raises(StoreError, match="free some space"):
        index.add(corpus)
    assert len(index) == 0


def test_a_run_that_the_disk_cannot_take_is_refused_before_anything_is_encoded(
    index: AdaptiveIndex, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(corpus)
    big = corpus / "z.txt"
    big.write_text(long_text(0))  # 90 KB: 360 chunks of 32 tokens at the least, of 3.3 KB
    monkeypatch.setattr(indexing, "BATCH_TOKENS", 64)  # a batch alone fits
    with monkeypatch.context() as patch:
        patch.setattr(StorageIO, "free_bytes", lambda self, path: 1_000_000)
        patch.setattr(index.encoder, "encode_ids", lambda *args, **options: 1 / 0)
        with pytest.raises(StoreError, match=r"needs about \d MB and its disk has 1 MB"):
            index.add(corpus)
        unknown = big.rename(corpus / "z.unknown")  # which may be no text, and does not count
        with pytest.raises(ZeroDivisionError):
            index.add(corpus)
    unknown.rename(big)
    assert index.add(corpus).indexed == 1
    monkeypatch.setattr(StorageIO, "free_bytes", lambda self, path: 1_000_000)
    (corpus / "a.txt").write_text("changed\n")
    assert index.add(corpus).indexed == 1  # what is there needs no space again
