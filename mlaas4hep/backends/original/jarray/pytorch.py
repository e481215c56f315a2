"""Layers of PyTorch models.

model = torch.nn.Sequential(JaggedArrayLinear(idim, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
"""

from __future__ import annotations

import torch
from torch import nn


class JaggedArrayLinear(nn.Linear):  # type: ignore[misc]  # mypy does not follow torch
    """A linear layer that ignores missing values."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, verbose: int = 0) -> None:
        """Create the layer; `verbose` has no effect."""
        super().__init__(in_features, out_features, bias)

    def forward(self, data: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return (events, out_features).

        Args:
            data: (events, in_features), 0 where a value is missing, as models get it here.
            mask: (events, in_features), 1 where `data` has a value; None: missing values are 0 in `data`.
        """
        output: torch.Tensor = super().forward(data if mask is None else data * mask)
        return output
