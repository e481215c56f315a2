"""The number that stands for a missing value in requests to stock TFaaS servers, which read null as 0.

    missing_value([(-5.0, 5.0), (0.0, 1e4)])        # -9999999.0
    to_options(-9999999.0)                          # ["missing=-9999999"], in params.json
    from_options(["missing=-9999999"])              # -9999999.0

SavedModels and frozen graphs of `workflow.py` read this number as NaN. It is in `options` of params.json, because stock
servers return only keys that they know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_CANDIDATES = (-9999999.0, -16777215.0, 16777215.0, -(2.0**100), 2.0**100)
"""All are exact in float32."""

_PREFIX = "missing="


def missing_value(ranges: Iterable[tuple[float, float]]) -> float | None:
    """Return a number that is outside the ranges (minimum, maximum) of all columns; None if there is none."""
    ranges = [(low, high) for low, high in ranges if low <= high]
    free = (value for value in _CANDIDATES if not any(low <= value <= high for low, high in ranges))
    return next(free, None)


def to_options(value: float | None) -> list[str]:
    """Return `options` of params.json."""
    return [] if value is None else [f"{_PREFIX}{value:.17g}"]


def from_options(options: Sequence[object]) -> float | None:
    """Return the number that `options` of params.json contains; None if there is none."""
    for option in options:
        if isinstance(option, str) and option.startswith(_PREFIX):
            try:
                value = float(option.removeprefix(_PREFIX))
            except ValueError:
                continue
            if math.isfinite(value):
                return value
    return None
