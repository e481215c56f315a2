"""Execution of Python files that a user names on the command line, with one-line messages for their errors.

    run_file(Path("ex_keras.py"), "mlaas4hep_model_file").model

The source is always compiled anew; Python's bytecode cache is neither read nor written.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, error_summary
from mlaas4hep.input_files import read_text


def run_file(path: Path, name: str) -> ModuleType:
    """Run a Python file and return it as the module `name`, which is added to `sys.modules` for pickling.

    Raises:
        FileUnreadable: the file does not exist or is not a text file.
        PackageMissing: the file imports a package that is not installed.
        ConfigError: the file raises another exception.
    """
    source = read_text(path)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except ModuleNotFoundError as error:
        raise PackageMissing(
            f"{path} imports '{error.name}', which is not installed",
            hint=f"install it: {_install_line(error.name or '')}",
        ) from error
    except (Exception, SystemExit) as error:
        raise_config_error(path, error)
    return module


def raise_config_error(path: Path, error: BaseException) -> NoReturn:
    """Raise a ConfigError with the line of the user's file that failed; an MLaaS4HEPError is raised unchanged."""
    if isinstance(error, MLaaS4HEPError):
        raise error
    raise ConfigError(f"{path}{line_suffix(path, error)}: {error_summary(error)}") from error


def line_suffix(path: Path, error: BaseException) -> str:
    """Return ", line N" for the last line of a file in the traceback of an exception, or ""."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    return f", line {line}" if line else ""


def _install_line(package: str) -> str:
    top = package.partition(".")[0]
    extras = {"keras": "keras", "tensorflow": "keras", "torch": "torch", "sklearn": "sklearn", "xgboost": "xgboost"}
    return f"pip install 'mlaas4hep[{extras[top]}]'" if top in extras else f"pip install {top}"
