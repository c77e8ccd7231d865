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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adaptive_search.encoder import checkpoint, completion, development, seeding
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.data import COLUMNS, Text, TokenStream, find_files
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.objective import Objective
from adaptive_search.encoder.optimizers import Average, Optimizers, schedule
from adaptive_search.encoder.recipe import Recipe, Stage
from adaptive_search.encoder.teacher import Teacher, default_teacher_dir
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.encoder.workers import Workers
from adaptive_search.errors import TrainingError, WeightsError

STATE = "state.safetensors"
FIT_BATCHES = 25  # of as many tokens, by which trained weights are compared with the teacher
SURVEY = Stage(steps=1, batch_tokens=4096, max_tokens=64)
COMPLETION = Stage(steps=1, batch_tokens=4096, max_tokens=256, sentence_share=0.5)
COMPLETION_BATCHES = 200  # of each kind of data

# What a damaged or foreign state file raises.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Progress:
    """What one step did.

    Attributes:
        stage: number of the stage, from 0.
        step: steps done in the stage.
        steps: of the stage.
        tokens: seen since the start, by all processes.
        tokens_per_second: of this step.
        losses: each loss times its weight.
        losses_by_dim: of those that are taken at every dimension, the value at each, smallest
            dimension first, without weights.
        development: MRR@10 of held-out pairs by dimension, when it was just measured.
    """

    stage: int
    step: int
    steps: int
    tokens: int
    tokens_per_second: float
    losses: dict[str, float]
    losses_by_dim: dict[str, tuple[float, ...]]
    development: dict[int, float] = field(default_factory=dict)


