"""How wide the encoder runs: one divisor for all layers, or heads layer by layer.

A granularity is spelled the same in commands, in JSON and in tables: `1`, `1/2`, `1/4`
or `1/8` for a divisor of the inner width, `24,12,12,6,6,3` for the active heads of each layer.
"""

from __future__ import annotations

import re

from adaptive_search.errors import QueryError

# A divisor of the inner width of every layer, or the active heads of each layer ("mix'n'match").
Granularity = int | tuple[int, ...]

_DIVISOR = re.compile(r"1(?:/([1-9][0-9]{0,3}))?")
_HEADS = re.compile(r"(?:[1-9][0-9]{0,5},)+(?:[1-9][0-9]{0,5})?")


def granularity_name(granularity: Granularity) -> str:
    """How a granularity is spelled; one layer's heads end in a comma, as in Python."""
    if isinstance(granularity, tuple):
        return ",".join(map(str, granularity)) + "," * (len(granularity) == 1)
    return "1" if granularity == 1 else f"1/{granularity}"


def parse_granularity(text: str) -> Granularity:
    """The granularity that a text spells.

    Raises:
        QueryError: it spells none.
    """
    spelled = text.replace(" ", "")
    if match := _DIVISOR.fullmatch(spelled):
        return int(match[1] or 1)
    if _HEADS.fullmatch(spelled):
        return tuple(int(heads) for heads in spelled.split(",") if heads)
    raise QueryError(
        f"granularity {text[:80]!r} must be a divisor such as 1, 1/2, 1/4 or 1/8, or the heads "
        "of each layer such as 24,12,12,6,6,3"
    )
