"""Training data: rows that are refused by name, and batches that are a function of the seed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_search.encoder import data
from adaptive_search.encoder.data import TokenBatch, TokenStream, find_files, pad, read_rows
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.errors import TrainingError

Batches = list[tuple[TokenBatch, ...]]
WORDS = "the plants store energy light is heat leaf cell water sun green".split()


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Fifty texts of one to thirty words."""
    rng = np.random.default_rng(0)
    rows: list[object] = [
        {"text": " ".join(rng.choice(WORDS, size=rng.integers(1, 31)))} for _ in range(50)
    ]
    return write_jsonl(tmp_path / "text.jsonl", rows)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    rows: list[object] = [
        {
            "query": " ".join(rng.choice(WORDS, size=rng.integers(1, 6))),
            "positive": " ".join(rng.choice(WORDS, size=rng.integers(1, 31))),
        }
        for _ in range(50)
    ]
    return write_jsonl(tmp_path / "pairs.jsonl", rows)


def stream(tokenizer: Tokenizer, path: Path, **changes: int) -> TokenStream:
    columns = ("query", "positive") if "pairs" in path.name else ("text",)
    numbers = {"max_tokens": 24, "batch_tokens": 100, "seed": 3} | changes
    return TokenStream([path], columns, tokenizer, **numbers)


def take(batches: TokenStream, count: int, start: int = 0) -> Batches:
    return list(itertools.islice(batches.batches(start), count))


def same(a: Batches, b: Batches) -> bool:
    def content(batches: Batches) -> list[list[bytes]]:
        return [[side.ids.tobytes() for side in batch] for batch in batches]

    return content(a) == content(b)


def test_padding_is_to_a_multiple_of_eight() -> None:
    batch = pad([np.arange(1, 4, dtype=np.int32), np.arange(1, 10, dtype=np.int32)])
    assert batch.ids.shape == (2, 16)
    assert batch.ids[0].tolist() == [1, 2, 3] + [0] * 13
    assert (batch.lengths.tolist(), batch.tokens) == ([3, 9], 12)
    assert batch.ids.dtype == batch.lengths.dtype == np.int64


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_batches_stay_within_their_tokens(
    tokenizer: Tokenizer, request: pytest.FixtureRequest, kind: str
) -> None:
    for batch in take(stream(tokenizer, request.getfixturevalue(kind)), 60):
        rows = len(batch[0].lengths)
        assert all(len(side.lengths) == rows for side in batch)
        assert rows == 1 or rows * sum(int(side.lengths.max()) for side in batch) <= 100
        assert all(side.lengths.max() <= 24 for side in batch)


def test_a_row_above_the_limit_is_a_batch_of_its_own(tokenizer: Tokenizer, texts: Path) -> None:
    batches = take(stream(tokenizer, texts, batch_tokens=1), 20)
    assert all(len(side.lengths) == 1 for (side,) in batches)


def test_every_row_comes_once_an_epoch(tokenizer: Tokenizer, texts: Path) -> None:
    seen: list[bytes] = []
    for (side,) in stream(tokenizer, texts).batches():
        seen += [ids[:n].tobytes() for ids, n in zip(side.ids, side.lengths, strict=True)]
        if len(seen) >= 50:
            break
    lines = [json.loads(line)["text"] for line in texts.read_text(encoding="utf-8").splitlines()]
    want = [i.astype(np.int64).tobytes() for i in tokenizer.encode_batch(lines, context=24)]
    assert sorted(seen) == sorted(want)


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_the_same_seed_gives_the_same_batches(
    tokenizer: Tokenizer, request: pytest.FixtureRequest, kind: str
) -> None:
    path = request.getfixturevalue(kind)
    first = take(stream(tokenizer, path), 40)
    assert same(first, take(stream(tokenizer, path), 40))
    assert not same(first, take(stream(tokenizer, path, seed=4), 40))


