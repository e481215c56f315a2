"""What the training loop asks of a framework, and which framework a model belongs to.

    backend = make_backend(file, {"x": (73,)}, Task.classification(2), seed=0)
    for loss, weight in backend.steps(batches):
        print(loss)
    scores = backend.predict({"x": x, "mask": mask})

One module a framework; none is imported before a model of it was built by the user's own model file. Models that learn
step by step are `Stepwise`; those that need all events for that, or pass over them as often as they like, are `AtOnce`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.reader.inputs import mask_of
from mlaas4hep.stream import Batch
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.task import Task


class Backend(Protocol):
    """A model of one framework, ready to be trained.

    Attributes:
        framework: its name.
        takes: names of the inputs and masks that the model is given, in order; masks come as float32.
        outputs: numbers it gives for an event: 1 (the probability of the second class) or one for each class, label or
            target.
        normalised: whether it is best given normalised values; else values as they are in the files.
    """

    framework: str
    takes: tuple[str, ...]
    outputs: int
    normalised: bool

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs), for events as batches have them (0 where a mask is False).

        They are probabilities of classes or labels, or targets in their own units.
        """

    def size(self) -> str:
        """Return how large the model is, in words."""

    def save(self, folder: Path) -> str:
        """Write the model in the framework's own format, without pickles, and return the file's name, or ""."""

    def export(self, path: Path) -> None:
        """Write an ONNX graph from what the model takes to scores."""


@runtime_checkable
class Stepwise(Backend, Protocol):
    """A model that learns a batch at a time."""

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[Any, float]]:
        """Train on batches, one step each; yield the loss of each, and the sum of the sizes of its weights."""

    def scale_learning_rate(self, factor: float) -> float:
        """Multiply the learning rate of the optimizer; return what it is then.

        Raises:
            ConfigError: the model file lets it follow a schedule of its own.
        """

    def snapshot(self) -> bytes:
        """Return the weights."""

    def restore(self, weights: bytes) -> None:
        """Set the weights to what `snapshot` returned."""

    def state(self) -> bytes:
        """Return all that the next steps depend on: weights, optimizer, random numbers."""

    def load_state(self, state: bytes) -> None:
        """Go on from what `state` returned."""


Rounds = Callable[[int, float, dict[str, float], bool], None]
"""Told the number of a round, from 1, the loss of the training part, figures of the validation part, "loss" among them,
and whether it is the one to be kept so far."""


@runtime_checkable
class AtOnce(Backend, Protocol):
    """A model that is trained in one go."""

    def fit(
        self,
        train: Callable[[int], Iterable[Batch]],
        valid: Callable[[], Iterable[Batch]],
        report: Rounds,
    ) -> int:
        """Train; return the number of the round whose model is kept, 0 if there are none to be told of.

        Args:
            train: gives the batches of the training part in the order of an epoch, counted from 0.
            valid: gives those of the validation part.
            report: called after every round.
        """


Shapes = Mapping[str, tuple[int, ...]]
"""Of one event, by input: {"x": (features,)}, or {"jets": (objects, features), "event": (features,)}."""


def make_backend(file: ModelFile, shapes: Shapes, task: Task, params: Params) -> Backend:
    """Build the model of a model file and wrap it.

    Args:
        shapes: of the inputs.
        task: what it is for.
        params: among them the seed of the initial weights, and of everything random in training.

    Raises:
        ConfigError: the model is of no known framework, or does not fit the labels.
    """
    _seed_everything(params.seed)
    model = file.build(shapes, task)
    ancestors = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "keras" in ancestors:
        from mlaas4hep.training.keras_backend import KerasBackend

        return KerasBackend(model, file, shapes, task)
    if "torch" in ancestors:
        from mlaas4hep.training.torch_backend import TorchBackend

        return TorchBackend(model, file, shapes, task, params)
    if "xgboost" in ancestors:
        from mlaas4hep.training.xgboost_backend import XGBoostBackend

        return XGBoostBackend(model, file, shapes, task, params)
    if "sklearn" in ancestors:
        from mlaas4hep.training.sklearn_backend import SklearnBackend

        return SklearnBackend(model, file, shapes, task, params)
    raise ConfigError(
        f"the function model of {file.path} returns a {type(model).__module__}.{type(model).__qualname__}",
        hint="it must be a Keras model, a torch.nn.Module, or an estimator of scikit-learn or XGBoost",
    )


def _seed_everything(seed: int) -> None:
    """Seed the frameworks that the model file has imported."""
    import random
    import sys

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  model files may draw from the global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)


def probe_inputs(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return inputs that drive unbounded outputs far outside of [0, 1], float32 (n, ...), and full masks.

    There are 256 events, or where these are large, as images are, at least 8.
    """
    rng = np.random.default_rng(0)
    count = max(8, min(256, 200_000 // sum(map(math.prod, shapes.values()))))
    found = {name: rng.normal(0, 30, (count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return found | {mask_of(name): np.ones((count, shape[0]), np.float32) for name, shape in shapes.items()}


def array_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all inputs and their masks, of one event."""
    return {**shapes, **{mask_of(name): shape[:1] for name, shape in shapes.items()}}


def choose(wanted: Sequence[str], shapes: Shapes, where: str) -> tuple[str, ...]:
    """Return which inputs and masks a model takes, given what it calls its arguments.

    That of a vector may call them as it likes: the first is the vector, the second its mask.

    Raises:
        ConfigError: there is no such input.
    """
    if set(shapes) == {"x"}:
        return ("x", "mask")[: len(wanted)]
    known = array_shapes(shapes)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"{where} takes '{name}', and there is no such input",
                nearest=nearest(name, known),
                hint="there are " + ", ".join(known),
            )
    return tuple(wanted)


def no_single_output(where: Path, output: object) -> ConfigError:
    """Return what to raise where a model gives several outputs, or something else than one array."""
    return ConfigError(
        f"the model of {where} gives a {type(output).__name__}",
        hint="it must give one output, with the numbers of events",
    )


def own_schedule(where: Path) -> ConfigError:
    """Return what to raise where the learning rate cannot be lowered."""
    return ConfigError(
        f"the learning rate of {where} follows a schedule of its own", hint="set 'lr_patience' to 0 in the params"
    )


def describe_shapes(shapes: Shapes) -> str:
    """Return the shapes in words."""
    if set(shapes) == {"x"}:
        return f"vectors of {shapes['x'][0]} numbers"
    return "inputs of the shapes " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
