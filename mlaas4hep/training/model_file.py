"""The user's model file: found, run, and asked for a model.

    file = load_model_file("ex_keras.py")
    model = file.build({"x": (73,)}, Task.classification(2))

A model file defines `def model(idim)`, or where the params name inputs `def model(shapes)`. Further arguments may be
`outputs`, which gets how many numbers an event the model must give, `classes`, which gets the number of classes, labels
or targets, and `task`, which gets the task's name. The file may define `loss`, `optimizer`, `metrics` and
`training_step`. Which framework the model belongs to is asked of the model itself, see `backend`.
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
from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, PackageMissing, first_line, nearest
from mlaas4hep.input_files import FOLDER, check_is_file, special_kind
from mlaas4hep.training.task import Task
from mlaas4hep.user_code import line_of, run_file

DEFAULTS = (("keras", "tensorflow", "ex_keras.py"), ("torch", "torch", "ex_pytorch.py"))
"""Extra, package that shows it is installed, and model file, in the order of preference."""

START_UP_CHATTER = r"WARNING: All log messages before absl::|[IW]0000 00:00:"
"""What TensorFlow prints when it is imported, whatever its log level: its build and the GPUs that are not there."""


@dataclass(frozen=True)
class ModelFile:
    """A model file that was run.

    Attributes:
        path: where it lies.
        source: its text.
        loss, optimizer, metrics, training_step: what it defines beside `model`, or None.
    """

    path: Path
    source: str
    model: Callable[..., Any]
    loss: Any = None
    optimizer: Any = None
    metrics: Any = None
    training_step: Any = None

    def build(self, shapes: Mapping[str, tuple[int, ...]], task: Task) -> Any:
        """Return the model for inputs of some shapes and a task.

        Args:
            shapes: of one event, by input; the model of a vector alone is told how many numbers it has.

        Raises:
            ConfigError: `model` fails, or returns nothing.
        """
        given = shapes["x"][0] if set(shapes) == {"x"} else dict(shapes)
        classes = len(task.classes)
        known = {
            "classes": classes,
            "outputs": 1 if task.name == "classification" and classes == 2 else classes,
            "task": task.name,
        }
        others = list(inspect.signature(self.model).parameters.values())[1:]
        more = {other.name: known[other.name] for other in others if other.name in known}
        needed = [other for other in others if other.default is other.empty and other.name not in known]
        if needed and needed[0].kind is needed[0].POSITIONAL_OR_KEYWORD:
            more[needed[0].name] = classes
        try:
            built = self.model(given, **more)
        except MLaaS4HEPError:
            raise
        except Exception as error:
            raise ConfigError(
                f"model({given}) of {self.path} fails{line_of(self.path, error)}: {first_line(error)}",
                hint="it is given "
                + ("the shapes of the inputs" if isinstance(given, dict) else "the number of columns")
                + ", and must return a model",
            ) from error
        if built is None:
            raise ConfigError(f"model({given}) of {self.path} returns nothing", hint="end it with: return model")
        return built


def load_model_file(name: str) -> ModelFile:
    """Find a model file, as given or in models/, and run it.

    Raises:
        FileUnreadable: there is no such file.
        ConfigError: it cannot be run, or defines no function `model`.
        PackageMissing: it imports a package that is not installed.
    """
    path = find_model_file(name)
    with quiet_import():
        module = run_file(path, f"mlaas4hep_model_file_{path.stem}")
    if not callable(getattr(module, "model", None)):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(
            f"{path} defines no function 'model'",
            nearest=nearest("model", names),
            hint="it needs: def model(idim): return ...",
        )
    extras = {name: getattr(module, name, None) for name in ("loss", "optimizer", "metrics", "training_step")}
    return ModelFile(path, path.read_text(encoding="utf-8"), module.model, **extras)


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep what TensorFlow prints when it is imported off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # must stand before
    with filtered_stderr(START_UP_CHATTER):
        yield


def default_model() -> str:
    """Return the example model file of the first framework that is installed.

    Raises:
        PackageMissing: there is none.
    """
    for _, package, name in DEFAULTS:
        if importlib.util.find_spec(package) is not None:
            return name
    raise PackageMissing("no framework is installed", hint="install one: pip install 'mlaas4hep[torch]', or [keras]")


def find_model_file(name: str) -> Path:
    """Return the path of a model file: as given, then in models/, then among those that are shipped."""
    given = Path(name)
    folders = [
        Path("models"),
        Path(mlaas4hep.__file__).parents[1] / "examples/models",
        Path(sys.prefix, "share/mlaas4hep/models"),
    ]
    for path in (given, *(folder / given for folder in folders)):
        if path.is_file():
            return path
        if special_kind(path) != FOLDER:
            check_is_file(path)
    check_is_file(given)
    shipped = sorted({path.name for folder in folders[1:] if folder.is_dir() for path in folder.glob("*.py")})
    raise FileUnreadable(
        f"there is no model file {name}, here or in models/",
        nearest=nearest(name, shipped),
        hint="shipped are " + ", ".join(shipped) if shipped else "",
    )
