"""Which part may import which: cli -> adaptive_search -> encoder, indexes -> kernels -> base."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("encoder", "indexes", "kernels")
DOOR = ROOT / "adaptive_search" / "__init__.py"  # exports from every part
BASE = ("errors", "json_text")  # modules of adaptive_search/ that every part may import
MAY_IMPORT = {
    "cli": {"cli", "adaptive_search", *BASE},
    "adaptive_search": {"adaptive_search", "encoder", "indexes", "kernels", *BASE},
    "encoder": {"encoder", "kernels", *BASE},
    "indexes": {"indexes", "kernels", *BASE},
    "kernels": {"kernels", *BASE},
    **dict.fromkeys(BASE, set[str]()),
}


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "adaptive_search" and relative.stem in BASE:
        return relative.stem
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, and of the names it takes from packages."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def target_of(module: str) -> str | None:
    """The part that a module of ours belongs to."""
    first, *rest = module.split(".")
    if first != "adaptive_search":
        return None
    if rest and rest[0] in (*FOLDERS, *BASE, "cli"):
        return rest[0]
    return "adaptive_search"


def sources() -> list[Path]:
    folders = [ROOT / name for name in ("adaptive_search", *FOLDERS)]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [*files, *ROOT.glob("cli.py")]


@pytest.mark.parametrize(
    "path", sorted(set(sources()) - {DOOR}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_down(path: Path) -> None:
    allowed = MAY_IMPORT[part_of(path)]
    for module in imports(path):
        target = target_of(module)
        assert target is None or target in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "path", [*sources(), *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.name
)
def test_the_folders_are_not_imported_by_their_short_names(path: Path) -> None:
    """Catch: Hugging Face's `kernels` and ours answering to one name."""
    for module in imports(path):
        assert module.split(".")[0] not in (*FOLDERS, "cli"), f"{path} imports {module}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_folders_are_no_packages(folder: str) -> None:
    """Catch: a checkout on sys.path shadowing Hugging Face's `kernels` with ours."""
    assert not list((ROOT / folder).rglob("__init__.py"))
