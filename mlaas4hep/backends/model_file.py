"""Find and run the user's model file, and build its model.

    file = load_model_file("ex_keras.py")
    model = file.build({"x": (73,)}, Task.classification(2))

A model file defines `def model(idim)`, or `def model(shapes)` if the params define inputs. The function may have more
arguments: `outputs` (number of outputs per event), `classes` (number of classes, labels or targets) and `task` (name of
the task). The file may also define `loss`, `optimizer`, `metrics` and `training_step`. The type of the model determines
the framework, see `make`. A `loss` with four arguments gets the weights and the training-only inputs, too.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlaas4hep
from mlaas4hep.backends.task import Task
from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, PackageMissing, error_summary, nearest
from mlaas4hep.input_files import FOLDER, check_is_file, special_kind
from mlaas4hep.user_code import line_suffix, run_file

DEFAULT_MODELS = (("keras", "tensorflow", "ex_keras.py"), ("torch", "torch", "ex_pytorch.py"))
"""Extra, package that must be installed, and model file, in order of preference."""

STARTUP_MESSAGES = r"WARNING: All log messages before absl::|[IW]0000 00:00:"
"""Lines that TensorFlow prints on import at any log level: its build, and missing GPUs."""


@dataclass(frozen=True)
class ModelFile:
    """A model file, after it was run.

    Attributes:
        path: path of the file.
        source: text of the file.
        model: its function `model`.
        loss, optimizer, metrics, training_step: its optional definitions, or None.
    """

    path: Path
    source: str
    model: Callable[..., Any]
    loss: Any = None
    optimizer: Any = None
    metrics: Any = None
    training_step: Any = None

    @property
    def loss_takes_aux(self) -> bool:
        """Whether `loss` is a function loss(outputs, labels, weights, aux), which returns the loss of a batch."""
        if not inspect.isfunction(self.loss):
            return False
        required = [one for one in inspect.signature(self.loss).parameters.values() if one.default is one.empty]
        return len(required) == 4

    def build(self, shapes: Mapping[str, tuple[int, ...]], task: Task) -> Any:
        """Build the model.

        Args:
            shapes: per-event shape of each input. If the only input is a vector, `model` gets its length instead.

        Raises:
            ConfigError: `model` raises an error, or returns None.
        """
        argument = shapes["x"][0] if set(shapes) == {"x"} else dict(shapes)
        classes = len(task.classes)
        options = {"classes": classes, "outputs": task.outputs, "task": task.name}
        others = list(inspect.signature(self.model).parameters.values())[1:]
        keywords = {other.name: options[other.name] for other in others if other.name in options}
        required = [other for other in others if other.default is other.empty and other.name not in options]
        if required and required[0].kind is required[0].POSITIONAL_OR_KEYWORD:
            keywords[required[0].name] = classes
        try:
            model = self.model(argument, **keywords)
        except MLaaS4HEPError:
            raise
        except Exception as error:
            given = "the shapes of the inputs" if isinstance(argument, dict) else "the number of columns"
            raise ConfigError(
                f"model({argument}) of {self.path} fails{line_suffix(self.path, error)}: {error_summary(error)}",
                hint=f"it gets {given}, and must return a model",
            ) from error
        if model is None:
            raise ConfigError(f"model({argument}) of {self.path} returns None", hint="end it with: return model")
        return model


def load_model_file(name: str) -> ModelFile:
    """Find a model file, see `find_model_file`, and run it.

    Raises:
        FileUnreadable: the file is not found.
        ConfigError: the file raises an error, or does not define a function `model`.
        PackageMissing: the file imports a package that is not installed.
    """
    path = find_model_file(name)
    with quiet_import():
        module = run_file(path, f"mlaas4hep_model_file_{path.stem}")
    if not callable(getattr(module, "model", None)):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(
            f"{path} does not define a function 'model'",
            nearest=nearest("model", names),
            hint="add: def model(idim): return ...",
        )
    optional = {name: getattr(module, name, None) for name in ("loss", "optimizer", "metrics", "training_step")}
    return ModelFile(path, path.read_text(encoding="utf-8"), module.model, **optional)


@contextmanager
def quiet_import() -> Iterator[None]:
    """Suppress the lines that TensorFlow prints on import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it on import
    with filtered_stderr(STARTUP_MESSAGES):
        yield


def default_model() -> str:
    """Return the example model file of the first framework that is installed.

    Raises:
        PackageMissing: no framework is installed.
    """
    for _, package, name in DEFAULT_MODELS:
        if importlib.util.find_spec(package) is not None:
            return name
    raise PackageMissing("no framework is installed", hint="run: pip install 'mlaas4hep[torch]' or 'mlaas4hep[keras]'")


def find_model_file(name: str) -> Path:
    """Return the path of a model file: as given, in models/, or among the shipped examples, in this order.

    Raises:
        FileUnreadable: the file is not found, or is not a regular file.
    """
    given, repository = Path(name), Path(mlaas4hep.__file__).parents[1]
    folders = [Path("models"), repository / "examples/models", Path(sys.prefix, "share/mlaas4hep/models")]
    for path in (given, *(folder / given for folder in folders)):
        if os.path.isfile(path):  # False also for a name that is too long
            return path
        if special_kind(path) != FOLDER:
            check_is_file(path)
    check_is_file(given)
    shipped = sorted({path.name for folder in folders[1:] if folder.is_dir() for path in folder.glob("*.py")})
    raise FileUnreadable(
        f"model file {name} not found, here or in models/",
        nearest=nearest(name, shipped),
        hint="shipped examples: " + ", ".join(shipped) if shipped else "",
    )
