"""Writes the parts of the documentation that the program itself knows, or checks them.

    python .ci/docs.py            after a change of weights, commands or measurements
    python .ci/docs.py --check

- README.md, docs/vectors.md: the output below each Python example, from running it.
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
from collections.abc import Iterator, Sequence
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
NDCG, RECALL = "ndcg@10", "recall@100"
Record = dict[str, Any]
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
    tables = {"dims": dims_table, "sets": sets_table, "widths": widths_table, "sts": sts_table}
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else None

    def renew(match: re.Match[str]) -> str:
        table = tables[match[2]](measured) if measured else None
        return match[1] + (table or NOT_MEASURED) + match[4]

    return TABLE.sub(renew, text)


def dims_table(measured: Record) -> str:
    """Bytes and mean quality of each dimension and funnel at full width, beside the peers."""
    systems = _by_search(_full_width(measured))
    best = _mean(systems[str(_highest(measured))], NDCG)
    lines = [
        "| search | bytes a vector | nDCG@10 | recall@100 | share of nDCG@10 kept |",
        "|---|---:|---:|---:|---:|",
    ]
    for search, found in systems.items():
        ndcg, recall = _mean(found, NDCG), _mean(found, RECALL)
        dim, funnel = found[0]["dim"], found[0]["shortlist"]
        size = f"{2 * dim:,}" if dim and not funnel else ""
        kept = f"{ndcg / best:.1%}" if dim else ""
        name = _arrow(search) if dim else f"*{search}*"
        lines.append(f"| {name} | {size} | {ndcg:.4f} | {recall:.4f} | {kept} |")
    return _joined(lines)


def sets_table(measured: Record) -> str:
    """nDCG@10 on each set: every search at full width, the peers, and one vector a document."""
    sets = [row["set"] for row in measured["sets"]]
    lines = [f"| nDCG@10 | {' | '.join([*sets, 'mean'])} |", "|---|" + "---:|" * (len(sets) + 1)]
    for search, found in _by_search(_full_width(measured)).items():
        lines.append(_cells(_arrow(search), found, NDCG))
    for search, found in _by_search(_full_width(measured, ["documents"])).items():
        lines.append(_cells(f"{_arrow(search)}, one vector a document", found, NDCG))
    return _joined(lines)


def widths_table(measured: Record) -> str | None:
    """Mean nDCG@10 of exact search for each pair of widths, by dimension."""
    rows = [r for r in measured["retrieval"] if r["vectors"] == "chunks" and not r["shortlist"]]
    pairs = list(dict.fromkeys((row["document"], row["query"]) for row in rows))
    if len(pairs) < 2:
        return None
    dims = list(dict.fromkeys(row["dim"] for row in rows))
    full = _mean([r for r in rows if _is(r, *pairs[0], dims[-1])], NDCG)
    kept = f"share of full width kept at {dims[-1]:,}"
    lines = [
        f"| documents | queries | {' | '.join(map(str, dims))} | {kept} |",
        "|---|---|" + "---:|" * (len(dims) + 1),
    ]
    for document, query in pairs:
        means = [_mean([r for r in rows if _is(r, document, query, d)], NDCG) for d in dims]
        cells = [document, query, *(f"{mean:.4f}" for mean in means), f"{means[-1] / full:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return _joined(lines)


def sts_table(measured: Record) -> str | None:
    """Spearman correlation on each file of pairs: each dimension at each width, and the peers."""
    if not measured["sts"]:
        return None
    sets = list(dict.fromkeys(row["set"] for row in measured["sts"]))
    lines = [
        f"| width | dims | {' | '.join(sets)} | mean |",
        "|---|---|" + "---:|" * len(sets + [""]),
    ]
    systems: dict[str, list[Record]] = {}
    for row in measured["sts"]:
        systems.setdefault(f"{row['width'] or ''} | {row['search']}", []).append(row)
    lines += [_cells(name, found, "spearman") for name, found in systems.items()]
    return _joined(lines)


def _full_width(measured: Record, vectors: Sequence[str | None] = ("chunks", None)) -> list[Record]:
    """Rows of chunks at full width and of peers, which have neither; or of other vectors."""
    rows = [row for row in measured["retrieval"] if row["vectors"] in vectors]
    return [row for row in rows if row["document"] == row["query"] and row["query"] in ("1", None)]


def _by_search(rows: list[Record]) -> dict[str, list[Record]]:
    systems: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: row["dim"] is None):
        systems.setdefault(row["search"], []).append(row)
    return systems


def _is(row: Record, document: str, query: str, dim: int) -> bool:
    return (row["document"], row["query"], row["dim"]) == (document, query, dim)


def _highest(measured: Record) -> int:
    return max(row["dim"] or 0 for row in measured["retrieval"])


def _cells(name: str, rows: list[Record], field: str) -> str:
    cells = [name, *(f"{row[field]:.4f}" for row in rows), f"{_mean(rows, field):.4f}"]
    return f"| {' | '.join(cells)} |"


def _arrow(search: str) -> str:
    return search.replace("->", "→")


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _mean(rows: list[Record], field: str) -> float:
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
    vectors = ROOT / "docs" / "vectors.md"
    return {
        readme: with_tables(with_outputs(readme.read_text(encoding="utf-8"))),
        card: with_tables(card.read_text(encoding="utf-8")),
        vectors: with_outputs(vectors.read_text(encoding="utf-8")),
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
