"""Vector search over nested MatMamba embeddings.

Every name is imported when first used, so that `import adaptive_search` and
its light sub-modules load neither numpy nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_search.encoder.encoder import Encoder
    from adaptive_search.encoder.matmamba2 import MatMamba2
    from adaptive_search.errors import (
        AdaptiveSearchError,
        BackendUnavailable,
        CorpusError,
        DimensionError,
        MissingExtra,
        ModelMismatchError,
        QueryError,
        StoreError,
        StoreFormatError,
        StoreLockedError,
        StoreVersionError,
        TrainingError,
        WeightsError,
    )
    from adaptive_search.hits import Hit, Hits
    from adaptive_search.index import AdaptiveIndex

__version__ = "0.1.0"

__all__ = [
    "AdaptiveIndex",
    "AdaptiveSearchError",
    "BackendUnavailable",
    "CorpusError",
    "DimensionError",
    "Encoder",
    "Hit",
    "Hits",
    "MatMamba2",
    "MissingExtra",
    "ModelMismatchError",
    "QueryError",
    "StoreError",
    "StoreFormatError",
    "StoreLockedError",
    "StoreVersionError",
    "TrainingError",
    "WeightsError",
    "__version__",
]

_MODULES = {
    "AdaptiveIndex": "adaptive_search.index",
    "Encoder": "adaptive_search.encoder.encoder",
    "Hit": "adaptive_search.hits",
    "Hits": "adaptive_search.hits",
    "MatMamba2": "adaptive_search.encoder.matmamba2",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "adaptive_search.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
