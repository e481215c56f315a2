"""Create the backend of a model.

    backend = make_backend(file, {"x": (73,)}, Task.classification(2), params)

Each framework has its own module. It is imported only after the user's model file has built a model of that framework,
so that the other frameworks need not be installed.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.model_settings import with_file_settings
from mlaas4hep.backends.protocol import Backend, Shapes
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError


def make_backend(file: ModelFile, shapes: Shapes, task: Task, params: Params, batches: int = 0) -> Backend:
    """Build the model of a model file and wrap it in the backend of its framework.

    Args:
        shapes: per-event shape of each input.
        params: its seed initialises all random number generators.
        batches: batches per epoch, on which learning rate schedules depend; 0: the model is not trained.

    Raises:
        ConfigError: the framework is not supported, or the model does not fit the inputs or the labels.
    """
    _check_training_only(file, params)
    _seed_everything(params.seed)
    model = file.build(shapes, task, params.model_args)
    params = with_file_settings(file, params)
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "keras" in packages:
        from mlaas4hep.backends.keras import KerasBackend

        return KerasBackend(model, file, shapes, task, params, batches)
    if "torch" in packages:
        from mlaas4hep.backends.torch import TorchBackend

        return TorchBackend(model, file, shapes, task, params, batches)
    if "xgboost" in packages:
        from mlaas4hep.backends.xgboost import XGBoostBackend

        return XGBoostBackend(model, file, shapes, task, params)
    if "sklearn" in packages:
        from mlaas4hep.backends.sklearn import SklearnBackend

        return SklearnBackend(model, file, shapes, task, params)
    raise ConfigError(
        f"the function model of {file.path} returns a {type(model).__module__}.{type(model).__qualname__}",
        hint="it must be a Keras model, a torch.nn.Module, or an estimator of scikit-learn or XGBoost",
    )


def _check_training_only(file: ModelFile, params: Params) -> None:
    """Raise ConfigError if nothing in the model file uses training-only inputs."""
    names = [name for name, one in params.inputs.items() if one.training_only]
    if names and not file.loss_takes_aux and file.training_step is None:
        raise ConfigError(
            f"input '{names[0]}' is training_only, but nothing in {file.path} uses it",
            hint="define loss(outputs, labels, weights, aux), where aux is a dict of the training-only inputs",
        )


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the random number generators of Python, NumPy and PyTorch at the end of the block.

    Keras draws from Python's generator when layers are created, and otherwise from variables of the layers.
    """
    states: list[tuple[Callable[[Any], object], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002  model files may use the global generator
    ]
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        states.append((torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_available():
            states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


def _seed_everything(seed: int) -> None:
    """Seed Python, NumPy, and the frameworks that the model file has imported."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  model files may use the global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)
