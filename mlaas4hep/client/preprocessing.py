"""The preprocessing of a model on a server: new branches and cuts, which the client applies to data files.

    preproc_from_metadata(protocol.metadata("htautau"), "htautau")      # None if the model has none

Only expressions are taken from a server. Python code is not: it is neither requested nor run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlaas4hep.client.protocols import keys_from_metadata, parameters_of
from mlaas4hep.errors import ConfigError, error_context
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_json import JsonPreproc
from mlaas4hep.protocol.graph_preproc import PYTHON


def preproc_from_metadata(metadata: dict[str, Any], model: str) -> Preproc | None:
    """Return what the columns of a model need of the preprocessing in its metadata; None if there is none.

    Raises:
        ConfigError: it is Python code, or it is invalid.
    """
    content = parameters_of(metadata).get("preproc")
    if content is None:
        return None
    if content == PYTHON:
        raise ConfigError(
            f"the branches of model '{model}' are computed by Python code, which is never taken from a server",
            hint="name the code: --preproc=preproc.py; or score the files with workflow.py --predict --preproc",
        )
    with error_context(f"the preprocessing of model '{model}'"):
        preproc = JsonPreproc.read(content, "preproc")
    keys = keys_from_metadata(metadata)
    return preproc.for_prediction([one.name for one in preproc.definitions if _is_used(one.name, keys)])


def _is_used(name: str, keys: Sequence[str]) -> bool:
    """Return whether a new branch may be the source of one of the columns; True if the columns have no names."""
    return not keys or any(key == name or key.startswith(f"{name}_") for key in keys)
