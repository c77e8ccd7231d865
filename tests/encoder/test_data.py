"""Training data: rows that are refused by name, and batches that are a function of the seed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptive_search.encoder import data
from adaptive_search.encoder.data import (
    Text,
    TokenStream,
    find_files,
    held_out_rows,
    join,
    length_groups,
    pad,
    read_rows,
    training_rows,
)
from adaptive_search.encoder.tokenizer import Ids, Tokenizer
from adaptive_search.errors import TrainingError

Batches = list[tuple[list[Text], ...]]
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


def stream(tokenizer: Tokenizer, path: Path, **changes: Any) -> TokenStream:
    columns = ("query", "positive") if "pairs" in path.name else ("text",)
    numbers = {"max_tokens": 24, "batch_tokens": 100, "seed": 3} | changes
    return TokenStream([path], columns, tokenizer, **numbers)


def take(batches: TokenStream, count: int) -> Batches:
    return list(itertools.islice(batches, count))


def content(batches: Batches) -> list[list[list[str]]]:
    return [[[text.string for text in column] for column in batch] for batch in batches]


def first_words(texts: Sequence[Ids]) -> NDArray[np.float32]:
    """Vectors by which texts are alike when they begin alike."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((500, 6)).astype(np.float32)
    return np.stack([table[ids[1]] for ids in texts])


def test_padding_is_to_a_multiple_of_eight() -> None:
    batch = pad([np.arange(1, 4, dtype=np.int32), np.arange(1, 10, dtype=np.int32)])
    assert batch.ids.shape == (2, 16)
    assert batch.ids[0].tolist() == [1, 2, 3] + [0] * 13
    assert (batch.lengths.tolist(), batch.tokens) == ([3, 9], 12)
    assert batch.ids.dtype == batch.lengths.dtype == np.int64


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 100))
def test_groups_hold_every_text_once_with_little_padding(lengths: list[int], limit: int) -> None:
    texts = [np.full(n, i, np.int32) for i, n in enumerate(lengths)]
    groups = list(length_groups(texts, limit))
    seen = np.concatenate([rows for rows, _ in groups])
    assert sorted(seen) == list(range(len(texts)))
    for rows, batch in groups:
        assert batch.ids.size <= limit or len(rows) == 1
        assert batch.lengths.tolist() == [lengths[row] for row in rows]
        for row, ids, length in zip(rows, batch.ids, batch.lengths, strict=True):
            assert (ids[:length] == row).all()
    assert all(a[1].lengths.min() >= b[1].lengths.max() for a, b in itertools.pairwise(groups))


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_joined_runs_keep_the_order_and_the_limit(lengths: list[int], limit: int) -> None:
    runs = join(lengths, limit)
    assert [i for run in runs for i in run] == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[i] for i in run) <= limit for run in runs)


def test_every_two_hundredth_row_is_held_out() -> None:
    rows = [(str(i),) for i in range(1, 1001)]
    held_out = list(held_out_rows(rows))
    assert held_out == [("200",), ("400",), ("600",), ("800",), ("1000",)]
    assert sorted([*training_rows(rows), *held_out]) == sorted(rows)
    assert list(held_out_rows(rows[:199])) == []


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_batches_stay_within_their_tokens(
    tokenizer: Tokenizer, request: pytest.FixtureRequest, kind: str
) -> None:
    for batch in take(stream(tokenizer, request.getfixturevalue(kind)), 60):
        assert len({len(column) for column in batch}) == 1
        assert sum(len(text.ids) for column in batch for text in column) <= 100
        assert all(len(text.ids) <= 24 for column in batch for text in column)


def test_a_row_above_the_limit_is_a_batch_of_its_own(tokenizer: Tokenizer, texts: Path) -> None:
    batches = take(stream(tokenizer, texts, batch_tokens=1), 20)
    assert all(len(column) == 1 for (column,) in batches)


def test_every_row_comes_once_an_epoch(tokenizer: Tokenizer, texts: Path) -> None:
    seen: list[str] = []
    for (column,) in stream(tokenizer, texts):
        seen += [text.string for text in column]
        if len(seen) >= 50:
            break
    lines = [json.loads(line)["text"] for line in texts.read_text(encoding="utf-8").splitlines()]
    assert sorted(seen) == sorted(lines)


def test_texts_come_with_their_ids(tokenizer: Tokenizer, texts: Path) -> None:
    for (column,) in take(stream(tokenizer, texts), 20):
        want = tokenizer.encode_batch([text.string for text in column], context=24)
        for text, ids in zip(column, want, strict=True):
            np.testing.assert_array_equal(text.ids, ids)


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_the_same_seed_gives_the_same_batches(
    tokenizer: Tokenizer, request: pytest.FixtureRequest, kind: str
) -> None:
    path = request.getfixturevalue(kind)
    first = content(take(stream(tokenizer, path), 40))
    assert first == content(take(stream(tokenizer, path), 40))
    assert first != content(take(stream(tokenizer, path, seed=4), 40))


