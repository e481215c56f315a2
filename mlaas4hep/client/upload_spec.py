"""upload.json: the name of a model and its files.

spec = read_upload_spec("bundle/upload.json")
spec.model                                   # Path("bundle/model.onnx")
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, FileUnreadable, nearest
from mlaas4hep.input_files import check_is_file, read_json
from mlaas4hep.protocol.params import check_exported

_KEYS = ("model", "labels", "name", "params")
_HINT = "required keys: " + ", ".join(_KEYS)


@dataclass(frozen=True)
class UploadSpec:
    """The content of an upload.json. The files exist, and the name is the one in params.json."""

    name: str
    model: Path
    labels: Path
    params: Path
    op: str  # name of the file that the newest version of TFaaS requires beside the model


def read_upload_spec(path: str | os.PathLike[str]) -> UploadSpec:
    """Read upload.json. Its paths are relative to its folder or else to the working directory.

    Raises:
        FileUnreadable: upload.json, or a file that it names, is missing.
        ConfigError: the model was not exported to ONNX, keys are unknown or missing, or the name differs from the one
            in params.json.
    """
    folder = Path(path).parent
    if not os.path.lexists(path):
        check_exported(folder, f"the model in {folder}")
    spec = _read_strings(Path(path))
    files = {key: _find(spec[key], folder, f"'{key}' of {path}") for key in ("model", "labels", "params")}
    params = read_json(files["params"])
    if not isinstance(params, dict) or params.get("name") != spec["name"]:
        params_name = params.get("name") if isinstance(params, dict) else None
        raise ConfigError(
            f"{path} has the name '{spec['name']}', but {files['params']} has the name {params_name!r}",
            hint="make them equal: servers require it",
        )
    return UploadSpec(spec["name"], op=str(params.get("op") or "op"), **files)


def _read_strings(path: Path) -> dict[str, str]:
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a JSON object", hint=_HINT)
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{path} has an unknown key '{key}'", nearest=nearest(key, _KEYS), hint=_HINT)
    for key in _KEYS:
        if key not in content:
            raise ConfigError(f"{path} has no key '{key}'", hint=_HINT)
        if not isinstance(content[key], str) or not content[key]:
            raise ConfigError(f"'{key}' of {path} must be a non-empty string, not {content[key]!r}")
    return content


def _find(file: str, folder: Path, what: str) -> Path:
    candidates = [folder / file, Path(file)]
    for path in candidates:
        if os.path.isfile(path):  # False, too, for a name that is too long
            return path
        check_is_file(path)
    searched = " and ".join(dict.fromkeys(str(path) for path in candidates))
    raise FileUnreadable(f"{what} does not exist: tried {searched}")
