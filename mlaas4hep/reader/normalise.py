"""Raw values → numbers that a network learns well from, column by column.

    Normalisation.of(specs, layout, "auto").apply(x, fill=0.0)
    Normalisation.of(specs, layout, "auto,Jet_*=standard,nMuon=none")        # other methods for some branches

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.methods import Choice, parse_choice
from mlaas4hep.reader import sketch
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.selection import match
from mlaas4hep.reader.specs import FLOAT32_MAX, BranchSpecs, Specs

HEAVY_TAIL = 10.0
"""A tail is heavy when an extreme lies more than this many spreads from the median; 20,000 Gaussian values end at 4."""

MARGIN = 10.0
"""Values further outside the range seen than this many ranges, infinite ones too, are taken to be that far outside."""


TINY = 1e-30
"""What is no larger has an inverse that might not be a float32."""


class Layout(Protocol):
    """Branches, and how many columns each has."""

    @property
    def branches(self) -> Sequence[str]:
        """Their names, in order."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Their columns."""


class Curve(NamedTuple):
    """The constants of the formula for one branch."""

    low: float = -FLOAT32_MAX
    high: float = FLOAT32_MAX
    centre: float = 0.0
    scale: float = 1.0
    offset: float = 0.0
    gain: float = 1.0
    curved: bool = False


