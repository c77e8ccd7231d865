"""Every error that a caller can act on.

AdaptiveSearchError
    CorpusError           the corpus cannot be read, or holds nothing to index
    StoreError            an index directory cannot be used as asked
        StoreFormatError      a file breaks an invariant of the format
        StoreVersionError     written by a newer format
        StoreLockedError      another process is writing
    ModelMismatchError    the index was made by other weights
    WeightsError          a weights file or directory cannot be used
    TrainingError         training cannot start or go on
    QueryError            (also ValueError) a query or search argument makes no sense
        DimensionError        a dimension that is not one of the nesting dimensions
    BackendUnavailable    (also RuntimeError) a forced level or device is not on this machine
    MissingExtra          (also ImportError) an optional dependency is not installed

Each message says what was given, where, what was expected, and what to do.
This module imports nothing, so every part of the project may import it.
"""

from __future__ import annotations

from collections.abc import Iterable


class AdaptiveSearchError(Exception):
    """Base of every error raised on purpose by this project."""


class CorpusError(AdaptiveSearchError):
    """The corpus cannot be read, or holds nothing to index."""


class StoreError(AdaptiveSearchError):
    """An index directory cannot be used as asked."""


class StoreFormatError(StoreError):
    """A file of an index breaks an invariant of the format."""


class StoreVersionError(StoreError):
    """An index was written by a newer format than this program reads."""


class StoreLockedError(StoreError):
    """Another process holds the writer lock of an index."""


class ModelMismatchError(AdaptiveSearchError):
    """An index was made by other weights than the ones loaded."""


class WeightsError(AdaptiveSearchError):
    """A weights file or directory cannot be used."""


class TrainingError(AdaptiveSearchError):
    """Training cannot start or go on."""


class QueryError(AdaptiveSearchError, ValueError):
    """A query or a search argument makes no sense."""


class DimensionError(QueryError):
    """A dimension is not one of the nesting dimensions."""

    def __init__(self, dim: int, dims: Iterable[int]) -> None:
        """Name the dimension that was asked for and those that exist."""
        allowed = ", ".join(str(d) for d in dims)
        super().__init__(f"dim={dim} is not a nesting dimension; choose one of {allowed}")


class BackendUnavailable(AdaptiveSearchError, RuntimeError):
    """A forced instruction level or device is not on this machine."""


class MissingExtra(AdaptiveSearchError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the package that is missing and the extra that brings it."""
        super().__init__(f"{package} is not installed; run: pip install 'adaptive-search[{extra}]'")
