"""The preprocessing of a model, in the metadata of its ONNX graph.

    graph_preproc({"define": {"ht": "sum(Jet_pt)"}}, {"Jet_pt": Column.of("Jet_pt", np.dtype("f4"), is_list=True)})

It survives every way to upload a graph. The type of each branch that the expressions use is stored, too, because JSON
has fewer types than files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlaas4hep.io import Column
from mlaas4hep.protocol.event_rows import InputType

PREPROC = "mlaas4hep.preproc"
"""Name of the entry: {"content": content of a preproc.json, or PYTHON; "inputs": {branch: [kind, number]}}."""

PYTHON = "python"
"""Stands for Python code, which is never stored in a graph."""


def graph_preproc(content: dict[str, Any] | None, inputs: Mapping[str, Column]) -> dict[str, str]:
    """Return the entry.

    Args:
        content: content of a preproc.json; None: Python code.
        inputs: columns of the files that its expressions use.
    """
    if content is None:
        return {PREPROC: json.dumps({"content": PYTHON, "inputs": {}})}
    types = {name: InputType.of(column) for name, column in inputs.items()}
    return {PREPROC: json.dumps({"content": content, "inputs": types})}
