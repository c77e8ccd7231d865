from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search import chunking
from adaptive_search.boundaries import headings
from adaptive_search.chunking import Chunk, Chunker
from adaptive_search.documents import Document
from adaptive_search.encoder.tokenizer import Tokenizer

KINDS = ("text", "markdown", "rst", "code", "record")
SENTENCE = "The plants store energy in the green leaf of a cell. "
# Words, marks, breaks, and what is known to upset tokenizers.
PIECES = st.sampled_from(
    ["plants", "stored", "xyz", "a" * 30, "b" * 120, " ", "  ", "\n", "\n\n", "\r\n", "\t", ". "]
    + ["!", "don't", "# Head\n", "Title\n=====\n", "def f(x):\n", "```\n", "é", "e\u0301", "\u0301"]
    + ["植物", "。", "\u200b", "\x00", "\ufeff", "[SEP]", "##s", "İ", "ß", "ﬁ", "😀", "\u2028"]
)
TEXTS = st.lists(PIECES | st.text(max_size=6), max_size=120).map("".join)


def chunks(tokenizer: Tokenizer, text: str, **options: object) -> list[Chunk]:
    kind = options.pop("kind", "text")
    title = options.pop("title", "")
    document = Document("d", "d.txt", text, title=title, kind=kind)
    return list(Chunker(tokenizer, **options).chunks(document))


def body(tokenizer: Tokenizer, chunk: Chunk) -> np.ndarray:
    return tokenizer.tokenize(chunk.text)[0]


@given(text=TEXTS, kind=st.sampled_from(KINDS), size=st.sampled_from([16, 40, 256]))
def test_chunks_put_together_are_the_document(
    tokenizer: Tokenizer, text: str, kind: str, size: int
) -> None:
    found = chunks(tokenizer, text, kind=kind, max_tokens=size, title="the sun")
    data = text.encode("utf-8", "surrogatepass")
    assert "".join(c.text for c in found) == text
    assert [c.ordinal for c in found] == list(range(len(found)))
    assert all(len(c.ids) <= size for c in found)
    for c in found:
        assert data[c.byte_start : c.byte_end] == c.text.encode("utf-8", "surrogatepass")
    assert [c.byte_end for c in found[:-1]] == [c.byte_start for c in found[1:]]


@given(text=TEXTS, kind=st.sampled_from(KINDS))
def test_ids_of_a_chunk_equal_tokenizing_its_text(
    tokenizer: Tokenizer, text: str, kind: str
) -> None:
    # 256 leaves room for the longest word (100 pieces), so no cut falls inside one.
    for chunk in chunks(tokenizer, text, kind=kind, max_tokens=256):
        alone = body(tokenizer, chunk)
        assert np.array_equal(chunk.ids[len(chunk.ids) - 1 - len(alone) : -1], alone)


@given(text=TEXTS, size=st.sampled_from([16, 40]), overlap=st.sampled_from([1, 4]))
def test_overlapping_chunks_still_cover_the_document(
    tokenizer: Tokenizer, text: str, size: int, overlap: int
) -> None:
    found = chunks(tokenizer, text, max_tokens=size, overlap=overlap)
    assert found[0].byte_start == 0
    assert found[-1].byte_end == len(text.encode("utf-8", "surrogatepass"))
    for before, after in itertools.pairwise(found):
        assert before.byte_start < after.byte_start <= before.byte_end


def test_a_short_text_is_one_chunk_framed(tokenizer: Tokenizer) -> None:
    (chunk,) = chunks(tokenizer, "plants store energy")
    ids, _ = tokenizer.tokenize("plants store energy")
    assert np.array_equal(chunk.ids, tokenizer.frame(ids, context=256))
    assert chunk.ids.dtype == np.int32


def test_text_without_tokens_is_still_a_chunk(tokenizer: Tokenizer) -> None:
    (chunk,) = chunks(tokenizer, "\u200b")
    assert len(chunk.ids) == 2


def test_cuts_fall_at_sentence_ends(tokenizer: Tokenizer) -> None:
    found = chunks(tokenizer, SENTENCE * 40, max_tokens=64)
    assert len(found) > 5
    assert all(c.text.rstrip().endswith(".") for c in found)


def test_abbreviations_end_no_sentence(tokenizer: Tokenizer) -> None:
    text = "The plants of Dr. Green and of J. Leaf, e.g. Cell, store heat. " * 20
    found = chunks(tokenizer, text, max_tokens=64)
    assert all(c.text.endswith("heat. ") for c in found)


def test_no_small_remainder_is_left(tokenizer: Tokenizer) -> None:
    for repeats in range(10, 60):
        sizes = [len(c.ids) for c in chunks(tokenizer, SENTENCE * repeats, max_tokens=128)]
        assert len(sizes) == 1 or min(sizes) >= 32


