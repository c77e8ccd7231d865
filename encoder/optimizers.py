"""How gradients become new weights: the optimizers, their rates and the moving average."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adaptive_search.encoder.recipe import Stage

BETAS = (0.9, 0.98)
TABLE_RATE = 0.5  # the embedding, well seeded and sparse in its gradients, moves slower
TABLE = "model.embedding.weight"


class Optimizers:
    """AdamW for all weights, or Muon for the blocks' matrices and AdamW for the rest.

    Muon's updates are scaled to the size of AdamW's, so both take one learning
    rate (Liu et al. 2025, arXiv:2502.16982).
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], optimizer: str, weight_decay: float
    ) -> None:
        """Prepare; every parameter is in one group.

        Args:
            parameters: by name.
            optimizer: "adamw" or "muon".
            weight_decay: of matrices.
        """
        self._parameters = parameters
        table = [p for n, p in parameters.items() if n == TABLE]
        rest = {n: p for n, p in parameters.items() if n != TABLE}
        muon = {
            n: p for n, p in rest.items() if optimizer == "muon" and p.ndim == 2 and ".blocks." in n
        }
        matrices = [p for n, p in rest.items() if p.ndim == 2 and n not in muon]
        others = [p for p in rest.values() if p.ndim != 2]
        groups = [
            {"params": table, "weight_decay": 0.0, "scale": TABLE_RATE},
            {"params": matrices, "weight_decay": weight_decay, "scale": 1.0},
            {"params": others, "weight_decay": 0.0, "scale": 1.0},
        ]
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=BETAS, fused=True)
        ]
        if muon:
            group = {"params": list(muon.values()), "weight_decay": weight_decay, "scale": 1.0}
            self._all.append(torch.optim.Muon([group], adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        """Move the weights by their gradients, and clear these."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Running sums by `<key>.<parameter>`."""
        return {
            f"{key}.{name}": torch.as_tensor(value)
            for optimizer in self._all
            for name, parameter in self._parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take running sums as `state` gives them."""
        for optimizer in self._all:
            members = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in self._parameters.items():
                found = dict(_keys_of(state, name))
                if id(parameter) in members and found:
                    optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device)
                        for key, value in found.items()
                    }


def _keys_of(state: dict[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        kind, _, parameter = key.partition(".")
        if parameter == name:
            yield kind, value


class Average:
    """Exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the present weights; a decay of 0 follows them at once."""
        self.decay = decay
        self._module = module
        self._weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the module's weights."""
        present = self._module.state_dict()
        torch._foreach_lerp_(
            list(self._weights.values()), [present[k] for k in self._weights], 1 - self.decay
        )

    def state(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return dict(self._weights)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take averaged weights."""
        for name, value in self._weights.items():
            value.copy_(state[name])


def schedule(stage: Stage, step: int) -> float:
    """Share of the learning rate at a step: linear warm-up, flat, linear decay to 0."""
    warm = min(1.0, (step + 1) / max(1, stage.warmup_steps))
    falling = max(1.0, stage.steps * stage.decay_share)
    return warm * min(1.0, max(0.0, (stage.steps - step) / falling))
