"""The interface between the training loop and a framework.

    for loss, weight in backend.steps(batches):
        print(loss)
    scores = backend.predict({"x": x, "mask": mask})

A `StepwiseBackend` is trained one batch at a time. A `OneShotBackend` trains in a single call, in which it reads the
events as often as it needs. `make_backend` returns the backend of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlaas4hep.backends.task import Task
from mlaas4hep.errors import ConfigError, error_text, nearest
from mlaas4hep.reader.inputs import mask_of, mask_shape_of
from mlaas4hep.stream import Batch


class NothingLearned(ConfigError):
    """A model gives all events the same score, and can therefore not be exported."""


class Backend(Protocol):
    """A model of one framework, ready to be trained.

    Attributes:
        framework: name of the framework.
        round_noun: what a step of its history is called: "epoch", or "round" for boosted trees.
        takes: names of the inputs and masks that the model takes, in order; masks are passed as float32.
        outputs: number of outputs per event: 1 (the probability of the second class), or one for each class, label or
            target.
        normalised: whether the model takes normalised values; otherwise it takes the values in the files.
        native_file: name of the file with the model in the framework's own format; "" if only the ONNX graph is saved.
        exporters: names of the ways to export the model, in order of preference.
        reads: names that the backend uses if the model file defines them, other than `model` and `metrics`.
    """

    framework: str
    round_noun: str
    takes: tuple[str, ...]
    outputs: int
    normalised: bool
    native_file: str
    exporters: tuple[str, ...]
    reads: tuple[str, ...]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs): probabilities of classes or labels, or targets in their own units.

        Args:
            inputs: arrays as in `Batch.inputs` (0 where a mask is False).
        """

    def size(self) -> str:
        """Describe the size of the model, as in "4,801 weights"."""

    def save(self, folder: Path) -> str:
        """Write the model in the framework's own format, without pickles; return `native_file`."""

    def export(self, path: Path, exporter: str = "") -> None:
        """Write an ONNX graph from the model's inputs to scores.

        Args:
            exporter: one of `exporters`; "": the first.
        """


@runtime_checkable
class StepwiseBackend(Backend, Protocol):
    """A model that is trained one batch at a time.

    Attributes:
        has_schedule: whether the learning rate follows a schedule.
    """

    has_schedule: bool

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[Any, float]]:
        """Train one step on each batch; yield the loss and the sum of the absolute weights of each batch.

        The batches are those of an epoch, or the remaining ones after a restart; at their end the epoch ends.
        """

    @property
    def learning_rate(self) -> float:
        """Learning rate of the optimizer."""

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate of the optimizer, which has no schedule, by a factor."""

    def snapshot(self) -> bytes:
        """Return the weights."""

    def restore(self, weights: bytes) -> None:
        """Set the weights to those of a `snapshot`."""

    def state(self) -> bytes:
        """Return everything that the next steps depend on: weights, optimizer, random number generators."""

    def load_state(self, state: bytes) -> None:
        """Restore the model, its optimizer and the random number generators from a `state`."""


@runtime_checkable
class BatchLossBackend(Backend, Protocol):
    """A model whose own loss may determine the best epoch."""

    def batch_loss(self, batch: Batch) -> float | None:
        """Return the loss(outputs, labels, weights, aux) of the model file for a batch; None if it has no such loss."""


@runtime_checkable
class NativeBackend(Backend, Protocol):
    """A model that can be read in the framework's own format."""

    def load(self, folder: Path) -> None:
        """Read the trained model that `save` wrote to a folder."""


EpochBatches = Callable[[int], Iterable[Batch]]
"""Returns the batches of the training set in the order of an epoch, counted from 0."""

Batches = Callable[[], Iterable[Batch]]
"""Returns the batches of a set; may be called repeatedly."""

RoundCallback = Callable[[int, float, dict[str, float], bool], None]
"""Called with the number of a round (from 1), the training loss, the validation metrics (with "loss"), and whether the
round is the best so far."""


@runtime_checkable
class OneShotBackend(Backend, Protocol):
    """A model that is trained in a single call."""

    def fit(self, train: EpochBatches, valid: Batches, report: RoundCallback) -> int:
        """Train, and report every round; return the number of the round whose model is kept, 0 without rounds."""

    def short_copy(self) -> OneShotBackend:
        """Return an untrained copy that trains for one epoch or round, if the number can be set."""


