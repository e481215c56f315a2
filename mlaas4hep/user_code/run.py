"""Execution of Python files that a user names on the command line, with one-line messages for their errors.

    run_file(Path("ex_keras.py"), "mlaas4hep_model_file").model

The source is always compiled anew; Python's bytecode cache is neither read nor written.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, error_summary, nearest
from mlaas4hep.input_files import read_text
from mlaas4hep.user_code.modules import HelperModules
from mlaas4hep.user_code.packages import KNOWN_PACKAGES, install_command


def run_file(path: Path, name: str, modules: HelperModules | None = None) -> ModuleType:
    """Run a Python file and return it as the module `name`, which is added to `sys.modules` for pickling.

    Args:
        modules: the modules that the file may import from its folder; None: it is a single file.

    Raises:
        FileUnreadable: the file does not exist or is not a text file.
        PackageMissing: the file imports a known package that is not installed.
        ConfigError: the file imports an unknown module, or raises another exception.
    """
    source = read_text(path)
    if modules is None:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
    else:
        module = modules.new_main_module()
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise_config_error(path, error)
    return module


def raise_config_error(path: Path, error: BaseException) -> NoReturn:
    """Raise a ConfigError with the line of the user's file that failed; an MLaaS4HEPError is raised unchanged."""
    if isinstance(error, MLaaS4HEPError):
        raise error
    if isinstance(error, ModuleNotFoundError) and error.name:
        raise _missing_module(path, error) from error
    what = error_summary(error).replace(f"{module_name(path)}.", "")
    raise ConfigError(f"{path}{line_suffix(path, error)}: {what}") from error


def line_suffix(path: Path, error: BaseException) -> str:
    """Return where in the user's code an exception occurred: ", line 3" or " (layers.py, line 3)"; "" if unknown."""
    if isinstance(error, SyntaxError):
        places = [(error.filename, error.lineno)] if error.filename and error.lineno else []
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_beside(frame.filename, path)]
        places = [(frame.filename, frame.lineno or 0) for frame in own]
    if not places:
        return ""
    file, line = places[-1]
    if os.path.abspath(file) == os.path.abspath(path) or not _is_beside(file, path):
        return f", line {line}"
    return f" ({os.path.relpath(file, path.parent)}, line {line})"


def _is_beside(file: str, path: Path) -> bool:
    """Return whether a file is in the folder of `path`, and not part of an installed package."""
    folder = os.path.abspath(path.parent)
    return Path(os.path.abspath(file)).is_relative_to(folder) and "site-packages" not in file and file[:1] != "<"


def _missing_module(path: Path, error: ModuleNotFoundError) -> MLaaS4HEPError:
    """Return the error for a module that cannot be imported; it suggests to install only known packages."""
    name = (error.name or "").removeprefix(f"{module_name(path)}.")
    top = name.partition(".")[0]
    what = f"{path} imports '{name}', which "
    beside = sorted(other.stem for other in path.parent.glob("*.py") if other != path)
    if command := install_command(top):
        return PackageMissing(f"{what}is not installed", hint=f"install it: {command}")
    if top == path.stem:
        return ConfigError(f"{what}is this file itself", hint="move the imported definitions to another module")
    if top in beside or (path.parent / top).is_dir():
        if top == name:
            return ConfigError(
                f"{what}is in the same folder, but cannot be imported",
                hint="only model files can import files in their folder",
            )
        return ConfigError(f"{what}is not in {path.parent / top}")
    return ConfigError(
        f"{what}is neither an installed package nor a file in {path.parent}",
        nearest=nearest(top, [*beside, *KNOWN_PACKAGES]),
        hint="check the name, or install the package",
    )


def module_name(path: Path) -> str:
    """Return the name of the module of a model file."""
    return "mlaas4hep_model_file_" + re.sub(r"\W", "_", path.stem)
