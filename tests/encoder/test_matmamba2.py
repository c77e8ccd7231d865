"""The MatMamba2 block against the Mamba-2 equations, its nesting, and its CUDA dispatch."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from adaptive_search.encoder.matmamba2 import MatMamba2  # noqa: E402
from adaptive_search.kernels import torch_ops  # noqa: E402

Array = NDArray[np.float64]


def make_block(seed: int = 0, **sizes: int) -> MatMamba2:
    """A block whose norms, biases and skips are not their neutral initial values."""
    torch.manual_seed(seed)
    block = MatMamba2(**({"d_model": 32, "d_state": 8, "headdim": 8} | sizes))
    with torch.no_grad():
        block.norm.weight.normal_(1, 0.2)
        block.D.normal_(1, 0.5)
        block.dt_bias.add_(2)
    return block.requires_grad_(False)


def step_by_step(block: MatMamba2, u: Array, heads: int | None = None) -> Array:
    """The Mamba-2 block in float64, one position after another, head by head.

    Written from Dao and Gu 2024, arXiv:2405.21060: the selective state space model of
    equation 1, within the block of section 7. u and the result are (seqlen, d_model).
    """
    weight = {name: p.numpy().astype(np.float64) for name, p in block.state_dict().items()}
    P, N, G = block.headdim, block.d_state, block.ngroups
    H, inner = block.nheads, block.nheads * block.headdim
    rows = {"z": inner, "x": inner, "B": G * N, "C": G * N, "dt": H}
    starts = dict(zip(rows, np.cumsum([0, *rows.values()]).tolist(), strict=False))

    def project(part: str, t: int) -> Array:
        begin = starts[part]
        projected: Array = weight["in_proj.weight"][begin : begin + rows[part]] @ u[t]
        return projected

    def convolved(t: int) -> Array:
        total: Array = weight["conv1d.bias"].copy()
        taps = weight["conv1d.weight"].shape[2]
        for back in range(min(taps, t + 1)):
            past = np.concatenate([project(part, t - back) for part in "xBC"])
            total += weight["conv1d.weight"][:, 0, taps - 1 - back] * past
        activated: Array = total / (1 + np.exp(-total))
        return activated

    active = heads or H
    state = np.zeros((active, P, N))
    out = np.zeros_like(u)
    for t in range(len(u)):
        x, B, C = np.split(convolved(t), [inner, inner + G * N])
        z, dt = project("z", t), project("dt", t)
        y = np.zeros(active * P)
        for h in range(active):
            group = h // (active // G)
            Bh, Ch = B[group * N :][:N], C[group * N :][:N]
            xh = x[h * P :][:P]
            step = np.log1p(np.exp(dt[h] + weight["dt_bias"][h]))
            decay = np.exp(-step * np.exp(weight["A_log"][h]))
            state[h] = decay * state[h] + step * np.outer(xh, Bh)
            y[h * P :][:P] = state[h] @ Ch + weight["D"][h] * xh
        gate = z[: active * P]
        y *= gate / (1 + np.exp(-gate))
        for part in np.split(y, G):  # each group has a norm of its own
            part /= np.sqrt(np.mean(part**2) + block.norm.eps)
        y *= weight["norm.weight"][: active * P]
        out[t] = weight["out_proj.weight"][:, : active * P] @ y
    return out


def relative_error(got: Any, want: Array) -> float:
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("ngroups", [1, 2])
@pytest.mark.parametrize("seqlen", [1, 3, 64, 65, 130])
def test_a_plain_block_is_the_recurrence(ngroups: int, seqlen: int) -> None:
    block = make_block(ngroups=ngroups)
    u = torch.randn(2, seqlen, 32, generator=torch.Generator().manual_seed(seqlen))
    got = block(u)
    for row, sequence in zip(got, u, strict=True):
        want = step_by_step(block, sequence.numpy().astype(np.float64))
        assert relative_error(row, want) < 1e-5


@pytest.mark.parametrize("ngroups", [1, 2])
@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 64, "d_state": 16, "headdim": 16},
        {"d_model": 64, "d_state": 128, "headdim": 64},  # Mamba-2's own
        {"d_model": 24, "d_state": 5, "headdim": 12, "expand": 3, "d_conv": 2},
        {"d_model": 32, "d_conv": 6},
    ],
)
def test_other_sizes_are_the_recurrence_too(sizes: dict[str, int], ngroups: int) -> None:
    block = make_block(**sizes | {"ngroups": ngroups})
    u = torch.randn(1, 40, sizes["d_model"])
    want = step_by_step(block, u[0].numpy().astype(np.float64))
    assert relative_error(block(u)[0], want) < 1e-5


@pytest.mark.parametrize("shift", [-12.0, 6.0])
def test_long_memory_and_sudden_forgetting(shift: float) -> None:
    block = make_block()
    block.dt_bias.fill_(shift)
    u = torch.randn(1, 200, 32)
    want = step_by_step(block, u[0].numpy().astype(np.float64))
    assert relative_error(block(u)[0], want) < 1e-5


def test_the_defaults_are_those_of_mamba2() -> None:
    defaults = {k: p.default for k, p in inspect.signature(MatMamba2).parameters.items()}
    named = ("d_state", "d_conv", "expand", "headdim", "ngroups")
    assert [defaults[name] for name in named] == [128, 4, 2, 64, 1]


@pytest.mark.parametrize("ngroups", [1, 2])
def test_the_state_dict_is_that_of_mamba2(ngroups: int) -> None:
    d_model, d_state, d_conv, expand, headdim = 64, 16, 4, 2, 16
    block = MatMamba2(d_model, d_state, d_conv, expand, headdim, ngroups=ngroups)
    inner = expand * d_model
    heads, channels = inner // headdim, inner + 2 * ngroups * d_state
    assert {name: tuple(p.shape) for name, p in block.state_dict().items()} == {
        "in_proj.weight": (inner + channels + heads, d_model),
        "conv1d.weight": (channels, 1, d_conv),
        "conv1d.bias": (channels,),
        "dt_bias": (heads,),
        "A_log": (heads,),
        "D": (heads,),
        "norm.weight": (inner,),
        "out_proj.weight": (d_model, inner),
    }


def mamba_ssm_state(
    d_model: int,
    d_state: int = 128,
    d_conv: int = 4,
    expand: int = 2,
    headdim: int = 64,
    *,
    d_ssm: int | None = None,
    ngroups: int = 1,
    D_has_hdim: bool = False,
    rmsnorm: bool = True,
    bias: bool = False,
    conv_bias: bool = True,
) -> dict[str, Tensor]:
    """The state dict of mamba_ssm's Mamba2, version 2.2 and later, with random values.

    Names, order and shapes are those that its constructor gives for the same arguments.
    """
    inner = expand * d_model
    ssm = inner if d_ssm is None else d_ssm
    heads, channels = ssm // headdim, ssm + 2 * ngroups * d_state
    rows = 2 * inner + 2 * ngroups * d_state + heads
    shapes: dict[str, tuple[int, ...]] = {
        "dt_bias": (heads,),
        "A_log": (heads,),
        "D": (ssm if D_has_hdim else heads,),
        "in_proj.weight": (rows, d_model),
        "in_proj.bias": (rows,),
        "conv1d.weight": (channels, 1, d_conv),
        "conv1d.bias": (channels,),
        "norm.weight": (ssm,),
        "out_proj.weight": (d_model, inner),
        "out_proj.bias": (d_model,),
    }
    absent = {
        "in_proj.bias": not bias,
        "out_proj.bias": not bias,
        "conv1d.bias": not conv_bias,
        "norm.weight": not rmsnorm,
    }
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(shape, generator=generator) * 0.2
        for name, shape in shapes.items()
        if not absent.get(name)
    }


def matmamba_state(d_model: int, d_state: int) -> dict[str, Tensor]:
    """The state dict of MatMamba's block, whose headdim is d_model // 32 whatever is asked."""
    return mamba_ssm_state(d_model, d_state, headdim=d_model // 32)


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 64},
        {"d_model": 64, "d_state": 16, "headdim": 16, "ngroups": 2},
        {"d_model": 64, "d_state": 16, "headdim": 8, "ngroups": 4, "expand": 3, "d_conv": 2},
    ],
)
def test_weights_of_mamba_ssm_load_unchanged(sizes: dict[str, int]) -> None:
    state = mamba_ssm_state(**sizes)
    block = MatMamba2(**sizes)
    block.load_state_dict(state)
    found = MatMamba2.from_state_dict(state, ngroups=sizes.get("ngroups", 1))
    for loaded in (block, found):
        got = loaded.requires_grad_(False).state_dict()
        assert got.keys() == state.keys()
        assert all(torch.equal(got[name], state[name]) for name in state)
    u = torch.randn(1, 20, 64)
    want = step_by_step(block, u[0].numpy().astype(np.float64))
    assert relative_error(block(u)[0], want) < 1e-5
    assert torch.equal(found(u), block(u))


