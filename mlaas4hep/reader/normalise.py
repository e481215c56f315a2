"""Raw values → numbers that a network learns well from, column by column.

    Normalisation.of(specs, layout, "auto").apply(x, fill=0.0)

Every method is the same formula with other constants,

    z = (g((clip(x) - centre) * scale) - offset) * gain,    g(t) = t, or asinh(t) where the column is `curved`

so that a vector is normalised by one call here, and by one small graph in ONNX (`training.onnx_graph`).

auto      standardised; where the tails are heavy, asinh((x - median) / spread) first, which is linear in the middle and
          a logarithm outside, so that a few large values do not crowd all others into a corner
standard  mean 0, standard deviation 1
minmax    minimum 0, maximum 1, the original's
none      as read
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.reader import sketch
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.specs import FLOAT32_MAX, BranchSpecs, Specs

Method = Literal["auto", "standard", "minmax", "none"]
METHODS: tuple[str, ...] = get_args(Method)

HEAVY_TAIL = 10.0
"""A tail is heavy when an extreme lies more than this many spreads from the median; 20,000 Gaussian values end at 4."""

MARGIN = 10.0
"""Values further outside the range seen than this many ranges, infinite ones too, are taken to be that far outside."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The constants of the formula for one branch."""

    low: float = -FLOAT32_MAX
    high: float = FLOAT32_MAX
    centre: float = 0.0
    scale: float = 1.0
    curved: bool = False
    offset: float = 0.0
    gain: float = 1.0


@dataclass(frozen=True)
class Normalisation:
    """The constants of the formula for every column of the matrix.

    Attributes:
        method: one of METHODS.
        low, high, centre, scale, offset, gain: float32 (features,).
        curved: bool (features,), True where g is asinh.
    """

    method: Method
    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    curved: np.ndarray
    offset: np.ndarray
    gain: np.ndarray

    @classmethod
    def of(cls, specs: Specs, layout: VectorLayout, method: str = "auto") -> Normalisation:
        """Work out the constants from specs.

        Raises:
            ConfigError: there is no such method, or the specs do not know enough for it.
        """
        check_method(method)
        if specs.legacy and method not in ("minmax", "none"):
            raise ConfigError(
                f"these specs know minimum and maximum alone, which is too little for normalisation '{method}'",
                hint="use minmax, or make specs anew: reader.py --fin=FILE --fout=specs.json",
            )
        curves = [_MAKE[method](specs.branches[slot.branch]) for slot in layout.slots for _ in range(slot.width)]

        def column(name: str, dtype: type) -> np.ndarray:
            return np.array([getattr(curve, name) for curve in curves], dtype)

        return cls(
            method,  # type: ignore[arg-type]
            low=column("low", np.float32),
            high=column("high", np.float32),
            centre=column("centre", np.float32),
            scale=column("scale", np.float32),
            curved=column("curved", bool),
            offset=column("offset", np.float32),
            gain=column("gain", np.float32),
        )

    def apply(self, x: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """Normalise a matrix in place and tell values from padding.

        Args:
            x: float32 (events, features), NaN where there is no value; normalised values are finite.
            fill: written where there is no value.

        Returns:
            mask, bool (events, features), True where a value stands.
        """
        mask: np.ndarray = ~np.isnan(x)
        if self.method != "none":
            np.clip(x, self.low, self.high, out=x)
            np.subtract(x, self.centre, out=x)
            np.multiply(x, self.scale, out=x)
            if self.curved.any():
                np.arcsinh(x, out=x, where=self.curved)
            np.subtract(x, self.offset, out=x)
            np.multiply(x, self.gain, out=x)
        if not np.isnan(fill):
            x[~mask] = fill
        return mask


def check_method(method: str) -> None:
    """Raise ConfigError where there is no such method."""
    if method not in METHODS:
        hint = "choose one of " + ", ".join(METHODS)
        raise ConfigError(f"there is no normalisation '{method}'", nearest=nearest(method, METHODS), hint=hint)


def _bounds(branch: BranchSpecs) -> tuple[float, float]:
    if branch.minimum is None or branch.maximum is None:
        return 0.0, 0.0
    margin = MARGIN * (branch.maximum - branch.minimum)
    limit = FLOAT32_MAX / 4  # so that the difference of two values is finite too
    return max(branch.minimum - margin, -limit), min(branch.maximum + margin, limit)


def _inverse(value: float) -> float:
    """1 / value; 0 where that is no float32, which sends a column without variation to 0."""
    return 1.0 / value if value > 1e-30 else 0.0


def _minmax(branch: BranchSpecs) -> Curve:
    low, high = _bounds(branch)
    minimum, maximum = branch.minimum or 0.0, branch.maximum or 0.0
    return Curve(low, high, centre=max(minimum, low), scale=_inverse(maximum - minimum))


def _standard(branch: BranchSpecs) -> Curve:
    low, high = _bounds(branch)
    return Curve(low, high, centre=branch.mean, scale=_inverse(branch.std))


def _auto(branch: BranchSpecs) -> Curve:
    lower, median, upper = branch.quantiles([0.16, 0.5, 0.84])
    spread = (upper - lower) / 2
    low, high = _bounds(branch)
    if not (high - low) / FLOAT32_MAX < spread < branch.std or branch.minimum is None or branch.maximum is None:
        return _standard(branch)  # flags and constants, and columns that the sketch cannot resolve
    if max(branch.maximum - median, median - branch.minimum) < HEAVY_TAIL * spread:
        return _standard(branch)
    bottom, top, counts = sketch.edges(branch.bins)
    centres = np.clip((bottom + top) / 2, branch.minimum, branch.maximum)
    bent = np.arcsinh((centres - median) / spread)
    offset = float(np.average(bent, weights=counts))
    deviation = float(np.sqrt(np.average((bent - offset) ** 2, weights=counts)))
    return Curve(low, high, float(median), 1.0 / spread, True, offset, _inverse(deviation))


_MAKE: dict[str, Callable[[BranchSpecs], Curve]] = {
    "auto": _auto,
    "standard": _standard,
    "minmax": _minmax,
    "none": lambda _: Curve(),
}
