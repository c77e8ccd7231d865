"""The command line: parse, call, print. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_search import QueryError, __version__
from adaptive_search.command_options import (
    INDEX_TEXTS,
    INDEX_VECTORS,
    INTERRUPTED,
    QUERY_TEXTS,
    CommandGroup,
    asks_for_sets,
    device_option,
    filter_option,
    format_option,
    granularity_option,
    index_option,
    parse_filters,
    refuse_options,
    search_options,
    set_options,
    threads_option,
    vector_options,
    weights_option,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from adaptive_search.analysis import Preference
    from adaptive_search.hits import Granularity
    from adaptive_search.index import AdaptiveIndex
    from adaptive_search.indexing import IndexSummary
    from adaptive_search.reports import QualityReport
    from adaptive_search.set_report import SetReport

    Measured = tuple[QualityReport | SetReport, Callable[[], str]]  # and its page, when wanted

MAX_QUERY_BYTES = 1 << 20  # of stdin; any text of that size has more tokens than can be read
MAX_VECTOR_BYTES = 4 << 20  # of stdin; a vector of the most dimensions takes less


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def main(debug: bool) -> None:
    """Adaptive vector search over one folder, on one CPU.

    \b
    adaptive-search index corpus/
    adaptive-search query "how do plants store energy"
    """  # noqa: D301


# -- index and query -----------------------------------------------------------


@main.command()
@click.argument("corpus", type=click.Path(path_type=Path), required=False)
@index_option
@vector_options
@granularity_option("Width of the encoder for a new index; full by default.")
@click.option("--chunk-tokens", type=click.IntRange(16), help="Most tokens of a chunk.")
@click.option("--include", multiple=True, help="Only files of this gitignore pattern.")
@click.option("--exclude", multiple=True, help="Leave out files of this gitignore pattern.")
@click.option("--hidden", is_flag=True, help="Also read hidden files.")
@click.option(
    "--max-file-size",
    type=click.FloatRange(min=0, min_open=True),
    default=64,
    show_default=True,
    help="MiB of a file, or of a record of a streamed one, that may be held in memory.",
)
@click.option("--wait", is_flag=True, help="Wait for another writer instead of failing.")
@weights_option
@device_option
@threads_option
@format_option("table", "json")
@click.option("--quiet", is_flag=True, help="No progress, no list of skipped files.")
def index(
    corpus: Path | None,
    index_path: Path,
    vectors: Path | None,
    dims: tuple[int, ...] | None,
    id_column: str,
    vector_column: str,
    granularity: Granularity | None,
    chunk_tokens: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    hidden: bool,
    max_file_size: float,
    wait: bool,
    weights: Path | None,
    device: str,
    threads: int | None,
    output: str,
    quiet: bool,
) -> None:
    """Index a file or folder, or bring its index up to date.

    Or, with --vectors, add and replace vectors of your own, whose nesting dimensions may be any.
    """
    from adaptive_search.corpus import check_corpus
    from adaptive_search.terminal import progress

    if (corpus is None) == (vectors is None):
        raise click.UsageError("give either a CORPUS or --vectors FILE")
    context = click.get_current_context()
    if vectors is not None:
        refuse_options(context, INDEX_TEXTS, "is for texts; give it without --vectors")
        columns = id_column, vector_column
        _index_vectors(vectors, index_path, dims, columns, wait, threads, output, quiet)
        return
    refuse_options(context, INDEX_VECTORS, "needs --vectors")
    assert corpus is not None
    check_corpus(corpus)
    settings = granularity, chunk_tokens, weights, device, threads
    with _open_or_create(index_path, *settings) as opened, progress(quiet) as report:
        summary = opened.add(
            corpus,
            wait=wait,
            report=report,
            include=include,
            exclude=exclude,
            hidden=hidden,
            max_file_bytes=int(max_file_size * (1 << 20)),
        )
    if output == "json":
        click.echo(json.dumps(summary.to_dict()))
    else:
        _print_summary(summary, quiet)
    _stop_if_interrupted(summary)
    if not summary.indexed + summary.unchanged:
        raise click.ClickException(_nothing_indexed(corpus, summary))


@main.command()
@click.argument("text", required=False)
@index_option
@click.option(
    "--vector",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Instead of TEXT: a vector, in .npy or JSON; - reads JSON from stdin.",
)
@click.option("-k", "--k", type=click.IntRange(1), default=10, show_default=True, help="Hits.")
@search_options
@granularity_option("Width of the encoder for the query; the documents' by default.")
@filter_option
@click.option("--exact", is_flag=True, help="Score every chunk, without a shortlist.")
@click.option("--explain", is_flag=True, help="Show the stages of the funnel on stderr.")
@weights_option
@device_option
@threads_option
@format_option("table", "json", "jsonl", "csv")
def query(
    text: str | None,
    index_path: Path,
    vector: Path | None,
    k: int,
    dim: int | str | None,
    shortlist: int | None,
    granularity: Granularity | None,
    filters: tuple[str, ...],
    exact: bool,
    explain: bool,
    weights: Path | None,
    device: str,
    threads: int | None,
    output: str,
) -> None:
    """Search an index. TEXT may be - to read it from stdin."""
    from adaptive_search.terminal import format_hits

    options: dict[str, Any] = {
        "dim": dim,
        "shortlist": shortlist,
        "filter": parse_filters(filters),
        "exact": exact,
    }
    if (text is None) == (vector is None):
        raise click.UsageError("give either a TEXT or --vector FILE")
    if vector is not None:
        refuse_options(click.get_current_context(), QUERY_TEXTS, "is for a TEXT, not for --vector")
        hits = _open(index_path, threads=threads).search_vector(_read_vector(vector), k, **options)
    elif text is not None:
        text = _read_stdin(MAX_QUERY_BYTES) if text == "-" else _decoded(text)
        opened = _open(index_path, weights, device, threads)
        hits = opened.search(text, k, granularity=granularity, **options)
    if explain:
        for stage in hits.stages:
            click.echo(
                f"{stage.name}: {stage.scored:,} scored at {stage.dim} dims, "
                f"{stage.kept:,} kept, {stage.ms:.2f} ms",
                err=True,
            )
    columns = shutil.get_terminal_size((100, 24)).columns
    highlight = sys.stdout.isatty()
    click.echo(format_hits(hits, output, columns=columns, highlight=highlight), nl=False)
    if not hits:
        click.echo("no hits", err=True)


@main.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--dim", type=int, help="Dimension; 1536 by default.")
@granularity_option("Width of the encoder.")
@weights_option
@device_option
@threads_option
@format_option("json", "jsonl")
def encode(
    texts: tuple[str, ...],
    dim: int | None,
    granularity: Granularity | None,
    weights: Path | None,
    device: str,
    threads: int | None,
    output: str,
) -> None:
    """Print the vectors of TEXTS. A single - reads one text a line from stdin."""
    from adaptive_search import Encoder
    from adaptive_search.hits import granularity_name

    encoder = Encoder.load(weights, device=device, threads=threads)
    level = granularity or 1
    batch = _read_stdin().splitlines() if texts == ("-",) else [_decoded(t) for t in texts]
    if not batch or any(not text.strip() for text in batch):
        raise click.UsageError("a text is empty; give at least one word")
    for vectors in encoder.encode_batch(batch, dim, granularity=level, batch_size=len(batch)):
        rows = [[round(float(x), 7) for x in row] for row in vectors]
        if output == "jsonl":
            for row in rows:
                click.echo(json.dumps(row))
        else:
            width = vectors.shape[1]
            record = {"dim": width, "granularity": granularity_name(level), "vectors": rows}
            click.echo(json.dumps(record))


# -- reports -------------------------------------------------------------------


@main.group()
def report() -> None:
    """Storage and quality, dimension by dimension."""


@report.command()
@index_option
@format_option("table", "json", "csv", "markdown")
def storage(index_path: Path, output: str) -> None:
    """Bytes on disk and in memory for each dimension."""
    _print_report(_open(index_path).report().storage(), output)


@report.command()
@index_option
@click.option("--queries", type=click.Path(path_type=Path), help='JSONL of {"_id", "text"}.')
@click.option("--qrels", type=click.Path(path_type=Path), help="TSV: query, document, grade.")
@click.option(
    "--all-granularities", is_flag=True, help="Encode the corpus at every width (takes time)."
)
@set_options
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with plots."
)
@weights_option
@device_option
@threads_option
@format_option("table", "json", "csv", "markdown")
def quality(
    queries: Path | None,
    qrels: Path | None,
    html: Path | None,
    output: str,
    **asked: Any,  # noqa: ANN401
) -> None:
    """Recall, nDCG and latency for each dimension, funnel and granularity.

    Of an index; or, with --sets and --sts, of the encoder itself on retrieval sets (nDCG@10,
    recall@100) and sentence pairs (Spearman correlation).
    """
    if qrels and not queries:
        raise click.UsageError("--qrels needs --queries")
    if html and not html.absolute().parent.is_dir():
        raise click.UsageError(f"--html {html}: there is no such folder")
    if asks_for_sets(click.get_current_context()):
        measured, page = _quality_of_sets(**asked)
    else:
        measured, page = _quality_of_index(queries, qrels, **asked)
    if html:
        html.write_text(page(), encoding="utf-8")
        click.echo(f"wrote {html}", err=True)
    _print_report(measured, output)


# -- care of an index ------------------------------------------------------------


@main.command()
@index_option
@format_option("table", "json")
def status(index_path: Path, output: str) -> None:
    """What an index holds."""
    from adaptive_search.prefix_recall import prefix_recall
    from adaptive_search.segment_search import plan_text
    from adaptive_search.store import Store

    store = Store.open(index_path)
    found = store.status()
    record: dict[str, Any] = {
        "path": str(index_path),
        "generation": found.generation,
        "segments": found.segments,
        "documents": found.documents,
        "chunks": found.rows,
        "deleted": found.deleted,
        "tokens": found.tokens,
        "dims": list(found.dims),
        "fingerprint": store.spec.fingerprint,
        "corpus": store.attributes.get("corpus"),
        "disk_bytes": sum(found.bytes.values()),
        "plan": plan_text(store),
    }
    kept = prefix_recall(store) if store.spec.is_foreign else None
    if kept:
        record["vectors"] = kept.to_text()
    if output == "json":
        record |= {"bytes": dict(found.bytes)}
    _print_record(record, output)


@main.command()
@index_option
@click.option(
    "--recall",
    type=float,
    default=0.98,
    show_default=True,
    help="Share of the true ten best to find, measured on the index's own chunks.",
)
@threads_option
@click.option("--wait", is_flag=True, help="Wait for another writer instead of failing.")
def tune(index_path: Path, recall: float, threads: int | None, wait: bool) -> None:
    """Choose how an index is searched; `index` does it by itself from 10,000 chunks on."""
    from adaptive_search.index import AdaptiveIndex

    plan = AdaptiveIndex.open(index_path, threads=threads).tune(recall, wait=wait)
    click.echo(plan.to_text())


@main.command()
@index_option
@click.option(
    "--quick", is_flag=True, help="Manifest, sizes, layouts and documents; not every byte."
)
@format_option("table", "json")
def verify(index_path: Path, quick: bool, output: str) -> None:
    """Check every file of an index against its checksums and rules."""
    from adaptive_search.verification import verify_index

    result = verify_index(index_path, deep=not quick)
    record = {
        "ok": result.ok,
        "files": result.files,
        "bytes": result.bytes,
        "chunks": result.rows,
        "dims": list(result.dims),
        "problems": list(result.problems),
        "damaged_caches": list(result.damaged_caches),
        "orphans": list(result.orphans),
    }
    _print_record(record, output)
    if not result.ok:
        raise click.ClickException(
            f"{index_path} is damaged; restore it from a backup, index the corpus again, or run: "
            "adaptive-search repair"
        )


@main.command()
@index_option
@click.option("--drop-damaged", is_flag=True, help="Go on without damaged segments.")
@click.option("--wait", is_flag=True, help="Wait for another writer instead of failing.")
@format_option("table", "json")
def repair(index_path: Path, drop_damaged: bool, wait: bool, output: str) -> None:
    """Check every byte of an index, remove damaged caches, and say what was lost.

    Damaged segments are dropped only with --drop-damaged; `index` adds their documents again.
    """
    from adaptive_search.repair import repair_index

    result = repair_index(index_path, drop_damaged=drop_damaged, wait=wait)
    ids = [name for segment in result.lost for name in segment.document_ids or ()]
    record = {
        "generation": result.generation,
        "segments_lost": [segment.name for segment in result.lost],
        "chunks_lost": result.rows_lost,
        "documents_lost": [*dict.fromkeys([*ids, *result.cut_document_ids])],
        "unnamed": [segment.name for segment in result.lost if segment.document_ids is None],
        "problems": list(result.problems),
        "damaged_caches": list(result.damaged_caches),
    }
    _print_record(record, output)


@main.command()
@click.argument("ids", nargs=-1, required=True)
@index_option
@click.option("--wait", is_flag=True, help="Wait for another writer instead of failing.")
@format_option("table", "json")
def delete(ids: tuple[str, ...], index_path: Path, wait: bool, output: str) -> None:
    """Delete documents by IDS, as hits name them. A single - reads one a line from stdin.

    A document that is still in the corpus comes back with the next `index`.
    """
    names = _read_stdin().split("\n") if ids == ("-",) else map(_decoded, ids)
    asked = dict.fromkeys(name for name in names if name)
    opened = _open(index_path)
    count = opened.delete(asked, wait=wait)
    generation = opened.status().generation
    record = {"generation": generation, "deleted": count, "unknown": len(asked) - count}
    _print_record(record, output)


@main.command()
@index_option
@click.option("--wait", is_flag=True, help="Wait for another writer instead of failing.")
def compact(index_path: Path, wait: bool) -> None:
    """Merge small segments and drop deleted rows."""
    from adaptive_search.store import Store

    generation = Store.open(index_path).compact(wait=wait)
    click.echo(f"{index_path} is at generation {generation}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--onnx",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the encoder there, for ONNX runtimes, in place of vectors.",
)
@index_option
@click.option("--dim", type=int, help="Dimension of the vectors; with --onnx the largest.")
@click.option("--half", is_flag=True, help="float16 instead of float32.")
@weights_option
@granularity_option("Width of the encoder, with --onnx.")
@click.pass_context
def export(
    context: click.Context,
    file: Path | None,
    directory: Path | None,
    index_path: Path,
    dim: int | None,
    half: bool,
    weights: Path | None,
    granularity: Granularity | None,
) -> None:
    """Write chunks and their unit vectors to FILE.arrow or FILE.parquet.

    Or write the encoder to a directory: model.onnx, which maps input_ids and attention_mask to
    unit vectors, and its tokenizer.json.
    """
    if directory is not None:
        refuse_options(context, ("file", "index_path", "half"), "makes no sense with --onnx")
        from adaptive_search.onnx_export import export_onnx

        width = export_onnx(directory, weights, dim, granularity or 1)
        click.echo(f"wrote the encoder for {width} dims to {directory}")
        return
    refuse_options(context, ("weights", "granularity"), "needs --onnx")
    if file is None or dim is None:
        raise click.UsageError("export needs FILE and --dim, or --onnx")
    from adaptive_search.store import Store

    rows = Store.open(index_path).export(dim, file, half=half)
    click.echo(f"wrote {rows:,} rows of {dim} dims to {file}")


# -- the encoder -----------------------------------------------------------------


@main.command()
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    help="File with the columns query and positive, or folder of pairs*.parquet|jsonl.",
)
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    help="File with the column text, or folder of text*.parquet|jsonl.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the checkpoint; an interrupted run goes on from it.",
)
@weights_option
@click.option("--from-scratch", is_flag=True, help="Start from the teacher, not from weights.")
@click.option(
    "--distill-from",
    "teacher",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of a sentence-transformers model to learn from; all-MiniLM-L6-v2 by default.",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Recipe file; by default a fine-tuning, or with --from-scratch the shipped weights'.",
)
@threads_option
@click.option("--quiet", is_flag=True, help="No progress.")
def train(
    pairs: Path | None,
    texts: Path | None,
    run: Path,
    weights: Path | None,
    from_scratch: bool,
    teacher: Path | None,
    recipe: Path | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Fine-tune weights on your pairs or texts, or train new ones from a teacher."""
    from adaptive_search.training_run import run_training

    if not (pairs or texts):
        raise click.UsageError("give --pairs, --texts or both.")
    trained = run_training(
        run,
        texts=texts,
        pairs=pairs,
        weights=weights,
        from_scratch=from_scratch,
        teacher=teacher,
        recipe=recipe,
        threads=threads,
        quiet=quiet,
    )
    if trained:
        click.echo(str(trained))


