"""Metadata of a model for servers that report none, from the command line or from the bundle of the model.

local_metadata(["inputs:FP32"])                 # {"inputs": [{"name": "inputs", "datatype": "FP32", ...}]}
local_metadata(["met:FP32:1", "njet:INT64:1"])
local_metadata(["model"])                       # a folder: names, columns and preprocessing of the bundle
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlaas4hep.client.oip.inputs import DEFAULT_INPUT
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.input_files import read_json
from mlaas4hep.protocol.graph_preproc import PYTHON
from mlaas4hep.protocol.oip_datatypes import DATATYPES

_FORM = "write NAME:DATATYPE or NAME:DATATYPE:VALUES, as in inputs:FP32; or name the folder of the model's bundle"


def local_metadata(inputs: Sequence[str]) -> dict[str, Any]:
    """Return metadata in the form of the Open Inference Protocol.

    Args:
        inputs: NAME:DATATYPE or NAME:DATATYPE:VALUES of each input; VALUES is the number of values per event. Or the
            folder of a bundle.

    Raises:
        ConfigError: an input is invalid.
        FileUnreadable: the folder is not a complete bundle.
    """
    if len(inputs) == 1 and os.path.isdir(inputs[0]):
        return _of_bundle(Path(inputs[0]))
    described = [_parse(text) for text in inputs]
    names = [one["name"] for one in described]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the input '{name}' is given twice")
    return {"inputs": described}


def _parse(text: str) -> dict[str, Any]:
    name, _, rest = text.partition(":")
    datatype, _, width = rest.partition(":")
    if not name or not datatype or (width and not (width.isdecimal() and 0 < int(width) < 2**31)):
        raise ConfigError(f"invalid input '{text}'", hint=_FORM)
    if datatype not in DATATYPES:
        similar = nearest(datatype, DATATYPES)
        raise ConfigError(f"unknown datatype '{datatype}' of input '{name}'", nearest=similar, hint=_FORM)
    return {"name": name, "datatype": datatype, "shape": [-1, int(width or -1)]}


def _of_bundle(folder: Path) -> dict[str, Any]:
    """Return the metadata of a bundle, which are those of our own server."""
    from mlaas4hep.training.bundle_description import read_description

    columns = read_description(folder).columns
    parameters: dict[str, Any] = {"keys": columns}
    if (folder / "preproc.json").exists():
        parameters["preproc"] = read_json(folder / "preproc.json")
    elif (folder / "preproc.py").exists():
        parameters["preproc"] = PYTHON
    outputs = [{"name": "scores", "datatype": "FP32", "shape": [-1, -1]}]
    return {
        "inputs": [{**DEFAULT_INPUT, "shape": [-1, len(columns)]}], "outputs": outputs, "parameters": parameters
    }  # fmt: skip