def test_weights_of_matmamba_load_unchanged_with_their_widths() -> None:
    state = matmamba_state(64, 16)
    block = MatMamba2.from_state_dict(state).requires_grad_(False)
    assert (block.headdim, block.nheads) == (2, 64)
    u = torch.randn(1, 20, 64)
    for level in (1, 2, 4, 8):
        want = step_by_step(block, u[0].numpy().astype(np.float64), heads=64 // level)
        assert relative_error(block(u, mrl_level=level)[0], want) < 1e-5
    half = block(u, mrl_level=2)
    block.mixnmatch, block.mixnmatch_dims = True, 32
    assert torch.equal(block(u), half)
    # The language model's checkpoint holds many blocks.
    whole = {f"backbone.layers.0.mixer.{name}": value for name, value in state.items()}
    model = torch.nn.ModuleDict({"mixer": MatMamba2(64, 16, headdim=2)})
    prefix = "backbone.layers.0."
    model.load_state_dict({name.removeprefix(prefix): value for name, value in whole.items()})
    assert torch.equal(model["mixer"](u, 2), half)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"D_has_hdim": True}, "D_has_hdim=True"),
        ({"rmsnorm": False}, "rmsnorm=False"),
        ({"bias": True}, "bias=True"),
        ({"conv_bias": False}, "conv_bias=False"),
        ({"d_ssm": 64}, "d_ssm"),
        ({"bias": True, "rmsnorm": False}, "bias=True, rmsnorm=False"),
    ],
)
def test_blocks_of_other_kinds_are_named(options: dict[str, Any], named: str) -> None:
    state = mamba_ssm_state(64, 16, headdim=16, **options)
    with pytest.raises(ValueError, match=f"made with {named} cannot be loaded"):
        MatMamba2.from_state_dict(state)
    inside = torch.nn.ModuleDict({"mixer": MatMamba2(64, 16, headdim=16)})
    prefixed = {f"mixer.{name}": value for name, value in state.items()}
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=f"made with {named}; MatMamba2 has no such option"):
            inside.load_state_dict(prefixed, strict=strict)


