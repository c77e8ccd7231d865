"""What this machine offers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

PACKAGES = ("numpy", "pyarrow", "tokenizers", "torch", "mamba-ssm", "causal-conv1d")


def examine() -> dict[str, Any]:
    """Instruction level, threads, GPU, versions and weights, as plain values."""
    from adaptive_search import __version__
    from adaptive_search.encoder.encoder import Encoder, available_threads
    from adaptive_search.kernels import native

    encoder = Encoder.load()
    return {
        "adaptive-search": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "level": native.level(),
        "levels": list(native.levels()),
        "threads": available_threads(),
        "cpus": os.cpu_count(),
        "gpu": _gpu(),
        "weights": str(encoder.directory),
        "fingerprint": encoder.fingerprint,
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str | None:
    """Name of the first CUDA device, if torch is installed and sees one."""
    if _version("torch") is None:
        return None
    try:
        import torch
    except (ImportError, OSError) as error:
        print(f"torch is installed but does not load: {error}", file=sys.stderr)  # noqa: T201
        return None
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
