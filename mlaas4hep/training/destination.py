"""Where a run writes: its bundle, and the files beside it. Nothing that a run did not write is replaced.

check_bundle_destination(Path("model"))
is_bundle(Path("model"))
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from mlaas4hep.errors import ConfigError

_FILES = {
    "model.onnx", "model.keras", "model.pt", "model.ubj", "model.py", "specs.json", "preproc.json", "preproc.py",
    "training.json", "metrics.json", "labels.txt", "params.json", "upload.json", "example.json", "report.html",
    "epochs.csv", "saved_model.pb", "model.pb", "params_tfaas.json", "upload_tfaas.json", "model_quantized.onnx",
    "params_quantized.json", "upload_quantized.json", "variables/variables.index",
}  # fmt: skip
_FOLDERS = re.compile(r"assets|variables|folds|folds/\d+")
_NUMBERED = re.compile(r"variables/variables\.data-\d+-of-\d+|folds/\d+/(?P<file>[^/]+)")


def check_bundle_destination(path: Path) -> None:
    """Check that a bundle may be written to a path, before hours of training.

    Raises:
        ConfigError: something other than a bundle has this name, or the folder cannot be written.
    """
    if path.is_file():
        raise ConfigError(f"{path} is a file", hint="name a new folder")
    ancestor = next(folder for folder in path.absolute().parents if folder.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {path}: {ancestor} is no folder that may be written")
    if os.path.islink(path):
        check_bundle_destination(Path(os.path.realpath(path)))
    elif path.is_dir() and (other := _other_content(path)):
        raise ConfigError(f"{path} holds something else than a bundle: {other}", hint="name a new folder")


def is_bundle(path: Path) -> bool:
    """Return whether a folder is empty, or holds a bundle and nothing else."""
    return path.is_dir() and not path.is_symlink() and not _other_content(path)


def _other_content(folder: Path) -> str:
    """Return the name of something in a folder that no bundle has; "" if there is nothing."""
    names = sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*"))
    for name in names:
        entry = folder / name
        if entry.is_symlink() or not (_FOLDERS.fullmatch(name) if entry.is_dir() else _is_file_of_bundle(name)):
            return name
    return "" if not names or _is_ours(folder / "training.json") else names[0]


def _is_file_of_bundle(name: str) -> bool:
    numbered = _NUMBERED.fullmatch(name)
    return name in _FILES or bool(numbered and numbered["file"] in (None, *_FILES))


def _is_ours(training: Path) -> bool:
    """Return whether training.json was written by this package."""
    with suppress(OSError, ValueError):
        content = json.loads(training.read_text(encoding="utf-8"))
        return isinstance(content, dict) and "mlaas4hep" in content
    return False
