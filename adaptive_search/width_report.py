"""Which width for each layer, from a sample of a corpus, as a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_search.encoder import width_search
from adaptive_search.encoder.granularity import granularity_name
from adaptive_search.errors import CorpusError

if TYPE_CHECKING:
    from adaptive_search.encoder.encoder import Encoder
    from adaptive_search.encoder.tokenizer import Ids
    from adaptive_search.encoder.width_search import Mix

READ_PASSAGES = 4096  # from the beginning of the corpus; the sample is spread over them
SHOWN_DIMS = (64, 512, 1536)


@dataclass(frozen=True)
class WidthReport:
    """Mixes of layer widths, and the best one within a budget.

    Attributes:
        passages: texts that were measured.
        measured: mixes that were measured.
        mixes: those that no other beats, cheapest first.
        uniform: those of one width for all layers, widest first, for comparison.
        best: the one to use.
        max_cost: the budget, as a share of the multiply-adds of the full width.
        interrupted: whether the search was stopped before its end.
    """

    passages: int
    measured: int
    mixes: list[Mix]
    uniform: list[Mix]
    best: Mix
    max_cost: float
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "passages": self.passages,
            "measured": self.measured,
            "interrupted": self.interrupted,
            "max_cost": self.max_cost,
            "best": _plain(self.best),
            "mixes": [_plain(mix) for mix in self.mixes],
            "uniform": [_plain(mix) for mix in self.uniform],
        }

    def to_text(self) -> str:
        """The report for a terminal."""
        return (
            f"{_table(self.mixes)}\n\n"
            f"one width for all layers:\n{_table(self.uniform)}\n\n"
            f"best within {self.max_cost:.0%} of the compute: "
            f"--granularity {granularity_name(self.best.granularity)}\n"
            f"{self.measured} mixes measured on {self.passages} passages, by the mean cosine of "
            "their vectors to those of the full width\n"
        )


def report_widths(
    corpus: Path,
    encoder: Encoder,
    max_cost: float,
    *,
    report: Callable[[int], None] = lambda _: None,
) -> WidthReport:
    """Search for widths on passages of a corpus. Ctrl-C ends it with what was found so far.

    Args:
        corpus: file or folder, as it would be indexed.
        encoder: of any weights.
        max_cost: most multiply-adds a token, as a share of the full width's.
        report: called with the number of mixes measured so far.

    Raises:
        CorpusError: the corpus is missing, unreadable, or holds no texts.
        QueryError: nothing costs as little as max_cost.
    """
    ids = width_search.spread(_passages(corpus, encoder))
    found: list[Mix] = []
    interrupted = False
    try:
        for mix in width_search.search_widths(encoder, ids):
            found.append(mix)
            report(len(found))
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    return WidthReport(
        passages=len(ids),
        measured=len(found),
        mixes=width_search.front(found),
        uniform=[mix for mix in found if mix.granularity in encoder.granularities],
        best=width_search.best_mix(found, max_cost),
        max_cost=max_cost,
        interrupted=interrupted,
    )


def _passages(corpus: Path, encoder: Encoder) -> list[Ids]:
    """Token ids of short passages, cut as an index cuts them."""
    from adaptive_search.chunking import Chunker
    from adaptive_search.corpus import read_corpus
    from adaptive_search.documents import Document

    context = encoder.config.context
    tokens = min(width_search.SAMPLE_TOKENS, context)
    chunker = Chunker(encoder.tokenizer, max_tokens=tokens, context=context)
    documents = (item for item in read_corpus(corpus) if isinstance(item, Document))
    chunks = itertools.chain.from_iterable(map(chunker.chunks, documents))
    passages = [chunk.ids for chunk in itertools.islice(chunks, READ_PASSAGES)]
    if not passages:
        raise CorpusError(f"{corpus} holds no text to measure widths on; give another file")
    return passages


def _plain(mix: Mix) -> dict[str, Any]:
    return {
        "granularity": granularity_name(mix.granularity),
        "compute": round(mix.cost, 6),
        "cosines": {str(dim): round(cosine, 6) for dim, cosine in mix.cosines.items()},
    }


def _table(mixes: list[Mix]) -> str:
    import pandas as pd

    from adaptive_search.tables import to_text

    dims = [dim for dim in mixes[0].cosines if dim in SHOWN_DIMS] or list(mixes[0].cosines)
    columns = {dim: f"cosine at {dim}" for dim in dims}
    rows = [
        {"granularity": granularity_name(mix.granularity), "compute": mix.cost}
        | {name: mix.cosines[dim] for dim, name in columns.items()}
        for mix in mixes
    ]
    cells = dict.fromkeys(columns.values(), "{:.4f}".format) | {"compute": "{:.1%}".format}
    return to_text(pd.DataFrame(rows), cells)
