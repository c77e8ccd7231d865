"""What training minimises: the losses of one batch, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_search.encoder import losses, seeding
from adaptive_search.encoder.data import Text, TokenBatch, join, length_groups
from adaptive_search.encoder.least_squares import LeastSquares
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.recipe import Recipe, Stage
from adaptive_search.encoder.teacher import Teacher
from adaptive_search.encoder.tokenizer import Ids

Rows = NDArray[np.int64]
_Sliced = TypeVar("_Sliced", Ids, Tensor)


@dataclass(frozen=True)
class _Taught:
    """What the teacher says of texts.

    Attributes:
        vectors: float32 (texts, width).
        layers: of each text the states of its tokens, (tokens, width), in each layer; none of a
            teacher with tokens of its own.
    """

    vectors: Tensor
    layers: Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class _Batch:
    """The texts of one step.

    Attributes:
        stage: which losses, and how much of each.
        step: number of the step in its stage.
        seed: of the dropout.
        ids: token ids of each text.
        queries: how many texts, the first, are queries of those that follow.
        taught: what the teacher says where it does not see these ids; None where it does.
        groups: positions in `ids`, and those texts, padded.
    """

    stage: Stage
    step: int
    seed: Sequence[int]
    ids: Sequence[Ids]
    queries: int
    taught: _Taught | None
    groups: Sequence[tuple[Rows, TokenBatch]]


@dataclass(frozen=True)
class StepLosses:
    """The losses of one batch.

    Attributes:
        parts: each loss times its weight.
        by_dim: of those that are taken at every dimension, the value at each, without weights.
    """

    parts: dict[str, float]
    by_dim: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class _VectorLosses:
    """`StepLosses` of those losses that are taken of whole vectors, as tensors with gradients."""

    parts: dict[str, Tensor]
    by_dim: dict[str, Tensor]


@dataclass(frozen=True)
class _View:
    """Some texts of a batch, as the student and the teacher see them.

    Attributes:
        rows: positions in the batch.
        vectors: the student's, float32 (texts, dims[-1]).
        teacher: the teacher's, float32 (texts, width).
        token: sum over tokens of the distance of the student's states from the teacher's.
        layers: the same below the end, mean over the layers that are matched.
        narrow: distance of a narrower sub-model's vectors, mean over bands, sum over texts.
    """

    rows: Rows
    vectors: Tensor
    teacher: Tensor
    token: Tensor
    layers: Tensor
    narrow: Tensor


class Objective(nn.Module):
    """The model, the linear maps from its space to the teacher's, and the losses."""

    rotation: Tensor

    def __init__(self, recipe: Recipe, teacher: Teacher) -> None:
        """Build an untrained model of the recipe's sizes."""
        super().__init__()
        config = recipe.config
        self.config, self.teacher = config, teacher
        self._group_tokens = recipe.group_tokens
        self._precision = getattr(torch, recipe.precision)
        self.model = MatMambaEncoder(config)
        width = teacher.width
        # Of two blocks that read in opposite directions, the second has seen both sides.
        self._matched = sorted({*range(2, config.n_layers + 1, 2), config.n_layers})
        self.maps = nn.ModuleDict(
            {
                "token": nn.Linear(config.d_model, width, bias=False),
                "pooled": nn.Linear(config.dims[-1], width, bias=False),
                "layers": nn.ModuleList(nn.Linear(config.d_model, width) for _ in self._matched),
            }
        )
        self.register_buffer("rotation", torch.eye(width))

    @torch.no_grad()
    def align(self, rotation: Tensor) -> None:
        """Set the maps for a model that was seeded with these directions."""
        d_model = self.config.d_model
        directions = seeding.project(rotation, d_model)
        self.rotation.copy_(rotation)
        self.maps["token"].weight.copy_(directions)  # type: ignore[operator]
        for layer in self._layer_maps():
            layer.weight.copy_(directions)
            layer.bias.zero_()
        heads = torch.cat([weight.cpu() for weight in self.model.heads.parameters()])
        pooled = directions @ torch.linalg.pinv(heads)
        self.maps["pooled"].weight.copy_(pooled)  # type: ignore[operator]

    @property
    def is_aligned(self) -> bool:
        """Whether the maps were set, or trained."""
        return bool(self.maps["pooled"].weight.any())  # type: ignore[operator]

    @torch.no_grad()
    def forget_alignment(self) -> None:
        """Have the maps set before they are used: the weights come from elsewhere."""
        for parameter in self.maps.parameters():
            parameter.zero_()

    @torch.no_grad()
    def fit_alignment(self, texts: Sequence[Text]) -> None:
        """Set the maps and the rotation for trained weights, from what they and the teacher say.

        The maps by least squares; the rotation is the orthogonal one that brings the teacher's
        vectors nearest to the first bands (Schoenemann 1966, doi:10.1007/BF02289451).
        """
        fits = {
            name: LeastSquares(part)
            for name, part in self.maps.named_modules()
            if isinstance(part, nn.Linear)
        }
        rank = max((dim for dim in self.config.dims if dim <= self.teacher.width), default=0)
        products = torch.zeros(self.teacher.width, rank, device=self.rotation.device)
        for rows, group in length_groups([text.ids for text in texts], self._group_tokens):
            ids, lengths = self._to_device(group)
            with self._autocast():
                states = self.model.states(ids, lengths)
                hidden = self.model.final_norm(states[-1])
                vectors = self.model.embed(hidden, lengths).float()
            if self.teacher.shares_tokens:
                real = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
                layered, pooled = self.teacher.states(ids, lengths)
                fits["token"].add(hidden[real], layered[-1][real])
                for place, (state, taught) in enumerate(self._matched_layers(states, layered)):
                    fits[f"layers.{place}"].add(state[real], taught[real])
            else:
                pooled = self.teacher.vectors([texts[row] for row in rows])
            fits["pooled"].add(vectors, pooled)
            products += pooled.T @ vectors[:, :rank]
        for name, fit in fits.items():
            if name == "pooled" or self.teacher.shares_tokens:
                fit.solve()
        left, _, right = torch.linalg.svd(products)
        self.rotation.copy_(torch.cat([left[:, :rank] @ right, left[:, rank:]], dim=1))

    def backward(
        self, stage: Stage, step: int, columns: Sequence[Sequence[Text]], seed: Sequence[int]
    ) -> StepLosses:
        """Add the gradients of one batch to the parameters.

        Args:
            stage: which losses, and how much of each.
            step: number of the step in its stage.
            columns: texts, or queries and their positives.
            seed: of the dropout; another one for every batch.

        Returns:
            What the losses are.
        """
        self._set_dropout(stage.dropout)
        batch = self._batch(stage, step, columns, seed)
        if stage.cached:
            return self._cached_backward(batch)
        views = [self._view(batch, number) for number in range(len(batch.groups))]
        whole = self._vector_losses(batch, *_in_order(views))
        parts = whole.parts | self._view_losses(batch, views)
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        return _step_losses(parts, whole.by_dim)

    def _cached_backward(self, batch: _Batch) -> StepLosses:
        """`backward` with the graph of one group at a time."""
        numbers = range(len(batch.groups))
        with torch.no_grad():
            vectors, teacher = _in_order([self._view(batch, number) for number in numbers])
        vectors.requires_grad_()
        whole = self._vector_losses(batch, vectors, teacher)
        torch.stack(list(whole.parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        parts = {name: part.detach() for name, part in whole.parts.items()}
        for number in numbers:
            view = self._view(batch, number)
            local = self._view_losses(batch, [view])
            through = (view.vectors * vectors.grad[view.rows]).sum()
            torch.stack([through, *local.values()]).sum().backward()  # type: ignore[no-untyped-call]
            for name, part in local.items():
                parts[name] = parts.get(name, 0.0) + part.detach()
        return _step_losses(parts, whole.by_dim)

    @torch.no_grad()
    def embed(self, texts: Sequence[Ids], granularity: int = 1) -> NDArray[np.float32]:
        """Vectors of texts, float32 (len(texts), dims[-1])."""
        self.model.eval()
        result = np.empty((len(texts), self.config.dims[-1]), np.float32)
        for rows, batch in length_groups(texts, self._group_tokens):
            with self._autocast():
                result[rows] = self.model(*self._to_device(batch), granularity).float().cpu()
        self.model.train()
        return result

    # -- one batch, and one group of its texts -----------------------------

    def _batch(
        self, stage: Stage, step: int, columns: Sequence[Sequence[Text]], seed: Sequence[int]
    ) -> _Batch:
        texts = [text for column in columns for text in column]
        ids, taught = [text.ids for text in texts], None
        queries = len(columns[0]) if len(columns) == 2 else 0
        if not queries and stage.joins_texts(step):
            ids, taught = self._joined(texts, stage.long_tokens)
        elif stage.needs_teacher and not self.teacher.shares_tokens:
            taught = self._teach(texts)
        groups = list(length_groups(ids, self._group_tokens))
        return _Batch(stage, step, seed, ids, queries, taught, groups)

    def _view(self, batch: _Batch, number: int) -> _View:
        stage, step = batch.stage, batch.step
        rows, group = batch.groups[number]
        ids, lengths = self._to_device(group)
        if stage.dropout:
            sequence = np.random.SeedSequence([*batch.seed, number])
            torch.manual_seed(int(sequence.generate_state(1)[0]))  # a cached group runs twice alike
        token = layers = narrow = torch.zeros((), device=ids.device)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        taught: list[Tensor] = []  # states of all real tokens, layer by layer
        if batch.taught is not None:
            pooled = batch.taught.vectors[rows]
            each = [batch.taught.layers[row] for row in rows]
            taught = [torch.cat(parts) for parts in zip(*each, strict=True)]
        elif stage.needs_teacher:
            layered, pooled = self.teacher.states(ids, lengths)
            if stage.token or stage.layers:
                taught = [layer[real] for layer in layered]
        with self._autocast():
            if stage.static:
                states = [self.model.embedding(ids)]
            else:
                states = self.model.states(ids, lengths)
            hidden = self.model.final_norm(states[-1])
            vectors = self.model.embed(hidden, lengths)
            if stage.token and taught:
                mapped = self.maps["token"](hidden[real])
                token = losses.cosine_distances(mapped.float(), taught[-1].float()).sum()
            if stage.layers and taught and not stage.static:
                layers = self._layer_distance([state[real] for state in states], taught)
            if stage.granularity and not stage.static and (step + number) % 2:
                narrow = self._narrow_distance(step, ids, lengths, vectors.detach())
        if not stage.needs_teacher:
            # The model itself then judges false negatives.
            pooled = F.normalize(vectors.detach(), dim=-1)
        return _View(rows, vectors, pooled, token, layers, narrow)

    def _layer_maps(self) -> Iterator[nn.Linear]:
        return (part for part in self.maps["layers"].modules() if isinstance(part, nn.Linear))

    def _layer_distance(self, states: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """Distance of the student's states from the teacher's as far up, sum over tokens.

        Args:
            states: what leaves each block, (tokens, d_model).
            taught: what enters the teacher's first layer, and what leaves each, (tokens, width).
        """
        pairs = self._matched_layers(states, taught)
        distances = [
            losses.relative_distances(layer(state).float(), teacher.float())
            for layer, (state, teacher) in zip(self._layer_maps(), pairs, strict=True)
        ]
        return torch.stack(distances).mean(0).sum()

    def _matched_layers(
        self, states: Sequence[Tensor], taught: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """States that are matched, and the teacher's as far up."""
        for number in self._matched:
            yield states[number - 1], taught[round(number * (len(taught) - 1) / len(states))]

    def _narrow_distance(self, step: int, ids: Tensor, lengths: Tensor, vectors: Tensor) -> Tensor:
        """Distance of one narrower sub-model's bands from the full model's."""
        narrower = [g for g in self.config.granularities if g > 1]
        narrow = self.model(ids, lengths, narrower[step % len(narrower)])
        widths = list(self.config.band_widths)
        bands = zip(narrow.split(widths, dim=1), vectors.split(widths, dim=1), strict=True)
        return torch.stack([losses.cosine_distances(a, b) for a, b in bands]).mean(0).sum()

    # -- losses ------------------------------------------------------------

    def _view_losses(self, batch: _Batch, views: Sequence[_View]) -> dict[str, Tensor]:
        """Losses that are means over tokens or texts."""
        stage, texts = batch.stage, batch.ids
        parts, tokens = {}, sum(map(len, texts))
        if stage.token:
            parts["token"] = stage.token * torch.stack([v.token for v in views]).sum() / tokens
        if stage.layers and not stage.static:
            parts["layers"] = stage.layers * torch.stack([v.layers for v in views]).sum() / tokens
        if stage.granularity and not stage.static:
            narrow = torch.stack([v.narrow for v in views]).sum()
            parts["granularity"] = stage.granularity * 2 * narrow / len(texts)  # half are run
        return parts

    def _vector_losses(self, batch: _Batch, vectors: Tensor, teacher: Tensor) -> _VectorLosses:
        """Losses that need the whole batch, or each text's vector."""
        stage, queries, dims = batch.stage, batch.queries, self.config.dims
        shares = losses.dim_weights(len(dims), batch.step, stage.curriculum_steps)
        weights = vectors.new_tensor(shares)
        parts, by_dim = {}, {}
        if stage.pooled or stage.squared:
            mapped = self.maps["pooled"](vectors)
            parts["pooled"] = stage.pooled * losses.cosine_distances(mapped, teacher).mean()
        if stage.squared:
            width = teacher.shape[1]  # the mean square of a unit vector's entries is 1 / width
            parts["squared"] = stage.squared * width * F.mse_loss(mapped, teacher)
        if stage.bands:
            parts["bands"] = stage.bands * self._band_loss(vectors, teacher)
        if stage.relational:
            each = losses.relational(vectors, teacher, dims, stage.temperature)
            parts["relational"] = stage.relational * (weights * each).sum()
            by_dim["relational"] = each
        if stage.consistency:
            each = losses.consistency(vectors, dims)
            parts["consistency"] = stage.consistency * (weights * each).sum()
            by_dim["consistency"] = each
        if stage.contrastive and queries:
            q, p = vectors[:queries], vectors[queries:]
            skip = losses.find_false_negatives(teacher[:queries], teacher[queries:])
            each = losses.contrastive(q, p, skip, dims, stage.temperature)
            parts["contrastive"] = stage.contrastive * (weights * each).sum()
            by_dim["contrastive"] = each
        return _VectorLosses(parts, by_dim)

    def _band_loss(self, vectors: Tensor, teacher: Tensor) -> Tensor:
        """Draw the bands within the teacher's rank to its principal directions."""
        turned = teacher @ self.rotation
        parts, start = [vectors.new_zeros(())], 0
        for width in self.config.band_widths:
            stop = start + width
            if stop > turned.shape[1]:
                break
            each = losses.cosine_distances(vectors[:, start:stop], turned[:, start:stop])
            parts.append(each.mean())
            start = stop
        return torch.stack(parts).sum() / max(1, len(parts) - 1)

    # -- helpers -----------------------------------------------------------

    def _teach(self, texts: Sequence[Text]) -> _Taught:
        """What the teacher says of texts."""
        if not self.teacher.shares_tokens:
            return _Taught(self.teacher.vectors(texts), [()] * len(texts))
        vectors = torch.empty(len(texts), self.teacher.width, device=self.rotation.device)
        layers: list[Sequence[Tensor]] = [()] * len(texts)
        for rows, group in length_groups([text.ids for text in texts], self._group_tokens):
            states = self.teacher.states(*self._to_device(group))
            vectors[rows] = states.vectors
            for place, (row, length) in enumerate(zip(rows, group.lengths, strict=True)):
                layers[row] = [layer[place, :length] for layer in states.layers]
        return _Taught(vectors, layers)

    def _joined(self, texts: Sequence[Text], tokens: int) -> tuple[list[Ids], _Taught]:
        """Long texts, and what the teacher says of their parts.

        Vectors are averaged by length. The states of the tokens stay those of each part alone, so
        that what a token means does not depend on how long its text is.
        """
        runs = join([len(text.ids) for text in texts], tokens)
        parts = self._teach(texts)
        lengths = parts.vectors.new_tensor([len(text.ids) for text in texts])
        weighted = parts.vectors * lengths.unsqueeze(1)
        vectors = F.normalize(torch.stack([weighted[run].sum(0) for run in runs]), dim=-1)
        ids = [np.concatenate(_in_one_frame([texts[i].ids for i in run])) for run in runs]
        layers = [
            [
                torch.cat(_in_one_frame(layer))
                for layer in zip(*(parts.layers[i] for i in run), strict=True)
            ]
            for run in runs
        ]
        return ids, _Taught(vectors, layers)

    def _set_dropout(self, share: float) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def _to_device(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        device = self.rotation.device
        return torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.lengths).to(device)

    def _autocast(self) -> torch.autocast:
        enabled = self._precision != torch.float32
        return torch.autocast(self.rotation.device.type, torch.bfloat16, enabled=enabled)


def _step_losses(parts: dict[str, Tensor], by_dim: dict[str, Tensor]) -> StepLosses:
    return StepLosses(
        {name: float(part.detach()) for name, part in parts.items()},
        {name: tuple(each.detach().tolist()) for name, each in by_dim.items()},
    )


def _in_one_frame(parts: Sequence[_Sliced]) -> list[_Sliced]:
    """Framed texts without the frames between them."""
    inner: list[_Sliced] = [part[1:-1] for part in parts]
    return [parts[0][:1]] + inner + [parts[-1][-1:]]


def _in_order(views: Sequence[_View]) -> tuple[Tensor, Tensor]:
    """Vectors of student and teacher, in the order of the batch."""
    order = torch.from_numpy(np.argsort(np.concatenate([v.rows for v in views])))
    vectors = torch.cat([v.vectors for v in views])
    order = order.to(vectors.device)
    return vectors[order], torch.cat([v.teacher for v in views])[order]
