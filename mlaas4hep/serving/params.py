"""params.json, TFaaS's description of a model, and the names that are safe in a store.

    read_params(folder, "htautau")["model"]       # "model.onnx"

The keys are those of TFaaS; none is required here but `name` and `model`, and unknown ones are kept.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from mlaas4hep.errors import ConfigError

PARAMS = "params.json"
STOCK_PARAMS: dict[str, Any] = {
    "name": "", "model": "", "labels": "", "options": [], "op": "", "input_name": "", "output_name": "",
    "img_channels": 0, "input_node": "", "output_node": "", "description": "", "timestamp": "",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_LARGEST = 1_000_000  # bytes


def is_name(name: str) -> bool:
    """Say whether a model, or a file in its folder, may be called so."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str, what: str = "model name") -> str:
    """Return the name of a model or of a file in its folder, if it is a safe one.

    Raises:
        ConfigError: it is not.
    """
    if not is_name(name):
        raise ConfigError(
            f"{name[:128]!r} is no {what}",
            hint="one has letters, digits, '_', '-' and '.', at most 128, and no '.' in front",
        )
    return name


def plain_filename(path: str) -> str:
    """Return the last component of the name that a client gave a file, as TFaaS does."""
    return checked_name(PurePosixPath(path.replace("\\", "/")).name, "file name")


def read_params(folder: Path, name: str) -> dict[str, Any]:
    """Read the params.json in the folder of model `name`.

    Raises:
        ConfigError: there is none, or it holds no JSON object. The message does not say where the folder is.
    """
    try:
        with (folder / PARAMS).open("rb") as file:
            text = file.read(_LARGEST + 1)
        params = json.loads(text) if len(text) <= _LARGEST else None
        json.dumps(params, allow_nan=False)
    except OSError as error:
        raise ConfigError(f"model '{name}' has no {PARAMS}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the {PARAMS} of model '{name}' is not JSON") from error
    if not isinstance(params, dict):
        raise ConfigError(f"the {PARAMS} of model '{name}' is no JSON object of at most 1 MB")
    return params


def complete(params: dict[str, Any], timestamp: float) -> dict[str, Any]:
    """Add the keys that TFaaS knows, in the older and the newer spelling.

    Args:
        params: what params.json says.
        timestamp: seconds since 1970, said where params has no timestamp of its own.
    """
    full = {**STOCK_PARAMS, **params}
    for new, old in (("input_node", "inputNode"), ("output_node", "outputNode")):
        full[new] = full[old] = params.get(new) or params.get(old) or ""
    if not full["timestamp"]:
        full["timestamp"] = datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
    return full


def check_files(folder: Path, name: str) -> None:
    """Check that the files of a new model belong together.

    Raises:
        ConfigError: params.json has another name, or speaks of a file that is not there.
    """
    params = read_params(folder, name)
    if params.get("name") != name:
        raise ConfigError(f"{PARAMS} has the name {params.get('name')!r}, and the upload says '{name}'")
    if (folder / "saved_model.pb").is_file():
        return  # TFaaS looks at the folder then, and at no file names
    if not params.get("model"):
        raise ConfigError(f"{PARAMS} does not say which file is the model", hint='as in "model": "model.onnx"')
    for key in ("model", "labels"):
        file = params.get(key) or ""
        if not isinstance(file, str):
            raise ConfigError(f"'{key}' in {PARAMS} must be the name of a file, and is {file!r}")
        if file and not (folder / plain_filename(file)).is_file():
            there = sorted(path.name for path in folder.iterdir() if path.name != PARAMS)
            raise ConfigError(
                f"{PARAMS} says that '{key}' is the file {file!r}, which is not in the upload",
                hint=f"there are: {', '.join(there[:5])}",
            )
