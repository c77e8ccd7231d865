"""The engine against the numpy model, and what it promises about batches and threads."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from adaptive_search.encoder import checkpoint, reference_model
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.errors import WeightsError
from adaptive_search.kernels.native import Engine, Stream

Tensors = dict[str, NDArray[np.float32]]

SMALL = EncoderConfig(
    vocab_size=50,
    direction="causal",
    d_model=40,
    n_layers=3,
    d_state=12,
    headdim=10,
    dims=(8, 24, 60),
    prefix_energy=(0.5, 0.8, 1.0),
)
# 96 tokens go through a layer at a time; of alternating layers, a text of more than 480 by itself.
LENGTHS = (1, 2, 31, 32, 33, 96, 97, 3, 530, 700, 1)


def random_tensors(config: EncoderConfig, seed: int = 0) -> Tensors:
    """Weights of the size that training gives, under the names of a checkpoint."""
    rng = np.random.default_rng(seed)
    d, inner, nheads = config.d_model, config.d_inner, config.nheads
    channels = inner + 2 * config.d_state

    def normal(*shape: int, mean: float = 0.0, scale: float = 1.0) -> NDArray[np.float32]:
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    def matrix(outputs: int, inputs: int) -> NDArray[np.float32]:
        return normal(outputs, inputs, scale=inputs**-0.5)

    tensors = {"embedding.weight": normal(config.vocab_size, d)}
    for i in range(config.n_layers):
        block, mixer = f"blocks.{i}", f"blocks.{i}.mixer"
        tensors |= {
            f"{block}.mixer_norm.weight": normal(d, mean=1, scale=0.1),
            f"{block}.mlp_norm.weight": normal(d, mean=1, scale=0.1),
            f"{block}.mlp.gate_up.weight": matrix(2 * config.d_mlp, d),
            f"{block}.mlp.down.weight": matrix(d, config.d_mlp),
            f"{mixer}.in_proj.weight": matrix(inner + channels + nheads, d),
            f"{mixer}.conv1d.weight": normal(channels, 1, config.d_conv, scale=0.5),
            f"{mixer}.conv1d.bias": normal(channels, scale=0.1),
            f"{mixer}.dt_bias": normal(nheads, mean=-4),
            f"{mixer}.A_log": normal(nheads, mean=1),
            f"{mixer}.D": normal(nheads, mean=1, scale=0.1),
            f"{mixer}.norm.weight": normal(inner, mean=1, scale=0.1),
            f"{mixer}.out_proj.weight": matrix(d, inner),
        }
    tensors["final_norm.weight"] = normal(d, mean=1, scale=0.1)
    tensors["pooling.query"] = matrix(len(config.dims), d)
    for b, width in enumerate(config.band_widths):
        tensors[f"heads.{b}.weight"] = matrix(width, d)
    return tensors


def make_engine(config: EncoderConfig, tensors: dict[str, Any], precision: str = "fp32") -> Engine:
    return Engine(dataclasses.asdict(config), tensors, precision)


def random_texts(config: EncoderConfig, lengths: Sequence[int]) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, config.vocab_size, n, dtype=np.int32) for n in lengths]


def encode(
    engine: Engine,
    texts: Sequence[NDArray[np.int32]],
    heads: Sequence[int],
    *,
    bands: int = 3,
    threads: int = 1,
) -> NDArray[np.float32]:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    ids = np.concatenate([*texts, np.empty(0, np.int32)]).astype(np.int32)
    return engine.encode(ids, offsets, np.array(heads, np.int32), bands, threads)


@pytest.fixture(params=["causal", "alternating"])
def config(request: pytest.FixtureRequest) -> EncoderConfig:
    return dataclasses.replace(SMALL, direction=request.param)


@pytest.mark.parametrize("heads", [(8, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1), (8, 3, 1)])
def test_parity_with_the_reference(
    level: str, config: EncoderConfig, heads: tuple[int, ...]
) -> None:
    tensors = random_tensors(config)
    texts = random_texts(config, LENGTHS)
    got = encode(make_engine(config, tensors), texts, heads)
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    want = reference_model.encode(config, exact, texts, heads)
    assert np.linalg.norm(got - want, axis=1).max() < 1e-5  # of unit vectors


def test_parity_at_the_shipped_size() -> None:
    config = EncoderConfig(vocab_size=100, direction="alternating")
    tensors = random_tensors(config)
    engine = make_engine(config, tensors)
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    texts = random_texts(config, (9, 40))
    for granularity in config.granularities:
        heads = (config.nheads // granularity,) * config.n_layers
        got = encode(engine, texts, heads, bands=len(config.dims))
        want = reference_model.encode(config, exact, texts, heads)
        assert np.linalg.norm(got - want, axis=1).max() < 1e-5


def test_a_vector_depends_neither_on_batch_nor_threads(level: str, config: EncoderConfig) -> None:
    engine = make_engine(config, random_tensors(config))
    texts = random_texts(config, LENGTHS)
    together = encode(engine, texts, (8, 4, 2))
    alone = np.concatenate([encode(engine, [text], (8, 4, 2)) for text in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, encode(engine, texts, (8, 4, 2), threads=3))
    np.testing.assert_array_equal(together[::-1], encode(engine, texts[::-1], (8, 4, 2)))


@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.9999), ("int8", 0.999)])
def test_narrow_precisions_stay_near_the_reference(
    level: str, config: EncoderConfig, precision: str, cosine: float
) -> None:
    tensors = random_tensors(config)
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    texts = random_texts(config, LENGTHS)
    engine = make_engine(config, tensors, precision)
    for heads in ((8, 8, 8), (8, 3, 1)):
        got = encode(engine, texts, heads)
        want = reference_model.encode(config, exact, texts, heads)
        cosines = np.sum(got * want, axis=1)
        assert cosines.mean() > cosine
        assert cosines.min() > 1 - 3 * (1 - cosine)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_narrow_vector_depends_neither_on_batch_nor_threads(
    level: str, config: EncoderConfig, precision: str
) -> None:
    engine = make_engine(config, random_tensors(config), precision)
    texts = random_texts(config, LENGTHS)
    together = encode(engine, texts, (8, 4, 2))
    alone = np.concatenate([encode(engine, [text], (8, 4, 2)) for text in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, encode(engine, texts, (8, 4, 2), threads=3))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_int8_weights_are_their_codes_times_the_scales(level: str, precision: str) -> None:
    codes = checkpoint.quantize_rows(random_tensors(SMALL))
    values = checkpoint.dequantize(codes)
    texts = random_texts(SMALL, (20, 3))
    got = encode(make_engine(SMALL, codes, precision), texts, (8, 8, 8))
    want = encode(make_engine(SMALL, values, precision), texts, (8, 8, 8))
    # In int8 the codes are found again from the values, with scales that may round otherwise.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if precision == "int8" else 0)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_narrow_weights_that_are_not_finite(level: str, precision: str) -> None:
    for name in ("blocks.1.mlp.down.weight", "blocks.0.mixer_norm.weight", "heads.1.weight"):
        tensors = random_tensors(SMALL)
        tensors[name][0] = np.nan
        with pytest.raises(WeightsError, match="not finite"):
            encode(make_engine(SMALL, tensors, precision), random_texts(SMALL, (7,)), (8, 8, 8))


def test_scales_must_fit_their_matrix() -> None:
    name = "blocks.1.mlp.down.weight"
    codes: dict[str, Any] = checkpoint.quantize_rows(random_tensors(SMALL))
    for scale in (codes[name + ".scale"][1:], codes[name + ".scale"][:, None], None):
        with pytest.raises(ValueError, match=name):
            make_engine(SMALL, {**codes, name + ".scale": scale})
    with pytest.raises(ValueError, match="final_norm.weight"):
        make_engine(SMALL, {**codes, "final_norm.weight": codes[name][0]})


def test_an_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision int4 is not known"):
        make_engine(SMALL, random_tensors(SMALL), "int4")


def test_two_threads_may_share_an_engine() -> None:
    engine = make_engine(SMALL, random_tensors(SMALL))
    texts = random_texts(SMALL, LENGTHS)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: encode(engine, texts, (8, 8, 8)), range(6)))
    assert all((result == results[0]).all() for result in results)


def test_bands_are_a_prefix_of_a_unit_vector() -> None:
    engine = make_engine(SMALL, random_tensors(SMALL))
    texts = random_texts(SMALL, (4, 50))
    full = encode(engine, texts, (8, 8, 8))
    np.testing.assert_allclose(np.linalg.norm(full, axis=1), 1, atol=1e-6)
    for bands, dim in enumerate(SMALL.dims, 1):
        np.testing.assert_array_equal(encode(engine, texts, (8, 8, 8), bands=bands), full[:, :dim])
        energy = np.sum(full[:, :dim].astype(np.float64) ** 2, axis=1)
        np.testing.assert_allclose(energy, SMALL.prefix_energy[bands - 1], rtol=1e-6)


def test_an_int8_embedding_is_its_codes_times_the_scale() -> None:
    tensors: dict[str, Any] = random_tensors(SMALL)
    rng = np.random.default_rng(1)
    codes = rng.integers(-127, 128, (SMALL.vocab_size, SMALL.d_model), dtype=np.int8)
    scale = rng.uniform(0.01, 0.1, SMALL.vocab_size).astype(np.float32)
    tensors["embedding.weight"] = codes * scale[:, None]
    want = encode(make_engine(SMALL, tensors), random_texts(SMALL, (20,)), (8, 8, 8))
    tensors |= {"embedding.weight": codes, "embedding.weight.scale": scale}
    got = encode(make_engine(SMALL, tensors), random_texts(SMALL, (20,)), (8, 8, 8))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_stream_equals_its_ids_at_once(level: str, precision: str) -> None:
    engine = make_engine(SMALL, random_tensors(SMALL), precision)
    (text,) = random_texts(SMALL, (300,))
    stream = Stream(engine, np.array((8, 3, 1), np.int32))
    for start, stop in ((0, 0), (0, 95), (95, 97), (97, 290)):
        stream.append(text[start:stop])
        end = text[stop : stop + 10]
        want = encode(engine, [text[: stop + 10]], (8, 3, 1), bands=2)
        np.testing.assert_array_equal(stream.vector(end, 2), want)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_heads_alone(level: str, precision: str) -> None:
    tensors = random_tensors(SMALL)
    engine = make_engine(SMALL, tensors, precision)
    states = np.random.default_rng(5).standard_normal((200, SMALL.d_model)).astype(np.float32)
    bands = [states @ tensors[f"heads.{b}.weight"].T for b in range(len(SMALL.dims))]
    want = np.concatenate(
        [
            length * band / np.linalg.norm(band, axis=1, keepdims=True)
            for length, band in zip(SMALL.band_weights, bands, strict=True)
        ],
        axis=1,
    )
    got = engine.project(states, 3, 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if precision == "fp32" else 0.02)
    np.testing.assert_array_equal(engine.project(states, 3, 4), got)
    np.testing.assert_array_equal(engine.project(states[:3], 2, 7), got[:3, : SMALL.dims[1]])
    assert engine.project(states[:0], 1, 2).shape == (0, SMALL.dims[0])
    for odd, bands_asked, threads in ((states[:, 1:], 3, 1), (states, 4, 1), (states, 3, 0)):
        with pytest.raises(ValueError):
            engine.project(np.ascontiguousarray(odd), bands_asked, threads)


def test_a_profile_names_what_takes_time(config: EncoderConfig) -> None:
    engine = make_engine(config, random_tensors(config))
    (text,) = random_texts(config, (500,))
    heads = np.array((8, 8, 8), np.int32)
    seconds = engine.profile(text, np.array([0, 500]), heads, 3)
    assert {"in_proj", "scan", "out_proj", "gate_up", "down", "heads"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) > 0
    with pytest.raises(ValueError, match="bands=4"):
        engine.profile(text, np.array([0, 500]), heads, 4)


def test_bad_arguments_of_a_stream() -> None:
    engine = make_engine(SMALL, random_tensors(SMALL))
    heads, ids = np.array((8, 8, 8), np.int32), np.array([1, 2], np.int32)
    with pytest.raises(ValueError, match="heads=9"):
        Stream(engine, heads + 1)
    stream = Stream(engine, heads)
    for call, message in (
        (lambda: stream.append(ids + 49), "id 50"),
        (lambda: stream.vector(ids - 2, 3), "id -1"),
        (lambda: stream.vector(ids[:0], 3), "at least one id"),
        (lambda: stream.vector(ids, 4), "bands=4"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    alternating = dataclasses.replace(SMALL, direction="alternating")
    with pytest.raises(ValueError, match="causal"):
        Stream(make_engine(alternating, random_tensors(alternating)), heads)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine(SMALL, random_tensors(SMALL), "int8")


@given(
    ids=hnp.arrays(np.int32, st.integers(0, 20), elements=st.integers(-2, 52)),
    offsets=st.lists(st.integers(-1, 21), max_size=5),
    heads=st.lists(st.integers(-1, 9), min_size=2, max_size=4),
    bands=st.integers(-1, 4),
    threads=st.integers(-1, 40),
)
def test_any_call_is_answered_or_refused(
    engine: Engine,
    ids: NDArray[np.int32],
    offsets: list[int],
    heads: list[int],
    bands: int,
    threads: int,
) -> None:
    bounds = np.array([0, *sorted(offsets), len(ids)], np.int64)
    try:
        vectors = engine.encode(ids, bounds, np.array(heads, np.int32), bands, threads)
    except ValueError:
        return
    assert vectors.shape == (len(bounds) - 1, SMALL.dims[bands - 1])
    energy = SMALL.prefix_energy[bands - 1]
    np.testing.assert_allclose(np.sum(vectors**2, axis=1), energy, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_weight_that_drowns_all_others_is_named(precision: str) -> None:
    tensors = random_tensors(SMALL)
    tensors["blocks.1.mixer.norm.weight"][13] = 3e38
    with pytest.raises(WeightsError, match="zero, not finite or far too long"):
        encode(make_engine(SMALL, tensors, precision), random_texts(SMALL, (7, 99)), (8, 3, 1))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
def test_one_bad_weight_is_harmless_or_named(data: st.DataObject, value: float) -> None:
    tensors = random_tensors(SMALL)
    tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))]
    tensor.flat[data.draw(st.integers(0, tensor.size - 1))] = value
    precision = data.draw(st.sampled_from(["fp32", "bf16", "int8"]))
    try:
        vectors = encode(
            make_engine(SMALL, tensors, precision), random_texts(SMALL, (7, 99)), (8, 3, 1)
        )
    except WeightsError as error:
        assert "not finite" in str(error)
    else:
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_more_threads_than_cores_and_texts(config: EncoderConfig) -> None:
    engine = make_engine(config, random_tensors(config))
    texts = random_texts(config, LENGTHS)
    want = encode(engine, texts, (8, 8, 8))
    np.testing.assert_array_equal(encode(engine, texts, (8, 8, 8), threads=200), want)


def test_a_million_tokens_in_one_text() -> None:
    config = dataclasses.replace(
        SMALL, d_model=8, n_layers=1, d_state=4, headdim=4, granularities=(1,)
    )
    engine = make_engine(config, random_tensors(config))
    (text,) = random_texts(config, (1_000_000,))
    vector = encode(engine, [text], (4,), threads=2)
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1, rtol=1e-5)


def test_no_texts() -> None:
    assert encode(make_engine(SMALL, random_tensors(SMALL)), [], (8, 8, 8)).shape == (0, 60)


def test_memory_of_a_long_text_is_its_residual_stream(config: EncoderConfig) -> None:
    engine = make_engine(config, random_tensors(config))
    text = random_texts(config, (200_000,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vector = encode(engine, text, (1, 1, 1))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert np.isfinite(vector).all()
    assert grown < 200_000 * config.d_model * 4 + 16_000_000


def test_changing_the_weights_afterwards_changes_nothing() -> None:
    tensors = random_tensors(SMALL)
    engine = make_engine(SMALL, tensors)
    texts = random_texts(SMALL, (7,))
    before = encode(engine, texts, (8, 8, 8))
    for name, tensor in tensors.items():
        if name != "embedding.weight":
            tensor[...] = 0
    np.testing.assert_array_equal(encode(engine, texts, (8, 8, 8)), before)


@pytest.mark.parametrize("name", sorted(random_tensors(SMALL)))
def test_a_missing_or_odd_tensor_is_named(name: str) -> None:
    tensors: dict[str, Any] = random_tensors(SMALL)
    for value in (None, tensors[name][:-1], tensors[name].astype(np.float64), "weights"):
        broken = {**tensors, name: value}
        if value is None:
            del broken[name]
        with pytest.raises(ValueError, match=name):
            make_engine(SMALL, broken)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    tensors = random_tensors(SMALL)
    tensors["blocks.1.mlp.down.weight"][0, 0] = value
    engine = make_engine(SMALL, tensors)
    with pytest.raises(WeightsError, match="not finite"):
        encode(engine, random_texts(SMALL, (7, 300)), (8, 8, 8), threads=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", 0),
        ("d_model", 2**40),
        ("n_layers", -1),
        ("headdim", 7),
        ("d_conv", 17),
        ("norm_eps", 0.0),
        ("norm_eps", float("nan")),
        ("direction", "sideways"),
        ("dims", ()),
        ("dims", (8, 4, 60)),
        ("prefix_energy", (0.5, 0.4, 1.0)),
        ("prefix_energy", (0.5, 1.0)),
        ("prefix_energy", (0.5, float("nan"), 1.0)),
        ("vocab_size", "many"),
        ("expand", None),
    ],
)
def test_a_bad_config(field: str, value: object) -> None:
    config = {**dataclasses.asdict(SMALL), field: value}
    with pytest.raises(ValueError, match="engine config"):
        Engine(config, random_tensors(SMALL))
    del config[field]
    with pytest.raises(ValueError, match=f"{field} is missing"):
        Engine(config, random_tensors(SMALL))


BAD_ARGUMENTS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "id too large": (lambda a: {"ids": a["ids"] + 47}, "id 5"),
    "id negative": (lambda a: {"ids": a["ids"] - 4}, "id -"),
    "empty text": (lambda a: {"offsets": np.array([0, 0, 6])}, "text 0 has no ids"),
    "offsets fall": (lambda a: {"offsets": np.array([0, 4, 2, 6])}, "rise"),
    "offsets too long": (lambda a: {"offsets": np.array([0, 7])}, "number of ids"),
    "offsets start late": (lambda a: {"offsets": np.array([1, 6])}, "from 0"),
    "no offsets": (lambda a: {"offsets": np.empty(0, np.int64)}, "from 0"),
    "no heads": (lambda a: {"heads": np.array([8, 0, 8], np.int32)}, "heads=0"),
    "too many heads": (lambda a: {"heads": np.array([8, 9, 8], np.int32)}, "heads=9"),
    "heads negative": (lambda a: {"heads": np.array([8, -1, 8], np.int32)}, "heads=-1"),
    "heads of two layers": (lambda a: {"heads": a["heads"][:2]}, "3 layers"),
    "no bands": (lambda a: {"bands": 0}, "bands=0"),
    "too many bands": (lambda a: {"bands": 4}, "bands=4"),
    "no threads": (lambda a: {"threads": 0}, "threads=0"),
    "absurd threads": (lambda a: {"threads": 10**6}, "threads=1000000"),
}


@pytest.mark.parametrize("change, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments(change: Callable[[dict[str, Any]], dict[str, Any]], message: str) -> None:
    arguments: dict[str, Any] = {
        "ids": np.array([3, 1, 3, 0, 2, 3], np.int32),
        "offsets": np.array([0, 6]),
        "heads": np.array([8, 8, 8], np.int32),
        "bands": 3,
        "threads": 1,
    }
    engine = make_engine(SMALL, random_tensors(SMALL))
    with pytest.raises(ValueError, match=message):
        engine.encode(**{**arguments, **change(arguments)})
