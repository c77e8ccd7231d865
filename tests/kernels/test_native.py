"""Every operation at every level against the float64 reference.

Sizes run over every remainder that the vectors (4 to 16 floats), the panels (two
vectors), the row blocks (6 or 12) and the chunks of the scan (32) can leave.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.errors import BackendUnavailable
from adaptive_search.kernels import native, reference

Floats = NDArray[np.float32]
Draw = Callable[..., Floats]

EPS = float(np.finfo(np.float32).eps)
LENGTHS = (*range(34), 63, 64, 65)


def pack(*lengths: int) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)


def wide(*arrays: Floats) -> list[NDArray[np.float64]]:
    return [array.astype(np.float64) for array in arrays]


def assert_close(got: Floats, want: NDArray[np.float64], ulps: float) -> None:
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=ulps * EPS, atol=1e-37)


@pytest.mark.parametrize("varied", ["rows", "inputs", "outputs"])
def test_linear(level: str, draw: Draw, varied: str) -> None:
    for length in LENGTHS:
        sizes = {"rows": 5, "inputs": 9, "outputs": 7, varied: length}
        x, weight = draw(sizes["rows"], sizes["inputs"]), draw(sizes["outputs"], sizes["inputs"])
        got = native.linear(x, weight)
        want = reference.linear(*wide(x, weight))
        bound = (sizes["inputs"] + 1) * EPS * reference.linear(*wide(abs(x), abs(weight)))
        assert (abs(got - want) <= bound).all()


def test_linear_row_does_not_depend_on_the_others(level: str, draw: Draw) -> None:
    x, weight = draw(29, 70), draw(40, 70)
    together = native.linear(x, weight)
    alone = np.concatenate([native.linear(row[None], weight) for row in x])
    np.testing.assert_array_equal(together, alone)


def test_linear_takes_rows_in_reverse(level: str, draw: Draw) -> None:
    x, weight = draw(15, 11), draw(6, 11)
    np.testing.assert_array_equal(native.linear(x[::-1], weight), native.linear(x, weight)[::-1])


def round_bf16(x: Floats) -> Floats:
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("varied", ["rows", "inputs", "outputs"])
def test_linear_in_bf16_is_that_of_rounded_values(level: str, draw: Draw, varied: str) -> None:
    for length in LENGTHS:
        sizes = {"rows": 5, "inputs": 9, "outputs": 7, varied: length}
        x, weight = draw(sizes["rows"], sizes["inputs"]), draw(sizes["outputs"], sizes["inputs"])
        got = native.linear(x, weight, "bf16")
        rounded = wide(round_bf16(x), round_bf16(weight))
        bound = (sizes["inputs"] + 1) * EPS * reference.linear(*map(abs, rounded))
        assert (abs(got - reference.linear(*rounded)) <= bound).all()


@pytest.mark.parametrize("varied", ["rows", "inputs", "outputs"])
def test_linear_in_int8_rounds_by_half_a_step(level: str, draw: Draw, varied: str) -> None:
    for length in LENGTHS:
        sizes = {"rows": 5, "inputs": 9, "outputs": 7, varied: length}
        x, weight = draw(sizes["rows"], sizes["inputs"]), draw(sizes["outputs"], sizes["inputs"])
        got = native.linear(x, weight, "int8")
        a, b = wide(abs(x), abs(weight))
        half_a, half_b = (m.max(axis=1, initial=0, keepdims=True) / 253.9 for m in (a, b))
        bound = reference.linear(a + half_a, b + half_b) - reference.linear(a, b)
        assert (abs(got - reference.linear(*wide(x, weight))) <= bound).all()


@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5, 64, 66, 770])
def test_linear_in_int8_is_exact_on_whole_numbers(level: str, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    x, weight = (rng.integers(-127, 128, (n, inputs)).astype(np.float32) for n in (14, 35))
    x[:, 0], weight[:, 0] = 127, -127  # so that every scale is 1
    x[3:5], weight[7:9] = 127, 127  # the largest sums there are
    np.testing.assert_array_equal(native.linear(x, weight, "int8"), x @ weight.T)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_narrow_linear_row_does_not_depend_on_the_others(
    level: str, draw: Draw, precision: str
) -> None:
    x, weight = draw(29, 70), draw(40, 70)
    together = native.linear(x, weight, precision)
    alone = np.concatenate([native.linear(row[None], weight, precision) for row in x])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(native.linear(x[::-1], weight, precision), together[::-1])


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-37, 3e38, np.inf, -np.inf, np.nan])
def test_narrow_linear_at_the_ends(level: str, draw: Draw, value: float) -> None:
    x, weight = draw(3, 20), np.abs(draw(6, 20)) * np.float32(0.01)
    want = native.linear(x, weight, "int8")
    x[1] = 0
    x[1, 2] = value
    for precision in ("bf16", "int8"):
        got = native.linear(x, weight, precision)
        if np.isfinite(value):
            np.testing.assert_allclose(got[1], value * weight[:, 2], rtol=0.03, atol=1e-37)
        else:
            assert not np.isfinite(got[1]).any()
    np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])


@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_products_alone_are_counted(level: str, precision: str) -> None:
    once = native.spin(precision, 1)
    assert once > 0
    assert native.spin(precision, 1000) == 1000 * once


def test_an_unknown_precision(draw: Draw) -> None:
    with pytest.raises(ValueError, match="precision int4 is not known"):
        native.linear(draw(1, 4), draw(1, 4), "int4")


def test_causal_conv1d_silu(level: str, draw: Draw) -> None:
    for length in LENGTHS:
        x, weight, bias = draw(length + 6, length), draw(length, 4), draw(length)
        offsets = pack(1, length, 0, 5)
        got = native.causal_conv1d_silu(x, weight, bias, offsets)
        want = reference.causal_conv1d_silu(*wide(x, weight, bias), offsets)
        np.testing.assert_allclose(got, want, rtol=0, atol=40 * EPS)


@pytest.mark.parametrize("d_conv", [1, 2, 16])
def test_causal_conv1d_silu_of_other_widths(level: str, draw: Draw, d_conv: int) -> None:
    x, weight, bias = draw(40, 18), draw(18, d_conv), draw(18)
    got = native.causal_conv1d_silu(x, weight, bias, pack(3, 37))
    want = reference.causal_conv1d_silu(*wide(x, weight, bias), pack(3, 37))
    np.testing.assert_allclose(got, want, rtol=0, atol=100 * EPS)


def test_softplus(level: str, draw: Draw) -> None:
    for length in LENGTHS:
        x, bias = draw(3, length, scale=10), draw(length)
        biased = (x + bias).astype(np.float32)  # the one rounding that is not softplus's own
        want = reference.softplus(*wide(biased, np.zeros_like(bias)))
        assert_close(native.softplus(x, bias), want, 8)


def test_softplus_at_the_ends(level: str) -> None:
    x = np.array([[-1000, -87, -20, 0, 20, 88, 1000, 3e38]], np.float32)
    got = native.softplus(x, np.zeros(8, np.float32))
    assert_close(got, reference.softplus(*wide(x, np.zeros(8, np.float32))), 8)


def scan_inputs(draw: Draw, rows: int, heads: int, headdim: int, d_state: int) -> list[Floats]:
    dt = np.abs(draw(rows, heads, scale=0.3)) + np.float32(1e-3)
    A = -np.exp(draw(heads))
    B, C = np.split(draw(rows, 2 * d_state), 2, axis=1)
    return [draw(rows, heads * headdim), dt, A, B, C, draw(heads)]


def assert_scan(inputs: list[Floats], offsets: NDArray[np.int64]) -> None:
    got = native.ssd_scan(*inputs, offsets)
    want = reference.ssd_scan(*wide(*inputs), offsets)
    magnitude = reference.ssd_scan(
        *[abs(a) if i != 2 else a for i, a in enumerate(wide(*inputs))], offsets
    )
    # Rounding of the sums, of decays that are products of up to a chunk's steps.
    assert (abs(got - want) <= 100 * EPS * magnitude + 1e-37).all()


def assert_scan_in_bf16(inputs: list[Floats], offsets: NDArray[np.int64]) -> None:
    got = native.ssd_scan(*inputs, offsets, "bf16")
    want = reference.ssd_scan(*wide(*inputs), offsets)
    magnitude = reference.ssd_scan(
        *[abs(a) if i != 2 else a for i, a in enumerate(wide(*inputs))], offsets
    )
    # Each product has up to four factors that are rounded by 2^-9 of themselves.
    assert (abs(got - want) <= 2**-6 * magnitude).all()


def test_ssd_scan_of_every_length(level: str, draw: Draw) -> None:
    for length in (*LENGTHS, 96, 100):
        assert_scan(scan_inputs(draw, length, 2, 8, 5), pack(length))
        assert_scan_in_bf16(scan_inputs(draw, length, 2, 8, 5), pack(length))


@pytest.mark.parametrize("d_state", [1, 13, 64])
@pytest.mark.parametrize("headdim", [1, 7, 16, 33, 64])
def test_ssd_scan_of_every_shape(level: str, draw: Draw, headdim: int, d_state: int) -> None:
    assert_scan(scan_inputs(draw, 70, 3, headdim, d_state), pack(1, 0, 40, 29))
    assert_scan_in_bf16(scan_inputs(draw, 70, 3, headdim, d_state), pack(1, 0, 40, 29))


@pytest.mark.parametrize("step", [1e-6, 5.0, 400.0])
def test_ssd_scan_decays(level: str, draw: Draw, step: float) -> None:
    inputs = scan_inputs(draw, 80, 2, 8, 16)
    inputs[1] = np.full_like(inputs[1], step)
    inputs[1][40:] = 1e-3  # after a long decay, a short one must not lose its digits
    assert_scan(inputs, pack(80))
    assert_scan_in_bf16(inputs, pack(80))


def test_ssd_scan_of_zeros(level: str, draw: Draw) -> None:
    inputs = scan_inputs(draw, 40, 2, 8, 16)
    inputs[0] = np.zeros_like(inputs[0])
    assert not native.ssd_scan(*inputs, pack(40)).any()
    assert not native.ssd_scan(*inputs, pack(40), "bf16").any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ssd_scan_of_a_text_does_not_depend_on_the_others(
    level: str, draw: Draw, precision: str
) -> None:
    inputs = scan_inputs(draw, 90, 2, 8, 16)
    together = native.ssd_scan(*inputs, pack(37, 53), precision)
    x, dt, A, B, C, D = inputs
    alone = native.ssd_scan(x[37:], dt[37:], A, B[37:], C[37:], D, pack(53), precision)
    np.testing.assert_array_equal(together[37:], alone)


def test_norms_and_gates(level: str, draw: Draw) -> None:
    for length in LENGTHS[1:]:
        x, z, weight = draw(3, length), draw(3, length, scale=4), draw(length)
        ulps = 16 + length
        assert_close(
            native.rms_norm(x, weight, 1e-5), reference.rms_norm(*wide(x, weight), 1e-5), ulps
        )
        assert_close(
            native.gated_rms_norm(x, z, weight, 1e-5),
            reference.gated_rms_norm(*wide(x, z, weight), 1e-5),
            ulps,
        )
        assert_close(native.swiglu(z, x), reference.swiglu(*wide(z, x)), 16)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_norms_and_gates_as_narrow_operands(level: str, draw: Draw, precision: str) -> None:
    for length in LENGTHS[1:]:
        x, z, weight = draw(3, length), draw(3, length, scale=4), draw(length)
        for got, want in (
            (native.rms_norm(x, weight, 1e-5, precision), native.rms_norm(x, weight, 1e-5)),
            (
                native.gated_rms_norm(x, z, weight, 1e-5, precision),
                native.gated_rms_norm(x, z, weight, 1e-5),
            ),
            (native.swiglu(z, x, precision), native.swiglu(z, x)),
        ):
            # Half a code; and one of float32, where a value lies between two codes.
            peak = abs(want).max(axis=1, keepdims=True)
            step = abs(want) / 256 if precision == "bf16" else peak / 254
            assert (abs(got - want) <= 1.001 * step + 1e-37).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_rms_norm_of_zeros(level: str, precision: str) -> None:
    x = np.zeros((2, 19), np.float32)
    assert not native.rms_norm(x, np.ones(19, np.float32), 1e-5, precision).any()


def test_swiglu_at_the_ends(level: str) -> None:
    gate = np.array([[-3e38, -1000, -100, 100, 3e38, np.nan]], np.float32)
    got = native.swiglu(gate, np.ones_like(gate))
    np.testing.assert_allclose(got, [[0, 0, 0, 100, 3e38, np.nan]], rtol=EPS, atol=1e-35)


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_softmax_pool(level: str, draw: Draw, chunk: int) -> None:
    for bands in (1, 7, 17):
        h, logits = draw(46, 37), draw(46, bands, scale=20)
        offsets = pack(1, 33, 12)
        got = native.softmax_pool(h, logits, offsets, chunk=chunk)
        want = reference.softmax_pool(*wide(h, logits), offsets)
        np.testing.assert_allclose(got, want, rtol=0, atol=300 * EPS)


BAD_CALLS: dict[str, Callable[[Floats], object]] = {
    "columns differ": lambda x: native.linear(x, x[:, 1:]),
    "values of a row apart": lambda x: native.linear(x.T, x.T),
    "offsets start late": lambda x: native.causal_conv1d_silu(x, x, x[0], pack(4)[1:]),
    "offsets fall": lambda x: native.softmax_pool(x, x, np.array([0, 3, 1, 4])),
    "offsets end early": lambda x: native.softmax_pool(x, x, pack(3)),
    "too long a filter": lambda x: native.causal_conv1d_silu(
        x, np.ones((4, 17), np.float32), x[0], pack(4)
    ),
    "bias too short": lambda x: native.softplus(x, x[0, 1:]),
    "weight too short": lambda x: native.rms_norm(x, x[0, 1:], 1e-5),
    "z differs": lambda x: native.gated_rms_norm(x, x[1:], x[0], 1e-5),
    "up differs": lambda x: native.swiglu(x, x[1:]),
    "heads do not divide": lambda x: native.ssd_scan(
        x, x[:, :3], x[0, :3], x, x, x[0, :3], pack(4)
    ),
    "no heads": lambda x: native.ssd_scan(x, x[:, :0], x[0, :0], x, x, x[0, :0], pack(4)),
    "logits differ": lambda x: native.softmax_pool(x, x[1:], pack(4)),
    "chunk of none": lambda x: native.softmax_pool(x, x, pack(4), chunk=0),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_arguments(call: Callable[[Floats], object]) -> None:
    with pytest.raises(ValueError):
        call(np.ones((4, 4), np.float32))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError):
        native.linear(np.ones((2, 2)), np.ones((2, 2)))  # type: ignore[arg-type]


def test_a_level_is_forced_from_the_environment(level: str) -> None:
    script = "from adaptive_search.kernels import native; print(native.level())"
    run = subprocess.run(
        [sys.executable, "-I", "-c", script],
        env={**os.environ, "ADAPTIVE_SEARCH_LEVEL": level},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == level


def test_the_fastest_level_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTIVE_SEARCH_LEVEL", raising=False)
    assert native.level() == native.levels()[-1]


@pytest.mark.parametrize("name", ["sse9", "AVX2", " ", "avx2,avx512"])
def test_a_level_this_machine_lacks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", name)
    with pytest.raises(BackendUnavailable, match="choose one of reference"):
        native.linear(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))
