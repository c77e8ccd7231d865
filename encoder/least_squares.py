"""The linear map that turns some rows into others with the least squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RIDGE = 1e-4  # added to each square, in shares of their mean, where rows do not span their space


class LeastSquares:
    """Sums over rows from which a map is solved, so that no row need be kept."""

    def __init__(self, linear: nn.Linear) -> None:
        """Fit this map, and its bias if it has one."""
        self._linear = linear
        inputs = linear.in_features + (linear.bias is not None)
        device = linear.weight.device
        self._squares = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        outputs = linear.out_features
        self._products = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        """Take in rows (n, in_features) and what they are to become (n, out_features)."""
        rows, wanted = rows.float(), wanted.float()
        if self._linear.bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        self._squares += rows.T @ rows
        self._products += rows.T @ wanted

    @torch.no_grad()
    def solve(self) -> None:
        """Set the map."""
        ridge = RIDGE * self._squares.diagonal().mean()
        squares = self._squares + ridge * torch.eye(len(self._squares)).to(self._squares)
        solution = torch.linalg.solve(squares, self._products).to(self._linear.weight)
        width = self._linear.in_features
        self._linear.weight.copy_(solution[:width].T)
        if self._linear.bias is not None:
            self._linear.bias.copy_(solution[width])
