"""A vector that follows a text as it is written."""

from __future__ import annotations

import numpy as np

from adaptive_search.encoder.encoder import Encoder, Vectors
from adaptive_search.encoder.granularity import Granularity


class StreamingEncoder:
    """Encodes one growing text in time proportional to what is added.

    The model reads from left to right and keeps a state of fixed size, so that nothing is read
    twice but the last tokens, fewer than a hundred. After any appends the vector is, bit for bit,
    that of `[CLS]`, the token ids of each piece, `[SEP]`. Pieces are tokenized one by one: cut
    them between words, or a word counts as two. There is no limit to the length.
    """

    def __init__(
        self, encoder: Encoder, *, dim: int | None = None, granularity: Granularity = 1
    ) -> None:
        """Begin an empty text.

        Args:
            encoder: a causal model on the CPU.
            dim: one of the encoder's `dims`; the largest by default.
            granularity: as for `Encoder.encode`.

        Raises:
            BackendUnavailable: the model is not causal, or not on the CPU.
            DimensionError: dim is not a nesting dimension.
            QueryError: granularity is not one of the encoder's.
        """
        self._encoder = encoder
        self._dim = encoder.dims[-1] if dim is None else dim
        self._bands = encoder.config.bands_of(self._dim)
        self._stream = encoder.open_stream(granularity)
        start, self._end = np.split(encoder.tokenizer.frame(np.empty(0, np.int32), context=2), 2)
        self._stream.append(start)
        self.tokens = 0  # ids appended so far, without [CLS] and [SEP]

    def append(self, text: str) -> Vectors:
        """Add a piece of text.

        Returns:
            float32 (dim,), unit length: the vector of everything so far.
        """
        ids, _ = self._encoder.tokenizer.tokenize(text)
        self._stream.append(ids)
        self.tokens += len(ids)
        return self.vector()

    def vector(self) -> Vectors:
        """float32 (dim,), unit length: the vector of everything so far."""
        prefix = self._stream.vector(self._end, self._bands)[0]
        return self._encoder.truncate(prefix, self._dim)
