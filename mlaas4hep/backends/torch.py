"""PyTorch models. The arguments of `forward` determine which inputs and masks a model gets."""

from __future__ import annotations

import copy
import inspect
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.protocol import (
    Shapes,
    array_shapes,
    choose_inputs,
    explain_rejection,
    probe_inputs,
    single_output_error,
    training_only,
)
from mlaas4hep.backends.task import Output, Task
from mlaas4hep.config import Params
from mlaas4hep.console import discarded_stdout, filtered_stderr
from mlaas4hep.errors import ConfigError, error_summary, require
from mlaas4hep.stream import Batch

LEARNING_RATE = 1e-3
"""Default for AdamW, if the model file does not define `optimizer`."""

THREADS = max(1, (os.cpu_count() or 2) - 1)
"""Maximum number of threads of PyTorch. One core is left for reading, because PyTorch's threads busy-wait."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchBackend:
    """A PyTorch model; see `Backend`.

    Attributes:
        mixed: whether training uses mixed precision (bfloat16); weights and scores are float32.
    """

    framework = "pytorch"
    normalised = True
    native_file = "model.pt"
    exporters: tuple[str, ...] = ("torch.export", "torch.export with the math kernel of attention", "TorchScript")

    def __init__(self, model: nn.Module, file: ModelFile, shapes: Shapes, task: Task, params: Params) -> None:
        _check_own_methods(model, file)
        torch.set_num_threads(min(torch.get_num_threads(), THREADS))
        torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits of precision; scores must match the ONNX graph
        self.task = task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mixed = self.device.type == "cuda" and params.mixed_precision
        self.model = model.to(self.device)
        self.takes = choose_inputs(_arguments(model, shapes), shapes, f"forward of the model of {file.path}")
        self._shapes = shapes
        self._file = file
        with explain_rejection(file.path, shapes, RuntimeError, TypeError, ValueError):
            output = self._probe_output()
        self.outputs, self._output = task.probe(output, self._perturbed_output, file.path)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not weights:
            raise ConfigError(f"the model of {file.path} has no trainable weights")
        self._optimizer = _optimizer(file, weights)
        if file.loss is not None and (isinstance(file.loss, type) or not callable(file.loss)):
            raise ConfigError(
                f"`loss` of {file.path} is {file.loss!r}",
                hint="it must be a loss of torch.nn, as nn.BCEWithLogitsLoss(), or a function loss(output, target)",
            )
        self._loss = _PerEventLoss.of(file.loss or default_loss(task, self.outputs, self._output), self.device)

    def _probe_output(self) -> np.ndarray:
        self.model.eval()
        with torch.no_grad():
            return np.asarray(self._forward(self._tensors(probe_inputs(self._shapes))).cpu().numpy())

    def _perturbed_output(self) -> np.ndarray:
        """Return the output of the model with noise added to its weights."""
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
            raise single_output_error(self._file.path, output)
        return output[:, None] if output.ndim == 1 else output

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[torch.Tensor, float]]:
        """Train one step on each batch; yield the loss and the sum of the absolute weights of each batch."""
        for batch in batches:
            if not batch.weight.any():  # skipped, because momentum or weight decay would still change the weights
                yield torch.zeros((), dtype=torch.float64), 0.0
                continue
            self._train_mode(len(batch))
            self._optimizer.zero_grad()
            loss = self._step_loss(batch)
            if not loss.requires_grad:
                which = "training_step" if self._file.training_step else "loss"
                raise ConfigError(f"`{which}` of {self._file.path} does not depend on the weights of the model")
            loss.backward()
            self._optimizer.step()
            yield loss.detach().double(), float(np.abs(batch.weight).sum(dtype=np.float64))

    def _step_loss(self, batch: Batch) -> torch.Tensor:
        inputs, weight = self._tensors(batch.inputs), self._tensor(batch.weight)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            if self._file.training_step:
                arguments = (inputs["x"], inputs["mask"]) if "x" in inputs else (inputs,)
                loss = self._file.training_step(self.model, *arguments, self._tensor(batch.y), weight)
                if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                    raise ConfigError(
                        f"`training_step` of {self._file.path} returns {_described(loss)}",
                        hint="it must return the loss as one number",
                    )
                return loss.reshape(())
            output = self._forward(inputs)
        if self._file.loss_takes_aux:
            return self._batch_loss(output, batch.y, weight, training_only(inputs, self._shapes))
        return self._weighted(output, batch.y, weight)  # in float32, because some losses do not support bfloat16

    def batch_loss(self, batch: Batch) -> float | None:
        """Return the loss of the model file for a batch; None if it does not take weights and training-only inputs."""
        if not self._file.loss_takes_aux:
            return None
        self.model.eval()
        inputs = self._tensors(batch.inputs)
        with torch.no_grad():
            aux = training_only(inputs, self._shapes)
            return float(self._batch_loss(self._forward(inputs), batch.y, self._tensor(batch.weight), aux))

    def _batch_loss(
        self, output: torch.Tensor, y: np.ndarray, weight: torch.Tensor, aux: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the loss of a batch from a loss(outputs, labels, weights, aux)."""
        loss = self._file.loss(output.float(), self._tensor(self.task.target(y, self.outputs)), weight, aux)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise ConfigError(
                f"`loss` of {self._file.path} returns {_described(loss)}",
                hint="with four arguments, it must return the loss of the batch as one number",
            )
        return loss.reshape(())

    def _train_mode(self, events: int) -> None:
        """Set the model to training mode; for a single event, batch normalisation uses its running statistics."""
        self.model.train()
        if events == 1:
            for layer in self.model.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def _weighted(self, output: torch.Tensor, y: np.ndarray, weight: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch: sum(weight * loss) / sum(abs(weight)), unless the loss has reduction="sum"."""
        target = self._tensor(self.task.target(y, self.outputs))
        value = self._loss.function(output.float(), target)
        if not isinstance(value, torch.Tensor) or (value.ndim and len(value) != len(y)):
            raise ConfigError(
                f"`loss` of {self._file.path} returns {_described(value)} for {len(y)} events",
                hint="it must return one number per event",
            )
        if value.ndim or len(y) == 1:
            return self._loss.mean(value.reshape(len(y), -1), target, weight)
        if (weight != 1).any():
            raise ConfigError(
                f"the loss of {self._file.path} returns one number per batch, so that weights cannot be applied",
                hint="let it return one number per event, as losses of PyTorch do with reduction='none'",
            )
        return value

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: self._tensor(np.asarray(values, np.float32)) for name, values in inputs.items()}

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        scores = ScoringModule(self, self._output).eval()
        with torch.no_grad():
            tensors = self._tensors({name: inputs[name] for name in self.takes})
            return np.asarray(scores(*tensors.values()).float().cpu().numpy())

    def scale_learning_rate(self, factor: float) -> float:
        """Multiply the learning rates of all parameter groups by a factor; return the new rate of the first group."""
        for group in self._optimizer.param_groups:
            group["lr"] *= factor
        return float(self._optimizer.param_groups[0]["lr"])

    def snapshot(self) -> bytes:
        """Return the weights; `torch.load(..., weights_only=True)` reads them without unpickling objects."""
        return _packed(self.model.state_dict())

    def restore(self, weights: bytes) -> None:
        """Set the weights to those of a `snapshot`."""
        self.model.load_state_dict(self._unpacked(weights))

    def state(self) -> bytes:
        """Return weights, optimizer state and random number generator states."""
        random = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [])]
        return _packed({"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "random": random})

    def load_state(self, state: bytes) -> None:
        """Restore the model and its optimizer from a `state`."""
        saved = self._unpacked(state)
        self.model.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        first, *others = (one.cpu() for one in saved["random"])
        torch.set_rng_state(first)
        if others and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(others)

    def _unpacked(self, content: bytes) -> Any:
        return torch.load(io.BytesIO(content), weights_only=True, map_location=self.device)

    def size(self) -> str:
        """Return the number of trainable weights, as in "4,801 weights"."""
        return f"{sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad):,} weights"

    def save(self, folder: Path) -> str:
        """Write model.pt, the weights; `torch.load(path, weights_only=True)` reads them without unpickling objects."""
        (folder / self.native_file).write_bytes(self.snapshot())  # torch.save reports a full disk without saying so
        return self.native_file

    def load(self, folder: Path) -> None:
        """Read model.pt."""
        self.restore((folder / self.native_file).read_bytes())

    def export(self, path: Path, exporter: str = "") -> None:
        """Write an ONNX graph from the model's inputs to scores; a copy of the model is exported."""
        scores = _copied(ScoringModule(self, self._output)).eval().cpu()
        shapes = array_shapes(self._shapes)
        examples = {name: torch.zeros(2, *shapes[name]) for name in self.takes}
        kernel = nullcontext() if exporter in ("", self.exporters[0]) else sdpa_kernel(SDPBackend.MATH)
        write = _write_with_torch_script if exporter == self.exporters[2] else _write_with_torch_export
        try:
            with _explain_export(), _quiet(), kernel, torch.no_grad():
                write(scores, examples, path)
        finally:
            self.model.to(self.device)  # if it was not copied


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and output; errors are raised."""
    with discarded_stdout(), filtered_stderr(""), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_with_torch_export(scores: nn.Module, examples: Mapping[str, torch.Tensor], path: Path) -> None:
    """Export with torch.export, without PyTorch's optimiser: it removes the addition of numbers as small as 1e-8."""
    program = torch.onnx.export(
        scores,
        tuple(examples.values()),
        input_names=list(examples),
        output_names=["scores"],
        dynamic_shapes=(({0: torch.export.Dim("events")},) * len(examples),),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    optimizer = require("onnxscript.optimizer", "torch", "exporting a PyTorch model")
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    program.save(path, external_data=False)


def _write_with_torch_script(scores: nn.Module, examples: Mapping[str, torch.Tensor], path: Path) -> None:
    """Export with PyTorch's older exporter, which records the operations of one call."""
    torch.onnx.export(
        scores,
        tuple(examples.values()),
        path,
        input_names=list(examples),
        output_names=["scores"],
        dynamic_axes={name: {0: "events"} for name in (*examples, "scores")},
        opset_version=18,
        dynamo=False,
    )


def _copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module, because an export may leave traces; modules that cannot be copied themselves."""
    try:
        return copy.deepcopy(module)
    except Exception:  # for example, a tensor that is not a weight has a gradient
        return module


@dataclass(frozen=True)
class _PerEventLoss:
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
    def of(cls, loss: Any, device: torch.device) -> _PerEventLoss:
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


class ScoringModule(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A model, followed by the conversion of its outputs to scores: probabilities, or targets in their own units."""

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


def _check_own_methods(model: nn.Module, file: ModelFile) -> None:
    """Raise ConfigError if a model has methods of Lightning that are not called, and the file has no replacement."""
    replaced = {"training_step": file.training_step or file.loss, "configure_optimizers": file.optimizer}
    for method, replacement in replaced.items():
        owner = next((one for one in type(model).__mro__ if method in vars(one)), None)
        is_own = owner is not None and owner.__module__.partition(".")[0] not in ("lightning", "pytorch_lightning")
        if is_own and replacement is None:
            wanted = "`loss` or `training_step`" if method == "training_step" else "`optimizer`"
            raise ConfigError(
                f"the model of {file.path} has a method {method}, which is not called",
                hint=f"define {wanted} in the model file, or train with Lightning's Trainer and an EventDataset",
            )


def _optimizer(file: ModelFile, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a model file, whose `step` must not need a closure, or the default optimizer."""
    if file.optimizer is None:
        return torch.optim.AdamW(weights, LEARNING_RATE)
    result = file.optimizer(weights) if callable(file.optimizer) else file.optimizer
    if isinstance(result, (list, tuple, dict)):
        names = ", ".join(type(one).__name__ for one in (result.values() if isinstance(result, dict) else result))
        raise ConfigError(
            f"`optimizer` of {file.path} {'returns' if callable(file.optimizer) else 'is'} a {type(result).__name__}"
            f" ({names})",
            hint="it must return one optimizer; learning rate schedules are replaced by 'lr_patience' in the params",
        )
    if not callable(file.optimizer) or not isinstance(result, torch.optim.Optimizer):
        raise ConfigError(
            f"`optimizer` of {file.path} {'returns' if callable(file.optimizer) else 'is'} {_described(result)}",
            hint="it must be a function: def optimizer(weights): return torch.optim.Adam(weights)",
        )
    closure = inspect.signature(type(result).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"`optimizer` of {file.path} is {type(result).__name__}, which needs a closure that re-evaluates the loss",
            hint="use an optimizer without closure, such as torch.optim.AdamW",
        )
    return result


def _described(value: Any) -> str:
    """Return the shape of a tensor, or the repr of anything else."""
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def _arguments(model: nn.Module, shapes: Shapes) -> list[str]:
    """Return the names of the arguments of `forward` that are inputs; others may have a default."""
    parameters = inspect.signature(model.forward).parameters.values()
    if "x" in shapes:
        return [one.name for one in parameters]
    available = array_shapes(shapes)
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return [one.name for one in named if one.name in available or one.default is one.empty]


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


@contextmanager
def _explain_export() -> Iterator[None]:
    """Raise ConfigError with the cause of a failed export; the message of PyTorch starts with advice for developers."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"PyTorch cannot export the model: {error_summary(error.__cause__ or error)}") from error


def _packed(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
