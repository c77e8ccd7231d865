"""The plan of a funnel: which codes it scans, and how many rows each stage passes on."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from adaptive_search.json_text import parse_json

# Normalised 64-d heads of a trained encoder held 0.92, 0.96 and 0.98 of the true ten best in 200,
# 500 and 1,000 candidates (38,693 passages).
DEFAULT_SHORTLIST = 1000
DEFAULT_RECALL = 0.98
# Hits that a plan is made for; more of them take longer shortlists.
PLANNED_K = 10


@dataclass(frozen=True)
class Plan:
    """How a funnel searches, chosen when it is built and recorded with it.

    Attributes:
        head_dim: nesting dimension of the codes that every search scans.
        shortlist: candidates that the scan passes on, for ten hits.
        kept: how many of these the middle dimension passes on.
        lists: lists that the rows are divided into; 0 for one scan of all codes.
        nprobe: lists that a search scans.
        tail: with lists, the weight of what the mean of a row's list adds to the score of its
            head: the product with the query in the coordinates of the mean above the head.
        margins: for each nesting dimension, how far below the last hit a row can lie there and
            still be a hit at full dims, as far as the recall target cares; empty if unmeasured.
        rows: rows when the plan was made; 0 if nothing was measured.
        recall_target: share of the true ten best that searches are to find.
        recall: share that they found when the plan was made, on rows that chose nothing.
        bits: of a code, 8 or 4.
    """

    head_dim: int
    shortlist: int = DEFAULT_SHORTLIST
    kept: int = DEFAULT_SHORTLIST // 4
    lists: int = 0
    nprobe: int = 0
    margins: tuple[float, ...] = ()
    rows: int = 0
    recall_target: float = DEFAULT_RECALL
    recall: float = 0.0
    tail: float = 0.0
    bits: int = 8

    def __post_init__(self) -> None:
        """Refuse a plan that no funnel can follow."""
        counts = (self.head_dim, self.shortlist, self.kept)
        if min(counts) < 1 or not 0 <= self.nprobe <= self.lists or self.rows < 0:
            raise ValueError(f"{self} holds a count that makes no sense")
        if (self.lists > 0) != (self.nprobe > 0):
            raise ValueError("a plan with lists must probe some of them")
        if self.bits not in (4, 8):
            raise ValueError(f"codes have 8 or 4 bits, not {self.bits}")
        if not 0 <= self.tail < math.inf or (self.tail > 0 and not self.lists):
            raise ValueError("the weight of the tail term must be finite, and 0 without lists")
        if not (0 < self.recall_target <= 1 and 0 <= self.recall <= 1):
            raise ValueError("recall must lie between 0 and 1")

    @property
    def kind(self) -> str:
        """What the scan reads: "flat" (all codes) or "lists"."""
        return "lists" if self.lists else "flat"

    def fits(self, rows: int) -> bool:
        """Whether the plan still suits an index that has this many rows now."""
        return self.rows <= 2 * rows <= 4 * self.rows

    def without_lists(self) -> Plan:
        """The plan for a scan of all codes, for when the lists are not there."""
        return dataclasses.replace(self, lists=0, nprobe=0, tail=0.0)

    def for_hits(self, k: int, shortlist: int | None = None) -> Plan:
        """The plan for k hits, or for a shortlist of this length, with lists in proportion."""
        # The k-th neighbour lies deeper among the heads, though not in proportion.
        deeper = math.ceil(self.shortlist * max(1.0, k / PLANNED_K) ** 0.5)
        wanted = max(deeper, 4 * k) if shortlist is None else shortlist
        nprobe = min(self.lists, -(-self.nprobe * wanted // self.shortlist))
        kept = max(-(-self.kept * wanted // self.shortlist), 4 * k)
        return dataclasses.replace(self, shortlist=wanted, kept=kept, nprobe=nprobe)

    def to_text(self) -> str:
        """One line for people."""
        heads = f"{self.head_dim} dims" + (f" in {self.bits} bits" if self.bits < 8 else "")
        probed = f"{self.nprobe} of {self.lists} lists, " if self.lists else ""
        probed += f"tail {self.tail:g}, " if self.tail else ""
        if not self.rows:
            return f"{self.kind}, {heads}, shortlist {self.shortlist:,}, not measured"
        return (
            f"{self.kind}, {heads}, {probed}shortlist {self.shortlist:,}; recall@10 "
            f"{self.recall:.3f} of {self.recall_target} asked for, at {self.rows:,} chunks"
        )

    def to_json(self) -> str:
        """One line of JSON, which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote; plans of earlier versions have no tail term, and 8 bits.

        Raises:
            ValueError: the text is no such plan.
        """
        found = parse_json(text)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if isinstance(found, dict):
            found.setdefault("tail", 0.0)
            found.setdefault("bits", 8)
        if not isinstance(found, dict) or found.keys() != fields.keys():
            raise ValueError("the plan has other fields than this program knows")
        return cls(**{name: _value(name, value) for name, value in found.items()})


def _value(name: str, value: Any) -> Any:  # noqa: ANN401
    if name == "margins":
        if not isinstance(value, list) or not all(_is_number(v) for v in value):
            raise ValueError("margins must be numbers")
        return tuple(float(v) for v in value)
    if name in ("recall", "recall_target", "tail"):
        if not _is_number(value):
            raise ValueError(f"{name} must be a number")
        return float(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
