"""The engine in PyTorch: what a GPU runs, with the native engine's signature."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.data import pad
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.errors import BackendUnavailable

BATCH_TOKENS = 65_536  # padded tokens on the device at a time


class TorchEngine:
    """Computes vectors with the training model on any PyTorch device."""

    def __init__(self, weights: checkpoint.Checkpoint, device: str) -> None:
        """Load the weights onto the device.

        Raises:
            BackendUnavailable: the device is not on this machine.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable("device 'cuda' is not on this machine; choose cpu")
        self._device = torch.device(device)
        self._config = weights.config
        self._model = MatMambaEncoder(weights.config).eval().requires_grad_(False)
        tensors = checkpoint.dequantize(weights.tensors)
        self._model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
        self._model.to(self._device)

    def encode(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        heads: NDArray[np.int32],
        bands: int,
        threads: int,
    ) -> NDArray[np.float32]:
        """Vectors of packed sequences; see `adaptive_search.encoder.encoder.Engine`.

        `threads` is the native engine's; the device decides its own.
        """
        width = self._config.dims[bands - 1]
        widths = tuple(heads.tolist())
        lengths = np.diff(offsets)
        result = np.empty((len(lengths), width), dtype=np.float32)
        for rows in _length_buckets(lengths):
            batch = pad([ids[offsets[r] : offsets[r + 1]] for r in rows])
            with torch.inference_mode():
                vectors = self._model(
                    torch.from_numpy(batch.ids).to(self._device),
                    torch.from_numpy(batch.lengths).to(self._device),
                    widths,
                )
            result[rows] = vectors[:, :width].float().cpu().numpy()
        return result


def _length_buckets(lengths: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows of similar length, at most BATCH_TOKENS padded tokens together."""
    order = np.argsort(lengths, kind="stable")
    buckets: list[NDArray[np.intp]] = []
    start = 0
    for stop in range(1, len(order) + 1):
        full = stop == len(order) or (stop + 1 - start) * lengths[order[stop]] > BATCH_TOKENS
        if full:
            buckets.append(order[start:stop])
            start = stop
    return buckets
