"""The reports as one HTML page with plots that opens anywhere, offline, in light and dark.

Plots are SVG, drawn by matplotlib in placeholder colours; the page's style sheet gives each
placeholder its colour for a light or a dark background.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from adaptive_search import tables
from adaptive_search.errors import MissingExtra
from adaptive_search.reports import CELLS, NDCG, RECALL, QualityReport, StorageReport
from adaptive_search.set_report import CHUNKS, TITLES, SetReport, to_show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Placeholder -> name of the colour in the style sheet. Colours nobody would choose.
_INK, _MUTED, _GRID = "#010203", "#040506", "#070809"
_FIRST, _SECOND, _THIRD = "#0a0b0c", "#0d0e0f", "#101112"
_NAMES = {
    _INK: "ink",
    _MUTED: "muted",
    _GRID: "grid",
    _FIRST: "first",
    _SECOND: "second",
    _THIRD: "third",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "adaptive-search",  # the same report gives the same bytes
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
}

_MEASURES = {RECALL: "recall@10", NDCG: "nDCG@10"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2130; --muted: #5b6474; --grid: #dde1e8;
  --first: #2457c5; --second: #b4540a; --third: #0c7a5e;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --page: #12151b; --card: #1a1e27; --ink: #e8ebf1; --muted: #a3abb9; --grid: #333a47;
    --first: #7aa5ff; --second: #f0a35e; --third: #4fcfa7;
  }}
}}
body {{
  margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 78rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
}}
h1 {{ margin: 0; font-size: 1.7rem; }}
h2 {{ margin: 0; font-size: 1.15rem; }}
p {{ margin: .25rem 0 1rem; color: var(--muted); max-width: 48rem; }}
main {{
  display: grid; gap: 1.25rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
}}
section {{ background: var(--card); border: 1px solid var(--grid); border-radius: .6rem;
  padding: 1.1rem 1.25rem; min-width: 0; }}
svg {{ display: block; width: 100%; height: auto; }}
details {{ margin-top: .75rem; overflow-x: auto; }}
summary {{ cursor: pointer; color: var(--muted); }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }}
th, td {{ padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); }}
th {{ color: var(--muted); font-weight: 600; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<main>
{sections}
</main>
</body>
</html>
"""


def report_page(
    storage: StorageReport, quality: QualityReport | None = None, *, title: str = "Index report"
) -> str:
    """Write the reports as one self-contained HTML page.

    Args:
        storage: the storage report.
        quality: the quality report; without it the page shows storage only.
        title: heading of the page.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    sections = [
        _section(
            "Storage by dimension",
            "Bytes that one vector takes when the index is cut at a dimension, and their share of "
            "the full vector. Each coordinate is stored once.",
            _plot(lambda axes: _draw_storage(axes, storage.rows)),
            storage.rows,
        )
    ]
    if quality is not None:
        sections += _quality_sections(quality)
    return _PAGE.format(
        title=html.escape(title),
        summary=html.escape(_summary(storage, quality)),
        sections="\n".join(sections),
    )


def sets_page(report: SetReport, *, title: str = "Quality on evaluation sets") -> str:
    """Write a report on evaluation sets as one self-contained HTML page.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    sections = []
    for measure, table in report.by_measure().items():
        heading = TITLES[measure]
        text = (
            f"{heading} by dimension, exact search, mean over the sets. In the figures, kept is "
            "the share of the full vector's mean, and of ... that of a peer's."
        )
        plot = _plot(partial(_draw_widths, table=table, label=heading))
        sections.append(_section(heading, text, plot, *to_show(table)))
    return _PAGE.format(
        title=html.escape(title),
        summary=html.escape(f"{report.summary()}."),
        sections="\n".join(sections),
    )


def _quality_sections(quality: QualityReport) -> list[str]:
    found = "relevant documents" if quality.judged else "the ten best chunks of full exact search"
    return [
        _section(
            "Quality by dimension",
            f"Exact search at each dimension. Recall@10: share of {found} among the first ten.",
            _plot(lambda axes: _draw_quality(axes, quality.rows, quality.measures)),
            quality.rows,
        ),
        _section(
            "Quality, latency and storage",
            "Median time of one search (encoding the query not included). Circles scan everything "
            "at one dimension; diamonds shortlist first, by the K best heads. The area of a mark "
            "grows with the bytes of a vector it needs.",
            _plot(lambda axes: _draw_front(axes, quality)),
            quality.funnels,
        ),
        _section(
            "Granularity of documents and queries",
            f"{_MEASURES[quality.measures[0]]} when documents and queries are encoded by narrower "
            "sub-models (1/8 is the cheapest to encode).",
            _plot(
                lambda axes: _draw_granularities(axes, quality.granularities, quality.measures[0]),
                height=1 + 0.8 * quality.granularities["document"].nunique(),
            ),
            quality.granularities,
        ),
    ]


