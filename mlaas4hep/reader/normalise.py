"""Normalisation of raw values, column by column.

    Normalisation.of(specs, layout, "auto").apply(x, fill=0.0)
    Normalisation.of(specs, layout, "auto,Jet_*=standard,nMuon=none")        # other methods for some branches

All methods use the same formula with different constants,

    z = (g((clip(x) - centre) * scale) - offset) * gain,    g(t) = asinh(t) for columns with `uses_asinh`, otherwise t

so that one function, and one small ONNX graph (`training.onnx_graph`), can normalise all columns of a vector.

auto      standardised; if the tails are heavy, after asinh((x - median) / spread), which is linear in the core of the
          distribution and logarithmic in the tails, so that outliers do not squeeze all other values together
standard  mean 0, standard deviation 1
minmax    minimum 0, maximum 1, as in the original MLaaS4HEP
none      unchanged

A branch may also have constants that do not depend on the sample: clip((x - centre) * scale), see `FixedNormalisation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.normalisation_choice import FixedNormalisation, Method, NormalisationChoice, parse_normalisation
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.selection import match
from mlaas4hep.specs import sketch
from mlaas4hep.specs.specs import FLOAT32_MAX, BranchSpecs, Specs

HEAVY_TAIL = 10.0
"""A tail is heavy if an extreme is more than this many spreads from the median; for 20,000 Gaussian values it is 4."""

MARGIN = 10.0
"""Values are clipped to the training range, extended by this many times its length on both sides."""


TINY = 1e-30
"""The inverse of a smaller number may exceed the range of float32."""


class Layout(Protocol):
    """Layout of the columns of some branches."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Columns of each branch."""


class Constants(NamedTuple):
    """The constants of the formula for one branch."""

    low: float = -FLOAT32_MAX
    high: float = FLOAT32_MAX
    centre: float = 0.0
    scale: float = 1.0
    offset: float = 0.0
    gain: float = 1.0
    uses_asinh: bool = False


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of a matrix; see the module's docstring.

    Attributes:
        methods: the method of each branch: one of METHODS, or a description of its constants.
        widths: int64 (branches,), number of columns of each branch.
        constants: float32 (branches, 6): low, high, centre, scale, offset, gain.
        uses_asinh: bool (branches,), True where g is asinh.
    """

    methods: tuple[str, ...]
    widths: np.ndarray
    constants: np.ndarray
    uses_asinh: np.ndarray

    @classmethod
    def of(cls, specs: Specs, layout: Layout, choice: NormalisationChoice = "auto") -> Normalisation:
        """Compute the constants from specs.

        Raises:
            ConfigError: a method is unknown, or the specs lack the statistics that it needs.
            BranchNotFound: a method is chosen for a branch that is not a feature.
        """
        methods = methods_of(choice, [slot.branch for slot in layout.slots])
        unsupported = next((method for method in methods if method in ("auto", "standard")), "")
        if specs.legacy and unsupported:
            raise ConfigError(
                f"the specs contain only minimum and maximum, but normalisation '{unsupported}' needs more",
                hint="use minmax, or create new specs: reader.py --fin=FILE --fout=specs.json",
            )
        constants = [
            _fixed(method) if isinstance(method, FixedNormalisation) else _METHODS[method](specs.branches[slot.branch])
            for method, slot in zip(methods, layout.slots, strict=True)
        ]
        return cls(
            tuple(map(str, methods)),
            np.array([slot.width for slot in layout.slots], np.int64),
            np.array([one[:6] for one in constants], np.float32).reshape(-1, 6),
            np.array([one.uses_asinh for one in constants], bool),
        )

    @property
    def is_identity(self) -> bool:
        """Whether all values stay unchanged."""
        return all(method == "none" for method in self.methods)

    @cached_property
    def column_constants(self) -> np.ndarray:
        """Low, high, centre, scale, offset and gain of every column, float32 (6, features)."""
        return np.asarray(np.repeat(self.constants, self.widths, axis=0).T.copy())

    @cached_property
    def column_uses_asinh(self) -> np.ndarray:
        """Whether g is asinh for every column, bool (features,)."""
        return np.repeat(self.uses_asinh, self.widths)

    def apply(self, x: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """Normalise a matrix in place and return its mask.

        Args:
            x: float32 (..., features), NaN for missing values, which `fill` replaces. Normalised values are finite.

        Returns:
            Mask, bool with the shape of x, True for values and False for missing ones.
        """
        mask: np.ndarray = ~np.isnan(x)
        if not self.is_identity:
            low, high, centre, scale, offset, gain = self.column_constants
            with np.errstate(invalid="ignore"):  # signalling NaNs
                np.clip(x, low, high, out=x)
                np.subtract(x, centre, out=x)
            np.multiply(x, scale, out=x)
            if self.column_uses_asinh.any():
                x[..., self.column_uses_asinh] = asinh(x[..., self.column_uses_asinh])
            np.subtract(x, offset, out=x)
            np.multiply(x, gain, out=x)
            np.add(x, 0, out=x)  # turns -0.0 into 0.0
        if not np.isnan(fill):
            x[~mask] = fill
        return mask


def methods_of(choice: NormalisationChoice, branches: Sequence[str]) -> tuple[Method, ...]:
    """Return the method of each branch; if several patterns match a branch, the last one counts."""
    default, some = parse_normalisation(choice)
    chosen = dict.fromkeys(branches, default)
    for pattern, method in some.items():
        chosen.update(dict.fromkeys(match(chosen, [pattern], "the features"), method))
    return tuple(chosen.values())


def asinh(t: np.ndarray) -> np.ndarray:
    """Return asinh of float32 values, computed in float64; the bits are the same on every machine and in `kernel.cpp`.

    The function uses only operations that IEEE 754 rounds correctly: u = |t| + sqrt(t^2 + 1) = m 2^k with
    3/4 <= m < 3/2, and log m = 2 atanh s with s = (m - 1) / (m + 1), computed by its series (Abramowitz and Stegun
    4.6.20, 4.6.22, 4.6.33).
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
    is_linear = (a < 1e-4) | np.isnan(a)  # for small a, the next term, -a^3/6, is below the precision of float32
    magnitude = np.where(is_linear, a, logarithm)
    return np.copysign(magnitude, wide).astype(np.float32)


