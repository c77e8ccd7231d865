"""The encoder: nested unit vectors, its ways to encode, limits, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.encoder import Encoder, available_threads
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.errors import BackendUnavailable, DimensionError, QueryError, WeightsError


@pytest.fixture
def encoder(weights: Path) -> Encoder:
    return Encoder.load(weights, threads=1)


@pytest.mark.parametrize("granularity", [1, 2, 4])
def test_vectors_have_unit_length_at_every_dim(
    encoder: Encoder, texts: list[str], granularity: int
) -> None:
    for dim in encoder.dims:
        vectors = encoder.encode(texts, dim, granularity=granularity)
        assert vectors.shape == (len(texts), dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("granularity", [1, 2, 4])
def test_each_band_has_its_weight(encoder: Encoder, texts: list[str], granularity: int) -> None:
    vectors = encoder.encode(texts, granularity=granularity).astype(np.float64)
    bands = np.split(vectors, encoder.dims[:-1], axis=1)
    for band, weight in zip(bands, encoder.config.band_weights, strict=True):
        np.testing.assert_allclose(np.linalg.norm(band, axis=1), weight, rtol=1e-5)


def test_slices_are_nested(encoder: Encoder, texts: list[str]) -> None:
    full = encoder.encode(texts)
    every = encoder.encode_all_dims(texts)
    assert tuple(every) == encoder.dims
    for dim in encoder.dims:
        direct = encoder.encode(texts, dim)
        np.testing.assert_allclose(direct, encoder.truncate(full, dim), atol=1e-6)
        np.testing.assert_array_equal(every[dim], encoder.truncate(full, dim))
    np.testing.assert_allclose(
        encoder.truncate(encoder.truncate(full, 16), 8), encoder.truncate(full, 8), atol=1e-6
    )


def test_granularities_differ(encoder: Encoder, texts: list[str]) -> None:
    vectors = [encoder.encode(texts, granularity=g) for g in encoder.granularities]
    assert all(np.abs(a - b).max() > 0.01 for a, b in zip(vectors, vectors[1:], strict=False))


def test_one_text_gives_one_vector(encoder: Encoder, texts: list[str]) -> None:
    one, several = encoder.encode(texts[0], 16), encoder.encode([texts[0]], 16)
    assert one.shape == (16,)
    np.testing.assert_array_equal(one, several[0])
    assert encoder.encode_all_dims(texts[0])[8].shape == (8,)


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.encode([], 8).shape == (0, 8)
    assert encoder.encode_all_dims([])[32].shape == (0, 32)
    assert list(encoder.encode_batch([])) == []


@pytest.mark.parametrize("text", ["", " \n", "\0", "\N{SNOWMAN}" * 9, "x" * 5000])
def test_odd_texts_have_a_vector(encoder: Encoder, text: str) -> None:
    assert np.linalg.norm(encoder.encode(text)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_stream_equals_one_call(encoder: Encoder, texts: list[str], batch_size: int) -> None:
    stream = list(encoder.encode_batch(iter(texts), 16, granularity=2, batch_size=batch_size))
    assert all(len(part) <= batch_size for part in stream)
    np.testing.assert_allclose(
        np.concatenate(stream), encoder.encode(texts, 16, granularity=2), atol=1e-6
    )


def test_a_stream_reads_no_further_than_its_batch(encoder: Encoder) -> None:
    source = iter(["sun", "leaf", "light", "heat"])
    next(encoder.encode_batch(source, batch_size=2))
    assert next(source) == "light"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.sampled_from([1, 2, 4]))
def test_a_vector_does_not_depend_on_its_batch(
    shared_encoder: Encoder, texts: list[str], granularity: int
) -> None:
    together = shared_encoder.encode(texts, granularity=granularity)
    for text, vector in zip(texts, together, strict=True):
        alone = shared_encoder.encode(text, granularity=granularity)
        np.testing.assert_allclose(vector, alone, atol=1e-6)


@pytest.fixture(scope="module")
def shared_encoder(
    tmp_path_factory: pytest.TempPathFactory,
    config: EncoderConfig,
    tokenizer_json: str,
    random_tensors: Callable[[EncoderConfig], checkpoint.Tensors],
) -> Encoder:
    directory = tmp_path_factory.mktemp("weights")
    checkpoint.save(directory, config, tokenizer_json, random_tensors(config))
    return Encoder.load(directory, threads=1)


def test_a_long_text_is_cut_at_the_context(encoder: Encoder) -> None:
    long = "sun leaf " * 500
    np.testing.assert_array_equal(encoder.encode(long), encoder.encode("sun leaf " * 40))


def test_ids_give_prefixes_of_fixed_length(encoder: Encoder, texts: list[str]) -> None:
    ids = encoder.tokenizer.encode_batch(texts, context=64)
    prefix = encoder.encode_ids(ids, 16)
    np.testing.assert_allclose(np.linalg.norm(prefix, axis=1) ** 2, 0.8, rtol=1e-5)
    np.testing.assert_array_equal(prefix, encoder.encode_ids(ids)[:, :16])


@pytest.mark.parametrize("dim", [0, -8, 7, 9, 64])
def test_a_dim_that_is_none_lists_those_that_are(encoder: Encoder, dim: int) -> None:
    message = f"dim={dim} is not a nesting dimension; choose one of 8, 16, 32"
    for call in (
        lambda: encoder.encode("sun", dim),
        lambda: encoder.encode([], dim),
        lambda: list(encoder.encode_batch(["sun"], dim)),
        lambda: encoder.truncate(np.ones((1, 32), np.float32), dim),
    ):
        with pytest.raises(DimensionError, match=message):
            call()


@pytest.mark.parametrize("granularity", [0, -1, 3, 8])
def test_a_granularity_that_was_not_trained(encoder: Encoder, granularity: int) -> None:
    with pytest.raises(QueryError, match="choose one of 1, 1/2, 1/4"):
        encoder.encode("sun", granularity=granularity)


def test_each_layer_may_have_a_width_of_its_own(encoder: Encoder, texts: list[str]) -> None:
    full, half = (encoder.encode(texts, granularity=g) for g in (1, 2))
    np.testing.assert_array_equal(encoder.encode(texts, granularity=(8, 8)), full)
    np.testing.assert_array_equal(encoder.encode_all_dims(texts, granularity=(4, 4))[32], half)
    mixed = encoder.encode(texts, granularity=(8, 3))
    for other in (full, half, encoder.encode(texts, granularity=(3, 8))):
        assert np.abs(mixed - other).max() > 0.01
    stream = np.concatenate(list(encoder.encode_batch(texts, granularity=(8, 3), batch_size=2)))
    np.testing.assert_allclose(stream, mixed, atol=1e-6)


@pytest.mark.parametrize("granularity", [(), (8,), (8, 8, 8), (0, 8), (9, 8), (-1, 1)])
def test_heads_that_the_layers_lack(encoder: Encoder, granularity: tuple[int, ...]) -> None:
    nothing: list[str] = []
    for texts in ("sun", nothing):
        with pytest.raises(QueryError, match="must be 2 numbers, one a layer, from 1 to 8 heads"):
            encoder.encode(texts, granularity=granularity)


@pytest.mark.parametrize(("ids", "message"), [([], "no ids"), ([-1], "id -1")])
def test_ids_that_no_text_has(encoder: Encoder, ids: list[int], message: str) -> None:
    with pytest.raises(QueryError, match=f"cannot be encoded: .*{message}"):
        encoder.encode_ids([np.array([1, 2]), np.array(ids, np.int32)])


def test_truncating_to_more_than_there_is(encoder: Encoder) -> None:
    with pytest.raises(QueryError, match="vectors of 8 dims hold no 16-dim embedding"):
        encoder.truncate(np.ones((2, 8), np.float32), 16)


def test_an_unknown_device(weights: Path) -> None:
    with pytest.raises(BackendUnavailable, match="choose cpu or cuda"):
        Encoder.load(weights, device="tpu")


def test_precisions_share_one_space(weights: Path, texts: list[str]) -> None:
    exact, *others = (
        Encoder.load(weights, threads=1, precision=precision).encode(texts)
        for precision in ("fp32", "bf16", "int8")
    )
    for other in others:
        assert np.sum(exact * other, axis=1).min() > 0.99
        assert (exact != other).any()


def test_an_unknown_precision(weights: Path) -> None:
    with pytest.raises(BackendUnavailable, match="choose one of fp32, bf16, int8"):
        Encoder.load(weights, precision="int4")


def test_a_tokenizer_with_more_ids_than_the_model(weights: Path) -> None:
    raw = json.loads((weights / "tokenizer.json").read_text(encoding="utf-8"))
    raw["model"]["vocab"]["zebra"] = len(raw["model"]["vocab"])
    (weights / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(WeightsError, match="the tokenizer has .* export or copy"):
        Encoder.load(weights)


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", " "])
def test_a_bad_number_of_threads(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_THREADS", asked)
    with pytest.raises(QueryError, match="ADAPTIVE_SEARCH_THREADS"):
        available_threads()


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_THREADS", "3")
    assert available_threads() == 3
    monkeypatch.delenv("ADAPTIVE_SEARCH_THREADS")
    assert available_threads() >= 1


def test_the_number_of_threads_changes_nothing(weights: Path, texts: list[str]) -> None:
    one, three = (Encoder.load(weights, threads=n).encode(texts * 5) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_the_shipped_weights_know_what_is_alike() -> None:
    encoder = Encoder.load(threads=1)
    texts = ["how do plants make energy from light", "photosynthesis in green leaves", "tax law"]
    for dim in (64, 1536):
        query, near, far = encoder.encode(texts, dim)
        assert query @ near > query @ far + 0.05


def test_encoding_on_cpu_needs_no_torch(weights: Path) -> None:
    code = (
        "import sys; from adaptive_search.encoder.encoder import Encoder;"
        f"Encoder.load({str(weights)!r}).encode('sun'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=120)


def test_the_tokenizer_is_the_one_of_the_weights(encoder: Encoder, tokenizer: Tokenizer) -> None:
    assert encoder.tokenizer.vocab_size == tokenizer.vocab_size
    assert encoder.tokenizer.tokenize("plants")[0] == tokenizer.tokenize("plants")[0]
