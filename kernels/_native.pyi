"""Types of the extension module that CMakeLists.txt builds from csrc/."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

training: ModuleType  # of training_ops.py alone, which says what its functions take

class Engine:
    """The encoder's forward pass over packed texts.

    Reads the sizes from the fields of an encoder config, and packs the weights once. A matrix is
    float32, or int8 beside a float32 "<name>.scale" with one value a row. The embedding is read
    in place.
    """

    def __init__(
        self, config: dict[str, Any], tensors: dict[str, NDArray[Any]], precision: str = "fp32"
    ) -> None:
        """Check and pack the weights.

        Args:
            config: the fields of an encoder config.
            tensors: by their names in a checkpoint.
            precision: what the linear layers compute with: "fp32"; "bf16", weights and
                activations rounded to bfloat16, sums in float32; or "int8", one scale a row of
                weights and a row of activations, sums exact.

        Raises:
            ValueError: a tensor is missing or has a wrong shape, which the message names.
        """
    def encode(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        heads: NDArray[np.int32],
        bands: int,
        threads: int,
    ) -> NDArray[np.float32]:
        """Encode texts to the first bands of their vectors.

        Args:
            ids: int32 (tokens,), the texts end to end.
            offsets: int64 (texts + 1,); text i is ids[offsets[i]:offsets[i + 1]], not empty.
            heads: int32 (layers,), active heads of each layer.
            bands: bands to compute, from the first.
            threads: threads to use, at least 1; the result does not depend on it.

        Returns:
            float32 (texts, sum of the first band widths), a prefix of a unit vector.

        Raises:
            ValueError: an argument is out of range.
            WeightsError: the weights give a vector that is not finite.
        """
    def profile(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        heads: NDArray[np.int32],
        bands: int,
    ) -> dict[str, float]:
        """Seconds of processor time by stage while one thread encodes; errors as there."""
    def project(self, states: NDArray[np.float32], bands: int, threads: int) -> NDArray[np.float32]:
        """The heads alone: vectors of texts whose pooled state is the same for all bands.

        Args:
            states: float32 (texts, d_model).
            bands: bands to compute, from the first.
            threads: threads to use, at least 1.

        Returns:
            float32 (texts, sum of the first band widths), as `encode`; errors as there.
        """

class Stream:
    """A text that is read as it comes, by a causal model.

    The state holds whole tiles of 96 ids; `vector` reads the rest on a copy of it.
    """

    def __init__(self, engine: Engine, heads: NDArray[np.int32]) -> None:
        """Begin an empty text; ValueError for an alternating model or odd heads."""
    def append(self, ids: NDArray[np.int32]) -> None:
        """Read int32 (count,) ids; ValueError for one that is out of range."""
    def vector(self, end: NDArray[np.int32], bands: int) -> NDArray[np.float32]:
        """float32 (1, dim): what `Engine.encode` gives for all ids so far and then `end`.

        Raises:
            ValueError: end is empty or out of range, or bands is.
            WeightsError: the weights give a vector that is not finite.
        """

def levels() -> list[str]:
    """Instruction levels of this machine, slowest first."""

def level() -> str:
    """The level in force; BackendUnavailable if ADAPTIVE_SEARCH_LEVEL names one that is not."""

def spin(precision: str, rounds: int) -> int:
    """Compute products in registers alone; how many multiply-adds that was."""

def linear(
    x: NDArray[np.float32], weight: NDArray[np.float32], precision: str = "fp32"
) -> NDArray[np.float32]: ...
def causal_conv1d_silu(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    offsets: NDArray[np.int64],
) -> NDArray[np.float32]: ...
def softplus(x: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]: ...
def ssd_scan(
    x: NDArray[np.float32],
    dt: NDArray[np.float32],
    A: NDArray[np.float32],
    B: NDArray[np.float32],
    C: NDArray[np.float32],
    D: NDArray[np.float32],
    offsets: NDArray[np.int64],
    precision: str = "fp32",
) -> NDArray[np.float32]: ...
def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, precision: str = "fp32"
) -> NDArray[np.float32]:
    """Like the two below: what a product of this precision reads, as floats."""

def gated_rms_norm(
    y: NDArray[np.float32],
    z: NDArray[np.float32],
    weight: NDArray[np.float32],
    eps: float,
    precision: str = "fp32",
) -> NDArray[np.float32]: ...
def swiglu(
    gate: NDArray[np.float32], up: NDArray[np.float32], precision: str = "fp32"
) -> NDArray[np.float32]: ...
def softmax_pool(
    h: NDArray[np.float32],
    logits: NDArray[np.float32],
    offsets: NDArray[np.int64],
    chunk: int,
) -> NDArray[np.float32]: ...
def split_bands(
    vectors: NDArray[np.float32],
    unit: bool,
    bands: Sequence[NDArray[np.uint16]],
    squares: NDArray[np.float64],
) -> None:
    """Write vectors as float16 bands; see adaptive_search.kernels.bands.split_bands."""

def exact_best(
    queries: NDArray[np.float32],
    bands: Sequence[NDArray[np.uint16]],
    mask: NDArray[np.bool_] | None,
    lengths: NDArray[np.float32] | None,
    threads: int,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> None:
    """Write the best rows for each query; see adaptive_search.kernels.exact.exact_best."""

def map_file(descriptor: int) -> NDArray[np.uint8]: ...
def at_random(bytes: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
def will_read(bytes: NDArray[np.uint8]) -> None: ...
def release_memory() -> None: ...

class Codes:
    def __init__(
        self,
        bands: Sequence[Sequence[NDArray[np.uint16]]],
        order: NDArray[np.int64] | None,
        list_rows: NDArray[np.int64],
        centre: NDArray[np.float32],
        step: NDArray[np.float32],
        bits: int,
        unit: bool,
        threads: int,
        kept: NDArray[np.uint8] | None,
        kept_list_rows: NDArray[np.int64] | None,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def lists(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def data(self) -> NDArray[np.uint8]: ...
    def nearest(
        self, queries: NDArray[np.float32], threads: int, found: NDArray[np.int64]
    ) -> None: ...

class Searcher:
    def __init__(
        self,
        bands: Sequence[Sequence[NDArray[np.uint16]]],
        lengths: Sequence[Sequence[NDArray[np.float32]]],
    ) -> None: ...
    def search(
        self,
        heads: Codes | None,
        router: Codes | None,
        head_queries: NDArray[np.float32] | None,
        route_queries: NDArray[np.float32] | None,
        tails: NDArray[np.uint16] | None,
        tail_queries: NDArray[np.float32] | None,
        candidates: NDArray[np.int64] | None,
        nprobe: int,
        shortlist: int,
        mask: NDArray[np.bool_] | None,
        queries: NDArray[np.float32],
        steps: NDArray[np.int64],
        margins: NDArray[np.float32],
        threads: int,
        scores: NDArray[np.float32],
        found: NDArray[np.int64],
        taken: NDArray[np.int64],
        spent: NDArray[np.float64],
    ) -> None: ...
