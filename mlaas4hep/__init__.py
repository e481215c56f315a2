"""MLaaS4HEP: machine learning as a service for high-energy physics.

    from mlaas4hep import DataReader, DataGenerator

Data streaming (`io`, `reader`, `stream`), training (`training`) and inference (`client`, `serving`) are independent
layers; a module imports only from floors below its own. Importing this package loads no framework.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.client import TFaaSClient
    from mlaas4hep.reader import Chunk, DataReader, Specs
    from mlaas4hep.stream import Batch, DataGenerator

# Unless this is set before its first import, ONNX Runtime 1.29 and later send telemetry, and replace the file .ses in
# the folder for temporary files. Users who want that set the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Batch", "Chunk", "DataGenerator", "DataReader", "Specs", "TFaaSClient"]

_HOMES = {
    "Chunk": "mlaas4hep.reader",
    "DataReader": "mlaas4hep.reader",
    "Specs": "mlaas4hep.reader",
    "Batch": "mlaas4hep.stream",
    "DataGenerator": "mlaas4hep.stream",
    "TFaaSClient": "mlaas4hep.client",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