@main.command()
@click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Least share of the full vector's nDCG@10.",
)
@click.option(
    "--max-latency-ms", type=click.FloatRange(0), default=float("inf"), help="To encode one query."
)
@click.option(
    "--max-memory-mb", type=click.FloatRange(0), default=float("inf"), help="For all vectors."
)
@click.option("--vectors", type=click.IntRange(1), default=100_000, show_default=True)
@click.option(
    "--prefer",
    type=click.Choice(["size", "speed", "accuracy"]),
    help="Among what fits; size with --min-accuracy, else accuracy.",
)
@weights_option
@format_option("table", "json")
def analyze(
    min_accuracy: float,
    max_latency_ms: float,
    max_memory_mb: float,
    vectors: int,
    prefer: Preference | None,
    weights: Path | None,
    output: str,
) -> None:
    """Recommend a dimension and a width for given limits and the usual cases, as measured."""
    from adaptive_search.analysis import Limits
    from adaptive_search.analysis import analyze as analyze_weights

    limits = Limits(min_accuracy, max_latency_ms, max_memory_mb, vectors, prefer)
    _print_analysis(analyze_weights(weights, limits), output)


@main.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "--max-compute",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of the full width's multiply-adds.",
)
@weights_option
@threads_option
@format_option("table", "json")
@click.option("--quiet", is_flag=True, help="No progress.")
def widths(
    corpus: Path,
    max_compute: float,
    weights: Path | None,
    threads: int | None,
    output: str,
    quiet: bool,
) -> None:
    """Search for the best width of each layer on passages of a file or folder.

    Takes a minute or less; Ctrl-C ends it with what was found so far.
    """
    from adaptive_search import Encoder
    from adaptive_search.terminal import counter
    from adaptive_search.width_report import report_widths

    encoder = Encoder.load(weights, threads=threads)
    with counter(quiet, "mixes measured") as report:
        found = report_widths(corpus, encoder, max_compute, report=report)
    _print_analysis(found, output)
    if found.interrupted:
        click.echo("interrupted: this is what was measured so far", err=True)
        sys.exit(INTERRUPTED)