Shapes = Mapping[str, tuple[int, ...]]
"""Per-event shape of each input: {"x": (features,)}, or {"jets": (objects, features), "event": (features,)}."""


def probe_inputs(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return random inputs, float32 (n, ...), whose size drives unbounded outputs far outside [0, 1], and full masks.

    n is 256; for large inputs such as images it is less, but at least 8.
    """
    rng = np.random.default_rng(0)
    count = max(8, min(256, 200_000 // sum(map(math.prod, shapes.values()))))
    inputs = {name: rng.normal(0, 30, (count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return inputs | {
        mask_of(name): np.ones((count, *mask_shape_of(shape)), np.float32) for name, shape in shapes.items()
    }


def training_only(inputs: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Return the training-only inputs and masks among all inputs and masks, given the shapes of the model's inputs."""
    return {name: values for name, values in inputs.items() if name not in {*shapes, *map(mask_of, shapes)}}


def array_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the per-event shapes of all inputs and masks."""
    return {**shapes, **{mask_of(name): mask_shape_of(shape) for name, shape in shapes.items()}}


def choose_inputs(arguments: Sequence[str], shapes: Shapes, where: str) -> tuple[str, ...]:
    """Return the inputs and masks that a model takes, given the names of its arguments.

    If the only input is a vector, its names do not matter: the first argument is the vector, the second its mask.

    Raises:
        ConfigError: an argument is not the name of an input or a mask.
    """
    if set(shapes) == {"x"}:
        return ("x", "mask")[: len(arguments)]
    available = array_shapes(shapes)
    for name in arguments:
        if name not in available:
            raise ConfigError(
                f"{where} takes an unknown input '{name}'",
                nearest=nearest(name, available),
                hint="the inputs are " + ", ".join(available),
            )
    return tuple(arguments)


def single_output_error(where: Path, output: object) -> ConfigError:
    """Return the error for a model that returns several outputs, or something other than an array."""
    return ConfigError(
        f"the model of {where} returns a {type(output).__name__}", hint="it must return one array, (events, outputs)"
    )


def ordered_outputs(output: Any, task: Task, where: Path) -> list[Any]:
    """Return the arrays of a model with an output for each label or target, in the order of these.

    Args:
        output: a dict by the names of the labels or targets, or a list or tuple in their order.

    Raises:
        ConfigError: the task is a classification, or the outputs are not those of the labels or targets.
    """
    if task.name == "classification" or not isinstance(output, (dict, list, tuple)):
        raise single_output_error(where, output)
    names = list(output) if isinstance(output, dict) else list(task.classes[: len(output)])
    if sorted(names) != sorted(task.classes) or len(names) != len(output):
        found = ", ".join(f"'{name}'" for name in output) if isinstance(output, dict) else f"{len(output)} arrays"
        raise ConfigError(
            f"the model of {where} returns {found}",
            hint=f"it must return one array, or one for each of: {', '.join(task.classes)}",
        )
    return [output[name] for name in task.classes] if isinstance(output, dict) else list(output)


def losses_by_name(loss: Mapping[str, Any], task: Task, where: Path) -> list[Any]:
    """Return the losses of a dict in the order of the labels or targets.

    Raises:
        ConfigError: the task is a classification, or the keys are not the names of the labels or targets.
    """
    if task.name == "classification" or sorted(loss) != sorted(task.classes):
        known = "one loss" if task.name == "classification" else f"the keys {', '.join(task.classes)}"
        raise ConfigError(f"`loss` of {where} has the keys {', '.join(map(str, loss))}", hint=f"it must have {known}")
    return [loss[name] for name in task.classes]


def schedule_error(where: Path) -> ConfigError:
    """Return the error for `lr_patience` together with a learning rate schedule."""
    return ConfigError(
        f"the optimizer of {where} already has a learning rate schedule", hint="set 'lr_patience' to 0 in the params"
    )


@contextmanager
def explain_rejection(where: Path, shapes: Shapes, *kinds: type[Exception]) -> Iterator[None]:
    """Raise ConfigError for errors of these types, which a framework raises if a model does not accept its inputs."""
    try:
        yield
    except ConfigError:
        raise
    except kinds as error:
        inputs = "inputs of the shapes " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        if set(shapes) == {"x"}:
            inputs = f"vectors of {shapes['x'][0]} numbers"
        raise ConfigError(f"the model of {where} does not accept {inputs}: {error_text(error)}") from error
