"""Filters on metadata: which rows may be returned, decided before anything is ranked.

The metadata of a segment are parsed when a filter first asks for them, and kept as columns: the
distinct values of a field in order, and for each row the place of its value among them. A condition
is then a few bisections over the values and one pass over small integers.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
import sys
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from adaptive_search.arrow_files import damaged
from adaptive_search.documents import Scalar
from adaptive_search.errors import QueryError
from adaptive_search.json_text import parse_json
from adaptive_search.manifest import CHUNKS_FILE

if TYPE_CHECKING:
    from adaptive_search.segment import Segment
    from adaptive_search.store import Store

Value = Scalar | None
Values = Value | Sequence[Value]
Filter = Mapping[str, Values | Mapping[str, Values]]
Mask = NDArray[np.bool_]

PATH = "path"  # the field that every index has; what it is compared with may hold * and ?
ORDERED = ("<", "<=", ">", ">=")
OPERATORS = ("=", "!=", *ORDERED)

MAX_COLUMN_BYTES = 256 << 20
MAX_MASK_BYTES = 64 << 20
MAX_FIELDS = 32  # that one pass over a segment makes columns of, beside the one asked for
MAX_NAMED = 20  # fields that an error lists
MAX_RUNS = 4  # of places that are compared one by one; looking all up is faster for more

# A value as it is ordered and told apart: its kind, then itself. 1 is 1.0, but not true or "1".
Key = tuple[int, Any]
MISSING: Key = (0, 0)
KINDS = ("nothing", "booleans", "numbers", "texts")
NUMBERS, TEXTS = 2, 3

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Condition:
    """One operator on one field, and the values that it compares with."""

    field: str
    operator: str
    keys: tuple[Key, ...]


class Filters:
    """The filters of one index directory, with what they parsed so far.

    Columns and masks outlive a commit, since a segment never changes. They are bounded in bytes,
    and those used least recently go first. Safe to use from several threads.
    """

    def __init__(
        self, *, column_bytes: int = MAX_COLUMN_BYTES, mask_bytes: int = MAX_MASK_BYTES
    ) -> None:
        """Keep at most so many bytes of columns, and of masks."""
        self._columns: _Recent[Column] = _Recent(column_bytes)
        self._found: _Recent[tuple[Mask, frozenset[int]]] = _Recent(mask_bytes)

    def rows(self, store: Store, wanted: Filter) -> list[Mask]:
        """Rows of each segment that meet every condition: bool (rows,) each.

        Args:
            store: the index.
            wanted: for each field a value; several, of which one must match; or operators with
                values, as in {"year": {">=": 2020, "<": 2024}, "lang": ["en", "de"]}. None is
                a field that is missing. = and != take one value or several, the others one; they
                order numbers by size and texts by code point. A text also stands for the number
                or boolean that it spells, since a command line knows only texts. What `path` is
                compared with by = and != may hold * and ?.

        Raises:
            QueryError: a condition makes no sense, no row has its field, or none has a value
                that can be ordered against the given one.
            StoreFormatError: a file is damaged.
        """
        masks = [np.ones(segment.rows, np.bool_) for segment in store.segments]
        for condition in conditions(wanted):
            found = [self._rows(segment, condition) for segment in store.segments]
            self._check(store, condition, {kind for _, kinds in found for kind in kinds})
            masks = [mask & more for mask, (more, _) in zip(masks, found, strict=True)]
        return masks

    def _rows(self, segment: Segment, condition: Condition) -> tuple[Mask, frozenset[int]]:
        """Rows that meet a condition, and the kinds of value that its field has."""
        found = self._found.get((segment.name, condition))
        if found is None:
            column = self._column(segment, condition.field)
            found = column.rows(condition), column.kinds
            self._found.put((segment.name, condition), found, segment.rows)
        return found

    def _column(self, segment: Segment, field: str) -> Column:
        column = self._columns.get((segment.name, field))
        if column is None:
            columns = read_columns(segment, field)
            for name, other in columns.items():
                self._columns.put((segment.name, name), other, other.nbytes)
            column = columns[field]
        return column

    def _check(self, store: Store, condition: Condition, kinds: set[int]) -> None:
        """Refuse what can match nothing because its field is never there, or of other kinds."""
        field, operator = condition.field, condition.operator
        kinds.discard(MISSING[0])
        if store.segments and not kinds:
            names = itertools.chain.from_iterable(map(field_names, store.segments))
            first = sorted(set(itertools.islice(dict.fromkeys(names), MAX_NAMED)))
            raise QueryError(f"filter: no chunk has the field {field}; there are: {_list(first)}")
        if operator in ORDERED and kinds and kinds.isdisjoint(kind for kind, _ in condition.keys):
            held = " and ".join(KINDS[kind] for kind in sorted(kinds))
            value = condition.keys[0][1]
            raise QueryError(
                f"filter: {field} holds {held}, which {operator} cannot order against {value!r}"
            )


def conditions(wanted: Filter) -> Iterator[Condition]:
    """The conditions of a filter, checked.

    Raises:
        QueryError: one makes no sense.
    """
    for field, given in wanted.items():
        if not isinstance(field, str):
            raise QueryError(f"filter: a field is named by a text, not by {field!r}")
        operators = given if isinstance(given, Mapping) else {"=": given}
        if not operators:
            raise QueryError(f"filter: {field} has no condition; use one of {_list(OPERATORS)}")
        for operator, values in operators.items():
            if operator not in OPERATORS:
                raise QueryError(
                    f"filter: {field} has the operator {operator!r}; use one of {_list(OPERATORS)}"
                )
            yield Condition(field, operator, _keys(field, operator, values))


def _keys(field: str, operator: str, given: Values) -> tuple[Key, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    values: list[Value] = list(given) if several else [given]  # type: ignore[arg-type,list-item]
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    for value in values:
        if not isinstance(value, str | int | float | None) or value != value:
            raise QueryError(
                f"filter: {field} is compared with {value!r}; give texts, numbers, booleans or None"
            )
    if operator in ORDERED and (several or isinstance(values[0], bool | None)):
        raise QueryError(f"filter: {operator} compares {field} with one number or text")
    return tuple(key for value in values for key in _readings(value))


def _readings(value: Value) -> Iterator[Key]:
    """What a given value stands for: itself, and for a text also the JSON scalar that it spells."""
    yield _key(value)
    if isinstance(value, str):
        try:
            meant = parse_json(value)
        except ValueError:
            return
        if isinstance(meant, int | float | None) and meant == meant:
            yield _key(meant)


def _key(value: object) -> Key:
    if value is None:
        return MISSING
    if isinstance(value, int | float):
        return (1 if isinstance(value, bool) else NUMBERS), value
    return TEXTS, value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, eq=False)
class Column:
    """One field of a segment.

    Attributes:
        keys: the distinct values, rising; missing is the first of them where a row lacks it.
        places: for each row the place of its value among them: unsigned integers (rows,).
    """

    keys: Sequence[Key]
    places: NDArray[np.unsignedinteger[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, nearly."""
        return self.places.nbytes + sum(96 + sys.getsizeof(value) for _, value in self.keys)

    @cached_property
    def kinds(self) -> frozenset[int]:
        """Kinds of the values."""
        edges = [bisect_left(self.keys, (kind,)) for kind in range(len(KINDS) + 1)]
        return frozenset(kind for kind in range(len(KINDS)) if edges[kind] < edges[kind + 1])

    def rows(self, condition: Condition) -> Mask:
        """Rows that meet a condition on this field: bool (rows,)."""
        chosen = np.zeros(len(self.keys), np.bool_)
        is_pattern = condition.field == PATH and condition.operator not in ORDERED
        for key in condition.keys:
            if is_pattern and key[0] == TEXTS:
                chosen[self._matches(key[1])] = True
            else:
                chosen[self._span(condition.operator, key)] = True
        return self._spread(~chosen if condition.operator == "!=" else chosen)

    def _span(self, operator: str, key: Key) -> slice:
        """Places of the values that are in this relation to one, which are neighbours."""
        left, right = bisect_left(self.keys, key), bisect_right(self.keys, key)
        first = bisect_left(self.keys, (key[0],))
        last = bisect_left(self.keys, (key[0] + 1,))
        spans = {"<": (first, left), "<=": (first, right), ">": (right, last), ">=": (left, last)}
        return slice(*spans.get(operator, (left, right)))

    def _matches(self, pattern: str) -> list[int]:
        """Places of the texts that are a pattern, or match it."""
        prefix = re.split(r"[*?[]", pattern, maxsplit=1)[0]
        first = bisect_left(self.keys, (TEXTS, prefix))
        last = bisect_right(self.keys, (TEXTS, f"{prefix}{chr(sys.maxunicode)}"))
        match = re.compile(fnmatch.translate(pattern)).match
        texts = ((place, self.keys[place][1]) for place in range(first, last))
        return [place for place, text in texts if text == pattern or match(text)]

    def _spread(self, chosen: Mask) -> Mask:
        """Whether the value of each row is among the chosen ones."""
        edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
        if len(edges) > 2 * MAX_RUNS:
            found: Mask = chosen[self.places]
            return found
        mask = np.zeros(len(self.places), np.bool_)
        for first, last in edges.reshape(-1, 2):
            mask |= (self.places >= first) & (self.places <= last - 1)
        return mask


