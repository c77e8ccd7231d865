from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra")

from torch import nn  # noqa: E402

from adaptive_search.encoder.least_squares import LeastSquares  # noqa: E402


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_map_is_found_again(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    true, found = nn.Linear(5, 3, bias=bias), nn.Linear(5, 3, bias=bias)
    fit = LeastSquares(found)
    for _ in range(4):
        rows = torch.randn(50, 5, generator=generator)
        fit.add(rows, true(rows))
    fit.solve()
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, true.get_parameter(name), rtol=1e-2, atol=1e-3)


def test_rows_that_do_not_span_their_space() -> None:
    linear = nn.Linear(5, 2)
    fit = LeastSquares(linear)
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    fit.add(rows, torch.ones(3, 2))
    fit.solve()
    torch.testing.assert_close(linear(rows), torch.ones(3, 2), rtol=0, atol=0.05)