@pytest.mark.parametrize("kind", ["texts", "pairs"])
@pytest.mark.parametrize("start", [1, 7, 38])
def test_a_restored_stream_goes_on_as_the_first(
    tokenizer: Tokenizer,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    start: int,
) -> None:
    monkeypatch.setattr(data, "POOL_ROWS", 16)  # several pools, and several epochs
    path = request.getfixturevalue(kind)
    mining = {"embed": first_words, "mined_share": 0.5}
    first = stream(tokenizer, path, **mining)
    take(first, start)
    # The order is a part of the place: the model that mined it has moved on since.
    second = stream(tokenizer, path, embed=lambda texts: 1 / 0, mined_share=0.0)
    second.restore(first.state())
    left = len(first.state()["starts"]) - 1 - int(first.state()["place"][1])
    assert content(take(first, left)) == content(take(second, left))
    third = stream(tokenizer, path, **mining)
    third.restore(first.state())
    assert content(take(first, 20)) == content(take(third, 20))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The sun is hot. Is it? A leaf is green!", ["The sun is hot.", "A leaf is green!"]),
        ("Yes. No.", ["Yes. No."]),
        ("no end to it at all", ["no end to it at all"]),
        ("v. 1.5 of it.\n\nThen came v. 2.", ["1.5 of it.", "Then came v."]),
    ],
)
def test_a_text_is_cut_into_its_sentences(text: str, expected: list[str]) -> None:
    assert data.sentences(text) == expected


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_texts_comes_in_sentences(
    tokenizer: Tokenizer, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "POOL_ROWS", 8)
    texts = [f"The sun {n} is hot. A leaf {n} is green." for n in range(8)]
    rows: list[object] = [{"text": text} for text in texts]
    path = write_jsonl(tmp_path / "text.jsonl", rows)
    first = stream(tokenizer, path, sentence_share=share, batch_tokens=40)
    pool: list[str] = []
    while len("".join(pool).replace(" ", "")) < len("".join(texts).replace(" ", "")):
        pool += [text.string for (column,) in take(first, 1) for text in [*column]]
    whole = [text for text in pool if text in texts]
    assert len(whole) == 8 * (1 - share)
    assert sorted(pool) == sorted(
        [*whole, *(part for text in texts if text not in whole for part in data.sentences(text))]
    )
    again = stream(tokenizer, path, sentence_share=share, batch_tokens=40)
    again.restore(first.state())
    assert content(take(first, 9)) == content(take(again, 9))


def test_pairs_are_not_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"query": "Is it hot? It is hot.", "positive": "The sun is hot. A leaf is green."}
    path = write_jsonl(tmp_path / "pairs.jsonl", [row])
    ((queries, positives),) = take(stream(tokenizer, path, sentence_share=1.0), 1)
    assert (queries[0].string, positives[0].string) == (row["query"], row["positive"])


def test_a_place_in_other_data_is_refused(
    tokenizer: Tokenizer, texts: Path, tmp_path: Path
) -> None:
    first = stream(tokenizer, texts)
    take(first, 3)
    fewer = write_jsonl(tmp_path / "text-fewer.jsonl", [{"text": "sun"}] * 49)
    with pytest.raises(TrainingError, match="has changed since"):
        stream(tokenizer, fewer).restore(first.state())


def test_mined_batches_hold_rows_that_are_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[object] = [
        {"query": f"{WORDS[i % 4]} {i}", "positive": f"leaf {i}"} for i in range(64)
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)

    def kinds(batches: Batches) -> float:
        """Distinct first words of a batch's queries, on average."""
        sets = [{text.string.split()[0] for text in queries} for queries, _ in batches]
        return float(np.mean([len(s) for s in sets]))

    size = {"batch_tokens": 80}  # eight to ten rows
    mined = stream(tokenizer, path, embed=first_words, mined_share=1.0, **size)
    assert kinds(take(mined, 6)) < 2 < kinds(take(stream(tokenizer, path, **size), 6))


def test_pairs_stay_together(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[object] = [{"query": f"{i}", "positive": f"{i} {i}"} for i in range(10)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    for queries, positives in take(stream(tokenizer, path), 10):
        for query, positive in zip(queries, positives, strict=True):
            assert positive.string == f"{query.string} {query.string}"


def test_one_row_for_ever(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "text.jsonl", [{"text": "sun"}])
    assert content(take(stream(tokenizer, path), 3)) == [[["sun"]]] * 3


def test_rows_all_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"query": "sun", "positive": "leaf"}] * 30)
    mined = stream(tokenizer, path, embed=first_words, mined_share=1.0, batch_tokens=90)
    assert sum(len(queries) for queries, _ in take(mined, 2)) == 30


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
    assert [p.name for p in find_files(tmp_path, "texts")] == ["text-a.parquet", "text-b.jsonl"]
    assert find_files(tmp_path / "pairs.jsonl", "pairs") == [tmp_path / "pairs.jsonl"]


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_no_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingError, match=r"holds no texts.*text\*\.parquet or text\*\.jsonl"):
        find_files(tmp_path / name, "texts")


def test_files_without_rows_do_not_loop_for_ever(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").touch()
    with pytest.raises(TrainingError, match=r"no rows in .*text\.jsonl"):
        take(stream(tokenizer, tmp_path / "text.jsonl"), 1)
