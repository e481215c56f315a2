"""Find and run the user's model file, and build its model.

    file = load_model_file("ex_keras.py")
    model = file.build({"x": (73,)}, Task.classification(2))

A model file defines `def model(idim)`, or `def model(shapes)` if the params define inputs. The function may have more
arguments: `outputs` (number of outputs per event), `classes` (number of classes, labels or targets), `task` (name of
the task), and those that `model_args` of the params gives. The file may import modules in its folder. It may also
define DEFINITIONS and FILE_SETTINGS. The type of the model determines the framework, see `make`. A `loss` with four
arguments gets the weights and the training-only inputs, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlaas4hep
from mlaas4hep.backends.original.keras_arguments import LegacyArguments
from mlaas4hep.backends.task import Task
from mlaas4hep.config.optimization import FILE_SETTINGS
from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, PackageMissing, error_summary, nearest
from mlaas4hep.input_files import FOLDER, check_is_file, special_kind
from mlaas4hep.user_code.modules import HelperModules
from mlaas4hep.user_code.run import line_suffix, module_name, raise_config_error, run_file

DEFAULT_FUNCTION = "model"
MODEL_PY = "model.py"
EMPTY: Mapping[str, Any] = MappingProxyType({})

DEFAULT_MODELS = (("keras", "tensorflow", "ex_keras.py"), ("torch", "torch", "ex_pytorch.py"))
"""Extra, package that must be installed, and model file, in order of preference."""

STARTUP_MESSAGES = r"WARNING: All log messages before absl::|[IW]0000 00:00:"
"""Lines that TensorFlow prints on import at any log level: its build, and missing GPUs."""


GIVEN = ("classes", "outputs", "task")
"""Arguments that a model function gets by name if it has them."""

DEFINITIONS = ("loss", "optimizer", "metrics", "training_step", "scheduler")
"""Names of a model file, other than the function that returns the model and FILE_SETTINGS."""

ORIGINAL_MODULES = {
    "MLaaS4HEP": "mlaas4hep.backends.original",
    "jarray": "mlaas4hep.backends.original.jarray",
}
"""Modules that model files of the original MLaaS4HEP import, and their equivalents."""

CODE_FOLDER = "model_code"
"""Folder of a bundle with the model file and its helper modules."""


@dataclass(frozen=True)
class ModelFile:
    """A model file, after it was run.

    Attributes:
        path: path of the file.
        source: text of the file.
        model: the function that returns the model.
        loss, optimizer, metrics, training_step, scheduler: its optional definitions, or None.
        modules: the modules in its folder; None for generated model files.
        function: name of the function that returns the model.
        settings: values of the FILE_SETTINGS that it defines.
    """

    path: Path
    source: str
    model: Callable[..., Any]
    loss: Any = None
    optimizer: Any = None
    metrics: Any = None
    training_step: Any = None
    scheduler: Any = None
    modules: HelperModules | None = None
    function: str = DEFAULT_FUNCTION
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loss_takes_aux(self) -> bool:
        """Whether `loss` is a function loss(outputs, labels, weights, aux), which returns the loss of a batch."""
        if not inspect.isfunction(self.loss):
            return False
        required = [one for one in inspect.signature(self.loss).parameters.values() if one.default is one.empty]
        return len(required) == 4

    def helpers(self) -> dict[str, bytes]:
        """Return the contents of the other files of the model by path, relative to the folder of the model file."""
        return dict(sorted(self.modules.sources.items())) if self.modules else {}

    def identity(self) -> list[object]:
        """Return what the model depends on: the code, and the name of the function."""
        helpers = {name: hashlib.sha256(content).hexdigest() for name, content in self.helpers().items()}
        function = [] if self.function == DEFAULT_FUNCTION else [self.function]
        return [self.source, *([helpers] if helpers else []), *function]

    def build(self, shapes: Mapping[str, tuple[int, ...]], task: Task, arguments: Mapping[str, Any] = EMPTY) -> Any:
        """Build the model.

        Args:
            shapes: per-event shape of each input. If the only input is a vector, `model` gets its length instead.
            arguments: additional keyword arguments of the function.

        Raises:
            ConfigError: the function does not have these arguments or requires others, raises an error, or returns
                None.
        """
        first = shapes["x"][0] if set(shapes) == {"x"} else dict(shapes)
        call = f"{self.function}({first})"
        try:
            with LegacyArguments() as legacy:
                if self.modules:
                    self.modules.after_import = legacy.translate
                model = self.model(first, **self._keywords(task, arguments))
        except MLaaS4HEPError:
            raise
        except ModuleNotFoundError as error:
            raise_config_error(self.path, error)
        except Exception as error:
            given = "the shapes of the inputs" if isinstance(first, dict) else "the number of columns"
            raise ConfigError(
                f"{call} of {self.path} fails{line_suffix(self.path, error)}: {error_summary(error)}",
                hint=f"it gets {given}, and must return a model",
            ) from error
        if model is None:
            raise ConfigError(f"{call} of {self.path} returns None", hint="end it with: return model")
        return model

    def _keywords(self, task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of the function."""
        given = dict(zip(GIVEN, (len(task.classes), task.outputs, task.name), strict=True))
        try:
            parameters = list(inspect.signature(self.model).parameters.values())
        except ValueError:  # compiled code may not describe its arguments
            return dict(arguments)
        others = parameters[1:]
        takes_any = any(other.kind is other.VAR_KEYWORD for other in others)
        names = [other.name for other in others if other.kind in (other.POSITIONAL_OR_KEYWORD, other.KEYWORD_ONLY)]
        fixed = {**dict.fromkeys(GIVEN, "labels"), **{one.name: "inputs" for one in parameters[:1]}}
        for name in arguments:
            if name in fixed or not (takes_any or name in names):
                why = f"which is set by the {fixed[name]}" if name in fixed else "which the function does not have"
                raise ConfigError(
                    f"'model_args' has the argument '{name}' of {self.function} of {self.path}, {why}",
                    nearest=nearest(name, [other for other in names if other not in GIVEN]),
                )
        keywords = {name: given[name] for name in names if name in given} | dict(arguments)
        for other in others:
            if other.name in names and other.default is other.empty and other.name not in keywords:
                raise ConfigError(
                    f"{self.function} of {self.path} requires an argument '{other.name}', which has no value",
                    nearest=nearest(other.name, GIVEN),
                    hint=f"it gets {', '.join(GIVEN)}; set others with --model-args='{{\"{other.name}\": 64}}'",
                )
        return keywords


