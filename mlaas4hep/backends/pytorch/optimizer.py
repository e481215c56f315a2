"""The optimizer of a PyTorch model, with its learning rate schedule, gradient clipping and accumulation.

    optimizer = TorchOptimizer(file, model, params, batches=100)
    optimizer.begin_batch()
    optimizer.step(loss, size)          # backward, and a step every `accumulate` batches
    optimizer.end_epoch()

Its state contains everything that later steps depend on, including accumulated gradients, and the states of schedulers
that the optimizer of the model file steps itself.
"""

from __future__ import annotations

import gc
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.protocol import schedule_error
from mlaas4hep.backends.schedule import Schedule, make_schedule, steps_per_epoch
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError

LEARNING_RATE = 1e-3
"""Default for AdamW, if neither the model file nor the params set one."""

_OF_TORCH = ("state", "param_groups", "defaults")
"""Attributes of an optimizer that its `state_dict` contains."""


class TorchOptimizer:
    """See the module's docstring.

    Attributes:
        has_schedule: whether the learning rate follows a schedule.
    """

    def __init__(self, file: ModelFile, model: nn.Module, params: Params, batches: int) -> None:
        """Create the optimizer.

        Args:
            batches: batches per epoch, on which schedules depend; 0: the model is not trained.

        Raises:
            ConfigError: the optimizer or the scheduler of the model file is not supported.
        """
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._accumulate, self._clip_norm = params.accumulate, params.clip_norm
        self._optimizer = _make_optimizer(file, model, self._weights, params)
        self._optimizers = _nested(self._optimizer)
        self._own_schedulers = _schedulers_of(self._optimizers) if file.optimizer else []
        if self._own_schedulers and (file.scheduler or params.has_schedule):
            raise ConfigError(
                f"the optimizer of {file.path} already has a learning rate schedule;"
                f" {'`scheduler`' if file.scheduler else 'lr_schedule of the params'} would be a second one",
                hint="leave out one of them",
            )
        self._scheduler: Any = None
        self._per_step = True
        self._last_step = params.epochs * steps_per_epoch(params, batches) - 1 if file.scheduler else math.inf
        if batches:
            self._scheduler, self._per_step = _make_scheduler(file, self._optimizer, params, batches)
        self.has_schedule = bool(self._scheduler or self._own_schedulers)
        if self.has_schedule and params.lr_patience:
            raise schedule_error(file.path)
        self._pending, self._size = 0, 0.0
        self._in_epoch = False

    def begin_batch(self) -> None:
        """Set the gradients to zero, unless an accumulation has started."""
        if not self._pending:
            self._optimizer.zero_grad()

    def step(self, loss: torch.Tensor, size: float | None) -> bool:
        """Compute the gradients of a batch; after `accumulate` batches, update the weights.

        Args:
            loss: loss of the batch.
            size: sum of the absolute weights of its events, by which the loss was divided; None: the loss is a sum.

        Returns:
            Whether the weights were updated.
        """
        self._in_epoch = True
        if self._accumulate == 1:
            loss.backward()
        else:
            (loss if size is None else loss * size).backward()
            self._size += 0.0 if size is None else size
            self._pending += 1
            if self._pending < self._accumulate:
                return False
        self._apply()
        return True

    def end_epoch(self) -> bool:
        """Apply the remaining gradients, and step per-epoch schedulers; return whether the weights were updated.

        A second call at the end of the same epoch, after a restart, does nothing.
        """
        changed = self._pending > 0
        if changed:
            self._apply()
        if self._in_epoch and self._scheduler and not self._per_step:
            self._step_scheduler()
        self._in_epoch = False
        return changed

    def _apply(self) -> None:
        if self._size:
            for weight in self._weights:
                if weight.grad is not None:
                    weight.grad /= self._size
        self._pending, self._size = 0, 0.0
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._weights, self._clip_norm)
        self._optimizer.step()
        if self._scheduler and self._per_step:
            self._step_scheduler()

    def _step_scheduler(self) -> None:
        """Step the scheduler, but not beyond the last planned step: with sampling, an epoch may have more batches."""
        if self._per_step and self._scheduler.last_epoch >= self._last_step:
            return
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # after a restart, the scheduler warns that the optimizer has not been stepped
            self._scheduler.step()

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rates of all parameter groups by a factor."""
        for group in self._optimizer.param_groups:
            group["lr"] *= factor

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, apart from the weights."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "attributes": [_plain_attributes(optimizer) for optimizer in self._optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
            "gradients": [weight.grad for weight in self._weights] if self._pending else [],
            "pending": [self._pending, self._size, self._in_epoch],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        shared = _shared_attributes(self._optimizers)
        saved_states = zip(self._optimizers, state["optimizers"], state["attributes"], strict=True)
        for optimizer, saved, attributes in saved_states:
            optimizer.load_state_dict(saved)
            vars(optimizer).update(attributes)
        for outer, inner, name in shared:
            setattr(outer, name, getattr(inner, name))
        for scheduler, saved in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        for weight, gradient in zip(self._weights, state["gradients"], strict=False):
            weight.grad = gradient
        self._pending, self._size, self._in_epoch = state["pending"]

    @property
    def _schedulers(self) -> list[Any]:
        return [*self._own_schedulers, *([self._scheduler] if self._scheduler else [])]


def _make_optimizer(
    file: ModelFile, model: nn.Module, weights: list[nn.Parameter], params: Params
) -> torch.optim.Optimizer:
    """Return the optimizer of a model file, whose `step` must not need a closure, or the default optimizer."""
    if file.optimizer is None:
        return _default_optimizer(weights, params)
    what = f"`optimizer` of {file.path} {'returns' if callable(file.optimizer) else 'is'}"
    result = file.optimizer(weights, **_model_argument(file, model)) if callable(file.optimizer) else file.optimizer
    if isinstance(result, (list, tuple, dict)):
        names = ", ".join(type(one).__name__ for one in (result.values() if isinstance(result, dict) else result))
        raise ConfigError(
            f"{what} a {type(result).__name__} ({names})",
            hint="it must return one optimizer; return a learning rate schedule from def scheduler(optimizer)",
        )
    if not callable(file.optimizer) or not isinstance(result, torch.optim.Optimizer):
        raise ConfigError(
            f"{what} {result!r}", hint="it must be a function: def optimizer(weights): return torch.optim.Adam(weights)"
        )
    closure = inspect.signature(type(result).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"`optimizer` of {file.path} is {type(result).__name__}, which needs a closure that re-evaluates the loss",
            hint="use an optimizer without closure, such as torch.optim.AdamW",
        )
    return result


def _model_argument(file: ModelFile, model: nn.Module) -> dict[str, nn.Module]:
    """Return the model as a keyword argument if the function `optimizer` has the argument `model`."""
    parameters = {} if isinstance(file.optimizer, type) else inspect.signature(file.optimizer).parameters
    return {"model": model} if "model" in parameters else {}


def _default_optimizer(weights: list[nn.Parameter], params: Params) -> torch.optim.Optimizer:
    """Return AdamW; a weight decay of the params applies to matrices, not to biases and normalisation."""
    rate = params.learning_rate or LEARNING_RATE
    if params.weight_decay is None:
        return torch.optim.AdamW(weights, rate)
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], rate)


class _Scheduler:
    """Sets the learning rates of an optimizer; it has the methods of PyTorch's schedulers, but does not wrap `step`."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self._optimizer, self._schedule, self._step = optimizer, schedule, -1
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.step()

    @property
    def last_epoch(self) -> int:
        """Number of the next step, as in PyTorch's schedulers."""
        return self._step

    def step(self) -> None:
        """Set the learning rates of the next step."""
        self._step += 1
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._schedule.factor(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the step; the learning rates are in the state of the optimizer."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the number of the step."""
        self._step = state["step"]


def _make_scheduler(file: ModelFile, optimizer: Any, params: Params, batches: int) -> tuple[Any, bool]:
    """Return the scheduler of the params or of the model file, if any, and whether it is stepped after each step."""
    schedule = make_schedule(params, batches)
    if file.scheduler is None:
        return (_Scheduler(optimizer, schedule) if schedule else None), True
    if schedule:
        raise ConfigError(
            f"{file.path} defines `scheduler`, and the params set 'lr_schedule' or 'lr_warmup'", hint="leave out one"
        )
    example = "def scheduler(optimizer): return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)"
    if not callable(file.scheduler):
        raise ConfigError(f"`scheduler` of {file.path} is {file.scheduler!r}", hint=f"it must be a function: {example}")
    steps = {"steps": params.epochs * steps_per_epoch(params, batches), "epochs": params.epochs}
    names = inspect.signature(file.scheduler).parameters
    result: Any = file.scheduler(optimizer, **{name: value for name, value in steps.items() if name in names})
    interval = "step" if "steps" in names else "epoch"
    if isinstance(result, dict):
        result, interval = result.get("scheduler"), result.get("interval", interval)
    if isinstance(result, lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            f"`scheduler` of {file.path} returns ReduceLROnPlateau, which needs the validation loss",
            hint="set 'lr_patience' and 'lr_factor' in the params instead",
        )
    if not isinstance(result, lr_scheduler.LRScheduler) or interval not in ("step", "epoch"):
        raise ConfigError(
            f"`scheduler` of {file.path} returns {result!r} for the interval {interval!r}",
            hint=f"it must return a scheduler: {example}; or a dict with 'scheduler' and 'interval' (step or epoch)",
        )
    return result, interval == "step"


def _nested(optimizer: Any) -> list[Any]:
    """Return an optimizer and the optimizers that it wraps."""
    found = [optimizer]
    for one in found:
        inner = [value for value in vars(one).values() if isinstance(value, torch.optim.Optimizer)]
        found += [other for other in inner if all(other is not known for known in found)]
    return found


def _shared_attributes(optimizers: list[Any]) -> list[tuple[Any, Any, str]]:
    """Return the state that wrapped optimizers share with those around them: (outer, inner, attribute)."""
    return [
        (outer, inner, name)
        for position, inner in enumerate(optimizers)
        for outer in optimizers[:position]
        for name in ("state", "param_groups")
        if getattr(outer, name) is getattr(inner, name)
    ]


def _schedulers_of(optimizers: list[Any]) -> list[Any]:
    """Return the schedulers that refer to some optimizers, even from closures, in a reproducible order."""
    found = [
        one
        for one in gc.get_objects()
        if issubclass(type(one), lr_scheduler.LRScheduler)
        and any(getattr(one, "optimizer", None) is optimizer for optimizer in optimizers)
    ]
    return sorted(found, key=lambda one: f"{type(one).__qualname__} {_plain_attributes(one)}")


def _plain_attributes(owner: object) -> dict[str, Any]:
    """Return the attributes of an object that are numbers, strings, tensors, or lists or dicts of these."""
    return {name: value for name, value in vars(owner).items() if name not in _OF_TORCH and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and _is_plain(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, torch.Tensor):
        return not isinstance(value, nn.Parameter)
    return value is None or isinstance(value, (bool, int, float, str))