def test_learnable_initial_states_are_named() -> None:
    state = mamba_ssm_state(64, 16, headdim=16) | {"init_states": torch.zeros(8, 16, 16)}
    with pytest.raises(ValueError, match="learnable_init_states=True"):
        MatMamba2.from_state_dict(state)


def test_weights_of_something_else() -> None:
    with pytest.raises(ValueError, match="without conv1d.weight, A_log cannot"):
        MatMamba2.from_state_dict({"out_proj.weight": torch.zeros(4, 8)})
    state = mamba_ssm_state(64, 16, headdim=16)
    with pytest.raises(ValueError, match="not the weights of a Mamba2 block"):
        MatMamba2.from_state_dict(state | {"dt_bias": torch.zeros(3)})
    for ngroups in (0, 3, -1):
        with pytest.raises(ValueError, match="not the weights of a Mamba2 block"):
            MatMamba2.from_state_dict(state, ngroups=ngroups)
    for name in ("conv1d.weight", "A_log", "out_proj.weight"):
        for shape in ((), (0,), (3, 0), (1, 1, 1)):
            with pytest.raises(ValueError, match="a Mamba2 block"):
                MatMamba2.from_state_dict(state | {name: torch.zeros(shape)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        MatMamba2(64, 16).load_state_dict(state)


def test_initial_values_lie_where_mamba2_puts_them() -> None:
    block = MatMamba2(256, headdim=4)
    step = torch.nn.functional.softplus(block.dt_bias)
    assert ((step > 0.99e-3) & (step < 1.01e-1)).all()
    assert ((block.A_log.exp() > 0.99) & (block.A_log.exp() < 16.01)).all()
    assert (block.D == 1).all() and (block.norm.weight == 1).all()


def cut_out(block: MatMamba2, mrl_level: int) -> MatMamba2:
    """A plain block of d_model / mrl_level heads, with the weights the level takes."""
    heads = block.nheads // mrl_level
    d, inner, d_bc = heads * block.headdim, block.d_inner, 2 * block.ngroups * block.d_state
    narrow = MatMamba2(
        block.d_model,
        block.d_state,
        expand=1,
        headdim=block.headdim,
        ngroups=block.ngroups,
    )
    full = block.state_dict()
    rows = [*range(d), *range(inner, inner + d)]
    rows += range(2 * inner, 2 * inner + d_bc)
    rows += range(2 * inner + d_bc, 2 * inner + d_bc + heads)
    channels = [*range(d), *range(inner, inner + d_bc)]
    narrow.load_state_dict(
        {
            "in_proj.weight": full["in_proj.weight"][rows],
            "conv1d.weight": full["conv1d.weight"][channels],
            "conv1d.bias": full["conv1d.bias"][channels],
            "dt_bias": full["dt_bias"][:heads],
            "A_log": full["A_log"][:heads],
            "D": full["D"][:heads],
            "norm.weight": full["norm.weight"][:d],
            "out_proj.weight": full["out_proj.weight"][:, :d],
        }
    )
    return narrow.requires_grad_(False)


@pytest.mark.parametrize("ngroups", [1, 2])
def test_a_level_is_the_block_of_the_sliced_weights(ngroups: int) -> None:
    block = make_block(ngroups=ngroups)
    u = torch.randn(2, 30, 32)
    got = block(u, mrl_level=2)
    torch.testing.assert_close(got, cut_out(block, 2)(u), rtol=1e-5, atol=1e-6)
    want = step_by_step(block, u[0].numpy().astype(np.float64), heads=block.nheads // 2)
    assert relative_error(got[0], want) < 1e-5


@pytest.mark.parametrize("level", [1, 2, 4, 8])
def test_a_narrower_level_reads_no_weight_of_the_rest(level: int) -> None:
    block = make_block()
    u = torch.randn(1, 10, 32)
    before = block(u, level)
    kept = block.nheads // level
    d = kept * block.headdim
    for rest in (
        block.in_proj.weight[d : block.d_inner],
        block.in_proj.weight[block.d_inner + d : 2 * block.d_inner],
        block.in_proj.weight[block.in_proj.weight.shape[0] - block.nheads + kept :],
        block.norm.weight[d:],
        block.out_proj.weight[:, d:],
        block.D[kept:],
    ):
        rest.fill_(torch.nan)
    torch.testing.assert_close(block(u, level), before, rtol=0, atol=0)


def test_mixnmatch_gives_a_layer_a_width_of_its_own() -> None:
    block = make_block()
    u = torch.randn(1, 12, 32)
    expected = {width: block(u, 32 // width) for width in (32, 16, 8)}
    block.mixnmatch = True
    assert torch.equal(block(u, mrl_level=4), expected[32])  # mixnmatch_dims is d_model
    for width, want in expected.items():
        block.mixnmatch_dims = width
        for level in (1, 2, 8):
            assert torch.equal(block(u, mrl_level=level), want)
    block.mixnmatch_dims = 12  # three heads of eight: no level has this width
    want = step_by_step(block, u[0].numpy().astype(np.float64), heads=3)
    assert relative_error(block(u)[0], want) < 1e-5


@pytest.mark.parametrize("heads", [0, -1, 9])
def test_heads_that_the_block_lacks(heads: int) -> None:
    with pytest.raises(ValueError, match=f"heads={heads} must be from 1 to the block's 8"):
        make_block().mix(torch.zeros(1, 2, 32), heads)
    with pytest.raises(ValueError, match="a multiple of ngroups=2"):
        make_block(ngroups=2).mix(torch.zeros(1, 2, 32), 3)


@pytest.mark.parametrize("level", [0, -1, 3, 16, 64])
def test_a_level_that_is_no_whole_number_of_heads(level: int) -> None:
    with pytest.raises(ValueError, match="mrl_level|whole number of heads"):
        make_block()(torch.zeros(1, 2, 32), level)


@pytest.mark.parametrize("width", [0, -4, 3, 36])
def test_a_width_of_mixnmatch_that_cannot_be(width: int) -> None:
    block = make_block()
    block.mixnmatch, block.mixnmatch_dims = True, width
    with pytest.raises(ValueError, match="whole number of heads"):
        block(torch.zeros(1, 2, 32))


def test_a_level_needs_whole_heads_in_every_group() -> None:
    block = make_block(ngroups=4)  # eight heads
    with pytest.raises(ValueError, match="whole number of heads"):
        block(torch.zeros(1, 2, 32), 4)


@pytest.mark.parametrize("sizes", [{"headdim": 7}, {"ngroups": 3}])
def test_sizes_that_do_not_divide(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must divide"):
        make_block(**sizes)


def test_the_block_looks_back_only() -> None:
    block = make_block()
    u = torch.randn(1, 70, 32)
    changed = u.clone()
    changed[:, 40:] += 1
    before, after = block(u), block(changed)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


def test_gradients_reach_every_weight_of_the_level() -> None:
    block = make_block().requires_grad_(True)
    block(torch.randn(2, 9, 32), 2).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert block.out_proj.weight.grad is not None
    assert (block.out_proj.weight.grad[:, block.d_inner // 2 :] == 0).all()


# -- CUDA: the fused scan by its exact symbol, tensors that only claim to be there -----------


class OnCuda(Tensor):
    """A tensor of the CPU that says it lies on a GPU."""

    is_cuda = True  # type: ignore[assignment]
    device = torch.device("cuda")  # type: ignore[assignment]


class FusedScan:
    """Takes the place of mamba_ssm's scan, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, x: Any, dt: Any, A: Any, B: Any, C: Any, chunk_size: int, D: Any = None
    ) -> Any:
        self.calls += 1
        return torch_ops.ssd_scan_plain(x, dt, A, B, C, D, chunk_size=chunk_size)


@pytest.fixture
def fake_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """An installed mamba_ssm whose module of the scan is still empty."""
    name = "mamba_ssm"
    for part in ("", ".ops", ".ops.triton", ".ops.triton.ssd_combined"):
        monkeypatch.setitem(sys.modules, name + part, types.ModuleType(name + part))
    monkeypatch.setitem(sys.modules, "causal_conv1d", types.ModuleType("causal_conv1d"))
    for probe in (torch_ops._mamba_chunk_scan, torch_ops._causal_conv1d):
        probe.cache_clear()
    yield sys.modules["mamba_ssm.ops.triton.ssd_combined"]
    for probe in (torch_ops._mamba_chunk_scan, torch_ops._causal_conv1d):
        probe.cache_clear()


def scan_arguments() -> list[Any]:
    x, dt, BC = torch.randn(1, 5, 4, 8), torch.rand(1, 5, 4), torch.randn(2, 1, 5, 1, 8)
    return [x, dt, -torch.rand(4), BC[0], BC[1], torch.ones(4)]


def test_the_fused_scan_is_for_cuda_only(fake_mamba_ssm: types.ModuleType) -> None:
    fused = FusedScan()
    fake_mamba_ssm.mamba_chunk_scan_combined = fused  # type: ignore[attr-defined]
    arguments = scan_arguments()
    want = torch_ops.ssd_scan(*arguments)
    assert fused.calls == 0
    got = torch_ops.ssd_scan(*(a.as_subclass(OnCuda) for a in arguments))
    assert fused.calls == 1
    torch.testing.assert_close(got.as_subclass(Tensor), want, rtol=1e-5, atol=1e-6)


def test_a_package_of_that_name_without_the_scan_is_not_taken(
    fake_mamba_ssm: types.ModuleType,
) -> None:
    arguments = scan_arguments()
    got = torch_ops.ssd_scan(*(a.as_subclass(OnCuda) for a in arguments))
    want = torch_ops.ssd_scan(*arguments)
    torch.testing.assert_close(got.as_subclass(Tensor), want, rtol=1e-5, atol=1e-6)


def test_a_whole_block_takes_the_fused_scan_on_cuda(fake_mamba_ssm: types.ModuleType) -> None:
    fused = FusedScan()
    fake_mamba_ssm.mamba_chunk_scan_combined = fused  # type: ignore[attr-defined]
    block, u = make_block(), torch.randn(1, 9, 32)
    want = block(u)
    assert fused.calls == 0
    got = block(u.as_subclass(OnCuda))
    assert fused.calls == 1
    torch.testing.assert_close(got.as_subclass(Tensor), want, rtol=1e-5, atol=1e-6)


# -- the original, where it is installed -------------------------------------------------------


def test_the_scan_equals_mamba_ssm_on_cpu() -> None:
    minimal = pytest.importorskip(
        "mamba_ssm.modules.ssd_minimal", reason="mamba_ssm is not installed", exc_type=ImportError
    )
    x, dt, A, B, C, D = scan_arguments()
    want, _ = minimal.ssd_minimal_discrete(x * dt.unsqueeze(-1), dt * A, B, C, x.shape[1])
    got = torch_ops.ssd_scan(x, dt, A, B, C, D)
    torch.testing.assert_close(got, want + D[:, None] * x, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("ngroups", [1, 2])
def test_a_block_of_mamba_ssm_gives_the_same_on_cuda(ngroups: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    original = pytest.importorskip(
        "mamba_ssm.modules.mamba2", reason="mamba_ssm is not installed", exc_type=ImportError
    )
    block = make_block(d_model=128, d_state=64, headdim=32, ngroups=ngroups)
    theirs = original.Mamba2(128, d_state=64, headdim=32, ngroups=ngroups)
    theirs.load_state_dict(block.state_dict())
    u = torch.randn(2, 100, 128)
    want = theirs.cuda()(u.cuda()).detach().cpu()
    torch.testing.assert_close(block(u), want, rtol=1e-2, atol=1e-3)