def _draw_storage(axes: Axes, rows: pd.DataFrame) -> None:
    places = range(len(rows))
    axes.bar(places, rows["bytes_per_vector"], width=0.66, color=_FIRST)
    for place, size, share in zip(
        places, rows["bytes_per_vector"], rows["share_of_full"], strict=True
    ):
        axes.annotate(
            f"{size:,.0f} B\n{share:.0%}",
            (place, size),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
        )
    axes.set_xticks(places, [str(dim) for dim in rows["dim"]])
    axes.set_xlabel("dimensions")
    axes.set_ylabel("bytes per vector")
    axes.margins(y=0.18)
    axes.grid(visible=False, axis="x")


def _draw_quality(axes: Axes, rows: pd.DataFrame, measures: Sequence[str]) -> None:
    places = list(range(len(rows)))
    highest = max(measures, key=lambda measure: rows[measure].mean())
    for measure, color in zip(measures, (_FIRST, _SECOND), strict=False):
        values = rows[measure].tolist()
        axes.plot(places, values, color=color, marker="o", markersize=6, linewidth=2)
        # Quality rises with the dimension, so there is room above to the left, below to the right.
        offset, valign = ((-8, 6), "bottom") if measure == highest else ((10, -7), "top")
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.3f}",
                (place, value),
                xytext=offset,
                textcoords="offset points",
                ha="center",
                va=valign,
                fontsize=10,
            )
        axes.annotate(
            _MEASURES[measure],
            (places[-1], values[-1]),
            xytext=(14, 4),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold",
        )
    axes.margins(y=0.22)
    _end_ticks_at_one(axes)
    axes.set_xticks(places, [str(dim) for dim in rows["dim"]])
    axes.set_xlim(-0.5, len(places) + 0.3)
    axes.set_xlabel("dimensions")
    axes.set_ylabel("quality (1 is best)")
    axes.grid(visible=False, axis="x")


def _draw_widths(axes: Axes, table: pd.DataFrame, label: str) -> None:
    """Means by dimension, a line for each width that tells most, and one for each peer."""
    exact = table[table["search"] == table["dim"].astype(str)]
    if "vectors" in table:
        exact = exact[exact["vectors"] == CHUNKS]
    dims = sorted(set(exact["dim"]))
    for (name, line), color in zip(_lines(exact), (_FIRST, _SECOND, _THIRD), strict=False):
        places = [dims.index(dim) for dim in line["dim"]]
        axes.plot(places, line["mean"], color=color, marker="o", linewidth=2, label=name)
    for _, peer in table[table["dim"].isna()].iterrows():
        axes.axhline(peer["mean"], color=_MUTED, linewidth=1.5, linestyle="--")
        axes.annotate(
            peer["search"],
            (0, peer["mean"]),
            xytext=(0, 3),
            textcoords="offset points",
            color=_MUTED,
        )
    axes.legend(loc="lower right", fontsize=10)
    axes.margins(y=0.2)
    axes.set_xticks(range(len(dims)), [str(dim) for dim in dims])
    axes.set_xlabel("dimensions")
    axes.set_ylabel(label)
    axes.grid(visible=False, axis="x")