@main.command()
@index_option
@click.option("--queries", "count", type=click.IntRange(1), default=100, show_default=True)
@weights_option
@threads_option
@format_option("table", "json")
def benchmark(
    index_path: Path, count: int, weights: Path | None, threads: int | None, output: str
) -> None:
    """Time encoding and searching on this machine with this index."""
    from adaptive_search.benchmarking import benchmark_index
    from adaptive_search.tables import to_text

    table, cells = benchmark_index(_open(index_path, weights, "cpu", threads), count)
    if output == "json":
        click.echo(table.to_json(orient="records"))
    else:
        click.echo(to_text(table, cells))


@main.command()
@format_option("table", "json")
def doctor(output: str) -> None:
    """What this machine offers: levels, threads, GPU, versions."""
    from adaptive_search.doctor import examine

    _print_record(examine(), output)


# -- parts of commands -------------------------------------------------------------


def _open(
    path: Path, weights: Path | None = None, device: str = "cpu", threads: int | None = None
) -> AdaptiveIndex:
    from adaptive_search.index import AdaptiveIndex

    encoder = None
    if weights is not None or device != "cpu":
        from adaptive_search import Encoder

        encoder = Encoder.load(weights, device=device, threads=threads)
    return AdaptiveIndex.open(path, encoder=encoder, threads=threads)