def load_model_file(name: str, function: str = DEFAULT_FUNCTION) -> ModelFile:
    """Find a model file, see `find_model_file`, and run it.

    Args:
        name: path or name of the file, or of a folder with a model.py; NAME:FUNCTION names another function.
        function: name of the function that returns the model, unless `name` names one.

    Raises:
        FileUnreadable: the file is not found.
        ConfigError: the file raises an error, or does not define the function.
        PackageMissing: the file imports a package that is not installed.
    """
    if name.endswith(":") and not os.path.lexists(name):
        raise ConfigError(
            f"model file {name!r} has no function after the colon", hint=f"leave out the colon: {name[:-1]}"
        )
    given, function = split_function(name, function)
    path = find_model_file(given)
    is_folder = os.path.isdir(path)
    whole_folder = is_folder and not (path / CODE_FOLDER / MODEL_PY).is_file()  # otherwise it is a bundle
    path = path / MODEL_PY if is_folder else path
    path = path if whole_folder else _with_helpers_of_bundle(path)
    check_is_file(path)
    modules = HelperModules(path, module_name(path), whole_folder or path.parent.name == CODE_FOLDER)
    if MODEL_PY in modules.sources:
        raise ConfigError(f"{path} imports a helper module {MODEL_PY}", hint="give the module another name")
    modules.stand_ins = ORIGINAL_MODULES
    with quiet_import(), LegacyArguments() as legacy:
        modules.after_import = legacy.translate
        module = run_file(path, module_name(path), modules)
    if not callable(getattr(module, function, None)):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(
            f"{path} does not define a function '{function}'",
            nearest=nearest(function, names),
            hint=f"add: def {function}(idim): return ...",
        )
    optional = {name: getattr(module, name, None) for name in DEFINITIONS}
    settings = {name: value for name, value in vars(module).items() if name in FILE_SETTINGS and not callable(value)}
    source = path.read_text(encoding="utf-8")
    return ModelFile(
        path, source, getattr(module, function), **optional, modules=modules, function=function, settings=settings
    )


def split_function(name: str, default: str = DEFAULT_FUNCTION) -> tuple[str, str]:
    """Split FILE:FUNCTION into the file and the function; without a function, return the name and the default."""
    file, _, function = name.rpartition(":")
    return (file, function) if file and function.isidentifier() and not os.path.lexists(name) else (name, default)


def _with_helpers_of_bundle(path: Path) -> Path:
    """Return the copy of a bundle's model.py that is next to its helper modules; without such modules, the path.

    Raises:
        ConfigError: the copies differ.
    """
    copy = path.parent / CODE_FOLDER / MODEL_PY
    if path.name != MODEL_PY or not copy.is_file():
        return path
    if copy.read_bytes() != path.read_bytes():
        raise ConfigError(f"{path} and {copy} differ", hint=f"name the one to run, as in --model={copy.parent}")
    return copy


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
    """Return the path of a model file or folder: as given, in models/, or among the shipped examples, in this order.

    Raises:
        FileUnreadable: the file is not found, or is not a regular file; the folder has no model.py.
    """
    given, repository = Path(name), Path(mlaas4hep.__file__).parents[1]
    folders = [Path("models"), repository / "examples/models", Path(sys.prefix, "share/mlaas4hep/models")]
    candidates = [given, *(folder / given for folder in folders)]
    for path in candidates:
        if os.path.isfile(path) or os.path.isfile(path / MODEL_PY):  # False also for a name that is too long
            return path
        if special_kind(path) != FOLDER:
            check_is_file(path)
    if special_kind(given) == FOLDER:
        raise FileUnreadable(
            f"the folder {name} has no {MODEL_PY}",
            nearest=nearest(MODEL_PY, [path.name for path in given.glob("*.py")]),
            hint=f"name a Python file, or a folder with a {MODEL_PY} that defines model(idim)",
        )
    shipped = sorted({path.name for folder in folders[1:] if folder.is_dir() for path in folder.glob("*.py")})
    raise FileUnreadable(
        f"model file {name} not found, here or in models/",
        nearest=nearest(name, shipped),
        hint="shipped examples: " + ", ".join(shipped) if shipped else "",
    )
