"""Uploads to stock TFaaS servers: select files that they can run, and check that the name is free.

    spec = stock_spec(Path("bundle/upload.json"), spec)         # the spec of the frozen graph
    check_name_is_free(models, "htautau", hint="...")

A stock server runs SavedModels and frozen graphs of TensorFlow. It caches loaded models by name.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mlaas4hep import console
from mlaas4hep.client.upload_spec import UploadSpec, read_upload_spec
from mlaas4hep.errors import ConfigError, ServiceError

FROZEN_SPEC = "upload_tfaas.json"
"""Name of the file in a bundle that describes the upload of its frozen graph."""

_SAVED_MODEL = "saved_model.pb"
_NOT_TENSORFLOW = (".onnx", ".keras", ".pt", ".h5")
_HOW_TO_MAKE = "workflow.py also writes TensorFlow models if TensorFlow is installed and 'tfaas' is true in the params"

NEW_NAME = "choose another name; deleting the model first does not help, because the server keeps it in memory"
REPLACE = "add --replace to delete it first, or choose another name"


def stock_spec(path: Path, spec: UploadSpec) -> UploadSpec:
    """Return the spec of the bundle's frozen graph if the model is not in a TensorFlow format, otherwise `spec`.

    Raises:
        ConfigError: the bundle has no frozen graph of this model.
    """
    if spec.model.suffix not in _NOT_TENSORFLOW:
        return spec
    frozen = path.with_name(FROZEN_SPEC)
    if path.name != FROZEN_SPEC and frozen.is_file() and (other := read_upload_spec(frozen)).name == spec.name:
        return other
    raise ConfigError(f"stock TFaaS servers run only TensorFlow models, not {spec.model}", hint=_HOW_TO_MAKE)


def check_folder(folder: Path) -> None:
    """Raise ConfigError if a folder has only models that stock servers cannot run."""
    if not (folder / _SAVED_MODEL).is_file() and any(
        (folder / f"model{suffix}").is_file() for suffix in _NOT_TENSORFLOW
    ):
        raise ConfigError(
            f"stock TFaaS servers run only TensorFlow models, and {folder} has no {_SAVED_MODEL}", hint=_HOW_TO_MAKE
        )


def archived_name(file: BinaryIO) -> str:
    """Return the name of the top folder of an archive, which is the model's name; "" if the file is not an archive."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file) as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError):
        return ""
    return first.name.removeprefix("./").partition("/")[0] if first else ""


def check_name_is_free(models: Callable[[], list[dict[str, Any]]], name: str, hint: str) -> None:
    """Raise ServiceError if a stock server already has a model of this name, because it may continue to use it.

    Args:
        models: returns the descriptions of the server's models.
        hint: what to do if the name is taken.
    """
    try:
        names = [model.get("name") for model in models()]
    except ServiceError as error:  # a single broken model folder makes the request fail
        console.notice(f"cannot check whether the server already has a model '{name}': {error.what}")
        return
    if name in names:
        raise ServiceError(
            f"the server already has a model '{name}', and a stock TFaaS server continues to use a model"
            " that it has loaded",
            hint=hint,
        )
