"""Losses of PyTorch models, per event, so that they can be weighted.

loss = PerEventLoss.of(nn.BCEWithLogitsLoss(), device)
loss.mean(loss.function(output, target), target, weight)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlaas4hep.backends.protocol import ordered_outputs, single_output_error
from mlaas4hep.backends.task import Output, Task

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PerEventLoss:
    """A loss without reduction, and the reduction to apply after weighting.

    Attributes:
        function: returns one or several numbers per event; a custom loss may return one number per batch.
        reduction: reduction of the original loss, by PyTorch's name.
        classes: class weights of the original loss, (classes,), if any.
    """

    function: Loss
    reduction: str = "mean"
    classes: torch.Tensor | None = None

    @classmethod
    def mean_of(cls, losses: Sequence[Any], device: torch.device) -> PerEventLoss:
        """Return the mean of losses, one for each column of the output and of the target."""
        functions = [cls.of(loss, device).function for loss in losses]

        def function(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            columns = [slice(index, index + 1) for index in range(len(functions))]
            values = [one(output[:, i], target[:, i]) for one, i in zip(functions, columns, strict=True)]
            return torch.cat([value.reshape(len(output), -1).mean(dim=1, keepdim=True) for value in values], dim=1)

        return cls(function)

    @classmethod
    def of(cls, loss: Any, device: torch.device) -> PerEventLoss:
        """Wrap a loss; losses of torch.nn are copied with reduction='none'."""
        if not isinstance(loss, nn.Module):
            return cls(loss)
        loss = loss.to(device)
        if getattr(loss, "reduction", "none") == "none":
            return cls(loss)
        per_event = copy.copy(loss)
        per_event.reduction = "none"
        by_class = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
        return cls(per_event, loss.reduction, loss.weight if by_class else None)

    def mean(self, value: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch from its per-event values, (events, k)."""
        if self.reduction == "sum":
            return (value.sum(dim=1) * weight).sum()
        losses = value.sum(dim=1) if self.reduction == "batchmean" else value.mean(dim=1)
        size = weight if self.classes is None or target.is_floating_point() else weight * self.classes[target]
        return (losses * weight).sum() / size.abs().sum()


def join_outputs(output: Any, task: Task, where: Path) -> torch.Tensor:
    """Return the output of a model as one tensor, (events, outputs); see `ordered_outputs`."""
    if isinstance(output, torch.Tensor):
        return output[:, None] if output.ndim == 1 else output
    parts = ordered_outputs(output, task, where)
    if not all(isinstance(part, torch.Tensor) for part in parts):
        raise single_output_error(where, output)
    return torch.cat([part[:, None] if part.ndim == 1 else part for part in parts], dim=1)


def default_loss(task: Task, outputs: int, output: Output) -> Loss:
    """Return the default per-event loss for a model's outputs: cross-entropy, or the squared error for regression."""
    if task.name == "regression":
        return lambda scores, y: nn.functional.mse_loss(scores, y, reduction="none")
    if outputs == 1 or task.name == "multilabel":
        functions = nn.functional
        binary = functions.binary_cross_entropy_with_logits if output == "logits" else functions.binary_cross_entropy
        return lambda scores, y: binary(scores, y, reduction="none")
    if output == "logits":
        return lambda scores, y: nn.functional.cross_entropy(scores, y, reduction="none")
    if output == "probabilities":
        return lambda scores, y: nn.functional.nll_loss(torch.log(scores.clamp(min=1e-7)), y, reduction="none")
    return lambda scores, y: nn.functional.nll_loss(scores, y, reduction="none")
