"""Texts to nested vectors: what users of the encoder hold."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.granularity import Granularity
from adaptive_search.encoder.tokenizer import Ids, Tokenizer
from adaptive_search.errors import BackendUnavailable, QueryError, WeightsError

if TYPE_CHECKING:
    from adaptive_search.encoder.selection import Preference, Selection
    from adaptive_search.encoder.width_search import Mix
    from adaptive_search.kernels.native import Precision, Stream

Vectors = NDArray[np.float32]

# The fastest whose mean nDCG@10 stays within 0.5 % of fp32; see docs/performance.md.
DEFAULT_PRECISION: Precision = "int8"


class Engine(Protocol):
    """What computes the model: native code on a CPU, or PyTorch on a GPU."""

    def encode(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        heads: NDArray[np.int32],
        bands: int,
        threads: int,
    ) -> Vectors:
        """Vectors float32 (texts, dims[bands - 1]) of packed sequences.

        Args:
            ids: int32 (tokens,), all texts one after another.
            offsets: int64 (texts + 1,), where each text begins and ends.
            heads: int32 (n_layers,), active heads of each layer.
            bands: bands to compute.
            threads: CPU threads.
        """
        ...


class Encoder:
    """A loaded MatMamba encoder.

    Every vector is nested: its first d coordinates, at unit length, are the
    d-dim embedding, for each d in `dims`.
    """

    def __init__(
        self,
        weights: checkpoint.Checkpoint,
        tokenizer: Tokenizer,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = DEFAULT_PRECISION,
    ) -> None:
        """Prepare weights for a device; `load` also reads them and their tokenizer."""
        self.config: EncoderConfig = weights.config
        self.fingerprint: str = weights.fingerprint
        self.directory: Path = weights.directory
        self.tokenizer = tokenizer
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise WeightsError(
                f"{weights.directory}: the tokenizer has {self.tokenizer.vocab_size} ids, the "
                f"model {self.config.vocab_size}; export or copy these weights again"
            )
        self.device = device
        self.threads = threads or available_threads()
        self._engine = _make_engine(weights, device, precision)

    @classmethod
    def load(
        cls,
        directory: str | Path | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = DEFAULT_PRECISION,
    ) -> Encoder:
        """Load the shipped weights, or those in a directory.

        Args:
            directory: a weights directory, as `train` writes it.
            device: "cpu" (native engine) or "cuda" (PyTorch, optional extra).
            threads: CPU threads; all that this process may use by default.
            precision: what the linear layers compute with on a CPU: "fp32", "bf16" or "int8".
                Vectors of all precisions live in one space.

        Raises:
            WeightsError: the directory does not hold usable weights.
            BackendUnavailable: the device is not on this machine.
        """
        path = Path(directory) if directory is not None else checkpoint.shipped_weights()
        with ThreadPoolExecutor(1) as pool:
            # Hashing and packing leave the interpreter to the tokenizer, which takes as long.
            tokenizer = pool.submit(Tokenizer.load, path / checkpoint.TOKENIZER)
            weights = checkpoint.load(path)
        return cls(weights, tokenizer.result(), device=device, threads=threads, precision=precision)

    @property
    def dims(self) -> tuple[int, ...]:
        """The nesting dimensions."""
        return self.config.dims

    @property
    def granularities(self) -> tuple[int, ...]:
        """The trained divisors of the inner width."""
        return self.config.granularities

    def encode(
        self, texts: str | Sequence[str], dim: int | None = None, *, granularity: Granularity = 1
    ) -> Vectors:
        """Embed texts at one dimension.

        Args:
            texts: one text or several; each is cut at `config.context` tokens.
            dim: one of `dims`; the largest by default.
            granularity: one of `granularities`, the divisors of the inner width; or a tuple
                of the active heads of each layer, from 1 to `config.nheads`.

        Returns:
            float32 (texts, dim), unit length; (dim,) for one text given as str.

        Raises:
            DimensionError: dim is not a nesting dimension.
            QueryError: no sub-model has this granularity.
        """
        dim = self.dims[-1] if dim is None else dim
        batch = [texts] if isinstance(texts, str) else texts
        ids = self.tokenizer.encode_batch(batch, context=self.config.context)
        vectors = self.truncate(self.encode_ids(ids, dim, granularity=granularity), dim)
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_all_dims(
        self, texts: str | Sequence[str], *, granularity: Granularity = 1
    ) -> dict[int, Vectors]:
        """Embed texts once and slice them at every nesting dimension.

        Returns:
            For each dim what `encode(texts, dim)` returns.
        """
        full = self.encode(texts, granularity=granularity)
        return {dim: self.truncate(full, dim) for dim in self.dims}

    def encode_batch(
        self,
        texts: Iterable[str],
        dim: int | None = None,
        *,
        granularity: Granularity = 1,
        batch_size: int = 256,
    ) -> Iterator[Vectors]:
        """Embed any number of texts, `batch_size` at a time, in bounded memory."""
        iterator = iter(texts)
        while batch := list(itertools.islice(iterator, batch_size)):
            yield self.encode(batch, dim, granularity=granularity)

    def encode_ids(
        self, ids: Sequence[Ids], dim: int | None = None, *, granularity: Granularity = 1
    ) -> Vectors:
        """Embed framed token ids; the form that an index stores.

        Returns:
            float32 (texts, dim): prefixes of full unit vectors, whose length is
            sqrt(prefix_energy) of dim for every text.

        Raises:
            QueryError: a text has no ids, an id is negative, or no sub-model has this granularity.
            WeightsError: an id is beyond the model's vocabulary, or a vector is not finite.
        """
        dim = self.dims[-1] if dim is None else dim
        bands = self.config.bands_of(dim)
        heads = np.array(self.config.heads(granularity), dtype=np.int32)
        if not ids:
            return np.zeros((0, dim), dtype=np.float32)
        offsets = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(sequence) for sequence in ids], out=offsets[1:])
        packed = np.concatenate(ids).astype(np.int32, copy=False)
        if packed.max() >= self.config.vocab_size:
            raise WeightsError(
                f"{self.directory}: the tokenizer gives the id {packed.max()}, but the model has "
                f"{self.config.vocab_size}; export or copy these weights again"
            )
        try:
            return self._engine.encode(packed, offsets, heads, bands, self.threads)
        except ValueError as error:
            raise QueryError(f"these ids cannot be encoded: {error}") from None

    def open_stream(self, granularity: Granularity = 1) -> Stream:
        """An empty text in the engine's own terms; see `StreamingEncoder`.

        Raises:
            BackendUnavailable: the model is not causal, or not on the CPU.
            QueryError: granularity is not one of the encoder's.
        """
        from adaptive_search.kernels.native import Engine as NativeEngine
        from adaptive_search.kernels.native import Stream

        if not isinstance(self._engine, NativeEngine) or self.config.direction != "causal":
            raise BackendUnavailable(
                "streaming needs a causal model on the CPU, and this one is "
                f"{self.config.direction}, on {self.device}; encode the whole text, or train with "
                '"direction": "causal" in the config of the recipe'
            )
        return Stream(self._engine, np.array(self.config.heads(granularity), dtype=np.int32))

    def truncate(self, vectors: Vectors, dim: int) -> Vectors:
        """The d-dim embeddings within vectors of any larger nesting dimension.

        Args:
            vectors: float32 (..., >= dim), from any method of this class.
            dim: one of `dims`.

        Returns:
            float32 (..., dim), unit length.

        Raises:
            DimensionError: dim is not a nesting dimension.
            QueryError: the vectors are shorter than dim.
        """
        self.config.bands_of(dim)
        if vectors.shape[-1] < dim:
            raise QueryError(f"vectors of {vectors.shape[-1]} dims hold no {dim}-dim embedding")
        prefix = vectors[..., :dim]
        length = np.linalg.norm(prefix, axis=-1, keepdims=True)
        unit: Vectors = prefix / np.maximum(length, np.finfo(np.float32).tiny)
        return unit

    def select_optimal_dimension(
        self,
        min_accuracy: float = 0.0,
        max_latency_ms: float = float("inf"),
        max_memory_mb: float = float("inf"),
        *,
        vectors: int = 100_000,
        prefer: Preference | None = None,
    ) -> Selection:
        """The dimension and granularity that fit limits best, from measured figures.

        Args:
            min_accuracy: least share of the full vector's nDCG@10 to keep, 0 to 1.
            max_latency_ms: most milliseconds to encode one query.
            max_memory_mb: most megabytes (10^6 bytes) for `vectors` stored vectors.
            vectors: how many vectors are to be stored.
            prefer: "size", "speed" or "accuracy", among what fits; by default size where a
                least accuracy is given, else accuracy.

        Returns:
            The choice, the reason for it, and the report that its figures are from.

        Raises:
            QueryError: a limit makes no sense, or nothing measured fits; the message names the
                nearest choice.
            WeightsError: these weights come without measurements of their own.
        """
        from adaptive_search.encoder.selection import Limits, Measurements, select

        limits = Limits(min_accuracy, max_latency_ms, max_memory_mb, vectors, prefer)
        return select(Measurements.read(self.directory, self.fingerprint), limits)

    def select_widths(self, texts: Sequence[str], max_cost: float = 0.5) -> Mix:
        """The heads of each layer that keep vectors closest to full width, for less compute.

        Takes some seconds; `width_search` has the steps and all that they measure.

        Args:
            texts: a sample of what is to be encoded; evenly spaced ones are used.
            max_cost: most multiply-adds a token, as a share of the full width's.

        Returns:
            The mix; encode with its `granularity`.

        Raises:
            QueryError: there are no texts, or nothing costs as little as max_cost.
        """
        from adaptive_search.encoder import width_search

        ids = width_search.sample_ids(self, texts)
        return width_search.best_mix(width_search.search_widths(self, ids), max_cost)


def available_threads() -> int:
    """CPUs that this process may use, or what ADAPTIVE_SEARCH_THREADS says.

    Raises:
        QueryError: the variable is not a positive number.
    """
    asked = os.environ.get("ADAPTIVE_SEARCH_THREADS", "")
    if asked and (not asked.isdecimal() or int(asked) < 1):
        raise QueryError(f"ADAPTIVE_SEARCH_THREADS={asked} must be a number from 1 up")
    if asked:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _make_engine(weights: checkpoint.Checkpoint, device: str, precision: Precision) -> Engine:
    if device == "cuda":
        from adaptive_search.encoder.torch_engine import TorchEngine

        return TorchEngine(weights, device)
    if device != "cpu":
        raise BackendUnavailable(f"device {device!r} is not known; choose cpu or cuda")
    from adaptive_search.kernels.native import PRECISIONS
    from adaptive_search.kernels.native import Engine as NativeEngine

    if precision not in PRECISIONS:
        raise BackendUnavailable(
            f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}"
        )
    try:
        engine: Engine = NativeEngine(weights.config.to_dict(), weights.tensors, precision)
    except ValueError as error:
        raise WeightsError(f"{weights.directory} cannot be used: {error}") from None
    return engine
