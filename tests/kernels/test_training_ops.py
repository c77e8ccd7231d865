"""The native training operations against plain tensor operations in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.model import MatMambaEncoder  # noqa: E402
from adaptive_search.kernels import torch_ops, training_ops  # noqa: E402

pytestmark = pytest.mark.skipif(
    not training_ops.supports(torch.zeros(1)), reason="the native module is not built"
)


DTYPES = [torch.float32, torch.bfloat16]
# bfloat16 keeps 8 bits; the outputs are rounded once from float32 sums of exact inputs.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_gradients(
    fused: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> None:
    """Compare values and all gradients with those of float64, relative to the largest."""
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    inputs = [t.detach().requires_grad_() for t in inputs]
    out, exact = fused(*inputs), plain(*exact_inputs)
    weights = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    weights = weights.to(out.dtype)
    grads = torch.autograd.grad(out, inputs, weights)
    exact_grads = torch.autograd.grad(exact, exact_inputs, weights.double())
    assert_close(out, exact, out.dtype)
    for grad, exact_grad, source in zip(grads, exact_grads, inputs, strict=True):
        assert grad.dtype == source.dtype
        assert_close(grad, exact_grad, source.dtype)


def assert_close(actual: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert actual.shape == exact.shape
    scale = max(exact.abs().max().item(), 1e-6)
    torch.testing.assert_close(
        actual.double() / scale, exact / scale, atol=TOLERANCE[dtype], rtol=0
    )


def columns(batch: int, seqlen: int, *widths: int, dtype: torch.dtype) -> list[Tensor]:
    """Column slices of one matrix, as a projection's output is split."""
    generator = torch.Generator().manual_seed(batch + seqlen + sum(widths))
    whole = torch.randn(batch, seqlen, 3 + sum(widths), generator=generator).to(dtype)
    return list(whole.split([3, *widths], dim=-1)[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, seqlen", [(1, 1), (2, 3), (3, 33), (2, 70)])
@pytest.mark.parametrize("channels, taps", [(1, 4), (37, 4), (64, 2), (80, 1)])
def test_convolution(batch: int, seqlen: int, channels: int, taps: int, dtype: torch.dtype) -> None:
    (x,) = columns(batch, seqlen, channels, dtype=dtype)
    weight, bias = torch.randn(channels, taps), torch.randn(channels)
    assert_same_gradients(
        training_ops.causal_conv1d_silu, torch_ops.causal_conv1d_silu_plain, [x, weight, bias]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, seqlen", [(1, 1), (2, 31), (1, 32), (2, 33), (1, 130)])
@pytest.mark.parametrize("nheads, headdim, d_state", [(1, 8, 16), (3, 20, 33), (24, 32, 64)])
def test_scan(
    batch: int, seqlen: int, nheads: int, headdim: int, d_state: int, dtype: torch.dtype
) -> None:
    parts = columns(batch, seqlen, nheads * headdim, d_state, d_state, dtype=dtype)
    x, B, C = (
        part.unflatten(-1, (-1, n))
        for part, n in zip(parts, (headdim, d_state, d_state), strict=True)
    )
    dt = torch.rand(batch, seqlen, nheads) * 0.2
    A, D = -torch.rand(nheads) * 8, torch.randn(nheads)
    assert_same_gradients(training_ops.ssd_scan, torch_ops.ssd_scan_plain, [x, dt, A, B, C, D])


@pytest.mark.parametrize("rate", [1e-4, 1.0, 300.0])
def test_scan_under_slow_and_fast_decay(rate: float) -> None:
    x, B, C = (
        part.unflatten(-1, (-1, 16)) for part in columns(1, 97, 32, 16, 16, dtype=torch.float32)
    )
    dt = torch.rand(1, 97, 2) + 0.1
    assert_same_gradients(
        training_ops.ssd_scan,
        torch_ops.ssd_scan_plain,
        [x, dt, torch.full((2,), -rate), B, C, torch.ones(2)],
    )


def test_more_threads_than_sequences() -> None:
    torch.set_num_threads(7)
    x, B, C = (
        part.unflatten(-1, (-1, 8)) for part in columns(2, 40, 40, 8, 8, dtype=torch.float32)
    )
    inputs = [x, torch.rand(2, 40, 5), -torch.rand(5), B, C, torch.ones(5)]
    assert_same_gradients(training_ops.ssd_scan, torch_ops.ssd_scan_plain, inputs)
    assert_same_gradients(
        lambda *inputs: training_ops.gated_rms_norm(*inputs, 1e-5),
        lambda *inputs: torch_ops.gated_rms_norm_plain(*inputs, 1e-5),
        [*columns(7, 100, 24, 24, dtype=torch.float32), torch.randn(24)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, seqlen, width", [(1, 1, 5), (2, 3, 37), (3, 50, 96)])
def test_norms_and_gates(batch: int, seqlen: int, width: int, dtype: torch.dtype) -> None:
    y, z = columns(batch, seqlen, width, width, dtype=dtype)
    weight = torch.randn(width)
    assert_same_gradients(
        lambda *inputs: training_ops.gated_rms_norm(*inputs, 1e-5),
        lambda *inputs: torch_ops.gated_rms_norm_plain(*inputs, 1e-5),
        [y, z, weight],
    )
    assert_same_gradients(
        lambda *inputs: training_ops.rms_norm(*inputs, 1e-5, dtype),
        lambda *inputs: torch_ops.rms_norm_plain(*inputs, 1e-5),
        [y.float(), weight],
    )
    (gate_up,) = columns(batch, seqlen, 2 * width, dtype=dtype)
    assert_same_gradients(training_ops.swiglu, torch_ops.swiglu_plain, [gate_up])


def test_gradient_without_a_dense_last_axis() -> None:
    x = torch.randn(2, 9, 16, requires_grad=True)
    weight, bias = torch.randn(16, 4), torch.randn(16)
    training_ops.causal_conv1d_silu(x, weight, bias).sum().backward()
    expected = torch.autograd.grad(torch_ops.causal_conv1d_silu_plain(x, weight, bias).sum(), x)
    torch.testing.assert_close(x.grad, expected[0])


def test_gates_stay_finite_far_out() -> None:
    gate_up = torch.tensor([[-1e30, -200.0, 200.0, 1e30, 1.0, 1.0, 1.0, 1.0]])
    gate_up.requires_grad_()
    out = training_ops.swiglu(gate_up)
    torch.testing.assert_close(out.detach(), torch.tensor([[0.0, 0.0, 200.0, 1e30]]))
    out.sum().backward()
    assert gate_up.grad is not None
    assert torch.isfinite(gate_up.grad).all()


def test_autocast_decides_the_type_of_the_norm() -> None:
    x, weight = torch.randn(3, 8), torch.ones(8)
    assert torch_ops.rms_norm(x, weight, 1e-5).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch_ops.rms_norm(x, weight, 1e-5).dtype == torch.bfloat16


def test_unsupported_tensors_take_the_plain_form() -> None:
    assert not training_ops.supports(torch.zeros(1, dtype=torch.float64))
    assert not training_ops.supports(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    gate_up = torch.randn(2, 6, dtype=torch.float64)
    torch.testing.assert_close(torch_ops.swiglu(gate_up), torch_ops.swiglu_plain(gate_up))


@pytest.mark.parametrize("direction", ["causal", "alternating"])
@pytest.mark.parametrize("granularity", [1, 2])
def test_whole_encoder(direction: str, granularity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=50, d_model=64, n_layers=2, direction=direction, granularities=(1, 2)
    )
    model = MatMambaEncoder(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("out_proj.weight", "down.weight", "query")):  # these begin at zero
            torch.nn.init.normal_(parameter, std=0.1)
    ids, lengths = torch.randint(0, 50, (3, 45)), torch.tensor([45, 20, 1])
    target = torch.randn(config.dims[-1])

    def gradients() -> list[Tensor]:
        loss = (model(ids, lengths, granularity) @ target).square().sum()
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    native = gradients()
    monkeypatch.setattr(training_ops, "supports", lambda *activations: False)
    for value, plain in zip(native, gradients(), strict=True):
        assert_close(value.detach(), plain.detach().double(), torch.float32)
