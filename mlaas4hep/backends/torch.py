"""PyTorch models. The arguments of `forward` determine which inputs and masks a model gets."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.model_settings import check_default_optimizer
from mlaas4hep.backends.protocol import (
    Shapes,
    array_shapes,
    choose_inputs,
    explain_rejection,
    losses_by_name,
    probe_inputs,
    training_only,
)
from mlaas4hep.backends.pytorch.average import WeightAverage
from mlaas4hep.backends.pytorch.export import EXPORTERS, export
from mlaas4hep.backends.pytorch.loss import PerEventLoss, default_loss, join_outputs
from mlaas4hep.backends.pytorch.optimizer import TorchOptimizer
from mlaas4hep.backends.task import Output, Task
from mlaas4hep.config import Params
from mlaas4hep.config.optimization import FILE_SETTINGS
from mlaas4hep.errors import ConfigError
from mlaas4hep.machine.threads import available_cpus
from mlaas4hep.stream import Batch


class TorchBackend:
    """A PyTorch model; see `Backend`.

    Attributes:
        mixed: whether training uses mixed precision (bfloat16); weights and scores are float32.
        has_schedule: whether the learning rate follows a schedule.
    """

    framework = "pytorch"
    round_noun = "epoch"
    normalised = True
    native_file = "model.pt"
    exporters: tuple[str, ...] = EXPORTERS
    reads: tuple[str, ...] = ("loss", "optimizer", "training_step", "scheduler", *FILE_SETTINGS)

    def __init__(
        self, model: nn.Module, file: ModelFile, shapes: Shapes, task: Task, params: Params, batches: int = 0
    ) -> None:
        """Prepare a model; `batches` is the number of batches per epoch, on which schedules depend."""
        compiled, model = model, _uncompiled(model)
        _check_own_methods(model, file)
        spare = max(1, available_cpus() - 1)  # one CPU is left for reading
        torch.set_num_threads(params.threads or min(torch.get_num_threads(), spare))
        torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits of precision; scores must match the ONNX graph
        self.task = task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mixed = self.device.type == "cuda" and params.mixed_precision
        self.model = model.to(self.device)
        self._trained = compiled  # shares the weights of `model`
        self.takes = choose_inputs(_arguments(model, shapes), shapes, f"forward of the model of {file.path}")
        self._shapes = shapes
        self._file = file
        self._average: WeightAverage | None = None
        with explain_rejection(file.path, shapes, RuntimeError, TypeError, ValueError):
            output = self._probe_output()
        self.outputs, self._output = task.probe(output, self._perturbed_output, file.path)
        if not any(weight.requires_grad for weight in model.parameters()):
            raise ConfigError(f"the model of {file.path} has no trainable weights")
        check_default_optimizer(file, params, file.optimizer is not None)
        self._optimizer = TorchOptimizer(file, model, params, batches)
        self.has_schedule = self._optimizer.has_schedule
        if params.ema:
            self._average = WeightAverage(model, params.ema)
        if isinstance(file.loss, dict):
            self._loss = PerEventLoss.mean_of(losses_by_name(file.loss, task, file.path), self.device)
            return
        if file.loss is not None and (isinstance(file.loss, type) or not callable(file.loss)):
            raise ConfigError(
                f"`loss` of {file.path} is {file.loss!r}",
                hint="it must be a loss of torch.nn, as nn.BCEWithLogitsLoss(), or a function loss(output, target)",
            )
        self._loss = PerEventLoss.of(file.loss or default_loss(task, self.outputs, self._output), self.device)

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
        model = self._trained if self.model.training else self.model
        return join_outputs(model(*(inputs[name] for name in self.takes)), self.task, self._file.path)

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[torch.Tensor, float]]:
        """Train one step on each batch; yield the loss and the sum of the absolute weights of each batch."""
        for batch in batches:
            if not batch.weight.any():  # skipped, because momentum or weight decay would still change the weights
                yield torch.zeros((), dtype=torch.float64), 0.0
                continue
            self._train_mode(len(batch))
            self._optimizer.begin_batch()
            loss = self._step_loss(batch)
            if not loss.requires_grad:
                which = "training_step" if self._file.training_step else "loss"
                raise ConfigError(f"`{which}` of {self._file.path} does not depend on the weights of the model")
            size = float(np.abs(batch.weight).sum(dtype=np.float64))
            changed = self._optimizer.step(loss, None if self._loss_is_sum else size)
            if changed and self._average:
                self._average.update()
            yield loss.detach().double(), size
        if self._optimizer.end_epoch() and self._average:
            self._average.update()

    def _step_loss(self, batch: Batch) -> torch.Tensor:
        inputs, weight = self._tensors(batch.inputs), self._tensor(batch.weight)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            if self._file.training_step:
                arguments = (inputs["x"], inputs["mask"]) if "x" in inputs else (inputs,)
                loss = self._file.training_step(self._trained, *arguments, self._tensor(batch.y), weight)
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

    @property
    def _loss_is_sum(self) -> bool:
        """Whether the loss of a batch is a sum over its events."""
        return self._loss.reduction == "sum" and not self._file.training_step

    def batch_loss(self, batch: Batch) -> float | None:
        """Return the loss of the model file for a batch; None unless it takes weights and training-only inputs."""
        if not self._file.loss_takes_aux:
            return None
        self._show_average()
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
        if self._average:
            self._average.hide()
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
        self._show_average()
        scores = ScoringModule(self, self._output).eval()
        with torch.no_grad():
            tensors = self._tensors({name: inputs[name] for name in self.takes})
            return np.asarray(scores(*tensors.values()).float().cpu().numpy())

    def _show_average(self) -> None:
        if self._average:
            self._average.show()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""
        return self._optimizer.learning_rate

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rates of all parameter groups by a factor."""
        self._optimizer.scale_learning_rate(factor)

    def snapshot(self) -> bytes:
        """Return the weights; `torch.load(..., weights_only=True)` reads them without unpickling objects."""
        self._show_average()
        return _packed(self.model.state_dict())

    def restore(self, weights: bytes) -> None:
        """Set the weights to those of a `snapshot`."""
        self.model.load_state_dict(self._unpacked(weights))
        if self._average:
            self._average.reset()

    def state(self) -> bytes:
        """Return weights, optimizer state and random number generator states."""
        random = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [])]
        average = self._average.state() if self._average else None  # hides it
        content = {"model": self.model.state_dict(), "optimizer": self._optimizer.state(), "average": average}
        return _packed({**content, "random": random})

    def load_state(self, state: bytes) -> None:
        """Restore the model and its optimizer from a `state`."""
        saved = self._unpacked(state)
        self.model.load_state_dict(saved["model"])
        self._optimizer.load_state(saved["optimizer"])
        if self._average:
            self._average.load_state(saved["average"])
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
        self._show_average()
        scores = _copied(ScoringModule(self, self._output)).eval().cpu()
        shapes = array_shapes(self._shapes)
        examples = {name: torch.zeros(2, *shapes[name]) for name in self.takes}
        try:
            export(scores, examples, path, exporter)
        finally:
            self.model.to(self.device)  # if it was not copied


