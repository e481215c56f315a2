"""Lazy imports of the public names of a package.

    __getattr__ = lazy_names(__name__, {"DataReader": "mlaas4hep.reader"})

Each name is imported when it is first used, so that `import mlaas4hep` is fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package, given the module that defines each public name."""

    def get(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