def _lines(exact: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The widest line, the one of the widest documents and narrowest queries, and the narrowest."""
    if "width" in exact:
        lines = [(f"width {width}", line) for width, line in exact.groupby("width", sort=False)]
        return [lines[0], *lines[1:][-1:]]
    groups = dict(list(exact.groupby(["document", "query"], sort=False)))
    widest = next(iter(groups))[0]
    mixed = [key for key in groups if key[0] == widest][-1]
    chosen = dict.fromkeys([next(iter(groups)), mixed, list(groups)[-1]])
    return [(f"documents {key[0]}, queries {key[1]}", groups[key]) for key in chosen]


def _draw_front(axes: Axes, quality: QualityReport) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    measure = quality.measures[0]
    exact, funnels = quality.rows, quality.funnels
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.plot(exact["p50_ms"], exact[measure], color=_GRID, linewidth=1.5, zorder=1)
    axes.scatter(
        exact["p50_ms"],
        exact[measure],
        s=_area(exact["dim"]),
        color=_MUTED,
        alpha=0.75,
        zorder=2,
        label="exact, at the dimension shown",
    )
    labels = [(f"{dim}", _MUTED, x, y) for dim, x, y in _points(exact, "dim", measure)]
    groups = funnels.groupby("rerank_dim", sort=True)
    for (dim, group), color in zip(groups, (_FIRST, _SECOND), strict=False):
        axes.plot(
            group["p50_ms"],
            group[measure],
            color=color,
            linewidth=1.5,
            marker="D",
            markersize=_area(dim) ** 0.5,
            zorder=3,
            label=f"funnel {group['shortlist_dim'].iloc[0]} → {dim}",
        )
        labels += [(f"K={k}", color, x, y) for k, x, y in _points(group, "shortlist", measure)]
    axes.legend(loc="best")
    axes.set_xlabel("median latency of one search, ms (log scale)")
    axes.set_ylabel(_MEASURES[measure])
    axes.margins(x=0.15, y=0.2)
    _end_ticks_at_one(axes)
    _label_apart(axes, labels)


def _draw_granularities(axes: Axes, cells: pd.DataFrame, measure: str) -> None:
    matrix = cells.pivot(index="document", columns="query", values=measure)
    order = list(dict.fromkeys(cells["query"]))
    matrix = matrix.reindex(columns=order, index=list(dict.fromkeys(cells["document"])))
    low, high = matrix.min().min(), matrix.max().max()
    for i, (_, line) in enumerate(matrix.iterrows()):
        for j, value in enumerate(line):
            if value != value:  # no index of this pair
                continue
            weight = 0.12 + 0.5 * ((value - low) / (high - low) if high > low else 1)
            box = axes.bar(j, 0.94, width=0.94, bottom=i - 0.47, color=_FIRST, alpha=weight)
            box[0].set_linewidth(0)
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=13)
    axes.set_xticks(range(matrix.shape[1]), list(matrix.columns))
    axes.set_yticks(range(matrix.shape[0]), list(matrix.index))
    axes.invert_yaxis()
    axes.set_xlabel("width for queries")
    axes.set_ylabel("for documents")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _end_ticks_at_one(axes: Axes) -> None:
    """Drop ticks above 1 from an axis that needs room there for labels only."""
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 1])
    axes.set_ylim(low, high)


def _area(dims: Any) -> Any:  # noqa: ANN401 - a number or a column
    return 18 + dims / 12


def _points(table: pd.DataFrame, name: str, measure: str) -> Iterator[tuple[int, float, float]]:
    return zip(table[name], table["p50_ms"], table[measure], strict=True)


def _label_apart(axes: Axes, labels: Sequence[tuple[str, str, float, float]]) -> None:
    """Write labels (text, color, x, y) beside their points, away from marks and each other."""
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.draw_without_rendering()  # fixes the limits, so that points have their place
    marks = axes.transData.transform([(x, y) for _, _, x, y in labels])
    boxes = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in marks]
    for (text, color, x, y), (left, bottom) in zip(labels, marks, strict=True):
        width, height = 7.5 * len(text) + 4, 15
        tries = [
            (dx, dy)
            for distance in (0, 14, 28, 42)
            for dx, dy in (
                (-width / 2, 9 + distance),
                (-width / 2, -9 - height - distance),
                (10 + distance, -height / 2),
                (-10 - width - distance, -height / 2),
            )
        ]
        places = [(Bbox.from_bounds(left + dx, bottom + dy, width, height)) for dx, dy in tries]
        free = [place for place in places if not place.count_overlaps(boxes)]
        place = free[0] if free else places[0]
        boxes.append(place)
        offset = ((place.x0 + place.x1) / 2 - left, (place.y0 + place.y1) / 2 - bottom)
        axes.annotate(
            text,
            (x, y),
            xytext=offset,
            textcoords="offset pixels",
            ha="center",
            va="center",
            color=color,
            fontsize=10,
            zorder=5,
        )


def _plot(draw: Callable[[Axes], None], *, height: float = 4.3) -> str:
    """Draw one plot as an SVG element whose colours come from the style sheet."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "plot") from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    for placeholder, name in _NAMES.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    # The page needs the element, not the XML prologue, and no size besides its view box.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg[svg.index("<svg") :], count=1)


def _section(
    title: str, text: str, plot: str, table: pd.DataFrame, cells: tables.Cells = CELLS
) -> str:
    return (
        f"<section>\n<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n{plot}\n"
        f"<details><summary>Figures</summary>\n{_table(table, cells)}\n</details>\n</section>"
    )


def _table(table: pd.DataFrame, cells: tables.Cells) -> str:
    header, *rows = tables.cell_rows(table.dropna(axis="columns", how="all"), cells)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    lines = "\n".join(f"<tr>{row}</tr>" for row in [head, *body])
    return f"<table>\n{lines}\n</table>"


def _summary(storage: StorageReport, quality: QualityReport | None) -> str:
    parts = [storage.summary()]
    if quality is not None:
        parts.append(quality.summary())
    return ". ".join(parts) + "."
