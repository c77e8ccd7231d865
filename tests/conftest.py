"""Fixtures that every area of the tests may use."""

from __future__ import annotations

import string

import pytest
from hypothesis import settings
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from adaptive_search.encoder.tokenizer import Tokenizer

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_WORDS = "the a of and in to is energy plants store light leaf cell water sun green heat".split()
_ENDINGS = "s ed ing er ly".split()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A WordPiece tokenizer over some words, and every ASCII letter, digit and mark."""
    alphabet = string.ascii_lowercase + string.digits
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet, *string.punctuation]
    tokens += _WORDS + [f"##{piece}" for piece in (*alphabet, *_ENDINGS)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    rust = RustTokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    rust.normalizer = BertNormalizer(lowercase=True)
    rust.pre_tokenizer = BertPreTokenizer()
    return Tokenizer(rust)
