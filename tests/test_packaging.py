"""The wheel holds the whole program and nothing else."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import adaptive_search

ROOT = Path(__file__).parents[1]


def expected_files() -> set[str]:
    """Where every file of the program lands in the wheel."""
    folders = {name: f"adaptive_search/{name}" for name in ("encoder", "kernels", "indexes")}
    folders["adaptive_search"] = "adaptive_search"
    expected = {"adaptive_search/cli.py"} if (ROOT / "cli.py").exists() else set()
    for folder, target in folders.items():
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT / folder)
            if path.is_file() and not {"csrc", "__pycache__"} & set(relative.parts):
                expected.add(f"{target}/{relative.as_posix()}")
    return expected


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built as `pip install .` builds it."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check"]
    command += [f"--config-settings=build-dir={target / 'build'}", "--wheel-dir", str(target)]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = target.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_wheel_holds_every_file(names: set[str]) -> None:
    """Catch: a module, the weights, the types or py.typed left behind."""
    assert expected_files() <= names
    assert {"adaptive_search/py.typed", "adaptive_search/kernels/_native.pyi"} <= names
    assert any(name.startswith("adaptive_search/kernels/_native.") for name in names)


@pytest.mark.slow
def test_wheel_holds_nothing_else(names: set[str]) -> None:
    """Catch: C++ sources, caches, tests, or a top-level `kernels` in site-packages."""
    installed = {name for name in names if ".dist-info/" not in name}
    extension = {name for name in installed if name.startswith("adaptive_search/kernels/_native.")}
    assert installed - extension <= expected_files()


def test_version_is_that_of_the_metadata() -> None:
    assert adaptive_search.__version__ == importlib.metadata.version("adaptive-search")


def test_console_script() -> None:
    (script,) = importlib.metadata.entry_points(name="adaptive-search")
    assert script.value == "adaptive_search.cli:main"
