"""The preprocessing of a model on a server: new branches and cuts, which the client applies to data files.

    preproc_from_metadata(protocol.metadata("htautau"), "htautau")      # None if the model has none

Only expressions are taken from a server. Python code is not: it is neither requested nor run.
"""

from __future__ import annotations

from typing import Any

from mlaas4hep.client.protocols import parameters_of
from mlaas4hep.errors import ConfigError, error_context
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_file import preproc_from_json
from mlaas4hep.protocol.graph_preproc import PYTHON


def preproc_from_metadata(metadata: dict[str, Any], model: str) -> Preproc | None:
    """Return the preprocessing in the metadata of a model; None if there is none.

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
        return preproc_from_json(content)