@contextmanager
def _open_or_create(
    path: Path,
    granularity: Granularity | None,
    chunk_tokens: int | None,
    weights: Path | None,
    device: str,
    threads: int | None,
) -> Iterator[AdaptiveIndex]:
    """The index at a path; one that is new goes again if nothing comes into it."""
    from adaptive_search import Encoder
    from adaptive_search.index import CHUNK_TOKENS, AdaptiveIndex, exists

    encoder = Encoder.load(weights, device=device, threads=threads)
    if exists(path):
        opened = AdaptiveIndex.open(path, encoder=encoder, threads=threads)
        opened.require(granularity=granularity, chunk_tokens=chunk_tokens)
        yield opened
        return
    created = AdaptiveIndex.create(
        path,
        encoder=encoder,
        granularity=granularity or 1,
        chunk_tokens=chunk_tokens or CHUNK_TOKENS,
        threads=threads,
    )
    try:
        yield created
    finally:
        created.remove_if_unused()


def _quality_of_index(
    queries: Path | None,
    qrels: Path | None,
    *,
    index_path: Path,
    all_granularities: bool,
    weights: Path | None,
    device: str,
    threads: int | None,
    **_: Any,  # noqa: ANN401
) -> Measured:
    from adaptive_search.evaluation import read_qrels, read_queries
    from adaptive_search.report_html import report_page

    given = read_queries(queries) if queries else None
    judgements = read_qrels(qrels) if qrels else None
    reports = _open(index_path, weights, device, threads).report()
    measured = reports.quality(given, judgements, all_granularities=all_granularities)
    return measured, lambda: report_page(reports.storage(), measured)


