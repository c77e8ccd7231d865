"""Fixtures that every area of the tests may use."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.encoder import Encoder
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


@pytest.fixture(scope="session")
def tiny_weights_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Weights of one small block, random, with the seven dims and four widths of the real ones."""
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=32,
        n_layers=1,
        d_state=8,
        headdim=8,
        context=512,
    )
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32) * (0.3 if len(shape) > 1 else 0.05)
        for name, shape in checkpoint.expected_shapes(config).items()
    }
    # Word identity must outweigh what the random block makes of it.
    tensors["embedding.weight"] *= 10
    for name in tensors:
        if name.endswith("norm.weight"):
            tensors[name] = np.ones_like(tensors[name])
    directory = tmp_path_factory.mktemp("tiny") / "weights"
    checkpoint.save(directory, config, tokenizer._rust.to_str(), tensors)
    return directory


@pytest.fixture(scope="session")
def tiny_encoder(tiny_weights_dir: Path) -> Encoder:
    """The encoder of these weights, on one thread."""
    return Encoder.load(tiny_weights_dir, threads=1)


@pytest.fixture(scope="session")
def tiny_teacher_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random BERT of 16 dims and 32 positions with our tokens, without a word on pooling."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("teacher")
    sizes = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    transformers.BertModel(sizes).save_pretrained(directory)
    entries = sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)
    (directory / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    transformers.BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory
