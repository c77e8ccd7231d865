"""A growing text against the same ids encoded at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.streaming import StreamingEncoder
from adaptive_search.errors import BackendUnavailable, DimensionError, QueryError


@pytest.fixture(params=["fp32", "int8"])
def encoder(request: pytest.FixtureRequest, weights: Path) -> Encoder:
    return Encoder.load(weights, threads=1, precision=request.param)


def encode_pieces(encoder: Encoder, pieces: list[str], dim: int) -> NDArray[np.float32]:
    ids = np.concatenate([encoder.tokenizer.tokenize(piece)[0] for piece in pieces])
    framed = encoder.tokenizer.frame(ids, context=len(ids) + 2)
    return encoder.truncate(encoder.encode_ids([framed], dim)[0], dim)


def test_every_append_equals_encoding_all_so_far(encoder: Encoder) -> None:
    dim = encoder.dims[0]
    stream = StreamingEncoder(encoder, dim=dim)
    pieces: list[str] = []
    for length in (1, 5, 90, 0, 3, 200, 96, 1):  # the state moves on every 96 tokens
        pieces.append("sun " * length)
        np.testing.assert_array_equal(
            stream.append(pieces[-1]), encode_pieces(encoder, pieces, dim)
        )
    assert stream.tokens == sum(len(encoder.tokenizer.tokenize(p)[0]) for p in pieces)
    np.testing.assert_array_equal(stream.vector(), stream.vector())


def test_nothing_yet_is_the_empty_text(encoder: Encoder) -> None:
    np.testing.assert_array_equal(StreamingEncoder(encoder).vector(), encoder.encode(""))


def test_whole_words_equal_the_whole_text(encoder: Encoder, texts: list[str]) -> None:
    stream = StreamingEncoder(encoder, granularity=2)
    for word in texts[4].split():
        vector = stream.append(word)
    np.testing.assert_array_equal(vector, encoder.encode(texts[4], granularity=2))


def test_streams_do_not_share_their_state(encoder: Encoder) -> None:
    one, other = StreamingEncoder(encoder), StreamingEncoder(encoder)
    dim = encoder.dims[-1]
    for _ in range(40):
        one.append("sun and light")
        other.append("green leaf")
    np.testing.assert_array_equal(one.vector(), encode_pieces(encoder, ["sun and light"] * 40, dim))
    np.testing.assert_array_equal(other.vector(), encode_pieces(encoder, ["green leaf"] * 40, dim))


def test_bad_arguments(encoder: Encoder) -> None:
    with pytest.raises(DimensionError):
        StreamingEncoder(encoder, dim=7)
    with pytest.raises(QueryError):
        StreamingEncoder(encoder, granularity=3)


def test_an_alternating_model_cannot_stream(
    tmp_path: Path,
    weights: Path,
    config: EncoderConfig,
    random_tensors: Callable[[EncoderConfig], checkpoint.Tensors],
) -> None:
    alternating = dataclasses.replace(config, direction="alternating")
    tokenizer = (weights / checkpoint.TOKENIZER).read_text(encoding="utf-8")
    checkpoint.save(tmp_path / "w", alternating, tokenizer, random_tensors(alternating))
    with pytest.raises(BackendUnavailable, match="this one is alternating, on cpu; encode"):
        StreamingEncoder(Encoder.load(tmp_path / "w", threads=1))