def _copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module, because an export may leave traces; modules that cannot be copied themselves."""
    try:
        return _with_uncompiled_parts(copy.deepcopy(module))
    except Exception:  # for example, a tensor that is not a weight has a gradient
        return module


class ScoringModule(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A model, followed by the conversion of its outputs to scores: probabilities, or targets in their own units."""

    def __init__(self, backend: TorchBackend, output: Output) -> None:
        super().__init__()
        self.model = backend.model
        self._output, self._task, self._path = output, backend.task, backend._file.path
        self._softmax = backend.task.name == "classification" and backend.outputs > 1
        self.register_buffer("_centre", torch.tensor(backend.task.centre, device=backend.device), persistent=False)
        self.register_buffer("_spread", torch.tensor(backend.task.spread, device=backend.device), persistent=False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return scores (events, outputs)."""
        output = join_outputs(self.model(*inputs), self._task, self._path)
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


def _described(value: Any) -> str:
    """Return the shape of a tensor, or the repr of anything else."""
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def _arguments(model: nn.Module, shapes: Shapes) -> list[str]:
    """Return the names of the arguments of `forward` that are inputs; arguments with a default may be others."""
    named = [one for one in _parameters(model) if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if "x" in shapes:
        return [one.name for one in named if one.default in (one.empty, None)] or ["x"]
    available = array_shapes(shapes)
    return [one.name for one in named if one.name in available or one.default is one.empty]


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of `forward`, or of the module inside a wrapper with forward(*args, **kwargs)."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    wrapped = list(model.children())
    if len(wrapped) == 1 and all(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters):
        return _parameters(wrapped[0])
    return parameters


def _uncompiled(module: nn.Module) -> nn.Module:
    """Return the original of a compiled module (`torch.compile`), which shares its weights; others are unchanged."""
    return getattr(module, "_orig_mod", module)


def _with_uncompiled_parts(module: nn.Module) -> nn.Module:
    """Replace compiled submodules by their originals, which can be exported; return the module."""
    for name, part in module.named_children():
        setattr(module, name, _with_uncompiled_parts(_uncompiled(part)))
    return module


def _packed(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
