"""PyTorch models: a `torch.nn.Module` from inputs, and masks if `forward` has arguments for them, to scores."""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, said
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Output, Shapes, array_shapes, choose, describe_shapes, probe, probe_inputs
from mlaas4hep.training.model_file import ModelFile

LEARNING_RATE = 1e-3
"""Of AdamW, where the model file defines no `optimizer`."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchBackend:
    """A PyTorch model; see `Backend`."""

    framework = "pytorch"

    def __init__(self, model: nn.Module, file: ModelFile, shapes: Shapes, classes: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.takes = choose(_arguments(model, shapes), shapes, f"forward of the model of {file.path}")
        self._shapes = shapes
        self._file = file
        self.outputs, self._output = self._probe(classes)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not weights:
            raise ConfigError(f"the model of {file.path} has no weights to train")
        self._optimizer = file.optimizer(weights) if file.optimizer else torch.optim.AdamW(weights, LEARNING_RATE)
        self._loss = _weighted(file.loss or default_loss(self.outputs, self._output), self.outputs)

    def _probe(self, classes: int) -> tuple[int, Output]:
        self.model.eval()
        try:
            with torch.no_grad():
                output = self._forward(self._tensors(probe_inputs(self._shapes)))
        except (RuntimeError, TypeError, ValueError) as error:
            wanted = describe_shapes(self._shapes)
            raise ConfigError(f"the model of {self._file.path} does not take {wanted}: {said(error)}") from error
        return probe(output.cpu().numpy(), classes, self._file.path)

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output: torch.Tensor = self.model(*(inputs[name] for name in self.takes))
        return output[:, None] if output.ndim == 1 else output

    def fit(self, batches: Iterable[Batch]) -> float:
        """Train on batches, one step each, and return the mean loss."""
        self.model.train()
        total, count = torch.zeros((), device=self.device), 0
        for batch in batches:
            if len(batch) < 2:  # batch normalisation needs two
                continue
            inputs = self._tensors(batch.inputs)
            y, weight = self._tensor(batch.y), self._tensor(batch.weight)
            self._optimizer.zero_grad()
            if self._file.training_step:
                given = (inputs["x"], inputs["mask"]) if "x" in inputs else (inputs,)
                loss = self._file.training_step(self.model, *given, y, weight)
            else:
                loss = self._loss(self._forward(inputs), y, weight)
            loss.backward()
            self._optimizer.step()
            total += loss.detach() * len(batch)
            count += len(batch)
        return float(total) / max(count, 1)

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: self._tensor(np.asarray(values, np.float32)) for name, values in inputs.items()}

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return probabilities, float32 (events, outputs)."""
        scores = Scores(self, self._output).eval()
        with torch.no_grad():
            given = self._tensors({name: inputs[name] for name in self.takes})
            return np.asarray(scores(*given.values()).float().cpu().numpy())

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
        """Write an ONNX graph from what the model takes to probabilities."""
        scores = Scores(self, self._output).eval().cpu()
        shapes = array_shapes(self._shapes)
        examples = tuple(torch.zeros(2, *shapes[name]) for name in self.takes)
        with warnings.catch_warnings(), filtered_stderr(""):  # what goes wrong is raised; the rest is chatter
            warnings.simplefilter("ignore")
            torch.onnx.export(
                scores,
                examples,
                path,
                input_names=list(self.takes),
                output_names=["scores"],
                dynamic_shapes=(({0: torch.export.Dim("events")},) * len(examples),),
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

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return probabilities (events, outputs)."""
        output: torch.Tensor = self.model(*inputs)
        output = output[:, None] if output.ndim == 1 else output
        if self._output == "logits":
            return torch.sigmoid(output) if self._outputs == 1 else torch.softmax(output, dim=1)
        return torch.exp(output) if self._output == "log_probabilities" else output


def _arguments(model: nn.Module, shapes: Shapes) -> list[str]:
    """Return what the arguments of `forward` are called; those that have a default may be others than inputs."""
    parameters = inspect.signature(model.forward).parameters.values()
    if "x" in shapes:
        return [one.name for one in parameters]
    known = array_shapes(shapes)
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return [one.name for one in named if one.name in known or one.default is one.empty]


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