def test_words_are_whole_where_there_is_white_space(tokenizer: Tokenizer) -> None:
    text = "don't re-enter the leaf, plants " * 60
    found = chunks(tokenizer, text, max_tokens=32)
    assert all(c.text[-1].isspace() for c in found[:-1])


def test_a_word_longer_than_a_chunk_is_cut_between_its_pieces(tokenizer: Tokenizer) -> None:
    found = chunks(tokenizer, "x" * 90, max_tokens=16)
    assert "".join(c.text for c in found) == "x" * 90
    assert all(len(c.ids) <= 16 for c in found)


def test_line_and_byte_spans_point_into_the_file(tokenizer: Tokenizer) -> None:
    text = "\n\n" + "é plants store heat.\n" * 50
    lines = text.split("\n")
    for chunk in chunks(tokenizer, text, max_tokens=32):
        inside = [line for line in chunk.text.split("\n") if line.strip()]
        assert inside == lines[chunk.line_start - 1 : chunk.line_end]


def test_spans_begin_where_the_text_does(tokenizer: Tokenizer) -> None:
    document = Document("d", "d.txt", "plants", line=5, byte=3)
    (chunk,) = Chunker(tokenizer).chunks(document)
    assert (chunk.byte_start, chunk.byte_end, chunk.line_start, chunk.line_end) == (3, 9, 5, 5)


def test_every_chunk_of_a_record_has_its_line(tokenizer: Tokenizer) -> None:
    document = Document("d", "d.jsonl", (SENTENCE + "\n") * 40, line=17, kind="record")
    found = list(Chunker(tokenizer, 64).chunks(document))
    assert len(found) > 2
    assert {(c.line_start, c.line_end) for c in found} == {(17, 17)}


def test_title_and_heading_come_before_the_text(tokenizer: Tokenizer) -> None:
    text = "# Light\n\n" + SENTENCE * 12 + "\n\n# Heat\n\n" + SENTENCE * 12
    found = chunks(tokenizer, text, kind="markdown", title="Sun", max_tokens=64)

    def words(phrase: str) -> list[int]:
        return tokenizer.tokenize(phrase)[0].tolist()

    first = next(c for c in found if c.text.startswith("# Heat"))
    later = found[found.index(first) + 1]
    assert first.ids[1:].tolist()[: len(words("sun # heat"))] == words("sun # heat")
    assert later.ids[1:].tolist()[: len(words("sun heat the"))] == words("sun heat the")


def test_a_title_that_opens_the_text_is_not_repeated(tokenizer: Tokenizer) -> None:
    (chunk,) = chunks(tokenizer, "green leaf is green", title="green leaf")
    assert len(chunk.ids) == 2 + len(body(tokenizer, chunk))


def test_a_long_title_leaves_room_for_the_text(tokenizer: Tokenizer) -> None:
    found = chunks(tokenizer, SENTENCE * 5, title="sun " * 500, max_tokens=32)
    assert all(len(c.ids) <= 32 for c in found)
    assert "".join(c.text for c in found) == SENTENCE * 5


def test_headings_in_fences_and_front_matter_are_none() -> None:
    text = "---\ntitle: x\n---\n# One\n```\n# no\n```\nTwo\n---\n"
    assert [h.text for h in headings(text, "markdown")] == ["One", "Two"]
    assert [h.text for h in headings("One\n===\n\n***\nTwo\n***\n", "rst")] == ["One", "Two"]
    assert [h.text for h in headings("class A:\n    def f(self):\n", "code")] == [
        "class A",
        "def f(self)",
    ]


def test_code_is_cut_at_line_starts_with_its_indentation(tokenizer: Tokenizer) -> None:
    text = "def f(x):\n" + "    store = light + water\n" * 40
    found = chunks(tokenizer, text, kind="code", max_tokens=48)
    assert all(c.text.startswith("    store") for c in found[1:])


def test_the_length_of_a_window_loses_nothing(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "WINDOW_CHARS", 200)
    text = SENTENCE * 30 + "y" * 1000 + "\n\n" + SENTENCE * 10
    found = chunks(tokenizer, text, max_tokens=64)
    assert "".join(c.text for c in found) == text
    assert all(len(c.text) <= 200 for c in found)


@pytest.mark.parametrize("kind", ["markdown", "rst", "code"])
@pytest.mark.parametrize(
    "piece",
    [".", "\n", " ", "#", "=", ".\n", "# ", "=\n", "\n ", "class ", "(", "static\t"],
)
def test_hostile_texts_take_linear_time(tokenizer: Tokenizer, kind: str, piece: str) -> None:
    start = time.perf_counter()
    for text in (piece * 30_000 + "x", "# a" + piece * 30_000 + "x\n" + piece):
        chunks(tokenizer, text[:34_000], kind=kind)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("options", [{"max_tokens": 8}, {"max_tokens": 9000}, {"overlap": 99}])
def test_sizes_that_make_no_sense_are_refused(
    tokenizer: Tokenizer, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must be from"):
        Chunker(tokenizer, **options)