def _quality_of_sets(
    *,
    sets: tuple[Path, ...],
    sts: tuple[Path, ...],
    granularities: tuple[Granularity, ...],
    document_tokens: int | None,
    peers: bool,
    weights: Path | None,
    device: str,
    threads: int | None,
    **_: Any,  # noqa: ANN401
) -> Measured:
    from adaptive_search import Encoder
    from adaptive_search.evaluation_sets import find_pairs, find_sets
    from adaptive_search.peers import load_peers
    from adaptive_search.report_html import sets_page
    from adaptive_search.set_measurement import measure_sets

    measured = measure_sets(
        Encoder.load(weights, device=device, threads=threads),
        find_sets(sets),
        find_pairs(sts),
        granularities=granularities,
        document_tokens=document_tokens,
        peers=load_peers(threads) if peers else (),
        note=partial(click.echo, err=True) if sys.stderr.isatty() else lambda _: None,
    )
    return measured, lambda: sets_page(measured)


def _index_vectors(
    file: Path,
    index_path: Path,
    dims: tuple[int, ...] | None,
    columns: tuple[str, str],
    wait: bool,
    threads: int | None,
    output: str,
    quiet: bool,
) -> None:
    from adaptive_search.index import AdaptiveIndex, exists
    from adaptive_search.terminal import format_summary, progress
    from adaptive_search.vector_files import VectorFile
    from adaptive_search.vectors import standard_dims

    is_new = not exists(index_path)
    if is_new:
        dims = dims or standard_dims(VectorFile(file, *columns).width)
        opened = AdaptiveIndex.create(index_path, dims=dims, threads=threads)
    else:
        opened = AdaptiveIndex.open(index_path, threads=threads)
        opened.require(dims=dims)
    id_column, vector_column = columns
    try:
        with progress(quiet) as report:
            summary = opened.add_vector_file(
                file, id_column=id_column, vector_column=vector_column, wait=wait, report=report
            )
    finally:
        if is_new:
            opened.remove_if_unused()
    kept = None if summary.interrupted else opened.prefix_recall()
    if output == "json":
        shares = dict(kept.kept) if kept else {}
        click.echo(json.dumps(summary.to_dict() | {"prefix_recall@10": shares}))
    else:
        click.echo(format_summary(summary))
        if not summary.interrupted:
            click.echo(kept.to_text() if kept else "too few vectors to say what prefixes keep")
    _stop_if_interrupted(summary)


