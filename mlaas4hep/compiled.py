"""The compiled loops, where they were built.

    KERNEL.assemble(...)     # see kernel.cpp

Without a C++ compiler the installation leaves them out, and NumPy does the same, several times slower.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_NAME = "mlaas4hep._kernel"

KERNEL: Any = importlib.import_module(_NAME) if importlib.util.find_spec(_NAME) else None
"""The module made of `kernel.cpp`, or None."""
