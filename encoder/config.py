"""The shape of the MatMamba encoder, fixed by its weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

from adaptive_search.encoder.granularity import Granularity, granularity_name
from adaptive_search.errors import DimensionError, QueryError, WeightsError
from adaptive_search.json_text import parse_json

DIRECTIONS = ("causal", "alternating")
TRAINED_BANDS = 2  # that are never completed


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder; by default those that the shipped weights were trained in.

    The names are Mamba-2's (Dao and Gu 2024, arXiv:2405.21060) and MatMamba's
    (Shukla et al. 2024, arXiv:2410.06718).
    """

    vocab_size: int = 30522
    d_model: int = 384  # residual width, equal to the teacher's
    n_layers: int = 6
    expand: int = 2  # d_inner = expand * d_model
    d_state: int = 64  # N
    d_conv: int = 4
    headdim: int = 32  # P
    mlp_expand: int = 2
    context: int = 8192  # tokens; longer texts are cut, and counted as cut
    direction: str = "alternating"  # odd blocks read right to left; or "causal": none does
    norm_eps: float = 1e-5
    dims: tuple[int, ...] = (64, 128, 256, 512, 768, 1024, 1536)
    # Share of the squared length that each prefix carries; the last is 1.
    prefix_energy: tuple[float, ...] = (0.35, 0.50, 0.65, 0.80, 0.86, 0.92, 1.0)
    granularities: tuple[int, ...] = (1, 2, 4, 8)  # divisors of the inner width
    completed_bands: int = 0  # after the first two: what maps make of all bands as trained

    def __post_init__(self) -> None:
        """Refuse a shape that no weights can have."""
        sizes = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if isinstance(value, int)
        }
        completed = sizes.pop("completed_bands")
        bad = [f"{name}={value}" for name, value in sizes.items() if value < 1]
        if bad:
            raise WeightsError(f"encoder config: {', '.join(bad)} must be at least 1")
        if self.d_inner % self.headdim:
            raise WeightsError(
                f"encoder config: headdim={self.headdim} must divide d_inner={self.d_inner}"
            )
        if self.direction not in DIRECTIONS:
            raise WeightsError(
                f"encoder config: direction={self.direction!r} must be one of {DIRECTIONS}"
            )
        if self.context < 2:
            raise WeightsError(f"encoder config: context={self.context} must hold [CLS] and [SEP]")
        if not 0 < self.norm_eps < math.inf:
            raise WeightsError(f"encoder config: norm_eps={self.norm_eps} must be above 0")
        if not self.dims or list(self.dims) != sorted(set(self.dims)) or self.dims[0] < 1:
            raise WeightsError(f"encoder config: dims={self.dims} must rise")
        energy = self.prefix_energy
        rises = all(a < b for a, b in itertools.pairwise((0.0, *energy)))
        if len(energy) != len(self.dims) or not rises or not math.isclose(energy[-1], 1.0):
            raise WeightsError(
                f"encoder config: prefix_energy={energy} must rise to 1, one value for each of "
                f"the {len(self.dims)} dims"
            )
        if completed and not 0 <= completed <= len(self.dims) - TRAINED_BANDS:
            raise WeightsError(
                f"encoder config: completed_bands={completed} must be from 0 to what there is "
                f"after the first {TRAINED_BANDS} of {len(self.dims)} bands"
            )
        divides = [g >= 1 and not (self.nheads % g or self.d_mlp % g) for g in self.granularities]
        if not divides or not all(divides):
            raise WeightsError(
                f"encoder config: granularities={self.granularities} must divide the "
                f"{self.nheads} heads and the MLP width {self.d_mlp}"
            )

    @property
    def d_inner(self) -> int:
        """Inner width of a MatMamba2 block at full granularity."""
        return self.expand * self.d_model

    @property
    def nheads(self) -> int:
        """Heads of a MatMamba2 block at full granularity."""
        return self.d_inner // self.headdim

    @property
    def d_mlp(self) -> int:
        """Inner width of the swish-gated MLP at full granularity."""
        return self.mlp_expand * self.d_model

    @property
    def band_widths(self) -> tuple[int, ...]:
        """Width of each band; band i holds the coordinates from dims[i-1] to dims[i]."""
        return tuple(b - a for a, b in zip((0, *self.dims), self.dims, strict=False))

    @property
    def band_weights(self) -> tuple[float, ...]:
        """Fixed length of each band; the squares sum to 1."""
        energy = self.prefix_energy
        return tuple(math.sqrt(b - a) for a, b in zip((0.0, *energy), energy, strict=False))

    @property
    def completed(self) -> range:
        """Numbers of the bands that are completed."""
        return range(TRAINED_BANDS, TRAINED_BANDS + self.completed_bands)

    def pooled_bands(self, bands: int) -> int:
        """Bands whose heads are needed for the first `bands`."""
        return len(self.dims) if self.completed_bands and bands > TRAINED_BANDS else bands

    def bands_of(self, dim: int) -> int:
        """Number of bands in the prefix of `dim` coordinates.

        Raises:
            DimensionError: dim is not a nesting dimension.
        """
        if dim not in self.dims:
            raise DimensionError(dim, self.dims)
        return self.dims.index(dim) + 1

    def heads(self, granularity: Granularity) -> tuple[int, ...]:
        """Active heads of each layer.

        Args:
            granularity: a trained divisor of the inner width, or the heads of each layer. The
                MLP of a layer is as wide, in proportion, as its heads.

        Raises:
            QueryError: no sub-model of these weights has this granularity.
        """
        name = granularity_name(granularity)
        if not isinstance(granularity, tuple):
            if granularity not in self.granularities:
                allowed = ", ".join(map(granularity_name, self.granularities))
                raise QueryError(
                    f"granularity {name} is not a trained width; choose one of {allowed}, or the "
                    f"heads of each of the {self.n_layers} layers"
                )
            return (self.nheads // granularity,) * self.n_layers
        choices = self.head_choices
        fits = all(type(heads) is int and heads in choices for heads in granularity)
        if len(granularity) != self.n_layers or not fits:
            multiple = f" that are a multiple of {choices.step}" if choices.step > 1 else ""
            raise QueryError(
                f"granularity {name[:80]} must be {self.n_layers} numbers, one a layer, from "
                f"{choices[0]} to {self.nheads} heads{multiple}"
            )
        return granularity

    def canonical(self, granularity: Granularity) -> Granularity:
        """The divisor that says the same as heads that are equal in all layers, if one does.

        Raises:
            QueryError: no sub-model of these weights has this granularity.
        """
        heads = self.heads(granularity)
        same = (divisor for divisor in self.granularities if self.heads(divisor) == heads)
        return next(same, heads)

    @property
    def head_choices(self) -> range:
        """Numbers of heads that a layer can run with: those with an MLP of whole units."""
        step = self.nheads // math.gcd(self.d_mlp, self.nheads)
        return range(step, self.nheads + 1, step)

    def to_dict(self) -> dict[str, object]:
        """This config as plain numbers, strings and tuples."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """This config as JSON, one field a line."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EncoderConfig:
        """Read a config, refusing unknown fields and wrong types.

        Raises:
            WeightsError: the text is not a valid config.
        """
        try:
            raw = parse_json(text)
        except ValueError as error:
            raise WeightsError(f"encoder config is not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise WeightsError("encoder config must be a JSON object")
        fields = {f.name: f.default for f in dataclasses.fields(cls)}
        unknown = sorted(set(raw) - set(fields))
        if unknown:
            raise WeightsError(f"encoder config has unknown fields: {', '.join(unknown)}")
        values: dict[str, Any] = {
            name: _coerce(name, value, fields[name]) for name, value in raw.items()
        }
        return cls(**values)


def _coerce(name: str, value: object, default: object) -> object:
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_coerce(name, item, default[0]) for item in value)
    if isinstance(default, float) and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not type(default):
        raise WeightsError(f"encoder config: {name} must be {type(default).__name__}")
    return value
