"""The documentation says what the program does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from adaptive_search.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:adaptive-search|python cli\.py) (.*)$", re.MULTILINE)
BASH = re.compile(r"```bash\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of ours in a page's shell blocks."""
    for block in BASH.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        for line in COMMAND.findall(block):
            yield shlex.split(line, comments=True)


def all_commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{path}{name} ")


def test_generated_parts_are_current() -> None:
    """Catch: an example whose output, a table or a help text that is no longer true."""
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    major_minor = ".".join(version("click").split(".")[:2])
    if f"click {major_minor}," not in reference:
        pytest.skip(f"docs/cli.md was written with another click than {major_minor}")
    script = [sys.executable, str(ROOT / ".ci" / "docs.py"), "--check"]
    run = subprocess.run(script, capture_output=True, text=True)
    assert not run.returncode, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_pages_exist(page: Path) -> None:
    for arguments in commands(page):
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        command.make_parser(click.Context(command)).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(("name", "command"), list(all_commands(cli)))
def test_every_command_has_help(name: str, command: click.Command) -> None:
    assert command.help, name


def test_every_dependency_is_explained() -> None:
    """Catch: a package that nobody can say the purpose of."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    lists = [
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        *extras.values(),
        *project["dependency-groups"].values(),
    ]
    names = {re.split(r"[\[<>=~!; ]", item)[0].lower() for items in lists for item in items}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    for name in names - {"adaptive-search"}:
        assert f"**{name}**" in text, f"docs/dependencies.md does not say why {name} is there"


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