@pytest.mark.parametrize("start", [1, 7, 38])
def test_starting_late_is_skipping(
    tokenizer: Tokenizer, texts: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    monkeypatch.setattr(data, "POOL_ROWS", 16)  # several pools, and several epochs
    batches = take(stream(tokenizer, texts), 45)
    assert same(take(stream(tokenizer, texts), 45 - start, start), batches[start:])


def test_pairs_stay_together(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[object] = [{"query": f"{i}", "positive": f"{i} {i}"} for i in range(10)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    for queries, positives in take(stream(tokenizer, path), 10):
        for query, positive in zip(queries.ids, positives.ids, strict=True):
            assert query[1] == positive[1] == positive[2]


def test_one_row_for_ever(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "text.jsonl", [{"text": "sun"}])
    batches = take(stream(tokenizer, path), 3)
    assert same(batches[:1], batches[1:2]) and batches[2][0].ids.shape == (1, 8)


def test_rows_all_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "text.jsonl", [{"text": "sun leaf"}] * 30)
    batches = take(stream(tokenizer, path), 2)
    assert sum(len(side.lengths) for (side,) in batches) == 30


texts_of_any_kind = st.text(max_size=20).filter(str.strip)


@settings(max_examples=20)
@given(st.lists(st.tuples(texts_of_any_kind, texts_of_any_kind), min_size=1, max_size=5))
def test_parquet_and_jsonl_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    records = [{"query": q, "positive": p, "more": 1} for q, p in rows]
    path = write_jsonl(folder / "pairs.jsonl", list(records))
    pq.write_table(pa.Table.from_pylist(records), folder / "pairs.parquet")
    for file in (path, folder / "pairs.parquet"):
        assert list(read_rows([file], ("query", "positive"))) == rows


BAD_LINES = {
    "field missing": ('{"query": "sun"}', ":2: no field positive"),
    "blank line": ("", ":2: no field query, positive"),
    "not an object": ('["sun"]', ":2: no field query, positive"),
    "empty text": ('{"query": "", "positive": "sun"}', ":2: field 'query' is empty"),
    "white text": ('{"query": "sun", "positive": " \\n"}', ":2: field 'positive' is empty"),
    "null": ('{"query": null, "positive": "sun"}', ":2: field 'query' is None"),
    "number": ('{"query": 3, "positive": "sun"}', ":2: field 'query' is 3; it must be a text"),
    "not JSON": ('{"query": ', ":2: not JSON"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "positive": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"pairs\.jsonl" + message):
        list(read_rows([path], ("query", "positive")))


@pytest.mark.parametrize("content", [b'{"text": "\xff"}', b"[" * 100_000])
def test_a_file_that_is_no_jsonl(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.jsonl").write_bytes(content)
    with pytest.raises(TrainingError, match=r"text\.jsonl"):
        list(read_rows([tmp_path / "text.jsonl"], ("text",)))


@pytest.mark.parametrize(
    ("column", "message"),
    [(["sun", None], ":2: field 'text' is None"), ([4, 5], ":1: field 'text' is 4")],
)
def test_a_bad_parquet_row_is_named(tmp_path: Path, column: list[object], message: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "text.parquet")
    with pytest.raises(TrainingError, match=r"text\.parquet" + message):
        list(read_rows([tmp_path / "text.parquet"], ("text",)))


def test_a_parquet_file_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["sun"]}), tmp_path / "text.parquet")
    with pytest.raises(TrainingError, match=r"text\.parquet has no column text"):
        list(read_rows([tmp_path / "text.parquet"], ("text",)))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_a_file_that_is_no_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.parquet").write_bytes(content)
    with pytest.raises(TrainingError, match=r"text\.parquet cannot be read as Parquet"):
        list(read_rows([tmp_path / "text.parquet"], ("text",)))


def test_files_of_one_kind_in_order(tmp_path: Path) -> None:
    for name in ("text-b.jsonl", "text-a.parquet", "pairs.jsonl", "text.csv"):
        (tmp_path / name).touch()
    assert [p.name for p in find_files(tmp_path, "text")] == ["text-a.parquet", "text-b.jsonl"]
    assert find_files(tmp_path / "pairs.jsonl", "text") == [tmp_path / "pairs.jsonl"]


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_no_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingError, match=r"holds no text\*\.parquet or text\*\.jsonl"):
        find_files(tmp_path / name, "text")


def test_files_without_rows_do_not_loop_for_ever(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").touch()
    with pytest.raises(TrainingError, match=r"no rows in .*text\.jsonl"):
        take(stream(tokenizer, tmp_path / "text.jsonl"), 1)
