"""Loading of a preprocessing from a file, or from the JSON in a bundle.

preproc = load_preproc("preproc.json")      # {"define": {"ht": "sum(Jet_pt)"}, "cut": "nMuon >= 2 & ht > 100"}
"""

from __future__ import annotations

import os
from typing import Any

from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_json import JsonPreproc
from mlaas4hep.expressions.preproc_script import ScriptPreproc
from mlaas4hep.input_files import read_json


def load_preproc(path: str | os.PathLike[str]) -> Preproc:
    """Load a preproc.json, or a Python file that defines `preprocessing(events)`.

    Raises:
        FileUnreadable: the file cannot be read.
        ConfigError: its content is invalid; the message names the file, the entry and the expression.
    """
    if os.fspath(path).endswith(".py"):
        return ScriptPreproc.from_file(path)
    return JsonPreproc.read(read_json(path), os.fspath(path))


def preproc_from_json(content: Any) -> Preproc:
    """Return the preprocessing for the result of `Preproc.to_json`; raise ConfigError if the content is invalid."""
    return JsonPreproc.read(content, "preproc")