def _stop_if_interrupted(summary: IndexSummary) -> None:
    if summary.interrupted:
        click.echo("interrupted: what was complete is committed; run it again to go on", err=True)
        sys.exit(INTERRUPTED)


def _read_vector(source: Path) -> NDArray[np.float32]:
    from adaptive_search.vector_files import read_query_vector

    return read_query_vector(_read_stdin(MAX_VECTOR_BYTES) if str(source) == "-" else source)


def _read_stdin(limit: int | None = None) -> str:
    data = sys.stdin.buffer.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise QueryError(f"the query on stdin is longer than {limit:,} bytes; shorten it")
    return data.decode("utf-8", "replace")


def _decoded(argument: str) -> str:
    """An argument as UTF-8, whatever the locale; bytes that are not become U+FFFD."""
    return os.fsencode(argument).decode("utf-8", "replace")


def _nothing_indexed(corpus: Path, summary: IndexSummary) -> str:
    from adaptive_search.snippets import plain_text

    first = summary.skipped[0]
    return (
        f"nothing in {plain_text(str(corpus))} could be indexed, {len(summary.skipped):,} "
        f"skipped; the first: {first.path}: {first.reason}"
    )


def _print_summary(summary: IndexSummary, quiet: bool) -> None:
    from adaptive_search.snippets import plain_text
    from adaptive_search.terminal import format_summary

    for item in () if quiet else summary.skipped:
        click.echo(f"skipped {plain_text(item.path)}: {plain_text(item.reason)}", err=True)
    click.echo(format_summary(summary))


def _print_report(result: Any, output: str) -> None:  # noqa: ANN401
    text = {
        "table": result.to_text,
        "json": result.to_json,
        "csv": result.to_csv,
        "markdown": result.to_markdown,
    }[output]()
    click.echo(text.rstrip("\n"))


def _print_analysis(found: Any, output: str) -> None:  # noqa: ANN401
    text = json.dumps(found.to_dict()) + "\n" if output == "json" else found.to_text()
    click.echo(text, nl=False)


def _print_record(record: dict[str, Any], output: str) -> None:
    from adaptive_search.terminal import format_fields

    click.echo(json.dumps(record) + "\n" if output == "json" else format_fields(record), nl=False)


if __name__ == "__main__":
    main()