class Trainer:
    """Trains an encoder on texts and pairs with a teacher, into a run directory.

    A run directory that holds a checkpoint is resumed: the same calls as before go on
    from it.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        *,
        texts: Path | None = None,
        pairs: Path | None = None,
        teacher: Path | None = None,
        weights: Path | None = None,
        from_scratch: bool = False,
    ) -> None:
        """Open the data and the teacher, and start the model or resume the run.

        Args:
            recipe: what to do.
            run: directory of the checkpoint; created, or resumed from.
            texts: a .parquet or .jsonl file with the column text, or a directory of
                text*.parquet|jsonl.
            pairs: the same with the columns query and positive, in pairs*.parquet|jsonl.
            teacher: directory of a sentence-transformers model; the packaged
                all-MiniLM-L6-v2 by default.
            weights: directory of the weights to go on from; the shipped ones by default.
                Their config takes the place of the recipe's.
            from_scratch: start from the teacher instead, by the recipe's config; of the
                weights only the tokenizer is taken.

        Raises:
            TrainingError: data, teacher or checkpoint cannot be used.
            WeightsError: the weights cannot be used.
            MissingExtra: an optional dependency is missing.
        """
        torch.manual_seed(recipe.seed)
        start = weights or checkpoint.shipped_weights()
        self.tokenizer = Tokenizer.load(start / checkpoint.TOKENIZER)
        self.tokenizer_json = (start / checkpoint.TOKENIZER).read_text(encoding="utf-8")
        if not from_scratch:
            loaded = checkpoint.load(start)
            recipe = dataclasses.replace(recipe, config=loaded.config)
        if self.tokenizer.vocab_size != recipe.config.vocab_size:
            raise TrainingError(
                f"the recipe's vocab_size={recipe.config.vocab_size} must be "
                f"{self.tokenizer.vocab_size}, as {start / checkpoint.TOKENIZER} has it"
            )
        self.recipe, self.run, self.workers = recipe, run, Workers()
        given = {"texts": texts, "pairs": pairs}
        self.files = {kind: find_files(path, kind) for kind, path in given.items() if path}
        if not self.files:
            raise TrainingError("training needs texts or pairs")
        frozen = Teacher(teacher or default_teacher_dir(), self.tokenizer, self.workers.device)
        self.objective = Objective(recipe, frozen)
        self.objective.to(self.workers.device)
        self.model = self.objective.model
        self.stage = self.step = self.tokens = 0
        self._pools = dict.fromkeys(self.files, 0)  # where the stage begins in the data
        self._saved: dict[str, Tensor] = {}
        if not self._resume():
            if from_scratch:
                self._seed()
            else:
                self._load(loaded)
            self.average = Average(self.model, recipe.average)

    def distill(
        self,
        steps: int,
        report: Callable[[Progress], None] = lambda _: None,
        **settings: float | bool | str,
    ) -> None:
        """Add a stage that learns from the teacher alone, and train up to its end.

        Args:
            steps: of the stage.
            report: told of each step.
            **settings: other fields of `Stage`.
        """
        self._add({"steps": steps, "contrastive": 0.0} | settings, report)

    def curriculum(
        self,
        steps_per_dim: int,
        report: Callable[[Progress], None] = lambda _: None,
        **settings: float | bool | str,
    ) -> None:
        """Add a stage whose losses take in one more dimension at a time, and train to its end.

        Args:
            steps_per_dim: steps before the next larger dimension joins; all of them are
                trained for as long again.
            report: told of each step.
            **settings: other fields of `Stage`.
        """
        steps = steps_per_dim * (len(self.recipe.config.dims) + 1)
        self._add({"steps": steps, "curriculum_steps": steps_per_dim} | settings, report)

    def _add(self, settings: dict[str, Any], report: Callable[[Progress], None]) -> None:
        stage = Stage(**({"batch_tokens": 4096} | settings))
        self.recipe = dataclasses.replace(self.recipe, stages=(*self.recipe.stages, stage))
        self.train(report)

    def train(self, report: Callable[[Progress], None] = lambda _: None) -> None:
        """Run the stages that are left, saving a checkpoint as the recipe says.

        Raises:
            TrainingError: a loss is not finite; the last checkpoint is kept.
        """
        for number in range(self.stage, len(self.recipe.stages)):
            stage = self.recipe.stages[number]
            if number != self.stage:
                self.stage, self.step = number, 0
            self._train_stage(stage, report)
        if self.workers.leads:
            self.export(self.run / "weights")

    def export(self, directory: Path) -> None:
        """Write the averaged weights, int8, as a directory that the encoder loads."""
        config, state = self.recipe.config, self.average.state()
        if self.recipe.complete:
            model = MatMambaEncoder(config).to(self.workers.device).eval()
            model.load_state_dict(state)
            surveys = (self._survey(kind, COMPLETION_BATCHES, COMPLETION) for kind in self.files)
            batches = itertools.chain.from_iterable(surveys)
            texts = [text for columns in batches for column in columns for text in column]
            config, maps = completion.complete(
                model, self.objective.teacher, texts, self.recipe.group_tokens
            )
            state = state | maps
        tensors = {k: v.float().cpu().numpy() for k, v in state.items()}
        checkpoint.save(directory, config, self.tokenizer_json, checkpoint.quantize_rows(tensors))

    # -- one stage ---------------------------------------------------------

    def _train_stage(self, stage: Stage, report: Callable[[Progress], None]) -> None:
        parameters = dict(self.objective.named_parameters())
        optimizers = Optimizers(parameters, stage.optimizer, self.recipe.weight_decay)
        streams = {kind: self._stream(stage, kind) for kind in self.files}
        self._restore(optimizers, streams)
        if stage.needs_alignment and not self.objective.is_aligned:
            self.objective.fit_alignment(self._sample(FIT_BATCHES))
        held_out = self._held_out(stage)
        while self.step < stage.steps:
            began = time.perf_counter()
            columns = self._draw(streams[self._kind(stage)])
            seed = (self.recipe.seed, self.stage, self.step, self.workers.rank)
            losses = self.objective.backward(stage, self.step, columns, seed)
            self.workers.average_gradients(list(parameters.values()))
            norm = nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            if not (math.isfinite(sum(losses.parts.values())) and torch.isfinite(norm)):
                raise TrainingError(
                    f"the loss of stage {self.stage} step {self.step}, or its gradient, is not "
                    f"finite; the last checkpoint is in {self.run}. Lower learning_rate and resume"
                )
            optimizers.step(stage.learning_rate * schedule(stage, self.step))
            self.average.update()
            self.step += 1
            tokens = self.workers.count * sum(len(t.ids) for c in columns for t in c)
            self.tokens += tokens
            seconds = time.perf_counter() - began
            if self.step % self.recipe.checkpoint_steps == 0 or self.step == stage.steps:
                self._save(optimizers, streams)
            place = (self.stage, self.step, stage.steps, self.tokens)
            reached = self._develop(stage, held_out)
            report(Progress(*place, tokens / seconds, losses.parts, losses.by_dim, reached))
        self._pools = {kind: stream.next_pool for kind, stream in streams.items()}

    def _kind(self, stage: Stage) -> str:
        """What the present step sees, of what there is."""
        wanted = "pairs" if stage.sees_pairs(self.step) else "texts"
        return wanted if wanted in self.files else next(iter(self.files))

    def _draw(self, stream: TokenStream) -> tuple[list[Text], ...]:
        """This process's batch; the others take theirs from the same stream."""
        batches = [next(stream) for _ in range(self.workers.count)]
        return batches[self.workers.rank]

    def _stream(self, stage: Stage, kind: str) -> TokenStream:
        narrowest = max(self.recipe.config.granularities)
        return TokenStream(
            self.files[kind],
            COLUMNS[kind],
            self.tokenizer,
            max_tokens=stage.max_tokens,
            batch_tokens=stage.batch_tokens,
            seed=self.recipe.seed + 1000 * self.stage,
            embed=lambda texts: self.objective.embed(texts, narrowest),
            mined_share=stage.mined_share if kind == "pairs" else 0.0,
            sentence_share=stage.sentence_share,
            first_pool=self._pools[kind],
        )

    def _held_out(self, stage: Stage) -> development.Pairs:
        """What development is measured on."""
        files = self.files.get("pairs", []) if self.recipe.development_steps else []
        return development.read_pairs(files, self.tokenizer, stage.max_tokens)

    def _develop(self, stage: Stage, held_out: development.Pairs) -> dict[int, float]:
        every = self.recipe.development_steps
        due = every and (self.step % every == 0 or self.step == stage.steps)
        if not (due and self.workers.leads):
            return {}
        return development.mean_reciprocal_ranks(self.objective.embed, held_out, self.recipe.config)

    # -- start, save, resume -----------------------------------------------

    def _survey(
        self, kind: str, batches: int, stage: Stage = SURVEY
    ) -> Iterator[tuple[list[Text], ...]]:
        """The first batches of texts, or of pairs."""
        return itertools.islice(self._stream(stage, kind), batches)

    def _sample(self, batches: int) -> list[Text]:
        """Texts, or else positives, from the beginning of the data."""
        survey = self._survey(next(iter(self.files)), batches)
        return [text for columns in survey for text in columns[-1]]

    def _seed(self) -> None:
        """Start from the teacher."""
        sample = self._sample(self.recipe.survey_batches)
        teacher, config = self.objective.teacher, self.recipe.config
        space = seeding.survey(teacher, sample, config.vocab_size)
        if self.recipe.table == "inputs" and teacher.shares_tokens:
            table = seeding.vocabulary_inputs(teacher, self.tokenizer)
            seeding.seed_inputs(self.model, table, space)
        else:
            table = seeding.vocabulary_vectors(teacher, self.tokenizer)
            seeding.seed_outputs(self.model, table, space)
        self.objective.align(space.rotation)

    def _load(self, start: checkpoint.Checkpoint) -> None:
        """Start from trained weights."""
        self.objective.forget_alignment()
        tensors = checkpoint.dequantize(start.tensors)
        self.model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})

    def _save(self, optimizers: Optimizers, streams: dict[str, TokenStream]) -> None:
        """Replace the checkpoint at once; the old one stays whole until then."""
        if not self.workers.leads:
            return
        state = dict(self.objective.state_dict())
        state |= {f"average.{k}": v for k, v in self.average.state().items()}
        state |= {f"optimizer.{k}": v for k, v in optimizers.state().items()}
        state |= {
            f"stream.{kind}.{k}": torch.from_numpy(v)
            for kind, stream in streams.items()
            for k, v in stream.state().items()
        }
        state = {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
            for k, v in state.items()
        }
        position = {
            "stage": self.stage,
            "step": self.step,
            "tokens": self.tokens,
            "pools": self._pools,
        }
        metadata = {"position": json.dumps(position), "config": self.recipe.config.to_json()}
        partial = self.run / (STATE + ".partial")
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            save_file(state, partial, metadata)
            (self.run / "recipe.json").write_text(self.recipe.to_json(), encoding="utf-8")
            os.replace(partial, self.run / STATE)
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
            self._pools = {kind: int(position["pools"].get(kind, 0)) for kind in self.files}
            own = {k: self._saved[k] for k in self.objective.state_dict()}
            self.objective.load_state_dict(own)
            self.average = Average(self.model, self.recipe.average)
            self.average.load(_part(self._saved, "average."))
        except (*_UNREADABLE, WeightsError) as error:
            reason = " ".join(str(error).split())  # PyTorch's has lines
            raise TrainingError(
                f"{path} is not a checkpoint: {reason}; remove it to start again"
            ) from None
        return True

    def _restore(self, optimizers: Optimizers, streams: dict[str, TokenStream]) -> None:
        """Set what a stage needs to go on where the checkpoint left it."""
        saved, self._saved = self._saved, {}
        if not saved or self.step == 0:
            return
        optimizers.load(_part(saved, "optimizer."))
        for kind, stream in streams.items():
            state = _part(saved, f"stream.{kind}.")
            stream.restore({k: v.numpy() for k, v in state.items()})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
