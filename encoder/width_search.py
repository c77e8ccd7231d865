"""The best width of each layer for a compute budget, found on a sample of texts.

It needs no labels: a narrower encoder is taken to be as good as its vectors are close to those
of the full width. Cost is counted, not timed, so that an answer does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.granularity import Granularity
from adaptive_search.encoder.tokenizer import Ids
from adaptive_search.errors import QueryError

if TYPE_CHECKING:
    from adaptive_search.encoder.encoder import Encoder

Item = TypeVar("Item")
Heads = tuple[int, ...]  # of each layer

SAMPLE_TEXTS = 32
SAMPLE_TOKENS = 64  # of each text; together they bound the time of a search


@dataclass(frozen=True)
class Mix:
    """One way to run the layers, as it was measured.

    Attributes:
        granularity: the heads of each layer, or the divisor that says the same.
        cost: multiply-adds a token, as a share of the full width's.
        cosines: for each dim, the mean cosine of a text's vector to its full-width vector.
    """

    granularity: Granularity
    cost: float
    cosines: Mapping[int, float]

    @property
    def quality(self) -> float:
        """Mean of the cosines."""
        return sum(self.cosines.values()) / len(self.cosines)


def multiply_adds(config: EncoderConfig, granularity: Granularity = 1) -> int:
    """Multiply-adds of the layers and the pooling for one token.

    Matrix products, the convolution and the state recurrence are counted; norms, activations
    and the heads, which run once a text, are not.
    """
    d_model, headdim, d_state = config.d_model, config.headdim, config.d_state
    total = 2 * len(config.dims) * d_model  # pooling: a logit and a weighted sum for each band
    for heads in config.heads(granularity):
        inner = heads * headdim
        total += d_model * (2 * inner + 2 * d_state + heads)  # in_proj: z, x, B, C, dt
        total += config.d_conv * (inner + 2 * d_state)
        total += inner * (3 * d_state + 2)  # decay, add and read the state; dt and D times x
        total += inner * d_model  # out_proj
        total += 3 * d_model * (config.d_mlp * heads // config.nheads)
    return total


def search_widths(
    encoder: Encoder, ids: Sequence[Ids], *, choices: Sequence[int] | None = None
) -> Iterator[Mix]:
    """Measure mixes of widths, each once, the most promising next.

    From the full width downwards, the layer is narrowed that loses least quality for the compute
    it saves; from the narrowest upwards, the one is widened that gains most. All that is
    measured on the way is given, the uniform granularities first, so stopping early is fine.

    Args:
        encoder: of any weights; the same texts give the same mixes on every machine, up to
            rounding.
        ids: framed token ids of the sample; see `sample_ids`.
        choices: heads that a layer may have; by default those of the trained granularities.

    Raises:
        QueryError: there are no texts, or no layer has so many heads.
    """
    if not len(ids) or (choices is not None and not len(choices)):
        raise QueryError("a search for widths needs a text, and a number of heads to choose from")
    config = encoder.config
    if choices is None:
        choices = [config.nheads // granularity for granularity in config.granularities]
    levels = sorted(set(choices))
    for level in levels:
        config.heads((level,) * config.n_layers)
    measure = _Measure(encoder, ids)
    uniform = [(level,) * config.n_layers for level in levels]
    yield from measure.new([*map(config.heads, config.granularities), *uniform])
    for here, step in ((uniform[-1], -1), (uniform[0], 1)):
        while reachable := list(_neighbours(here, levels, step)):
            yield from measure.new(reachable)
            here = max(reachable, key=partial(measure.gain, here, step))


def front(mixes: Iterable[Mix]) -> list[Mix]:
    """Those that no other mix beats at equal or lower cost, by rising cost and quality."""
    best: list[Mix] = []
    for mix in sorted(mixes, key=lambda mix: (mix.cost, -mix.quality)):
        if not best or mix.quality > best[-1].quality:
            best.append(mix)
    return best


def best_mix(mixes: Iterable[Mix], max_cost: float) -> Mix:
    """The mix of highest quality within a share of the full width's multiply-adds.

    Raises:
        QueryError: max_cost is no share, or all mixes cost more.
    """
    if not 0 < max_cost <= 1:
        raise QueryError(f"max_cost={max_cost} must be above 0 and at most 1")
    rising = front(mixes)
    within = [mix for mix in rising if mix.cost <= max_cost]
    if not within:
        least = f"; the least is {rising[0].cost:.1%}" if rising else ""
        raise QueryError(f"no measured mix costs at most {max_cost:.1%} of the full width{least}")
    return within[-1]


def sample_ids(encoder: Encoder, texts: Sequence[str]) -> list[Ids]:
    """Framed token ids of a sample of texts, each cut at SAMPLE_TOKENS."""
    context = min(SAMPLE_TOKENS, encoder.config.context)
    return encoder.tokenizer.encode_batch(spread(texts), context=context)


def spread(items: Sequence[Item]) -> list[Item]:
    """At most SAMPLE_TEXTS evenly spaced items, the first and the last among them."""
    count = min(len(items), SAMPLE_TEXTS)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


class _Measure:
    """Costs and cosines of mixes, each computed once."""

    def __init__(self, encoder: Encoder, ids: Sequence[Ids]) -> None:
        self._encoder, self._config, self._ids = encoder, encoder.config, ids
        self._full = self._vectors(encoder.config.heads(1))
        self.known: dict[Heads, Mix] = {}

    def new(self, mixes: Iterable[Heads]) -> Iterator[Mix]:
        """Measure those that are not known yet."""
        for heads in mixes:
            if heads not in self.known:
                vectors = self._vectors(heads)
                cosines = {
                    dim: float(np.einsum("nd,nd->n", vectors[dim], self._full[dim]).mean())
                    for dim in vectors
                }
                cost = multiply_adds(self._config, heads) / multiply_adds(self._config)
                self.known[heads] = Mix(self._config.canonical(heads), cost, cosines)
                yield self.known[heads]

    def gain(self, here: Heads, step: int, there: Heads) -> float:
        """Quality for compute: what a wider mix adds (step 1), or a narrower one keeps (-1)."""
        old, new = self.known[here], self.known[there]
        return step * (new.quality - old.quality) / (new.cost - old.cost)

    def _vectors(self, heads: Heads) -> dict[int, NDArray[np.float32]]:
        vectors = self._encoder.encode_ids(self._ids, granularity=heads)
        return {dim: self._encoder.truncate(vectors, dim) for dim in self._encoder.dims}


def _neighbours(heads: Heads, levels: Sequence[int], step: int) -> Iterator[Heads]:
    """Mixes with one layer a level narrower (-1) or wider (+1)."""
    for layer, level in enumerate(map(levels.index, heads)):
        if 0 <= level + step < len(levels):
            yield heads[:layer] + (levels[level + step],) + heads[layer + 1 :]
