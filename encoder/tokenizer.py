"""Text to token ids: the teacher's WordPiece vocabulary, in Rust."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from adaptive_search.errors import WeightsError

Ids = NDArray[np.int32]


class Tokenizer:
    """WordPiece tokenizer that frames each text as [CLS] ids... [SEP]."""

    def __init__(self, rust: RustTokenizer) -> None:
        """Wrap a loaded tokenizer, without its truncation or padding."""
        rust.no_truncation()
        rust.no_padding()
        # A document that spells out "[SEP]" must not be able to frame itself.
        rust.encode_special_tokens = True
        cls_id, sep_id = rust.token_to_id("[CLS]"), rust.token_to_id("[SEP]")
        if cls_id is None or sep_id is None:
            raise WeightsError("tokenizer.json has no [CLS] and [SEP] tokens")
        self._rust = rust
        self._cls, self._sep = _ids([cls_id, sep_id])

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json.

        Raises:
            WeightsError: the file is missing or is not a tokenizer.
        """
        try:
            rust = RustTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise WeightsError(f"{path} is not a tokenizer: {error}") from None
        return cls(rust)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._rust.get_vocab_size())

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Id of each entry."""
        entries: dict[str, int] = self._rust.get_vocab()
        return entries

    @cached_property
    def continues_word(self) -> NDArray[np.bool_]:
        """Bool (vocab_size,): whether an id goes on with the word of the id before it."""
        table = np.zeros(self.vocab_size, dtype=np.bool_)
        for token, token_id in self.vocabulary.items():
            if token_id >= len(table):
                raise WeightsError(f"tokenizer.json gives {token!r} an id above all; copy it again")
            table[token_id] = token.startswith("##") and len(token) > 2
        return table

    def tokenize(self, text: str) -> tuple[Ids, NDArray[np.int32]]:
        """Ids of a text without [CLS] and [SEP], and where each stands.

        Returns:
            ids int32 (n,), and spans int32 (n, 2): start and end character of each.
        """
        encoding = self._rust.encode(_encodable(text), add_special_tokens=False)
        spans = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return _ids(encoding.ids), spans

    def frame(self, ids: Ids, *, context: int) -> Ids:
        """Put [CLS] and [SEP] around ids, cutting them to `context` in all."""
        body = ids[: context - 2]
        framed = np.empty(len(body) + 2, dtype=np.int32)
        framed[0], framed[1:-1], framed[-1] = self._cls, body, self._sep
        return framed

    def encode_batch(self, texts: Sequence[str], *, context: int) -> list[Ids]:
        """Framed ids of each text, cut to `context` tokens."""
        clean = [_encodable(text) for text in texts]
        encodings = self._rust.encode_batch_fast(clean, add_special_tokens=False)
        return [self.frame(_ids(encoding.ids), context=context) for encoding in encodings]


def _ids(found: list[int]) -> Ids:
    """Ids as Rust gives them, which a damaged file may have made larger than any can be."""
    try:
        return np.array(found, dtype=np.int32)
    except OverflowError:
        raise WeightsError("tokenizer.json gives a word an id above all; copy it again") from None


def _encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which Rust refuses."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
