"""Random sequences of changes, against a dictionary that goes through the same."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = st.sampled_from("abcdef")
STEPS = st.one_of(
    st.tuples(st.just("add"), NAMES, st.integers(1, 11)),
    st.tuples(st.just("add"), NAMES, st.integers(1, 3)),
    st.tuples(st.just("delete"), NAMES, st.just(0)),
    st.tuples(
        st.sampled_from(["commit", "pause", "compact", "reopen", "crash"]), NAMES, st.just(0)
    ),
)


class Model:
    """Documents by id, in the order in which they were appended last."""

    def __init__(self) -> None:
        self.documents: dict[str, list[str]] = {}

    def add(self, name: str, chunks: list[str]) -> None:
        self.documents.pop(name, None)
        self.documents[name] = chunks

    def texts(self) -> list[str]:
        return [text for chunks in self.documents.values() for text in chunks]


@pytest.fixture
def tiny_segments() -> Any:
    """Segments of 4 rows, at most 8, so that every border is met."""
    with ExitStack() as stack:
        for module in ("store_writer", "compaction", "segment_writer"):
            stack.enter_context(mock.patch(f"adaptive_search.{module}.SEGMENT_ROWS", 4))
            stack.enter_context(mock.patch(f"adaptive_search.{module}.MAX_SEGMENT_ROWS", 8))
        yield


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, max_size=14))
def test_index_equals_model(
    tmp_path_factory: pytest.TempPathFactory, kit: Any, tiny_segments: Any, steps: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("model") / "i"
    Run(kit, path).through(steps)


class Run:
    """One index and one model, changed step by step."""

    def __init__(self, kit: Any, path: Path) -> None:
        self.kit = kit
        self.path = path
        self.model = Model()
        self.version = 0
        kit.create(path)

    def through(self, steps: list[Any]) -> None:
        rest = list(steps)
        while rest:
            try:
                with self.kit.open(self.path).writer() as writer:
                    while rest and rest[0][0] != "reopen":
                        self.step(writer, *rest.pop(0))
                    rest[:1] = []
            except ZeroDivisionError:
                self.after_crash()
        store = self.kit.open(self.path)
        assert self.kit.texts(store) == self.model.texts()
        report = store.verify()
        assert report.problems == () and report.orphans == ()
        assert store.status().rows == len(self.model.texts())
        assert store.status().documents == len(self.model.documents)

    def step(self, writer: Any, action: str, name: str, count: int) -> None:
        if action == "add":
            self.add(writer, name, count)
        elif action == "delete":
            writer.delete_documents([name])
            self.model.documents.pop(name, None)
        elif action == "crash":
            raise ZeroDivisionError
        elif action == "pause":
            self.add(writer, name, 5, pause=True)
        else:
            getattr(writer, action)()
            assert self.kit.texts(self.kit.open(self.path)) == self.model.texts()

    def add(self, writer: Any, name: str, count: int, *, pause: bool = False) -> None:
        """Append a document in two calls, with a commit between them if it pauses."""
        self.version += 1
        head = count // 2 if count > 1 else count
        rows = self.kit.rows(name, count, version=self.version)
        self.kit.add(writer, name, head, version=self.version)
        if pause:
            writer.commit(complete=False)
        if count > head:
            self.kit.add(writer, name, count - head, version=self.version, first=head)
        self.model.add(name, [row.text for row in rows])

    def after_crash(self) -> None:
        """What a crash leaves is a state that was committed: whole documents, nothing else."""
        store = self.kit.open(self.path)
        assert store.verify().problems == ()
        self.model = Model()
        for row, _ in self.kit.contents(store).values():
            self.model.documents.setdefault(row.document_id, []).append(row.text)
