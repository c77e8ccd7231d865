"""Training of the encoder: one loop over the stages of a recipe, with exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adaptive_search.encoder import checkpoint, losses, seeding
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.data import TokenBatch, TokenStream, find_files
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.recipe import Recipe, Stage
from adaptive_search.encoder.teacher import Teacher, default_teacher_dir
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.errors import TrainingError, WeightsError

STATE = "state.safetensors"

# What a damaged or foreign state file raises.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Progress:
    """What one step did."""

    stage: int
    step: int
    steps: int
    tokens: int
    tokens_per_second: float
    losses: dict[str, float]


class Trainer:
    """Trains a model on texts and pairs with a teacher, into a run directory."""

    def __init__(self, recipe: Recipe, data: Path, run: Path, teacher: Path | None = None) -> None:
        """Open the data and the teacher, and seed the model or resume the run.

        Args:
            recipe: what to do.
            data: directory with text*.parquet|jsonl (column text) and
                pairs*.parquet|jsonl (columns query, positive).
            run: directory of the checkpoint; created, or resumed from.
            teacher: its directory; the packaged all-MiniLM-L6-v2 by default.

        Raises:
            TrainingError: data, teacher or checkpoint cannot be used.
            MissingExtra: an optional dependency is missing.
        """
        torch.manual_seed(recipe.seed)
        self.recipe, self.run = recipe, run
        directory = teacher or default_teacher_dir()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.teacher = Teacher(directory, self.device)
        self.tokenizer = Tokenizer.load(directory / "tokenizer.json")
        self.tokenizer_json = (directory / "tokenizer.json").read_text(encoding="utf-8")
        self.texts = find_files(data, "text")
        self.pairs = find_files(data, "pairs")
        width, d_model = self.teacher.width, recipe.config.d_model
        if width != d_model or self.teacher.vocab_size != recipe.config.vocab_size:
            raise TrainingError(
                f"{directory}: the teacher's width {width} and vocabulary "
                f"{self.teacher.vocab_size} must equal the config's {d_model} and "
                f"{recipe.config.vocab_size}"
            )
        self.model = MatMambaEncoder(recipe.config).to(self.device)
        # The student's states, and its full vector, seen in the teacher's space.
        self.maps = nn.ModuleDict(
            {
                "token": nn.Linear(d_model, width, bias=False),
                "pooled": nn.Linear(recipe.config.dims[-1], width, bias=False),
            }
        ).to(self.device)
        self.rotation = torch.eye(width, device=self.device)
        self.stage = self.step = self.tokens = 0
        if not self._resume():
            self._seed()

    def train(self, report: Callable[[Progress], None] = lambda _: None) -> None:
        """Run the stages that are left, saving a checkpoint as the recipe says.

        Raises:
            TrainingError: a loss is not finite; the last checkpoint is kept.
        """
        for number in range(self.stage, len(self.recipe.stages)):
            stage = self.recipe.stages[number]
            if number != self.stage:
                self.stage, self.step = number, 0
            optimizer = self._optimizer()
            self._load_optimizer(optimizer)
            self._train_stage(stage, optimizer, report)
        self.export(self.run / "weights")

    def export(self, directory: Path) -> None:
        """Write the present weights, int8, as a directory that the encoder loads."""
        tensors = {k: v.detach().float().cpu().numpy() for k, v in self.model.state_dict().items()}
        checkpoint.save(
            directory, self.recipe.config, self.tokenizer_json, checkpoint.quantize_rows(tensors)
        )

    # -- one stage ---------------------------------------------------------

    def _train_stage(
        self, stage: Stage, optimizer: torch.optim.Optimizer, report: Callable[[Progress], None]
    ) -> None:
        batches = self._batches(stage, start=self.step)
        while self.step < stage.steps:
            began = time.perf_counter()
            rate = stage.learning_rate * _schedule(stage, self.step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate"]
            batch = next(batches)
            parts = self._losses(stage, batch)
            total = torch.stack(list(parts.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self._parameters(), 1.0)
            if not (torch.isfinite(total) and torch.isfinite(norm)):
                raise TrainingError(
                    f"the loss of stage {self.stage} step {self.step}, or its gradient, is not "
                    f"finite; the last checkpoint is in {self.run}. Lower learning_rate and resume"
                )
            optimizer.step()
            self.step += 1
            tokens = sum(b.tokens for b in batch)
            self.tokens += tokens
            if self.step % self.recipe.checkpoint_steps == 0 or self.step == stage.steps:
                self._save(optimizer)
            values = {name: float(value.detach()) for name, value in parts.items()}
            seconds = time.perf_counter() - began
            report(
                Progress(self.stage, self.step, stage.steps, self.tokens, tokens / seconds, values)
            )

    def _losses(self, stage: Stage, batch: tuple[TokenBatch, ...]) -> dict[str, Tensor]:
        sides = [self._forward(stage, side) for side in batch]
        vectors = torch.cat([side.vectors for side in sides])
        dims = self.recipe.config.dims
        parts = {"token": stage.token * torch.stack([s.token for s in sides]).mean()}
        if stage.needs_teacher:
            teacher = torch.cat([side.teacher for side in sides])
            parts["pooled"] = stage.pooled * losses.cosine_distance(self._mapped(vectors), teacher)
            parts["bands"] = stage.bands * self._band_loss(vectors, teacher)
            parts["relational"] = (
                stage.relational * losses.relational(vectors, teacher, dims).mean()
            )
        if stage.consistency:
            parts["consistency"] = stage.consistency * losses.consistency(vectors, dims)
        if len(sides) == 2 and stage.contrastive:
            skip = losses.find_false_negatives(sides[0].teacher, sides[1].teacher)
            each = losses.contrastive(sides[0].vectors, sides[1].vectors, skip, dims)
            parts["contrastive"] = stage.contrastive * each.mean()
        if stage.granularity and not stage.static:
            parts["granularity"] = stage.granularity * self._granularity_loss(batch[-1], sides[-1])
        return parts

    def _forward(self, stage: Stage, batch: TokenBatch) -> _Side:
        ids, lengths = self._to_device(batch)
        if stage.needs_teacher:
            tokens, pooled = self.teacher.states(ids, lengths)
        with self._autocast():
            if stage.static:
                hidden = self.model.final_norm(self.model.embedding(ids))
            else:
                hidden = self.model.hidden(ids, lengths)
            vectors = self.model.embed(hidden, lengths)
            token = torch.zeros((), device=self.device)
            if stage.token:
                real = torch.arange(ids.shape[1], device=self.device) < lengths.unsqueeze(1)
                mapped = self.maps["token"](hidden[real])
                token = losses.cosine_distance(mapped.float(), tokens[real])
        if not stage.needs_teacher:
            # The seeded model then judges false negatives itself.
            pooled = F.normalize(vectors.detach(), dim=-1)
        return _Side(vectors, pooled, token)

    def _granularity_loss(self, batch: TokenBatch, full: _Side) -> Tensor:
        """Draw one narrower sub-model's vectors towards the full model's."""
        levels = [g for g in self.recipe.config.granularities if g > 1]
        level = levels[(self.step * 7919 + self.recipe.seed) % len(levels)]
        ids, lengths = self._to_device(batch)
        half = (len(ids) + 1) // 2
        with self._autocast():
            vectors = self.model(ids[:half], lengths[:half], level)
        widths = list(self.recipe.config.band_widths)
        narrow = vectors.split(widths, dim=1)
        target = full.vectors[:half].detach().split(widths, dim=1)
        pairs = zip(narrow, target, strict=True)
        return torch.stack([losses.cosine_distance(a, b) for a, b in pairs]).mean()

    def _band_loss(self, vectors: Tensor, teacher: Tensor) -> Tensor:
        """Draw the bands within the teacher's rank to its principal directions."""
        turned = teacher @ self.rotation
        parts, start = [], 0
        for width in self.recipe.config.band_widths:
            stop = start + width
            if stop > turned.shape[1]:
                break
            parts.append(losses.cosine_distance(vectors[:, start:stop], turned[:, start:stop]))
            start = stop
        return torch.stack(parts).mean()

    def _mapped(self, vectors: Tensor) -> Tensor:
        mapped: Tensor = self.maps["pooled"](vectors)
        return mapped

    # -- data --------------------------------------------------------------

    def _stream(self, stage: Stage, kind: str) -> TokenStream:
        files, columns = {
            "texts": (self.texts, ("text",)),
            "pairs": (self.pairs, ("query", "positive")),
        }[kind]
        return TokenStream(
            files,
            columns,
            self.tokenizer,
            max_tokens=stage.max_tokens,
            batch_tokens=stage.batch_tokens,
            seed=self.recipe.seed + 1000 * self.stage,
        )

    def _batches(self, stage: Stage, start: int) -> Iterator[tuple[TokenBatch, ...]]:
        def pairs_before(step: int) -> int:
            return math.floor(step * stage.pairs_share)

        pairs = self._stream(stage, "pairs").batches(pairs_before(start))
        texts = self._stream(stage, "texts").batches(start - pairs_before(start))
        for step in itertools.count(start):
            yield next(pairs if pairs_before(step + 1) > pairs_before(step) else texts)

    def _to_device(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        ids, lengths = torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
        return ids.to(self.device), lengths.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)

    # -- start, save, resume -----------------------------------------------

    def _seed(self) -> None:
        stage = dataclasses.replace(self.recipe.stages[0], batch_tokens=4096, max_tokens=64)
        stream = self._stream(stage, "texts").batches()
        sample = [batch for (batch,) in itertools.islice(stream, self.recipe.survey_batches)]
        space = seeding.survey(self.teacher, sample)
        cls_id, sep_id = (int(i) for i in self.tokenizer.encode_batch([""], context=2)[0])
        table = seeding.vocabulary_outputs(self.teacher, cls_id, sep_id)
        seeding.seed(self.model, table, space)
        self.rotation = space.rotation.to(self.device)
        with torch.no_grad():
            self.maps["token"].weight.copy_(space.rotation)  # type: ignore[operator]
            heads = torch.cat([weight.cpu() for weight in self.model.heads.parameters()])
            pooled = space.rotation @ torch.linalg.pinv(heads)
            self.maps["pooled"].weight.copy_(pooled)  # type: ignore[operator]

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.maps.parameters()]

    def _optimizer(self) -> torch.optim.AdamW:
        """AdamW; the embedding, well seeded and sparse in its gradients, moves slower."""
        table = self.model.embedding.weight
        named = [*self.model.named_parameters(), *self.maps.named_parameters()]
        matrices = [p for _, p in named if p.ndim == 2 and p is not table]
        others = [p for _, p in named if p.ndim != 2]
        decay = self.recipe.weight_decay
        return torch.optim.AdamW(
            [
                {"params": [table], "weight_decay": 0.0, "rate": 0.5},
                {"params": matrices, "weight_decay": decay, "rate": 1.0},
                {"params": others, "weight_decay": 0.0, "rate": 1.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def _named_state(self, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
        state = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state |= {f"maps.{k}": v for k, v in self.maps.state_dict().items()}
        state["rotation"] = self.rotation
        named = [*self.model.named_parameters(), *self.maps.named_parameters()]
        for name, parameter in named if optimizer else ():
            for key, value in optimizer.state.get(parameter, {}).items():  # type: ignore[union-attr]
                state[f"optimizer.{key}.{name}"] = value
        return {k: v.detach().cpu().contiguous() for k, v in state.items()}

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace the checkpoint at once; the old one stays whole until then."""
        position = {"stage": self.stage, "step": self.step, "tokens": self.tokens}
        metadata = {"position": json.dumps(position), "config": self.recipe.config.to_json()}
        partial = self.run / (STATE + ".partial")
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            save_file(self._named_state(optimizer), partial, metadata)
            os.replace(partial, self.run / STATE)
            (self.run / "recipe.json").write_text(self.recipe.to_json(), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise TrainingError(
                f"the checkpoint in {self.run} could not be written ({error}); the one before "
                "it is kept"
            ) from None

    def _resume(self) -> bool:
        path = self.run / STATE
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                self._saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if EncoderConfig.from_json(metadata["config"]) != self.recipe.config:
                raise TrainingError(
                    f"{path} was made with another encoder config; choose another run directory"
                )
            position = json.loads(metadata["position"])
            self.stage, self.step = int(position["stage"]), int(position["step"])
            self.tokens = int(position["tokens"])
            self.model.load_state_dict(_part(self._saved, "model."))
            self.maps.load_state_dict(_part(self._saved, "maps."))
            self.rotation = self._saved["rotation"].to(self.device)
        except (*_UNREADABLE, WeightsError) as error:
            reason = " ".join(str(error).split())  # PyTorch's has lines
            raise TrainingError(
                f"{path} is not a checkpoint: {reason}; remove it to start again"
            ) from None
        return True

    def _load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        saved: dict[str, Tensor] = self.__dict__.pop("_saved", {})
        if self.step == 0:
            return
        named = [*self.model.named_parameters(), *self.maps.named_parameters()]
        for name, parameter in named:
            state = {
                key: saved[f"optimizer.{key}.{name}"].to(self.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in saved
            }
            if state:
                optimizer.state[parameter] = state


@dataclass(frozen=True)
class _Side:
    """One column of a batch: the student's vectors, the teacher's, the token loss."""

    vectors: Tensor
    teacher: Tensor
    token: Tensor


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _schedule(stage: Stage, step: int) -> float:
    """Linear warm-up, flat, then linear decay to 0."""
    warm = min(1.0, (step + 1) / max(1, stage.warmup_steps))
    falling = max(1.0, stage.steps * stage.decay_share)
    return warm * float(np.clip((stage.steps - step) / falling, 0.0, 1.0))
