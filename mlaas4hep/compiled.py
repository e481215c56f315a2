"""The compiled loops, if they were built.

    KERNEL.assemble(...)     # see kernel.cpp

They are not built if there is no C++ compiler. NumPy code is then used in their place, which is several times slower.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_NAME = "mlaas4hep._kernel"

KERNEL: Any = importlib.import_module(_NAME) if importlib.util.find_spec(_NAME) else None
"""The module compiled from `kernel.cpp` and `kernel_pages.cpp`; None if it was not built."""
