"""PyTorch models: a `torch.nn.Module` from vectors (and, if `forward` has a second argument, masks) to scores."""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, said
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Output, probe, probe_inputs
from mlaas4hep.training.model_file import ModelFile

LEARNING_RATE = 1e-3
"""Of AdamW, where the model file defines no `optimizer`."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchBackend:
    """A PyTorch model; see `Backend`."""

    framework = "pytorch"

    def __init__(self, model: nn.Module, file: ModelFile, idim: int, classes: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.takes_mask = len(inspect.signature(model.forward).parameters) > 1
        self._idim = idim
        self._file = file
        self.outputs, self._output = self._probe(classes)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not weights:
            raise ConfigError(f"the model of {file.path} has no weights to train")
        self._optimizer = file.optimizer(weights) if file.optimizer else torch.optim.AdamW(weights, LEARNING_RATE)
        self._loss = _weighted(file.loss or default_loss(self.outputs, self._output), self.outputs)

    def _probe(self, classes: int) -> tuple[int, Output]:
        self.model.eval()
        x = torch.from_numpy(probe_inputs(self._idim)).to(self.device)
        try:
            with torch.no_grad():
                output = self._forward(x, torch.ones_like(x))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the model of {self._file.path} does not take vectors of {self._idim} numbers: {said(error)}"
            ) from error
        return probe(output.cpu().numpy(), classes, self._file.path)

    def _forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(x, mask) if self.takes_mask else self.model(x)
        return output[:, None] if output.ndim == 1 else output

    def fit(self, batches: Iterable[Batch]) -> float:
        """Train on batches, one step each, and return the mean loss."""
        self.model.train()
        total, count = torch.zeros((), device=self.device), 0
        for batch in batches:
            if len(batch) < 2:  # batch normalisation needs two
                continue
            x, mask, y, weight = self._tensors(batch)
            self._optimizer.zero_grad()
            if self._file.training_step:
                loss = self._file.training_step(self.model, x, mask, y, weight)
            else:
                loss = self._loss(self._forward(x, mask), y, weight)
            loss.backward()
            self._optimizer.step()
            total += loss.detach() * len(batch)
            count += len(batch)
        return float(total) / max(count, 1)

    def _tensors(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        arrays = (batch.x, batch.mask.astype(np.float32), batch.y, batch.weight)
        return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in arrays)

    def predict(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return probabilities, float32 (events, outputs)."""
        scores = Scores(self, self._output).eval()
        with torch.no_grad():
            inputs = [torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device) for array in (x, mask)]
            return np.asarray(scores(*inputs).float().cpu().numpy())

    def snapshot(self) -> Any:
        """Return a copy of the weights."""
        return copy.deepcopy(self.model.state_dict())

    def restore(self, weights: Any) -> None:
        """Set the weights to a copy that `snapshot` returned."""
        self.model.load_state_dict(weights)

    def parameters(self) -> int:
        """Return how many weights are trained."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def save(self, folder: Path) -> str:
        """Write the weights; `torch.load(path, weights_only=True)` reads them without unpickling."""
        content = io.BytesIO()  # torch itself says nothing useful of a full disk
        torch.save(self.model.state_dict(), content)
        (folder / "model.pt").write_bytes(content.getvalue())
        return "model.pt"

    def export(self, path: Path) -> None:
        """Write an ONNX graph from normalised events to probabilities."""
        scores = Scores(self, self._output).eval().cpu()
        names = ["x", "mask"] if self.takes_mask else ["x"]
        examples = tuple(torch.zeros(2, self._idim) for _ in names)  # two tensors, or the exporter takes them for one
        with warnings.catch_warnings(), filtered_stderr(""):  # what goes wrong is raised; the rest is chatter
            warnings.simplefilter("ignore")
            torch.onnx.export(
                scores,
                examples,
                path,
                input_names=names,
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("events")},) * len(names),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        self.model.to(self.device)


class Scores(nn.Module):  # type: ignore[misc]  # mypy is told not to follow torch
    """A model and what turns its outputs into probabilities."""

    def __init__(self, backend: TorchBackend, output: Output) -> None:
        super().__init__()
        self.model = backend.model
        self._output = output
        self._outputs = backend.outputs
        self._takes_mask = backend.takes_mask

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return probabilities (events, outputs)."""
        output: torch.Tensor = self.model(x, mask) if self._takes_mask else self.model(x)
        output = output[:, None] if output.ndim == 1 else output
        if self._output == "logits":
            return torch.sigmoid(output) if self._outputs == 1 else torch.softmax(output, dim=1)
        return torch.exp(output) if self._output == "log_probabilities" else output


def default_loss(outputs: int, output: Output) -> Loss:
    """Return the cross-entropy that fits a model's outputs, one number an event."""
    if outputs == 1:
        binary = (
            nn.functional.binary_cross_entropy_with_logits if output == "logits" else nn.functional.binary_cross_entropy
        )
        return lambda scores, y: binary(scores, y, reduction="none")
    if output == "logits":
        return lambda scores, y: nn.functional.cross_entropy(scores, y, reduction="none")
    log = torch.log if output == "probabilities" else torch.nn.Identity()
    return lambda scores, y: nn.functional.nll_loss(
        log(scores.clamp(min=1e-7) if output == "probabilities" else scores), y, reduction="none"
    )


def _weighted(loss: Loss, outputs: int) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss as one number; targets are float (events, 1) for one output, else int64 (events,)."""

    def apply(scores: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        value = loss(scores, y[:, None].to(scores.dtype) if outputs == 1 else y)
        if value.ndim == 0:  # a loss that averages by itself
            return value
        return (value.reshape(len(y), -1).mean(dim=1) * weight).sum() / weight.sum()

    return apply
