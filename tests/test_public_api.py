"""What `import adaptive_search` offers, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import adaptive_search

NEEDS_TORCH = {"MatMamba2"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import adaptive_search", "from adaptive_search import QueryError, __version__"],
)
def test_import_is_light(statement: str) -> None:
    heavy = {"numpy", "torch", "pandas", "pyarrow", "faiss", "tokenizers", "matplotlib"}
    assert not modules_after(statement) & heavy


def test_all_names_are_visible() -> None:
    assert sorted(adaptive_search.__all__) == dir(adaptive_search)
    assert sorted(adaptive_search.__all__) == list(adaptive_search.__all__)


@pytest.mark.parametrize("name", adaptive_search.__all__)
def test_every_name_resolves(name: str) -> None:
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    assert getattr(adaptive_search, name) is not None


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Index'"):
        adaptive_search.Index  # noqa: B018
