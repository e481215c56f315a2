"""params.json, TFaaS's description of a model, and the rules for names of models and files.

    read_params(folder, "htautau")["model"]       # "model.onnx"

The keys are those of TFaaS. Only `name` and `model` are required, and unknown keys are kept. On upload, the parsed
content replaces the uploaded text, so that all readers see the same values.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.protocol.plain_files import read_plain
from mlaas4hep.unique_names import RepeatedKey, unique_keys

PARAMS = "params.json"
EXPORT_ERROR = "export_error.txt"
"""Name of the file that says why the model of a bundle has no ONNX graph, and therefore no params.json."""

_LONGEST_REASON = 10_000  # bytes
STOCK_PARAMS: dict[str, Any] = {
    "name": "", "model": "", "labels": "", "options": [], "op": "", "input_name": "", "output_name": "",
    "img_channels": 0, "input_node": "", "output_node": "", "description": "", "timestamp": "",
}  # fmt: skip
_OLD_SPELLINGS = {"inputNode": "", "outputNode": ""}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_MAX_CHANNELS = 1000
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1


def is_valid_name(name: str) -> bool:
    """Return whether a string is a valid name of a model or of a file in its folder."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str, what: str = "model name") -> str:
    """Return the name of a model or of a file in its folder; raise ConfigError if it is not valid."""
    if not is_valid_name(name):
        raise ConfigError(
            f"invalid {what}: {name[:128]!r}",
            hint="use up to 128 letters, digits, '_', '-' and '.', not starting with '.'",
        )
    return name


def plain_filename(path: str) -> str:
    """Return the last component of a file name sent by a client, as TFaaS does; raise ConfigError if it is invalid."""
    return checked_name(PurePosixPath(path.replace("\\", "/")).name, "file name")


def read_params(folder: Path, name: str, limits: Limits = DEFAULTS) -> dict[str, Any]:
    """Read the params.json in the folder of model `name`; see `parse_params`.

    Raises:
        ConfigError: the file is missing, invalid or too large. The message does not reveal the folder.
    """
    text = read_plain(folder / PARAMS, limits.params_file)
    if text is None:
        check_exported(folder, f"model '{name}'")
        raise ConfigError(f"model '{name}' has no {PARAMS}")
    return parse_params(text, name, limits)


def check_exported(folder: Path, what: str) -> None:
    """Raise ConfigError with the reason if a folder is the bundle of a model, `what`, without an ONNX graph."""
    reason = read_plain(folder / EXPORT_ERROR, _LONGEST_REASON)
    if reason is not None:
        raise ConfigError(
            f"{what} cannot be served, because it was not exported to ONNX: {reason.decode(errors='replace').strip()}",
            hint="workflow.py --predict can score events with it",
        )


def parse_params(text: bytes, name: str, limits: Limits = DEFAULTS) -> dict[str, Any]:
    """Parse the params.json of model `name`.

    Returns:
        The content. Known keys have the types of `STOCK_PARAMS`; keys that are null are left out.

    Raises:
        ConfigError: it is invalid or too large.
    """
    source = f"the {PARAMS} of model '{name}'"
    if len(text) > limits.params_file:
        raise ConfigError(f"{source} is larger than {limits.params_file:,} bytes")
    text = text.removeprefix(codecs.BOM_UTF8)
    try:
        params = orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"{source} is not JSON: {error}") from error
    if not isinstance(params, dict):
        raise ConfigError(f"{source} is not a JSON object")
    if _depth(params) > limits.params_depth:
        raise ConfigError(f"{source} is nested more than {limits.params_depth} levels deep")
    _check_keys_and_integers(text, source)
    return {key: value for key, value in params.items() if not _is_unset(key, value, source)}


def write_params(folder: Path, params: Mapping[str, Any]) -> None:
    """Write parsed params in place of the uploaded file."""
    (folder / PARAMS).write_bytes(orjson.dumps(params, option=orjson.OPT_INDENT_2))


def fill_defaults(params: Mapping[str, Any], timestamp: float) -> dict[str, Any]:
    """Return the params with all keys of TFaaS, both in the older and in the newer spelling.

    `timestamp`, in seconds since 1970, is used if params has none.
    """
    full = {**STOCK_PARAMS, **params}
    for new, old in (("input_node", "inputNode"), ("output_node", "outputNode")):
        full[new] = full[old] = params.get(new) or params.get(old) or ""
    if not full["timestamp"]:
        full["timestamp"] = _iso_time(timestamp)
    return full


def check_files(folder: Path, name: str, params: Mapping[str, Any]) -> None:
    """Raise ConfigError if the params.json of a new model has another name, or names a missing file."""
    if params.get("name") != name:
        raise ConfigError(f"{PARAMS} has the name {params.get('name')!r}, but the upload has the name '{name}'")
    is_saved_model = (folder / "saved_model.pb").is_file()  # 'model' has no meaning then, as in TFaaS
    if not is_saved_model and not params.get("model"):
        raise ConfigError(f"{PARAMS} does not name the model file", hint='add it, as in "model": "model.onnx"')
    for key in ("labels",) if is_saved_model else ("model", "labels"):
        file = params.get(key) or ""
        if file and not (folder / plain_filename(file)).is_file():
            files = sorted(path.name for path in folder.iterdir() if path.name != PARAMS)
            raise ConfigError(
                f"'{key}' in {PARAMS} is the file {file!r}, which is not in the upload",
                hint=f"the upload has: {', '.join(files[:5])}",
            )


def _is_unset(key: str, value: Any, source: str) -> bool:
    """Return whether a known key is null; raise ConfigError if its value has another type than TFaaS expects."""
    stock = {**STOCK_PARAMS, **_OLD_SPELLINGS}.get(key)
    if stock is None or value is None:
        return stock is not None
    if isinstance(stock, str):
        fits, expected = isinstance(value, str), "a string"
    elif isinstance(stock, list):
        fits, expected = isinstance(value, list) and all(isinstance(item, str) for item in value), "a list of strings"
    else:
        fits, expected = type(value) is int and 0 <= value <= _MAX_CHANNELS, f"a number from 0 to {_MAX_CHANNELS}"
    if not fits:
        shown = orjson.dumps(value).decode()
        raise ConfigError(f"'{key}' in {source} must be {expected}, not {shown[:60]}{'...' * (len(shown) > 60)}")
    return False


def _check_keys_and_integers(text: bytes, source: str) -> None:
    """Raise ConfigError for repeated keys and for integers of more than 64 bits, both of which orjson accepts."""

    def check(number: str) -> None:
        if len(number) > len(str(_MIN_INTEGER)) or not _MIN_INTEGER <= int(number) <= _MAX_INTEGER:
            shown = f"{number[:40]}{'...' * (len(number) > 40)}"
            raise ConfigError(
                f"{source} has the integer {shown}, which does not fit into 64 bits", hint="write it as a string"
            )

    try:
        json.loads(text.decode(), parse_int=check, object_pairs_hook=unique_keys)
    except RepeatedKey as error:
        raise ConfigError(f"{source} is invalid: {error}", hint="remove one of them") from error


def _depth(value: Any) -> int:
    """Return the nesting depth of lists and objects."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return depth


def _iso_time(timestamp: float) -> str:
    try:
        return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # the modification time of a folder may be after the year 9999
        return ""
