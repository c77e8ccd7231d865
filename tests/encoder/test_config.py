"""The config: what it derives, and the shapes that it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.errors import AdaptiveSearchError, DimensionError, QueryError, WeightsError


def test_the_default_is_the_documented_shape() -> None:
    config = EncoderConfig()
    assert config.dims == (64, 128, 256, 512, 768, 1024, 1536)
    assert config.granularities == (1, 2, 4, 8)
    assert (config.d_inner, config.nheads, config.d_mlp) == (768, 24, 768)
    assert config.band_widths == (64, 64, 128, 256, 256, 256, 512)


def test_band_weights_add_up_to_the_prefix_energies() -> None:
    config = EncoderConfig()
    energy = np.cumsum(np.square(config.band_weights))
    np.testing.assert_allclose(energy, config.prefix_energy, rtol=1e-12)
    assert sum(config.band_widths) == config.dims[-1]


def test_completed_bands_need_all_heads() -> None:
    config = EncoderConfig(completed_bands=2)
    assert list(config.completed) == [2, 3]
    assert [config.pooled_bands(bands) for bands in (1, 2, 3, 7)] == [1, 2, 7, 7]
    assert [EncoderConfig().pooled_bands(bands) for bands in (1, 7)] == [1, 7]


def test_bands_of_each_dim() -> None:
    config = EncoderConfig()
    assert [config.bands_of(d) for d in config.dims] == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(DimensionError, match=r"dim=200 .*64, 128, 256, 512, 768, 1024, 1536"):
        config.bands_of(200)


@pytest.mark.parametrize("granularity", [0, -1, 3, 16])
def test_an_untrained_granularity(granularity: int) -> None:
    with pytest.raises(QueryError, match="1, 1/2, 1/4, 1/8, or the heads of each of the 6 layers"):
        EncoderConfig().heads(granularity)


def test_heads_of_a_granularity() -> None:
    config = EncoderConfig()
    assert config.heads(1) == (24,) * 6 and config.heads(8) == (3,) * 6
    mixed = (24, 1, 12, 7, 6, 3)
    assert config.heads(mixed) == mixed == config.canonical(mixed)
    assert config.canonical((12,) * 6) == config.canonical(2) == 2
    assert config.canonical((7,) * 6) == (7,) * 6  # no trained divisor says this


@pytest.mark.parametrize(
    "heads",
    [(), (24,) * 5, (24,) * 7, (0,) * 6, (25,) * 6, (-1,) * 6, (24.0,) * 6, (True,) * 6, ("1",) * 6]
    + [(10**9,) * 6, ([1],) * 6, (None,) * 6],
)
def test_heads_that_no_layer_has(heads: tuple[Any, ...]) -> None:
    with pytest.raises(QueryError, match="must be 6 numbers, one a layer, from 1 to 24 heads"):
        EncoderConfig().heads(heads)


def test_heads_need_whole_units_of_the_mlp() -> None:
    config = EncoderConfig(d_model=36, headdim=6, granularities=(1, 2))  # 12 heads, MLP of 72
    assert list(config.head_choices) == list(range(1, 13))
    config = EncoderConfig(d_model=20, headdim=2, mlp_expand=1, granularities=(1, 2))
    assert list(config.head_choices) == list(range(1, 21))
    config = EncoderConfig(d_model=20, headdim=1, mlp_expand=1, granularities=(1, 2))
    assert list(config.head_choices) == list(range(2, 41, 2))
    with pytest.raises(QueryError, match="from 2 to 40 heads that are a multiple of 2"):
        config.heads((3,) * 6)


def test_json_round_trip(config: EncoderConfig) -> None:
    changed = dataclasses.replace(config, direction="alternating", norm_eps=1e-6)
    assert EncoderConfig.from_json(changed.to_json()) == changed


def test_fields_left_out_have_their_defaults() -> None:
    assert EncoderConfig.from_json('{"n_layers": 3}') == EncoderConfig(n_layers=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", 0),
        ("n_layers", -1),
        ("context", 1),
        ("headdim", 7),
        ("direction", "sideways"),
        ("norm_eps", 0.0),
        ("norm_eps", math.nan),
        ("norm_eps", math.inf),
        ("dims", ()),
        ("dims", (64, 64)),
        ("dims", (128, 64)),
        ("dims", (0, 64)),
        ("prefix_energy", ()),
        ("prefix_energy", (0.4, 1.0)),
        ("prefix_energy", (0.4, 0.5, 0.61, 0.74, 0.8, 0.8, 1.0)),
        ("prefix_energy", (0.4, 0.5, 0.61, 0.74, 0.8, 0.86, 0.9)),
        ("prefix_energy", (0.4, math.nan, 0.61, 0.74, 0.8, 0.86, 1.0)),
        ("completed_bands", -1),
        ("completed_bands", 6),
        ("granularities", ()),
        ("granularities", (1, 0)),
        ("granularities", (1, -2)),
        ("granularities", (1, 5)),
    ],
)
def test_an_impossible_shape(field: str, value: Any) -> None:
    with pytest.raises(WeightsError, match=field):
        dataclasses.replace(EncoderConfig(), **{field: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"speed": 1}',
        '{"d_model": "384"}',
        '{"d_model": true}',
        '{"d_model": 384.0}',
        '{"d_model": null}',
        '{"norm_eps": "small"}',
        '{"norm_eps": true}',
        f'{{"norm_eps": 1{"0" * 400}}}',
        '{"dims": 64}',
        '{"dims": [[64]]}',
        '{"direction": 1}',
    ],
)
def test_json_that_is_no_config(text: str) -> None:
    with pytest.raises(WeightsError, match="encoder config"):
        EncoderConfig.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=50)
@given(field=st.sampled_from([f.name for f in dataclasses.fields(EncoderConfig)]), value=JSON)
def test_any_value_is_taken_or_refused_as_a_weights_error(field: str, value: object) -> None:
    try:
        config = EncoderConfig.from_json(json.dumps({field: value}))
    except AdaptiveSearchError as error:
        assert isinstance(error, WeightsError)
    else:
        assert EncoderConfig.from_json(config.to_json()) == config
