"""What the commands share: options that mean the same everywhere, and errors on one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from adaptive_search.encoder import granularity
from adaptive_search.errors import AdaptiveSearchError, QueryError

DEFAULT_INDEX = ".adaptive-index"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# Options of `report quality`: one kind or the other.
INDEX_MEASURE = ("index_path", "queries", "qrels", "all_granularities")
SETS_MEASURE = {
    "granularities": ("sets", "sts"),
    "peers": ("sets", "sts"),
    "document_tokens": ("sets",),
}
# Options of `index`: those that only texts need, and those that only vectors need.
INDEX_TEXTS = (
    *("granularity", "chunk_tokens", "include", "exclude", "hidden", "max_file_size"),
    *("weights", "device"),
)
INDEX_VECTORS = ("dims", "id_column", "vector_column")
QUERY_TEXTS = ("granularity", "weights", "device")
FILTER = re.compile(r"([^<>=!]+)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
SEVERAL = ("=", "!=")  # operators of a filter that compare with several values

GRANULARITY_METAVAR = "1|1/2|1/4|1/8|HEADS,..."

Command = Callable[..., Any]


class Granularity(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4
    """A width of the encoder: 1, 1/2, 1/4, 1/8, or the heads of each layer."""

    name = "width"

    def convert(self, value: Any, param: Any, ctx: Any) -> granularity.Granularity:  # noqa: ANN401, D102
        try:
            return granularity.parse_granularity(str(value))
        except QueryError as error:
            self.fail(str(error), param, ctx)


class Dim(click.ParamType):  # type: ignore[type-arg]
    """A dimension, or auto."""

    name = "dim"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:  # noqa: ANN401, D102
        try:
            return "auto" if value == "auto" else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto", param, ctx)


class Dims(click.ParamType):  # type: ignore[type-arg]
    """Nesting dimensions: 256,512,1024."""

    name = "dims"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:  # noqa: ANN401, D102
        from adaptive_search.vectors import checked_dims

        try:
            return checked_dims([int(dim) for dim in str(value).split(",")])
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CommandGroup(click.Group):
    """Ends a command with one line on stderr: 1 for an error, 2 for usage, 130 for Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401, D102
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _short(error) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except (AdaptiveSearchError, MemoryError, OSError) as error:
            # A reader of the output that went away, such as head, is no error to report.
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            _drop_unwritable_output()
            raise click.ClickException(_one_line(error)) from None


def _drop_unwritable_output() -> None:
    """What stdout holds and cannot write would be another error when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _short(error: click.UsageError) -> click.UsageError:
    """A usage error without the usage, which --help prints; help itself stays as it is."""
    message = error.format_message()
    if error.ctx is None or "\n" in message:
        return error
    hint = f"see {error.ctx.command_path} --help"
    return click.UsageError(f"{message.rstrip('.')}; {hint}")


def _one_line(error: Exception) -> str:
    from adaptive_search.snippets import plain_text

    if isinstance(error, MemoryError):
        return "not enough memory; close other programs or use fewer threads"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return plain_text(f"{place}{error.strerror}; check the path, its permissions and the disk")
    return plain_text(str(error))


def index_option(command: Command) -> Command:
    """The --index option."""
    return click.option(
        "--index",
        "index_path",
        envvar="ADAPTIVE_SEARCH_INDEX",
        default=DEFAULT_INDEX,
        show_default=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="Index directory; also ADAPTIVE_SEARCH_INDEX.",
    )(command)


def threads_option(command: Command) -> Command:
    """The --threads option."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        help="CPU threads; all by default, or ADAPTIVE_SEARCH_THREADS.",
    )(command)


def weights_option(command: Command) -> Command:
    """The --weights option."""
    return click.option(
        "--weights",
        type=click.Path(path_type=Path, file_okay=False),
        help="Weights directory, as `train` writes it; the shipped ones by default.",
    )(command)


def device_option(command: Command) -> Command:
    """The --device option."""
    choice = click.Choice(["cpu", "cuda"])
    text = "Where the encoder runs."
    return click.option("--device", type=choice, default="cpu", show_default=True, help=text)(
        command
    )


def granularity_option(help: str) -> Callable[[Command], Command]:
    """The --granularity option."""
    text = f"{help} WIDTH is 1, 1/2, 1/4, 1/8, or the heads of each layer: 24,12,12,6,6,3."
    return click.option("--granularity", type=Granularity(), metavar="WIDTH", help=text)


