"""Writes the parts of the documentation that the program itself knows, or checks them.

    python .ci/docs.py            after a change of weights, commands or measurements
    python .ci/docs.py --check

- README.md: the output below each Python example, from running it.
- README.md and docs/model-card.md: the tables of figures, from docs/quality.json.
- docs/cli.md: the help of every command.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from adaptive_search.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "quality.json"
EXAMPLE = re.compile(r"(```python\n(.*?)```\n\n```text\n)(.*?)(```)", re.DOTALL)
TABLE = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 0.011  # one unit of the two digits that examples print
WIDTH = 92  # columns of help texts
NOT_MEASURED = "Not measured yet.\n"


# -- examples --------------------------------------------------------------------


def with_outputs(text: str) -> str:
    """A document with the output below each Python example renewed."""
    return EXAMPLE.sub(lambda match: match[1] + output_of(match[2]) + match[4], text)


def output_of(code: str) -> str:
    """What a Python program prints, run in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-c", code]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"an example fails:\n{code}\n{run.stderr}")
    return run.stdout


# -- figures ---------------------------------------------------------------------


def with_tables(text: str) -> str:
    """A document with its tables of figures renewed."""
    tables = {"dims": dims_table, "sets": sets_table}
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else None

    def renew(match: re.Match[str]) -> str:
        table = tables[match[2]](measured["rows"]) if measured else NOT_MEASURED
        return match[1] + table + match[4]

    return TABLE.sub(renew, text)


def dims_table(rows: list[dict[str, Any]]) -> str:
    """Bytes and mean quality of each dimension and funnel, beside the baselines."""
    systems = _by_system(rows)
    full = max((r["dim"] or 0 for r in rows), default=0)
    best = _mean(systems[str(full)], "ndcg_at_10")
    lines = [
        "| search | bytes a vector | nDCG@10 | recall@100 | share of nDCG@10 kept |",
        "|---|---:|---:|---:|---:|",
    ]
    for system, found in systems.items():
        if found[0]["granularity"] not in (None, 1) or found[0]["whole"]:
            continue
        ndcg, recall = _mean(found, "ndcg_at_10"), _mean(found, "recall_at_100")
        dim, funnel = found[0]["dim"], found[0]["shortlist"]
        size = f"{2 * dim:,}" if dim and not funnel else ""
        kept = f"{ndcg / best:.1%}" if dim else ""
        name = system.replace("->", "→") if dim else f"*{system}*"
        lines.append(f"| {name} | {size} | {ndcg:.4f} | {recall:.4f} | {kept} |")
    return "\n".join(lines) + "\n"


def sets_table(rows: list[dict[str, Any]]) -> str:
    """nDCG@10 of each system on each set."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    lines = [f"| nDCG@10 | {' | '.join([*sets, 'mean'])} |", "|---|" + "---:|" * (len(sets) + 1)]
    for system, found in _by_system(rows).items():
        cells = [f"{row['ndcg_at_10']:.4f}" for row in found]
        cells.append(f"{_mean(found, 'ndcg_at_10'):.4f}")
        lines.append(f"| {system.replace('->', '→')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _by_system(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    systems: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        systems.setdefault(row["system"], []).append(row)
    return systems


def _mean(rows: list[dict[str, Any]], field: str) -> float:
    return statistics.fmean(row[field] for row in rows)


# -- help ------------------------------------------------------------------------


def cli_reference() -> str:
    """The help of every command, in Markdown."""
    major_minor = ".".join(version("click").split(".")[:2])
    parts = [
        "# Commands\n",
        f"The output of `--help` with click {major_minor}, written by `.ci/docs.py`.\n",
    ]
    for context in _contexts(cli, None):
        text = context.command.get_help(context)
        parts.append(f"## {context.command_path}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _contexts(command: click.Command, parent: click.Context | None) -> Iterator[click.Context]:
    name = command.name if parent else "adaptive-search"
    context = click.Context(command, parent, name, terminal_width=WIDTH, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from _contexts(child, context)


# -- the command -----------------------------------------------------------------


def renewed() -> dict[Path, str]:
    """Every file with a generated part, as it should be."""
    readme, card = ROOT / "README.md", ROOT / "docs" / "model-card.md"
    return {
        readme: with_tables(with_outputs(readme.read_text(encoding="utf-8"))),
        card: with_tables(card.read_text(encoding="utf-8")),
        ROOT / "docs" / "cli.md": cli_reference(),
    }


def agree(a: str, b: str) -> bool:
    """Whether two texts are equal, but for the rounding of numbers with a fraction."""
    if NUMBER.sub("#", a) != NUMBER.sub("#", b):
        return False
    numbers = zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    return all(abs(float(x) - float(y)) <= TOLERANCE for x, y in numbers)


def main() -> None:
    """Write the files, or name those that are not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    check = parser.parse_args().check
    stale = []
    for path, text in renewed().items():
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not agree(old, text):
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        raise SystemExit(f"not current: {', '.join(stale)}; run python .ci/docs.py")


if __name__ == "__main__":
    main()
