"""An exponential moving average of the weights of a PyTorch model.

average = WeightAverage(model, decay=0.999)
average.update()            # after each step of the optimizer
average.show()              # the model has the averaged weights
average.hide()              # the model has its own weights
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """The average of weights and buffers (such as those of batch normalisation) over the steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._own = _distinct(model.state_dict())  # tensors without gradients that share the memory of the model
        self._shown = False
        self._updates = 0
        self._other = {name: tensor.clone() for name, tensor in self._own.items()}

    def reset(self) -> None:
        """Start again from the weights that the model has."""
        self._shown, self._updates = False, 0
        for name, tensor in self._own.items():
            self._other[name].copy_(tensor)

    def update(self) -> None:
        """Add the weights of the model to the average.

        The decay is min(decay, (1 + n) / (10 + n)) at step n, so that the initial weights are soon forgotten.
        """
        self.hide()
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, tensor in self._own.items():
            if tensor.is_floating_point():
                self._other[name].lerp_(tensor, 1 - decay)
            else:
                self._other[name].copy_(tensor)

    def show(self) -> None:
        """Give the model the averaged weights."""
        self._swap(True)

    def hide(self) -> None:
        """Give the model its own weights."""
        self._swap(False)

    def _swap(self, shown: bool) -> None:
        if self._shown == shown:
            return
        for name, tensor in self._own.items():
            before = tensor.clone()
            tensor.copy_(self._other[name])
            self._other[name].copy_(before)
        self._shown = shown

    def state(self) -> dict[str, Any]:
        """Return the average, while it is hidden."""
        self.hide()
        return {"average": self._other, "updates": self._updates}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the average from a `state`."""
        self._shown, self._updates = False, state["updates"]
        for name, tensor in self._other.items():
            tensor.copy_(state["average"][name])


def _distinct(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return each tensor once, because layers may share weights."""
    found: dict[Any, tuple[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        found.setdefault(memory, (name, tensor))
    return dict(found.values())