def format_option(*formats: str) -> Callable[[Command], Command]:
    """The --format option; the first format is the default."""
    return click.option(
        "--format", "output", type=click.Choice(formats), default=formats[0], show_default=True
    )


def search_options(command: Command) -> Command:
    """The --dim and --shortlist options."""
    for option in (
        click.option("--shortlist", type=click.IntRange(1), help="Candidates of the 64-d stage."),
        click.option(
            "--dim",
            type=Dim(),
            help="Dimension of the final scores: 512, 1536, ...; auto: as high as the query needs.",
        ),
    ):
        command = option(command)
    return command


def vector_options(command: Command) -> Command:
    """The options of an index of vectors from elsewhere."""
    for option in (
        click.option(
            "--vector-column", default="vector", show_default=True, help="Column of the vectors."
        ),
        click.option("--id-column", default="id", show_default=True, help="Column of the ids."),
        click.option(
            "--dims",
            type=Dims(),
            metavar="D,D,...",
            help="Nesting dimensions of a new index of vectors; the usual ones by default.",
        ),
        click.option(
            "--vectors",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Instead of a corpus: vectors of your own, in .parquet, .arrow or .npy.",
        ),
    ):
        command = option(command)
    return command


def filter_option(command: Command) -> Command:
    """The --filter option."""
    return click.option(
        "--filter",
        "filters",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Only such chunks; also != < <= > >=. Repeat = to allow several values.",
    )(command)


def parse_filters(filters: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """Conditions of the form FIELD=VALUE as a filter; of several values of a field one must hold.

    Raises:
        click.UsageError: one is not of this form, or gives a bound twice.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for item in filters:
        parts = FILTER.fullmatch(item)
        if parts is None:
            raise click.UsageError(f"--filter {item!r} must look like FIELD=VALUE or FIELD>=VALUE")
        field, operator, value = parts.groups()
        operators = wanted.setdefault(field, {})
        if operator in SEVERAL:
            operators.setdefault(operator, []).append(value)
        elif operator in operators:
            raise click.UsageError(f"--filter {item!r} is the second bound {operator} of {field}")
        else:
            operators[operator] = value
    return wanted or None


def set_options(command: Command) -> Command:
    """The options of a quality report on evaluation sets."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--peers", is_flag=True, help="With --sets: also BM25 and MiniLM-L6 [eval]."),
        click.option(
            "--document-tokens",
            type=click.IntRange(3),
            metavar="N",
            help="With --sets: also one vector for each document, of its first N tokens.",
        ),
        click.option(
            "--granularity",
            "granularities",
            type=Granularity(),
            multiple=True,
            metavar=GRANULARITY_METAVAR,
            help="With --sets: this width, and more if repeated; all trained ones by default.",
        ),
        click.option("--sts", type=path, multiple=True, help="TSV: score, sentence1, sentence2."),
        click.option(
            "--sets", type=path, multiple=True, help="Folder in BEIR layout, or of such folders."
        ),
    ):
        command = option(command)
    return command


def asks_for_sets(context: click.Context) -> bool:
    """Whether a quality report is asked of evaluation sets, and not of an index.

    Raises:
        click.UsageError: options of both are given, or those of sets without any.
    """
    given = _given(context)
    for name, kinds in SETS_MEASURE.items():
        if name in given and not given.keys() & set(kinds):
            wanted = " or ".join(f"--{kind}" for kind in kinds)
            raise click.UsageError(f"{given[name]} needs {wanted}")
    if not given.keys() & {"sets", "sts"}:
        return False
    for name in INDEX_MEASURE:
        if name in given:
            option = given[name]
            raise click.UsageError(f"{option} is for an index; give it without --sets and --sts")
    return True


def refuse_options(context: click.Context, names: Sequence[str], reason: str) -> None:
    """Refuse options that make no sense beside another one.

    Raises:
        click.UsageError: one of them is given.
    """
    given = _given(context)
    for name in names:
        if name in given:
            raise click.UsageError(f"{given[name]} {reason}")


def _given(context: click.Context) -> dict[str, str]:
    """Options that are on the command line, by the names of their parameters."""
    return {
        option.name: option.opts[0]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    }
