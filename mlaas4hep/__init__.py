"""MLaaS4HEP: machine learning as a service for high-energy physics.

    from mlaas4hep import DataReader, DataGenerator

Data streaming (`io`, `reader`, `stream`), training (`training`) and inference (`client`, `serving`) are independent.
Importing this package does not import any framework.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlaas4hep.lazy_names import lazy_names
from mlaas4hep.version import __version__ as __version__

if TYPE_CHECKING:
    from mlaas4hep.client import TFaaSClient
    from mlaas4hep.reader import Chunk, DataReader, Specs
    from mlaas4hep.stream import Batch, DataGenerator

# Unless this is set before the first import, ONNX Runtime 1.29 and later send telemetry, and overwrite the file .ses in
# the folder for temporary files. Users can set the variable to 0 to enable it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Batch", "Chunk", "DataGenerator", "DataReader", "Specs", "TFaaSClient"]

__getattr__ = lazy_names(
    __name__,
    {
        "Chunk": "mlaas4hep.reader",
        "DataReader": "mlaas4hep.reader",
        "Specs": "mlaas4hep.reader",
        "Batch": "mlaas4hep.stream",
        "DataGenerator": "mlaas4hep.stream",
        "TFaaSClient": "mlaas4hep.client",
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
