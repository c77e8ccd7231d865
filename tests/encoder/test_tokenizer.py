"""The tokenizer: framing, cutting, spans, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece

from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.errors import WeightsError

CLS, SEP = 2, 3  # in the vocabulary of the fixture


def test_texts_stand_between_cls_and_sep(tokenizer: Tokenizer) -> None:
    ids, none = tokenizer.encode_batch(["the plants", ""], context=10)
    body, _ = tokenizer.tokenize("the plants")
    assert ids.dtype == np.int32
    assert ids.tolist() == [CLS, *body.tolist(), SEP]
    assert none.tolist() == [CLS, SEP]
    assert tokenizer.encode_batch([], context=10) == []


def test_long_texts_are_cut_and_keep_their_frame(tokenizer: Tokenizer) -> None:
    (whole,) = tokenizer.encode_batch(["water sun light heat"], context=100)
    (cut,) = tokenizer.encode_batch(["water sun light heat"], context=4)
    assert cut.tolist() == [*whole[:3].tolist(), SEP]
    (bare,) = tokenizer.encode_batch(["water"], context=2)
    assert bare.tolist() == [CLS, SEP]


@given(st.text(max_size=30))
def test_spans_lie_in_the_text_in_order(tokenizer: Tokenizer, text: str) -> None:
    ids, spans = tokenizer.tokenize(text)
    assert spans.shape == (len(ids), 2)
    assert ((spans >= 0) & (spans <= len(text))).all()
    assert (np.diff(spans[:, 0]) >= 0).all()
    assert ((ids >= 0) & (ids < tokenizer.vocab_size)).all()


def test_a_span_is_where_its_word_stands(tokenizer: Tokenizer) -> None:
    text = "Sun \N{SNOWMAN} water"
    _, spans = tokenizer.tokenize(text)
    assert [text[a:b] for a, b in spans.tolist()] == ["Sun", "\N{SNOWMAN}", "water"]


def test_pieces_after_the_first_continue_a_word(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.tokenize("plants storeing")
    assert tokenizer.continues_word[ids].tolist() == [False, False, True]
    hashes, _ = tokenizer.tokenize("##")
    assert not tokenizer.continues_word[hashes].any()


def test_a_saved_tokenizer_loads_without_its_padding(
    tokenizer: Tokenizer, tokenizer_json: str, tmp_path: Path
) -> None:
    rust = RustTokenizer.from_str(tokenizer_json)
    rust.enable_padding(length=50)
    rust.enable_truncation(max_length=3)
    rust.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    texts = ["a leaf of the green cell", "sun"]
    for got, want in zip(
        loaded.encode_batch(texts, context=20),
        tokenizer.encode_batch(texts, context=20),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe", b'{"model": 3}', b"[" * 9999])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="tokenizer.json is not a tokenizer"):
        Tokenizer.load(path)


def test_a_vocabulary_without_frame(tmp_path: Path) -> None:
    RustTokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "t.json"))
    with pytest.raises(WeightsError, match=r"\[CLS\] and \[SEP\]"):
        Tokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize("word", ["sun", "[CLS]"])
def test_ids_that_no_model_has(tokenizer_json: str, tmp_path: Path, word: str) -> None:
    changed = json.loads(tokenizer_json)
    changed["model"]["vocab"][word] = 2**32 - 1
    (tmp_path / "t.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(WeightsError, match="an id above all"):
        Tokenizer.load(tmp_path / "t.json").encode_batch(["the sun"], context=9)


def test_special_tokens_in_a_text_are_plain_text(tokenizer: Tokenizer) -> None:
    cls_id, sep_id = tokenizer.encode_batch([""], context=2)[0]
    ids, _ = tokenizer.tokenize("the [SEP] of [CLS]")
    assert not {int(cls_id), int(sep_id)} & set(ids.tolist())


def test_lone_surrogates_are_no_error_and_keep_spans(tokenizer: Tokenizer) -> None:
    text = "the\ud800 the"
    ids, spans = tokenizer.tokenize(text)
    assert text[slice(*spans[-1])] == "the"
    assert len(tokenizer.encode_batch([text], context=64)[0]) == len(ids) + 2