@dataclass(frozen=True)
class Normalisation:
    """The constants of the formula for every branch, and for every column of the matrix.

    Attributes:
        methods: of each branch, one of METHODS.
        widths: int64 (branches,), how many columns each branch has.
        curves: float32 (branches, 6): low, high, centre, scale, offset, gain.
        bends: bool (branches,), True where g is asinh.
    """

    methods: tuple[str, ...]
    widths: np.ndarray
    curves: np.ndarray
    bends: np.ndarray

    @classmethod
    def of(cls, specs: Specs, layout: Layout, choice: Choice = "auto") -> Normalisation:
        """Work out the constants from specs.

        Raises:
            ConfigError: there is no such method, or the specs do not know enough for it.
            BranchNotFound: a method is chosen for a branch that is not among the features.
        """
        methods = methods_of(choice, layout.branches)
        needy = next((method for method in methods if method not in ("minmax", "none")), "")
        if specs.legacy and needy:
            raise ConfigError(
                f"these specs know minimum and maximum alone, which is too little for normalisation '{needy}'",
                hint="use minmax, or make specs anew: reader.py --fin=FILE --fout=specs.json",
            )
        curves = [
            _MAKE[method](specs.branches[slot.branch]) for method, slot in zip(methods, layout.slots, strict=True)
        ]
        return cls(
            methods,
            np.array([slot.width for slot in layout.slots], np.int64),
            np.array([curve[:6] for curve in curves], np.float32).reshape(-1, 6),
            np.array([curve.curved for curve in curves], bool),
        )

    @property
    def is_plain(self) -> bool:
        """Whether all values stay as they are."""
        return all(method == "none" for method in self.methods)

    @cached_property
    def columns(self) -> np.ndarray:
        """Low, high, centre, scale, offset and gain of every column, float32 (6, features)."""
        columns: np.ndarray = np.repeat(self.curves, self.widths, axis=0).T.copy()
        return columns

    @cached_property
    def curved(self) -> np.ndarray:
        """True where a column's g is asinh, bool (features,)."""
        return np.repeat(self.bends, self.widths)

    def apply(self, x: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """Normalise a matrix in place and tell values from padding.

        Args:
            x: float32 (..., features), NaN where there is no value; normalised values are finite.
            fill: written where there is no value.

        Returns:
            mask, bool, of the same shape, True where a value stands.
        """
        mask: np.ndarray = ~np.isnan(x)
        if not self.is_plain:
            low, high, centre, scale, offset, gain = self.columns
            np.clip(x, low, high, out=x)
            np.subtract(x, centre, out=x)
            np.multiply(x, scale, out=x)
            if self.curved.any():
                x[..., self.curved] = asinh(x[..., self.curved])
            np.subtract(x, offset, out=x)
            np.multiply(x, gain, out=x)
            np.add(x, 0, out=x)  # never -0
        if not np.isnan(fill):
            x[~mask] = fill
        return mask


def methods_of(choice: Choice, branches: Sequence[str]) -> tuple[str, ...]:
    """Return the method of each branch; of several patterns that mean a branch the last one counts."""
    default, some = parse_choice(choice)
    chosen = dict.fromkeys(branches, default)
    for pattern, method in some.items():
        chosen.update(dict.fromkeys(match(chosen, [pattern], "the features to be normalised"), method))
    return tuple(chosen.values())


def asinh(t: np.ndarray) -> np.ndarray:
    """Return asinh of float32 numbers, rounded from float64; the same bits on every machine, and in `kernel.cpp`.

    Made of operations that IEEE 754 rounds correctly: u = |t| + sqrt(t^2 + 1) = m 2^k with 3/4 <= m < 3/2, and
    log m = 2 atanh s with s = (m - 1) / (m + 1), by its series (Abramowitz and Stegun 4.6.20, 4.6.22, 4.6.33).
    """
    wide = t.astype(np.float64)
    a = np.abs(wide)
    bits = (a + np.sqrt(a * a + 1.0)).view(np.int64)
    k = ((bits + (1 << 51)) >> 52) - 1023
    m = (bits - (k << 52)).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = np.full_like(q, 1.0 / 15.0)
    for divisor in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series = series * q + 1.0 / divisor
    logarithm = k * 0.6931471805599453 + 2.0 * s * series
    is_itself = (a < 1e-4) | np.isnan(a)  # the next term of a small a, -a^3/6, is lost in float32
    size = np.where(is_itself, a, logarithm)
    return np.copysign(size, wide).astype(np.float32)


def _bounds(branch: BranchSpecs) -> tuple[float, float]:
    if branch.minimum is None or branch.maximum is None:
        return 0.0, 0.0
    margin = MARGIN * (branch.maximum - branch.minimum)
    limit = FLOAT32_MAX / 4  # so that the difference of two values is finite too
    return max(branch.minimum - margin, -limit), min(branch.maximum + margin, limit)


def _inverse(value: float) -> float:
    """1 / value; 0 where that is no float32, which sends a column without variation to 0."""
    return 1.0 / value if value > TINY else 0.0


def _minmax(branch: BranchSpecs) -> Curve:
    low, high = _bounds(branch)
    minimum, maximum = branch.minimum or 0.0, branch.maximum or 0.0
    return Curve(low, high, centre=min(max(minimum, low), high), scale=_inverse(maximum - minimum))


def _standard(branch: BranchSpecs) -> Curve:
    low, high = _bounds(branch)
    return Curve(low, high, centre=min(max(branch.mean, low), high), scale=_inverse(branch.std))


def _auto(branch: BranchSpecs) -> Curve:
    if branch.minimum == branch.maximum:
        return _standard(branch)
    lower, median, upper = branch.quantiles([0.16, 0.5, 0.84])
    spread = (upper - lower) / 2
    low, high = _bounds(branch)
    if (
        not max((high - low) / FLOAT32_MAX, TINY) < spread < branch.std
        or branch.minimum is None
        or branch.maximum is None
    ):
        return _standard(branch)  # flags and constants, and columns that the sketch cannot resolve
    if max(branch.maximum - median, median - branch.minimum) < HEAVY_TAIL * spread:
        return _standard(branch)
    bottom, top, counts = sketch.edges(branch.bins)
    centres = np.clip((bottom + top) / 2, branch.minimum, branch.maximum)
    bent = np.arcsinh((centres - median) / spread)
    offset = float(np.average(bent, weights=counts))
    deviation = float(np.sqrt(np.average((bent - offset) ** 2, weights=counts)))
    return Curve(low, high, float(min(max(median, low), high)), 1.0 / spread, offset, _inverse(deviation), curved=True)


_MAKE: dict[str, Callable[[BranchSpecs], Curve]] = {
    "auto": _auto,
    "standard": _standard,
    "minmax": _minmax,
    "none": lambda _: Curve(),
}
