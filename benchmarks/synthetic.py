"""Synthetic Matryoshka-like vectors: clustered, with a given share of energy in each prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

DIMS = (64, 128, 256, 512, 768, 1024, 1536)
PREFIX_ENERGY = (0.35, 0.50, 0.65, 0.80, 0.86, 0.92, 1.0)

# Lengths of the parts of a vector before its bands are scaled: what all texts share, what the texts
# of a topic, of a subject and of an article share, and what is a passage's own. Noise, which is
# what is a passage's own and what tells a question from a passage, is weaker in the lowest bands:
# that is what training for prefixes does. All were set by a search for vectors whose heads and
# lists hold what those of 100,000 real passages do (docs/search.md has both tables); where they
# differ at recalls that plans are made for, these are the harder ones.
COMMON, TOPIC, SUBJECT, ARTICLE, OWN = 0.38, 0.49, 0.43, 0.435, 0.55
QUERY_NOISE = 1.06
NOISE_BY_BAND = (0.5, 0.75)  # and 1 in all others
PASSAGES_PER_ARTICLE = 5
ARTICLES_PER_SUBJECT = 3
ARTICLES_PER_TOPIC = 20
SPECTRUM = 0.35  # coordinate j of a band has standard deviation j**-SPECTRUM
BLOCK = 10_000


class SyntheticVectors:
    """A seeded source of float32 unit vectors whose bands have fixed lengths.

    Each vector is the sum of a common part, a topic's, a subject's, an article's and its own,
    Gaussian with a power-law spectrum inside every band; each band is then scaled to its share of
    the energy.
    """

    def __init__(
        self,
        n: int,
        *,
        dims: Sequence[int] = DIMS,
        prefix_energy: Sequence[float] = PREFIX_ENERGY,
        seed: int = 0,
    ) -> None:
        """Draw the parts that vectors share; the vectors themselves are drawn block by block."""
        self.n = n
        self.dims = tuple(dims)
        self.prefix_energy = tuple(prefix_energy)
        self._seed = seed
        widths = np.diff((0, *dims))
        self._spectrum = np.concatenate([np.arange(1, w + 1) ** -SPECTRUM for w in widths])
        self._weights = np.sqrt(np.diff((0.0, *prefix_energy)))
        by_band = np.pad(NOISE_BY_BAND, (0, max(0, len(widths) - 2)), constant_values=1.0)
        self._damped = np.repeat(by_band[: len(widths)], widths).astype(np.float32)
        rng = np.random.default_rng(seed)
        articles = -(-n // PASSAGES_PER_ARTICLE)
        topics = -(-articles // ARTICLES_PER_TOPIC)
        subjects = -(-articles // ARTICLES_PER_SUBJECT)
        self._common = COMMON * self._noise(rng, 1)
        self._topics = TOPIC * self._noise(rng, topics)
        # Topics are as unequal as in real text: the share of topic t is about 1 / (t + 10).
        share = 1.0 / (np.arange(topics) + 10)
        self._topic_of = rng.choice(topics, subjects, p=share / share.sum())
        self._subject_of = rng.integers(0, subjects, articles)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield all n vectors, float32 (at most BLOCK, dim) at a time."""
        for start in range(0, self.n, BLOCK):
            yield self.rows(np.arange(start, min(start + BLOCK, self.n)))

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of one block's worth of consecutive rows, float32 (len(rows), dim)."""
        return self._scaled(self._latent(rows))

    def queries(self, count: int) -> NDArray[np.float32]:
        """Noisy copies of `count` random rows, float32 (count, dim)."""
        rng = np.random.default_rng((self._seed, 1))
        picked = np.sort(rng.choice(self.n, count, replace=False))
        latent = np.concatenate([self._latent(picked[i : i + 1]) for i in range(count)])
        noisy = self._scaled(latent + QUERY_NOISE * self._damped * self._noise(rng, count))
        return noisy[rng.permutation(count)]

    def _latent(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        articles = rows // PASSAGES_PER_ARTICLE
        subjects = self._subject_of[articles]
        vectors = self._common + self._topics[self._topic_of[subjects]]
        vectors += OWN * self._damped * self._seeded_noise(2, rows)
        vectors += ARTICLE * self._seeded_noise(3, articles)
        vectors += SUBJECT * self._seeded_noise(4, subjects)
        return np.asarray(vectors, dtype=np.float32)

    def _seeded_noise(self, kind: int, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """Noise that depends on the key alone, so that a row is the same in every block."""
        each, place = np.unique(keys, return_inverse=True)
        generators = (np.random.default_rng((self._seed, kind, int(key))) for key in each)
        return np.concatenate([self._noise(rng, 1) for rng in generators])[place]

    def _noise(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        noise = rng.standard_normal((count, self.dims[-1]), dtype=np.float32)
        return noise * self._spectrum.astype(np.float32)

    def _scaled(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        for start, end, weight in zip((0, *self.dims), self.dims, self._weights, strict=False):
            band = latent[:, start:end]
            band *= weight / np.linalg.norm(band, axis=1, keepdims=True)
        return latent
