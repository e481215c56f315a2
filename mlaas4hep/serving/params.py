"""params.json, TFaaS's description of a model, and the names that are safe in a store.

    read_params(folder, "htautau")["model"]       # "model.onnx"

The keys are those of TFaaS; none is required here but `name` and `model`, and unknown ones are kept. The text is parsed
by the library that writes answers, and what is parsed is written back on upload, so that no reader sees anything else.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.plain_files import read_plain

PARAMS = "params.json"
STOCK_PARAMS: dict[str, Any] = {
    "name": "", "model": "", "labels": "", "options": [], "op": "", "input_name": "", "output_name": "",
    "img_channels": 0, "input_node": "", "output_node": "", "description": "", "timestamp": "",
}  # fmt: skip
_OLD_SPELLINGS = {"inputNode": "", "outputNode": ""}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_LARGEST = 64_000  # bytes
_DEEPEST = 20  # levels of lists and objects
_MOST_CHANNELS = 1000


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

    Returns:
        See `parse_params`.

    Raises:
        ConfigError: it is missing, invalid or too large. The message does not say where the folder is.
    """
    text = read_plain(folder / PARAMS, _LARGEST)
    if text is None:
        raise ConfigError(f"model '{name}' has no {PARAMS}")
    return parse_params(text, name)


def parse_params(text: bytes, name: str) -> dict[str, Any]:
    """Parse the params.json of model `name`.

    Returns:
        Its content. Known keys have the types of `STOCK_PARAMS`; those that are null are left out.

    Raises:
        ConfigError: it is invalid or too large.
    """
    whose = f"the {PARAMS} of model '{name}'"
    if len(text) > _LARGEST:
        raise ConfigError(f"{whose} is larger than {_LARGEST:,} bytes")
    try:
        params = orjson.loads(text.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise ConfigError(f"{whose} is not JSON: {error}") from error
    if not isinstance(params, dict):
        raise ConfigError(f"{whose} is not a JSON object")
    if _depth(params) > _DEEPEST:
        raise ConfigError(f"{whose} is nested more than {_DEEPEST} levels deep")
    return {key: value for key, value in params.items() if not _is_unset(key, value, whose)}


def write_params(folder: Path, params: Mapping[str, Any]) -> None:
    """Write what `read_params` returned in place of what was uploaded."""
    (folder / PARAMS).write_bytes(orjson.dumps(params, option=orjson.OPT_INDENT_2))


def complete(params: Mapping[str, Any], timestamp: float) -> dict[str, Any]:
    """Add the keys that TFaaS knows, in the older and the newer spelling.

    Args:
        params: what params.json says.
        timestamp: seconds since 1970, said where params has no timestamp of its own.
    """
    full = {**STOCK_PARAMS, **params}
    for new, old in (("input_node", "inputNode"), ("output_node", "outputNode")):
        full[new] = full[old] = params.get(new) or params.get(old) or ""
    if not full["timestamp"]:
        full["timestamp"] = _iso_time(timestamp)
    return full


def check_files(folder: Path, name: str, params: Mapping[str, Any]) -> None:
    """Check that the files of a new model belong together.

    Raises:
        ConfigError: params.json has another name, or speaks of a file that is not there.
    """
    if params.get("name") != name:
        raise ConfigError(f"{PARAMS} has the name {params.get('name')!r}, and the upload says '{name}'")
    if (folder / "saved_model.pb").is_file():
        return  # TFaaS looks at the folder then, and at no file names
    if not params.get("model"):
        raise ConfigError(f"{PARAMS} does not say which file is the model", hint='as in "model": "model.onnx"')
    for key in ("model", "labels"):
        file = params.get(key) or ""
        if file and not (folder / plain_filename(file)).is_file():
            there = sorted(path.name for path in folder.iterdir() if path.name != PARAMS)
            raise ConfigError(
                f"{PARAMS} says that '{key}' is the file {file!r}, which is not in the upload",
                hint=f"there are: {', '.join(there[:5])}",
            )


def _is_unset(key: str, value: Any, whose: str) -> bool:
    """Return whether a known key is null.

    Raises:
        ConfigError: its value is of another type than TFaaS gives it.
    """
    stock = {**STOCK_PARAMS, **_OLD_SPELLINGS}.get(key)
    if stock is None or value is None:
        return stock is not None
    if isinstance(stock, str):
        fits, wanted = isinstance(value, str), "a string"
    elif isinstance(stock, list):
        fits, wanted = isinstance(value, list) and all(isinstance(item, str) for item in value), "a list of strings"
    else:
        fits, wanted = type(value) is int and 0 <= value <= _MOST_CHANNELS, f"a number from 0 to {_MOST_CHANNELS}"
    if not fits:
        shown = orjson.dumps(value).decode()
        raise ConfigError(f"'{key}' in {whose} must be {wanted}, and is {shown[:60]}{'...' * (len(shown) > 60)}")
    return False


def _depth(value: Any) -> int:
    """Return how many lists and objects are nested in each other."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return depth


def _iso_time(timestamp: float) -> str:
    try:
        return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # the time of a folder may be beyond the year 9999
        return ""