def read_columns(segment: Segment, field: str) -> dict[str, Column]:
    """Columns of a field, which may be missing in all rows, and of others parsed along with it.

    Raises:
        StoreFormatError: the file is damaged.
    """
    records, record_of = _records(segment)
    names = dict.fromkeys(itertools.chain([field], itertools.chain.from_iterable(records)))
    return {
        name: _column([_key(record.get(name)) for record in records], record_of)
        for name in itertools.islice(names, 1 + MAX_FIELDS)
    }


def field_names(segment: Segment) -> list[str]:
    """Names of all fields that a chunk of the segment has."""
    return list(dict.fromkeys(itertools.chain.from_iterable(_records(segment)[0])))


def _column(keys: Sequence[Key], record_of: NDArray[np.int32]) -> Column:
    unique = set(keys)
    distinct: list[Key] = []
    for kind in range(len(KINDS)):  # values of one kind compare faster without it
        distinct += sorted((key for key in unique if key[0] == kind), key=itemgetter(1))
    place_of = {key: place for place, key in enumerate(distinct)}
    places = np.array([place_of[key] for key in keys], np.min_scalar_type(len(distinct)))
    return Column(distinct, places[record_of])


def _records(segment: Segment) -> tuple[list[dict[str, object]], NDArray[np.int32]]:
    """The distinct records of fields in a segment, and for each row the place of its own."""
    place_of: dict[tuple[str, str], int] = {}
    places: list[int] = []
    for batch in segment.chunk_batches():
        rows = zip(
            batch.column(PATH).to_pylist(), batch.column("metadata").to_pylist(), strict=True
        )
        places += [place_of.setdefault(row, len(place_of)) for row in rows]
    try:
        parsed = parse_json(f"[{','.join(text for _, text in place_of)}]")
    except ValueError:
        parsed = []
    if len(parsed) != len(place_of) or not all(isinstance(fields, dict) for fields in parsed):
        raise damaged(segment.directory / CHUNKS_FILE, "has metadata that is no JSON object")
    records = [{PATH: path} | fields for (path, _), fields in zip(place_of, parsed, strict=True)]
    return records, np.array(places, np.int32)


class _Recent(Generic[_Item]):
    """Items by key, of at most so many bytes; those used least recently go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._items: OrderedDict[Hashable, tuple[_Item, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> _Item | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Hashable, item: _Item, size: int) -> None:
        with self._lock:
            _, replaced = self._items.pop(key, (None, 0))
            self._items[key] = item, size
            self._size += size - replaced
            while self._size > self._limit:
                _, (_, freed) = self._items.popitem(last=False)
                self._size -= freed


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
