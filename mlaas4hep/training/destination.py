"""Checks of the folder of a bundle: a run replaces only files that a run has written.

check_bundle_destination(Path("model"))
is_bundle(Path("model"))
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from mlaas4hep.backends.model_file import CODE_FOLDER, MODEL_PY
from mlaas4hep.errors import ConfigError

_FILE_NAMES = {
    "model.onnx", "model.keras", "model.pt", "model.ubj", "model.py", "specs.json", "preproc.json", "preproc.py",
    "training.json", "metrics.json", "labels.txt", "params.json", "upload.json", "example.json", "report.html",
    "epochs.csv", "saved_model.pb", "model.pb", "params_tfaas.json", "upload_tfaas.json", "model_quantized.onnx",
    "params_quantized.json", "upload_quantized.json", "skipped.json", "variables/variables.index", "export_error.txt",
    "model.pickle", "reweighting.json",
}  # fmt: skip
_FOLDER_NAMES = re.compile(r"assets|variables|folds|folds/\d+")
_NUMBERED_FILE_NAMES = re.compile(r"variables/variables\.data-\d+-of-\d+|folds/\d+/(?P<file>[^/]+)")


def check_bundle_destination(path: Path) -> None:
    """Check that a bundle can be written to a path, before a long training.

    Raises:
        ConfigError: the path is a file, or a folder with other files than those of a bundle, or is not writable.
    """
    if path.is_file():
        raise ConfigError(f"{path} is a file", hint="choose a new folder")
    ancestor = next(folder for folder in path.absolute().parents if folder.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {path}: {ancestor} is not a writable folder")
    if os.path.islink(path):
        check_bundle_destination(Path(os.path.realpath(path)))
    elif path.is_dir() and (other := _foreign_file(path)):
        raise ConfigError(f"{path} contains files that are not part of a bundle: {other}", hint="choose a new folder")


def is_bundle(path: Path) -> bool:
    """Return whether a folder is empty, or contains a bundle and nothing else."""
    return path.is_dir() and not path.is_symlink() and not _foreign_file(path)


def _foreign_file(folder: Path) -> str:
    """Return the name of a file or folder that does not belong to a bundle; "" if there is none."""
    names = sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*"))
    training = _read_training(folder / "training.json")
    code = _code_names(training)
    for name in names:
        entry = folder / name
        known = _FOLDER_NAMES.fullmatch(name) if entry.is_dir() else _is_bundle_file(name)
        if entry.is_symlink() or not (known or name in code):
            return name
    return "" if not names or "mlaas4hep" in training else names[0]


def _code_names(training: dict[str, Any]) -> set[str]:
    """Return the names of the model's files in a bundle, and of their folders."""
    helpers = training.get("model_code")
    names = [name for name in helpers if isinstance(name, str)] if isinstance(helpers, list) else []
    paths = [PurePosixPath(CODE_FOLDER, name) for name in (MODEL_PY, *names)] if names else []
    return {str(part) for path in paths for part in (path, *path.parents)}


def _is_bundle_file(name: str) -> bool:
    numbered = _NUMBERED_FILE_NAMES.fullmatch(name)
    return name in _FILE_NAMES or bool(numbered and numbered["file"] in (None, *_FILE_NAMES))


def _read_training(path: Path) -> dict[str, Any]:
    """Return the content of a training.json; {} if it is missing or damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
