from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.documents import Document, printable_path
from adaptive_search.id_set import IdSet


def document(**changes: object) -> Document:
    return Document(**({"id": "a", "path": "a.txt", "text": "body", "title": "t"} | changes))


def test_hash_has_sixteen_bytes_and_ignores_the_order_of_metadata() -> None:
    one = document(metadata={"a": 1, "b": 2}).content_hash
    assert len(one) == 16
    assert one == document(metadata={"b": 2, "a": 1}).content_hash


def test_hash_changes_with_every_part_that_is_stored() -> None:
    base = document().content_hash
    changed = [
        document(text="bodY"),
        document(title="u"),
        document(path="b.txt"),
        document(metadata={"a": 1}),
        document(metadata={"a": "1"}),
        document(metadata={"a": True}),
        document(title="tb", text="ody"),
    ]
    assert len({base, *(d.content_hash for d in changed)}) == len(changed) + 1


def test_names_that_cannot_be_shown_are_escaped() -> None:
    assert printable_path("dir/plain é 名.txt") == "dir/plain é 名.txt"
    assert printable_path("a\nb\x1b[31m") == "a\\u000ab\\u001b[31m"
    assert printable_path(os.fsdecode(b"\xff.txt")) == "\\xff.txt"
    assert printable_path("a\u202eb") == "a\\u202eb"


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=2, max_size=2, unique=True))
def test_two_names_never_look_the_same(names: list[bytes]) -> None:
    shown = [printable_path(os.fsdecode(name)) for name in names]
    assert all(name.isprintable() for name in shown)
    assert shown[0] != shown[1]


@given(st.lists(st.text(max_size=4), max_size=60))
def test_id_set_agrees_with_a_set(texts: list[str]) -> None:
    ids, truth = IdSet(), set()
    for text in texts:
        assert ids.add(text) is (text not in truth)
        truth.add(text)
    assert len(ids) == len(truth)
    assert [ids.number(text) for text in dict.fromkeys(texts)] == list(range(len(truth)))


def test_id_set_keeps_every_id_while_it_grows() -> None:
    ids = IdSet()
    assert all(ids.add(str(i)) for i in range(5000))
    assert not any(ids.add(str(i)) for i in range(5000))
