"""upload.json: which files make a model, and its name.

    spec = read_upload_spec("bundle/upload.json")
    spec.model                                   # Path("bundle/model.onnx")

Sending it is the business of `client`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.errors import ConfigError, FileUnreadable, nearest
from mlaas4hep.input_files import check_is_file, read_json

_KEYS = ("model", "labels", "name", "params")


@dataclass(frozen=True)
class UploadSpec:
    """What `--upload` sends; the files exist, and the name is that of params.json."""

    name: str
    model: Path
    labels: Path
    params: Path
    op: str  # the name of the file that TFaaS's newest version wants beside the model


def read_upload_spec(path: str | os.PathLike[str]) -> UploadSpec:
    """Read upload.json; its paths are looked for beside it, then in the working directory.

    Raises:
        FileUnreadable: it, or a file that it names, is missing.
        ConfigError: keys are unknown or missing, or its name is not that of params.json.
    """
    spec = _read_strings(Path(path))
    folder = Path(path).parent
    files = {key: _find(spec[key], folder, f"'{key}' of {path}") for key in ("model", "labels", "params")}
    params = read_json(files["params"])
    if not isinstance(params, dict) or params.get("name") != spec["name"]:
        named = params.get("name") if isinstance(params, dict) else None
        raise ConfigError(
            f"{path} has the name '{spec['name']}', and {files['params']} has the name {named!r}",
            hint="the server wants them to be the same",
        )
    return UploadSpec(spec["name"], op=str(params.get("op") or "op"), **files)


def _read_strings(path: Path) -> dict[str, str]:
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f'{path} holds no JSON object with the keys "model", "labels", "name" and "params"')
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{path} has an unknown key '{key}'", nearest=nearest(key, _KEYS), hint=_known())
    for key in _KEYS:
        if key not in content:
            raise ConfigError(f"{path} has no key '{key}'", hint=_known())
        if not isinstance(content[key], str) or not content[key]:
            raise ConfigError(f"'{key}' of {path} must be a text, and is {content[key]!r}")
    return content


def _known() -> str:
    return "it needs: " + ", ".join(_KEYS)


def _find(file: str, folder: Path, what: str) -> Path:
    places = [folder / file, Path(file)]
    for place in places:
        if place.is_file():
            return place
        check_is_file(place)
    looked = " and ".join(dict.fromkeys(str(place) for place in places))
    raise FileUnreadable(f"{what} is not there: looked for {looked}")
