"""The search for widths: what a mix costs, what is measured, and which mixes are best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.width_search import (
    SAMPLE_TEXTS,
    SAMPLE_TOKENS,
    Mix,
    best_mix,
    front,
    multiply_adds,
    sample_ids,
    search_widths,
)
from adaptive_search.errors import QueryError


@pytest.fixture(scope="module")
def encoder(
    tmp_path_factory: pytest.TempPathFactory,
    config: EncoderConfig,
    tokenizer_json: str,
    random_tensors: Callable[[EncoderConfig], checkpoint.Tensors],
) -> Encoder:
    """Three layers of eight heads; the second does nothing."""
    deeper = dataclasses.replace(config, n_layers=3)
    tensors = random_tensors(deeper)
    for name in ("mixer.out_proj.weight", "mlp.down.weight"):
        tensors[f"blocks.1.{name}"] = np.zeros_like(tensors[f"blocks.1.{name}"])
    directory: Path = tmp_path_factory.mktemp("weights")
    checkpoint.save(directory, deeper, tokenizer_json, tensors)
    return Encoder.load(directory, threads=1)


@pytest.fixture(scope="module")
def mixes(encoder: Encoder, texts: list[str]) -> list[Mix]:
    return list(search_widths(encoder, sample_ids(encoder, texts)))


def test_multiply_adds_of_the_shipped_size() -> None:
    config = EncoderConfig()
    # Of one layer at full width: projections, convolution, state, and the gated MLP.
    layer = 384 * (2 * 768 + 2 * 64 + 24) + 4 * (768 + 2 * 64) + 768 * (3 * 64 + 2)
    layer += 768 * 384 + 3 * 384 * 768
    assert multiply_adds(config) == 6 * layer + 2 * 7 * 384
    narrow = 384 * (2 * 96 + 2 * 64 + 3) + 4 * (96 + 2 * 64) + 96 * (3 * 64 + 2)
    narrow += 96 * 384 + 3 * 384 * 96
    assert multiply_adds(config, (24, 24, 3, 24, 24, 24)) == 5 * layer + narrow + 2 * 7 * 384


@given(st.lists(st.integers(1, 24), min_size=6, max_size=6), st.integers(0, 5))
def test_each_head_costs_the_same_wherever_it_is(heads: list[int], layer: int) -> None:
    config = EncoderConfig()
    one, two = (multiply_adds(config, (n,) * 6) for n in (1, 2))
    assert multiply_adds(config, tuple(heads)) == one + (two - one) // 6 * (sum(heads) - 6)
    assert multiply_adds(config, tuple(heads)) == multiply_adds(config, tuple(heads[::-1]))


def test_every_mix_is_measured_once_and_as_it_encodes(
    encoder: Encoder, mixes: list[Mix], texts: list[str]
) -> None:
    assert len({mix.granularity for mix in mixes}) == len(mixes)
    assert [mix.granularity for mix in mixes[:3]] == [1, 2, 4]
    assert mixes[0].cost == 1
    assert mixes[0].quality == pytest.approx(1, abs=1e-6)
    for mix in mixes[:: len(mixes) // 4]:
        assert tuple(mix.cosines) == encoder.dims
        assert mix.quality == pytest.approx(sum(mix.cosines.values()) / len(encoder.dims))
        for dim, cosine in mix.cosines.items():
            full, narrow = (encoder.encode(texts, dim, granularity=g) for g in (1, mix.granularity))
            assert np.mean(np.sum(full * narrow, axis=1)) == pytest.approx(cosine, abs=1e-5)


def test_a_layer_that_does_nothing_is_narrowed_first(encoder: Encoder, mixes: list[Mix]) -> None:
    idle = best_mix(mixes, 0.9)
    assert idle.granularity == (8, 2, 8)
    assert idle.quality == pytest.approx(1, abs=1e-6)
    for mix in front(mixes):
        assert encoder.config.heads(mix.granularity)[1] == 2 or mix.cost == 1


def test_it_is_deterministic_and_may_be_stopped(
    encoder: Encoder, mixes: list[Mix], texts: list[str]
) -> None:
    ids = sample_ids(encoder, texts)
    steps = search_widths(encoder, ids)
    assert [next(steps) for _ in range(5)] == mixes[:5]
    assert encoder.select_widths(texts, 0.9) == best_mix(mixes, 0.9)


def test_other_choices_of_heads(encoder: Encoder, texts: list[str]) -> None:
    ids = sample_ids(encoder, texts[:2])
    found = list(search_widths(encoder, ids, choices=[8, 5, 5]))
    mixed = [mix.granularity for mix in found if isinstance(mix.granularity, tuple)]
    assert {heads for granularity in mixed for heads in granularity} == {5, 8}
    for choices in ([0], [9], []):
        with pytest.raises(QueryError, match="heads"):
            list(search_widths(encoder, ids, choices=choices))


def test_no_texts(encoder: Encoder) -> None:
    assert sample_ids(encoder, []) == []
    with pytest.raises(QueryError, match="needs a text"):
        encoder.select_widths([])


@pytest.mark.parametrize("count", [1, SAMPLE_TEXTS - 1, SAMPLE_TEXTS, SAMPLE_TEXTS + 1, 999])
def test_a_sample_is_small_and_spread(encoder: Encoder, count: int) -> None:
    texts = [f"leaf {number} " + "sun " * 500 for number in range(count)]
    ids = sample_ids(encoder, texts)
    assert len(ids) == min(count, SAMPLE_TEXTS)
    limit = min(SAMPLE_TOKENS, encoder.config.context)
    assert all(len(sequence) == limit for sequence in ids)
    ends = encoder.tokenizer.encode_batch([texts[0], texts[-1]], context=limit)
    for got, want in zip((ids[0], ids[-1]), ends, strict=True):
        np.testing.assert_array_equal(got, want)


def mix(cost: float, quality: float) -> Mix:
    return Mix((1,), cost, {8: quality})


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(-1, 1)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[float, float]]) -> None:
    mixes = [mix(*pair) for pair in pairs]
    best = front(mixes)
    assert best == sorted(best, key=lambda m: m.cost)
    for one in mixes:
        beaten = any(m.cost <= one.cost and m.quality >= one.quality and m != one for m in mixes)
        assert one in best or beaten
    for cheaper, dearer in zip(best, best[1:], strict=False):
        assert cheaper.quality < dearer.quality


def test_the_best_within_a_budget() -> None:
    mixes = [mix(1, 1), mix(0.5, 0.9), mix(0.4, 0.95), mix(0.2, 0.5)]
    assert best_mix(mixes, 1) == mixes[0]
    assert best_mix(mixes, 0.99) == mixes[2]
    assert best_mix(mixes, 0.2) == mixes[3]
    with pytest.raises(QueryError, match=r"at most 10.0% of the full width; the least is 20.0%"):
        best_mix(mixes, 0.1)
    for budget in (0, -1, 1.01, float("nan"), float("inf")):
        with pytest.raises(QueryError, match="must be above 0 and at most 1"):
            best_mix(mixes, budget)
