"""The peers: each ranks as it should, and says what it lacks."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from adaptive_search.errors import MissingExtra
from adaptive_search.peers import BM25, MiniLM, Peer, load_peers

TEXTS = ["plants store energy in leaves", "the sun gives light", "", "a cell holds water"]


@pytest.fixture(scope="module", params=[BM25, MiniLM])
def peer(request: pytest.FixtureRequest) -> Peer:
    try:
        made: Peer = request.param()
    except MissingExtra as error:
        pytest.skip(str(error))
    return made


def test_the_best_document_comes_first(peer: Peer) -> None:
    ranked = peer.rank(TEXTS, ["sunlight of the sun", "water in cells"], 9)
    assert ranked.shape == (2, len(TEXTS))
    assert ranked[:, 0].tolist() == [1, 3]
    assert np.sort(ranked).tolist() == [[0, 1, 2, 3]] * 2
    assert peer.rank(TEXTS, ["energy"], 2).shape == (1, 2)


def test_similarity_is_of_pairs() -> None:
    try:
        cosines = MiniLM(threads=1).similarities(["the sun", "the sun"], ["the sun", "a fish"])
    except MissingExtra as error:
        pytest.skip(str(error))
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert cosines[1] < 0.6


@pytest.mark.parametrize("package", ["bm25s", "Stemmer", "torch", "sentence_transformers"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"adaptive-search\[eval\]"):
        load_peers()
