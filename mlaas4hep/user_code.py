"""Python files that a person names on the command line: run, and their mistakes explained.

    run_file(Path("ex_keras.py"), "mlaas4hep_model_file").model

The text itself is run, not what Python may have cached of it, and nothing is left beside it.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, first_line
from mlaas4hep.input_files import read_text


def run_file(path: Path, name: str) -> ModuleType:
    """Run a Python file as the module `name`, under which its classes can be found again.

    Raises:
        FileUnreadable: there is no such file, or it is no text.
        PackageMissing: it imports what is not installed.
        ConfigError: it fails otherwise.
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
        explain(path, error)
    return module


def explain(path: Path, error: BaseException) -> NoReturn:
    """Raise what went wrong in a person's file, with the line of that file; errors of ours are raised as they are."""
    if isinstance(error, MLaaS4HEPError):
        raise error
    raise ConfigError(f"{path}{line_of(path, error)}: {first_line(error)}") from error


def line_of(path: Path, error: BaseException) -> str:
    """Return ", line N" of the last line of a file that an error came through, or ""."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    return f", line {line}" if line else ""


def _install_line(package: str) -> str:
    top = package.partition(".")[0]
    extras = {"keras": "keras", "tensorflow": "keras", "torch": "torch", "sklearn": "sklearn", "xgboost": "xgboost"}
    return f"pip install 'mlaas4hep[{extras[top]}]'" if top in extras else f"pip install {top}"