def _clip_range(branch: BranchSpecs) -> tuple[float, float]:
    if branch.minimum is None or branch.maximum is None:
        return 0.0, 0.0
    margin = MARGIN * (branch.maximum - branch.minimum)
    limit = FLOAT32_MAX / 4  # so that the difference of two values is finite too
    return max(branch.minimum - margin, -limit), min(branch.maximum + margin, limit)


def _inverse(value: float) -> float:
    """Return 1 / value; 0 for a tiny value, so that a column without variation becomes 0."""
    return 1.0 / value if value > TINY else 0.0


def _fixed(method: FixedNormalisation) -> Constants:
    """Return the constants; limits of normalised values are limits of raw values."""
    high = FLOAT32_MAX / 4 / max(abs(method.scale), 1.0)  # so that the result is finite
    low = -high
    if method.clip:
        limits = [method.centre + limit / method.scale for limit in method.clip]
        low, high = max(low, min(limits)), min(high, max(limits))
    return Constants(low, high, method.centre, method.scale)


def _minmax(branch: BranchSpecs) -> Constants:
    low, high = _clip_range(branch)
    minimum, maximum = branch.minimum or 0.0, branch.maximum or 0.0
    return Constants(low, high, centre=min(max(minimum, low), high), scale=_inverse(maximum - minimum))


def _standard(branch: BranchSpecs) -> Constants:
    low, high = _clip_range(branch)
    return Constants(low, high, centre=min(max(branch.mean, low), high), scale=_inverse(branch.std))


def _auto(branch: BranchSpecs) -> Constants:
    if branch.minimum is None or branch.maximum is None or branch.minimum == branch.maximum:
        return _standard(branch)
    lower, median, upper = branch.quantiles([0.16, 0.5, 0.84])
    spread = (upper - lower) / 2
    low, high = _clip_range(branch)
    if not max((high - low) / FLOAT32_MAX, TINY) < spread < branch.std:
        return _standard(branch)  # flags, and columns that the sketch cannot resolve
    if max(branch.maximum - median, median - branch.minimum) < HEAVY_TAIL * spread:
        return _standard(branch)
    lower_edges, upper_edges, counts = sketch.edges(branch.bins)
    centres = np.clip((lower_edges + upper_edges) / 2, branch.minimum, branch.maximum)
    values = np.arcsinh((centres - median) / spread)
    mean = float(np.average(values, weights=counts))
    std = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
    centre = float(min(max(median, low), high))
    return Constants(low, high, centre, 1.0 / spread, offset=mean, gain=_inverse(std), uses_asinh=True)


_METHODS: dict[str, Callable[[BranchSpecs], Constants]] = {
    "auto": _auto,
    "standard": _standard,
    "minmax": _minmax,
    "none": lambda _: Constants(),
}
