"""PyTorch models: a `torch.nn.Module` from inputs, and masks if `forward` has arguments for them, to scores."""

from __future__ import annotations

import copy
import inspect
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlaas4hep.config import Params
from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, first_line, said
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Shapes, array_shapes, choose, describe_shapes, no_single_output, probe_inputs
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.task import Output, Task

LEARNING_RATE = 1e-3
"""Of AdamW, where the model file defines no `optimizer`."""

THREADS = max(1, (os.cpu_count() or 2) - 1)
"""Cores that PyTorch takes at most: one is left to reading, since threads that wait for one that does not run spin."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchBackend:
    """A PyTorch model; see `Backend`.

    Attributes:
        mixed: whether training computes in bfloat16 where that is precise enough; weights and scores are float32.
    """

    framework = "pytorch"
    normalised = True

    def __init__(self, model: nn.Module, file: ModelFile, shapes: Shapes, task: Task, params: Params) -> None:
        torch.set_num_threads(min(torch.get_num_threads(), THREADS))
        torch.backends.cudnn.allow_tf32 = False  # convolutions in 10 bits; scores must be those of the ONNX graph
        self.task = task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mixed = self.device.type == "cuda" and params.mixed_precision
        self.model = model.to(self.device)
        self.takes = choose(_arguments(model, shapes), shapes, f"forward of the model of {file.path}")
        self._shapes = shapes
        self._file = file
        self.outputs, self._output = self._probe()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not weights:
            raise ConfigError(f"the model of {file.path} has no weights to train")
        self._optimizer = _optimizer(file, weights)
        if file.loss is not None and (isinstance(file.loss, type) or not callable(file.loss)):
            raise ConfigError(
                f"`loss` of {file.path} is {file.loss!r}",
                hint="it must be a loss of torch.nn, as nn.BCEWithLogitsLoss(), or a function loss(output, target)",
            )
        self._loss = _EventLoss.of(file.loss or default_loss(task, self.outputs, self._output), self.device)

    def _probe(self) -> tuple[int, Output]:
        try:
            output = self._probe_output()
        except ConfigError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            wanted = describe_shapes(self._shapes)
            raise ConfigError(f"the model of {self._file.path} does not take {wanted}: {said(error)}") from error
        return self.task.probe(output, self._shaken_output, self._file.path)

    def _probe_output(self) -> np.ndarray:
        self.model.eval()
        with torch.no_grad():
            return np.asarray(self._forward(self._tensors(probe_inputs(self._shapes))).cpu().numpy())

    def _shaken_output(self) -> np.ndarray:
        """Return what the model says with noise added to its weights."""
        before, rng = self.snapshot(), np.random.default_rng(0)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight += self._tensor(rng.normal(size=weight.shape)).to(weight.dtype)
        output = self._probe_output()
        self.restore(before)
        return output

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output = self.model(*(inputs[name] for name in self.takes))
        if not isinstance(output, torch.Tensor):
            raise no_single_output(self._file.path, output)
        return output[:, None] if output.ndim == 1 else output

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[torch.Tensor, float]]:
        """Train on batches, one step each; yield loss and sum of the sizes of weights."""
        for batch in batches:
            if not batch.weight.any():  # nothing is to be learnt, and momentum or decay would move the weights
                yield torch.zeros((), dtype=torch.float64), 0.0
                continue
            self._train_mode(len(batch))
            self._optimizer.zero_grad()
            loss = self._step_loss(batch)
            if not loss.requires_grad:
                which = "training_step" if self._file.training_step else "loss"
                raise ConfigError(f"`{which}` of {self._file.path} gives a number that no weight of the model changes")
            loss.backward()
            self._optimizer.step()
            yield loss.detach().double(), float(np.abs(batch.weight).sum(dtype=np.float64))

    def _step_loss(self, batch: Batch) -> torch.Tensor:
        inputs, weight = self._tensors(batch.inputs), self._tensor(batch.weight)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            if self._file.training_step:
                given = (inputs["x"], inputs["mask"]) if "x" in inputs else (inputs,)
                loss = self._file.training_step(self.model, *given, self._tensor(batch.y), weight)
                if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                    raise ConfigError(
                        f"`training_step` of {self._file.path} returns {_described(loss)}",
                        hint="it must return the loss, one number",
                    )
                return loss.reshape(())
            output = self._forward(inputs)
        return self._weighted(output, batch.y, weight)  # in float32: some losses refuse less

    def _train_mode(self, events: int) -> None:
        """Let dropout and the like act; batch normalisation of a single event takes the spread of those before."""
        self.model.train()
        if events == 1:
            for layer in self.model.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def _weighted(self, output: torch.Tensor, y: np.ndarray, weight: torch.Tensor) -> torch.Tensor:
        """Return the loss as one number: the mean over events, by weights, whose signs stay.

        Raises:
            ConfigError: there are weights, and the loss averages by itself; or it gives something else.
        """
        target = self._tensor(self.task.target(y, self.outputs))
        value = self._loss.function(output.float(), target)
        if not isinstance(value, torch.Tensor) or (value.ndim and len(value) != len(y)):
            raise ConfigError(
                f"`loss` of {self._file.path} returns {_described(value)} for {len(y)} events",
                hint="it must return one number an event",
            )
        if value.ndim or len(y) == 1:
            return self._loss.mean(value.reshape(len(y), -1), target, weight)
        if (weight != 1).any():
            raise ConfigError(
                f"the loss of {self._file.path} is one number for all events, in which their weights cannot count",
                hint="let it return one number an event, as losses of PyTorch's do with reduction='none'",
            )
        return value

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: self._tensor(np.asarray(values, np.float32)) for name, values in inputs.items()}

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        scores = Scores(self, self._output).eval()
        with torch.no_grad():
            given = self._tensors({name: inputs[name] for name in self.takes})
            return np.asarray(scores(*given.values()).float().cpu().numpy())

    def scale_learning_rate(self, factor: float) -> float:
        """Multiply the learning rates of the optimizer; return what the first is then."""
        for group in self._optimizer.param_groups:
            group["lr"] *= factor
        return float(self._optimizer.param_groups[0]["lr"])

    def snapshot(self) -> bytes:
        """Return the weights; `torch.load(..., weights_only=True)` reads them without unpickling."""
        return _packed(self.model.state_dict())

    def restore(self, weights: bytes) -> None:
        """Set the weights to what `snapshot` returned."""
        self.model.load_state_dict(self._unpacked(weights))

    def state(self) -> bytes:
        """Return weights, state of the optimizer and of the random numbers."""
        random = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [])]
        return _packed({"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "random": random})

    def load_state(self, state: bytes) -> None:
        """Go on from what `state` returned."""
        known = self._unpacked(state)
        self.model.load_state_dict(known["model"])
        self._optimizer.load_state_dict(known["optimizer"])
        first, *others = (one.cpu() for one in known["random"])
        torch.set_rng_state(first)
        if others and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(others)

    def _unpacked(self, content: bytes) -> Any:
        return torch.load(io.BytesIO(content), weights_only=True, map_location=self.device)

    def size(self) -> str:
        """Return how many weights are trained, in words."""
        return f"{sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad):,} weights"

    def save(self, folder: Path) -> str:
        """Write the weights; `torch.load(path, weights_only=True)` reads them without unpickling."""
        (folder / "model.pt").write_bytes(self.snapshot())  # torch itself says nothing useful of a full disk
        return "model.pt"

    def export(self, path: Path) -> None:
        """Write an ONNX graph from what the model takes to scores."""
        scores = Scores(self, self._output).eval().cpu()
        shapes = array_shapes(self._shapes)
        examples = tuple(torch.zeros(2, *shapes[name]) for name in self.takes)
        with _exported(), warnings.catch_warnings(), filtered_stderr(""):  # what goes wrong is raised
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


@dataclass(frozen=True)
class _EventLoss:
    """A loss, and how its numbers become one.

    Attributes:
        function: gives one number an event, or several; or one for all, if it is not known how to ask for more.
        reduction: as PyTorch calls it.
        classes: what an event of each class counts in the mean, where that is not 1.
    """

    function: Loss
    reduction: str = "mean"
    classes: torch.Tensor | None = None

    @classmethod
    def of(cls, loss: Any, device: torch.device) -> _EventLoss:
        """Take a loss of PyTorch's event by event, in a copy."""
        if not isinstance(loss, nn.Module):
            return cls(loss)
        loss = loss.to(device)
        if getattr(loss, "reduction", "none") == "none":
            return cls(loss)
        each = copy.copy(loss)
        each.reduction = "none"
        by_class = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
        return cls(each, loss.reduction, loss.weight if by_class else None)

    def mean(self, value: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return one number of those of the events, (events, k)."""
        if self.reduction == "sum":
            return (value.sum(dim=1) * weight).sum()
        each = value.sum(dim=1) if self.reduction == "batchmean" else value.mean(dim=1)
        size = weight if self.classes is None or target.is_floating_point() else weight * self.classes[target]
        return (each * weight).sum() / size.abs().sum()


class Scores(nn.Module):  # type: ignore[misc]  # mypy is told not to follow torch
    """A model and what turns its outputs into probabilities, or into targets in their own units."""

    def __init__(self, backend: TorchBackend, output: Output) -> None:
        super().__init__()
        self.model = backend.model
        self._output = output
        self._softmax = backend.task.name == "classification" and backend.outputs > 1
        self.register_buffer("_centre", torch.tensor(backend.task.centre, device=backend.device), persistent=False)
        self.register_buffer("_spread", torch.tensor(backend.task.spread, device=backend.device), persistent=False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return scores (events, outputs)."""
        output: torch.Tensor = self.model(*inputs)
        output = output[:, None] if output.ndim == 1 else output
        if self._output == "logits":
            return torch.softmax(output, dim=1) if self._softmax else torch.sigmoid(output)
        if self._output == "numbers":
            return output * self._spread + self._centre
        return torch.exp(output) if self._output == "log_probabilities" else output


def _optimizer(file: ModelFile, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a model file, or ours.

    Raises:
        ConfigError: it gives none, or one that asks for the loss several times a step.
    """
    if file.optimizer is None:
        return torch.optim.AdamW(weights, LEARNING_RATE)
    made = file.optimizer(weights) if callable(file.optimizer) else file.optimizer
    if not callable(file.optimizer) or not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(
            f"`optimizer` of {file.path} {'returns' if callable(file.optimizer) else 'is'} {_described(made)}",
            hint="it must be a function: def optimizer(weights): return torch.optim.Adam(weights)",
        )
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"`optimizer` of {file.path} is {type(made).__name__}, which asks for the loss several times a step",
            hint="take one that does not, as torch.optim.AdamW",
        )
    return made


def _described(value: Any) -> str:
    """Return in words what is there instead of a tensor, or its shape."""
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def _arguments(model: nn.Module, shapes: Shapes) -> list[str]:
    """Return what the arguments of `forward` are called; those that have a default may be others than inputs."""
    parameters = inspect.signature(model.forward).parameters.values()
    if "x" in shapes:
        return [one.name for one in parameters]
    known = array_shapes(shapes)
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return [one.name for one in named if one.name in known or one.default is one.empty]


def default_loss(task: Task, outputs: int, output: Output) -> Loss:
    """Return the loss that fits a model's outputs, a number an event or several that are averaged: cross-entropy or,
    of numbers to be estimated, the square of the error.
    """
    if task.name == "regression":
        return lambda scores, y: nn.functional.mse_loss(scores, y, reduction="none")
    if outputs == 1 or task.name == "multilabel":
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


@contextmanager
def _exported() -> Iterator[None]:
    """Say why a model cannot be exported; PyTorch's own error begins with what its developers may do."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"PyTorch cannot export the model: {first_line(error.__cause__ or error)}") from error


def _packed(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
