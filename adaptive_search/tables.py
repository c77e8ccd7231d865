"""Small tables as terminal text, Markdown, CSV, and plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Cell = Callable[[Any], str]
Cells = Mapping[str, Cell]

_UNITS = ("B", "KB", "MB", "GB", "TB")


def format_bytes(size: float) -> str:
    """A size as people write it: 512 B, 96.0 KB, 1.2 GB (1 KB = 1,024 B)."""
    unit = 0
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:,.0f} B"


def to_text(table: pd.DataFrame, cells: Cells) -> str:
    """A table for a terminal: columns aligned, a rule under the header, no trailing blanks."""
    rows = cell_rows(table, cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [_is_text(table[name]) for name in table.columns]
    lines = [_aligned(row, widths, left) for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def to_markdown(table: pd.DataFrame, cells: Cells) -> str:
    """A table in GitHub's Markdown; numbers are aligned to the right."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in cell_rows(table, cells)]
    rule = ["---" if _is_text(table[name]) else "---:" for name in table.columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def to_csv(tables: Mapping[str, pd.DataFrame]) -> str:
    """Tables under each other as one CSV; several get a first column that names them."""
    import pandas as pd

    if len(tables) == 1:
        frame = next(iter(tables.values()))
    else:
        named = [table.assign(table=name) for name, table in tables.items() if len(table)]
        frame = pd.concat(named, ignore_index=True) if named else pd.DataFrame({"table": []})
        frame = frame.convert_dtypes()  # whole numbers stay whole beside what is missing
        frame.insert(0, "table", frame.pop("table"))
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def to_records(table: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as dicts of plain values for JSON; what is no number becomes None."""
    return [
        {name: _plain(value) for name, value in zip(columns, row, strict=True)}
        for row in table[list(columns)].itertuples(index=False, name=None)
    ]


def cell_rows(table: pd.DataFrame, cells: Cells) -> list[list[str]]:
    """The header and the rows of a table, as text."""
    header = [str(name) for name in table.columns]
    body = [
        [_cell(value, cells.get(name, str)) for name, value in zip(header, row, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    return [header, *body]


def _cell(value: Any, cell: Cell) -> str:  # noqa: ANN401
    return "-" if _plain(value) is None else cell(value)


def _plain(value: Any) -> Any:  # noqa: ANN401
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_text(column: pd.Series[Any]) -> bool:
    return not len(column) or isinstance(column.iloc[0], str)


def _aligned(row: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    cells = [
        cell.ljust(width) if text else cell.rjust(width)
        for cell, width, text in zip(row, widths, left, strict=True)
    ]
    return "  ".join(cells).rstrip()
