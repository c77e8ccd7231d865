"""Fixtures of the kernel tests: every level of this machine, and packed random data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.kernels import native

Floats = NDArray[np.float32]


@pytest.fixture(params=native.levels())
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Force each level in turn; the library reads the variable at every call."""
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", request.param)
    yield request.param


@pytest.fixture
def draw() -> Callable[..., Floats]:
    """Normal float32 arrays whose rows lie apart and start off any vector boundary."""
    rng = np.random.default_rng(7)

    def normal(*shape: int, scale: float = 1.0) -> Floats:
        if len(shape) == 1:
            return (scale * rng.standard_normal(shape)).astype(np.float32)
        wide = (scale * rng.standard_normal((shape[0], shape[1] + 5))).astype(np.float32)
        return wide[:, 3 : 3 + shape[1]]

    return normal
