"""What the training loop asks of a framework, and which framework a model belongs to.

    backend = make_backend(file, {"x": (73,)}, classes=2, seed=0)
    loss = backend.fit(batches)
    scores = backend.predict({"x": x, "mask": mask})

One module a framework; none is imported before a model of it was built by the user's own model file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.reader.inputs import mask_of
from mlaas4hep.stream import Batch
from mlaas4hep.training.model_file import ModelFile

Output = Literal["logits", "probabilities", "log_probabilities"]


class Backend(Protocol):
    """A model of one framework, ready to be trained.

    Attributes:
        framework: its name.
        takes: names of the inputs and masks that the model is given, in order; masks come as float32.
        outputs: numbers it gives for an event: 1 (the probability of the second class) or one for each class.
    """

    framework: str
    takes: tuple[str, ...]
    outputs: int

    def fit(self, batches: Iterable[Batch]) -> float:
        """Train on batches, one step each, and return the mean loss."""

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return probabilities, float32 (events, outputs), for normalised events (0 where a mask is False)."""

    def snapshot(self) -> Any:
        """Return a copy of the weights."""

    def restore(self, weights: Any) -> None:
        """Set the weights to a copy that `snapshot` returned."""

    def parameters(self) -> int:
        """Return how many weights are trained."""

    def save(self, folder: Path) -> str:
        """Write the model in the framework's own format, without pickles, and return the file's name."""

    def export(self, path: Path) -> None:
        """Write an ONNX graph from what the model takes to probabilities."""


Shapes = Mapping[str, tuple[int, ...]]
"""Of one event, by input: {"x": (features,)}, or {"jets": (objects, features), "event": (features,)}."""


def make_backend(file: ModelFile, shapes: Shapes, classes: int, seed: int) -> Backend:
    """Build the model of a model file and wrap it.

    Args:
        shapes: of the inputs.
        seed: of the initial weights, and of everything random in training.

    Raises:
        ConfigError: the model is of no known framework, or does not fit the classes.
    """
    _seed_everything(seed)
    model = file.build(shapes, classes)
    ancestors = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "keras" in ancestors:
        from mlaas4hep.training.keras_backend import KerasBackend

        return KerasBackend(model, file, shapes, classes)
    if "torch" in ancestors:
        from mlaas4hep.training.torch_backend import TorchBackend

        return TorchBackend(model, file, shapes, classes)
    raise ConfigError(
        f"the function model of {file.path} returns a {type(model).__module__}.{type(model).__qualname__}",
        hint="it must be a Keras model or a torch.nn.Module",
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


def probe(output: np.ndarray, classes: int, where: Path) -> tuple[int, Output]:
    """Find out what a model's outputs are, from outputs (events, k) for large random inputs.

    Raises:
        ConfigError: the number of outputs does not fit the number of classes.
    """
    if output.ndim != 2 or output.shape[1] not in ({1, 2} if classes == 2 else {classes}):
        need = "1 or 2 numbers an event" if classes == 2 else f"{classes} numbers an event, one for each class"
        raise ConfigError(
            f"the model of {where} gives an output of shape {('n', *output.shape[1:])}".replace("'", ""),
            hint=f"it must give {need}",
        )
    count = output.shape[1]
    if _are_probabilities(output, count):
        return count, "probabilities"
    if count > 1 and (output <= 0).all() and _are_probabilities(np.exp(output), count):
        return count, "log_probabilities"
    return count, "logits"


def _are_probabilities(output: np.ndarray, count: int) -> bool:
    inside = bool(((output >= 0) & (output <= 1)).all())
    return inside and (count == 1 or bool(np.allclose(output.sum(axis=1), 1, atol=1e-4)))


def probe_inputs(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return inputs that drive unbounded outputs far outside of [0, 1], float32 (256, ...), and full masks."""
    rng = np.random.default_rng(0)
    found = {name: rng.normal(0, 30, (256, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return found | {mask_of(name): np.ones((256, shape[0]), np.float32) for name, shape in shapes.items()}


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


def describe_shapes(shapes: Shapes) -> str:
    """Return the shapes in words."""
    if set(shapes) == {"x"}:
        return f"vectors of {shapes['x'][0]} numbers"
    return "inputs of the shapes " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
