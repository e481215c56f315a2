"""What one pass over the data learns, and how the parts of such a pass add up.

    specs = Specs.load("specs.json"); specs.branches["MET_pt"].maximum
    whole = part_a.merge(part_b)

Specs of parts merge into specs of the whole with the same answer to the last bit, wherever the data are cut and in
whatever order the parts come: counts, extremes and the quantile sketch are exact by nature, and the sums behind mean
and standard deviation are exact too (`exact`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, SpecsMismatch
from mlaas4hep.files import write_json
from mlaas4hep.input_files import read_json
from mlaas4hep.io import Jagged, Kind
from mlaas4hep.reader import sketch
from mlaas4hep.reader.exact import UNIT, exact_sum, exact_sum_of_squares

FORMAT = 1
MAX_DIM = 10_000_000
"""Longest list that specs read from a file may speak of."""
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class BranchSpecs:
    """What was seen of one branch.

    Attributes:
        kind: FLAT, FIXED or JAGGED.
        dim: numbers that the vector keeps for an event: 1, the fixed size, or the longest list seen.
        count: finite values seen.
        nan, inf: values seen that are not a number, or infinite in the vector (|x| above float32's 3.4e38 counts as
            infinite); they are in no other figure.
        minimum, maximum: of the finite values, in the branch's own type; None where there are none.
        total, squares: exact sums of the finite values and of their squares, in units of 2^-1074.
        bins: how many finite values lie in each bin of `sketch`.
    """

    kind: Kind
    dim: int
    count: int = 0
    nan: int = 0
    inf: int = 0
    minimum: float | int | None = None
    maximum: float | int | None = None
    total: int = 0
    squares: int = 0
    bins: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: np.ndarray | Jagged, kind: Kind) -> BranchSpecs:
        """Return the specs of a block of values, flat (n,), fixed (n, size) or jagged."""
        if isinstance(values, Jagged):
            dim = int(values.counts.max(initial=0))
            numbers = values.content
        else:
            dim = 1 if values.ndim == 1 else values.shape[1]
            numbers = values.reshape(-1)
        if numbers.dtype == bool:
            numbers = numbers.view(np.uint8)
        elif numbers.dtype == np.float16:
            numbers = numbers.astype(np.float32)
        nan = inf = 0
        if numbers.dtype.kind == "f":
            finite = np.abs(numbers) <= FLOAT32_MAX
            if not finite.all():
                nan = int(np.isnan(numbers).sum())
                inf = int(numbers.size - finite.sum()) - nan
                numbers = numbers[finite]
        if not numbers.size:
            return cls(kind, dim, nan=nan, inf=inf)
        return cls(
            kind,
            dim,
            int(numbers.size),
            nan,
            inf,
            numbers.min().item() + 0,  # -0.0 becomes 0.0, so that the smaller of the two is always the same
            numbers.max().item() + 0,
            total=exact_sum(numbers),
            squares=exact_sum_of_squares(numbers),
            bins=sketch.fill(numbers),
        )

    def merge(self, other: BranchSpecs) -> BranchSpecs:
        """Return the specs of both parts together."""
        bins = dict(self.bins)
        for key, count in other.bins.items():
            bins[key] = bins.get(key, 0) + count
        return BranchSpecs(
            self.kind,
            max(self.dim, other.dim),
            self.count + other.count,
            self.nan + other.nan,
            self.inf + other.inf,
            _pick(min, self.minimum, other.minimum),
            _pick(max, self.maximum, other.maximum),
            self.total + other.total,
            self.squares + other.squares,
            bins,
        )

    @property
    def mean(self) -> float:
        """Mean of the finite values; 0 where there are none."""
        return float(Fraction(self.total, UNIT * self.count)) if self.count else 0.0

    @property
    def std(self) -> float:
        """Standard deviation (of the population) of the finite values; 0 where there are none."""
        if not self.count:
            return 0.0
        variance = Fraction(self.squares * self.count * UNIT - self.total**2, (UNIT * self.count) ** 2)
        return math.sqrt(max(variance, Fraction(0)))

    def quantiles(self, probabilities: Iterable[float]) -> np.ndarray:
        """Return quantiles of the finite values, float64, as well as the sketch knows them."""
        return sketch.quantiles(self.bins, probabilities, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class Provenance:
    """One file that specs came from: its name and identity, its entries, and how many of them were passed over."""

    name: str
    identity: str
    entries: int
    passed: int


@dataclass(frozen=True)
class Specs:
    """What one pass over the data learns; see the module's docstring.

    Attributes:
        branches: specs of each feature branch by name, in the order of the vector.
        events: events that went in, after cuts.
        files: where they came from, sorted by name.
        legacy: read from a file of the original MLaaS4HEP, which knows dimensions and extremes alone.
    """

    branches: Mapping[str, BranchSpecs]
    events: int = 0
    files: tuple[Provenance, ...] = ()
    legacy: bool = False

    @property
    def num_flat(self) -> int:
        """Number of flat and fixed branches."""
        return sum(branch.kind is not Kind.JAGGED for branch in self.branches.values())

    @property
    def num_jagged(self) -> int:
        """Number of jagged branches."""
        return len(self.branches) - self.num_flat

    @property
    def width(self) -> int:
        """Number of columns of the vector."""
        return sum(branch.dim for branch in self.branches.values())

    def merge(self, other: Specs) -> Specs:
        """Return the specs of both parts together.

        Raises:
            SpecsMismatch: they are not of the same branches.
        """
        check_same(self.branches, other.branches, "the two parts")
        branches = {name: branch.merge(other.branches[name]) for name, branch in self.branches.items()}
        files: dict[tuple[str, str], Provenance] = {}
        for file in (*self.files, *other.files):
            known = files.get((file.name, file.identity))
            passed = file.passed + (known.passed if known else 0)
            files[file.name, file.identity] = Provenance(file.name, file.identity, file.entries, passed)
        return Specs(branches, self.events + other.events, tuple(files[key] for key in sorted(files)))

    def select(self, names: Iterable[str]) -> Specs:
        """Return the specs of those branches among `names` that there are specs of."""
        branches = {name: self.branches[name] for name in names if name in self.branches}
        return Specs(branches, self.events, self.files, self.legacy)

    @staticmethod
    def merge_all(parts: Iterable[Specs]) -> Specs:
        """Return the specs of at least one part."""
        return reduce(Specs.merge, parts)

    def save(self, path: str) -> None:
        """Write specs.json."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str) -> Specs:
        """Read specs.json, ours or the original's.

        Raises:
            ConfigError: it is no specs file.
        """
        return cls.from_json(read_json(path), path)

    def to_json(self) -> dict[str, Any]:
        """Return the content of specs.json: the original's keys, and ours beside them."""
        branches = self.branches.items()
        return {
            "format": FORMAT,
            "events": self.events,
            "fkeys": [name for name, branch in branches if branch.kind is not Kind.JAGGED],
            "jkeys": [name for name, branch in branches if branch.kind is Kind.JAGGED],
            "jdim": {name: branch.dim for name, branch in branches if branch.kind is Kind.JAGGED},
            "minv": {name: branch.minimum for name, branch in branches},
            "maxv": {name: branch.maximum for name, branch in branches},
            "nans": {name: _scaled_zero(branch) for name, branch in branches},
            "branches": {name: _branch_to_json(branch) for name, branch in branches},
            "files": [
                {"name": file.name, "identity": file.identity, "entries": file.entries, "passed": file.passed}
                for file in self.files
            ],
        }

    @classmethod
    def from_json(cls, content: Any, where: str = "specs") -> Specs:
        """Make specs from what `to_json` returned, or from what the original wrote.

        Raises:
            ConfigError: it is neither.
        """
        try:
            if "format" not in content:
                return _from_original(content)
            if content["format"] != FORMAT:
                raise ConfigError(f"{where} has format {content['format']}; this version reads format {FORMAT}")
            branches = {name: _branch_from_json(branch) for name, branch in content["branches"].items()}
            files = tuple(Provenance(**file) for file in content["files"])
            return cls(branches, int(content["events"]), files)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{where} is not a specs file", hint="make one: reader.py --fin=FILE --fout=specs.json"
            ) from error


def check_same(known: Mapping[str, BranchSpecs], found: Mapping[str, Any], where: str) -> None:
    """Check that branches found have the kinds that specs know; `found` maps names to anything with a `kind`.

    Raises:
        SpecsMismatch: a branch is missing, unknown, or of another kind.
    """
    missing = [name for name in known if name not in found]
    unknown = [name for name in found if name not in known]
    changed = [name for name in known if name in found and known[name].kind is not found[name].kind]
    parts = [
        f"{label}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("missing", missing), ("not in the specs", unknown), ("flat against jagged", changed))
        if names
    ]
    if parts:
        raise SpecsMismatch(f"the specs do not belong to {where}: {'; '.join(parts)}")


def _pick(choose: Any, one: float | int | None, other: float | int | None) -> float | int | None:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)  # type: ignore[no-any-return]


def _scaled_zero(branch: BranchSpecs) -> float:
    """Where 0 lies between minimum and maximum; the original's `nans`."""
    if branch.minimum is None or branch.maximum is None or branch.maximum == branch.minimum:
        return 0.0
    return float((0 - branch.minimum) / (branch.maximum - branch.minimum))


def _branch_to_json(branch: BranchSpecs) -> dict[str, Any]:
    return {
        "kind": branch.kind.value,
        "dim": branch.dim,
        "count": branch.count,
        "nan": branch.nan,
        "inf": branch.inf,
        "min": branch.minimum,
        "max": branch.maximum,
        "mean": branch.mean,
        "std": branch.std,
        "total": str(Fraction(branch.total, UNIT)),
        "squares": str(Fraction(branch.squares, UNIT)),
        "bins": [[key, branch.bins[key]] for key in sorted(branch.bins)],
    }


def _branch_from_json(content: Mapping[str, Any]) -> BranchSpecs:
    if not 0 <= int(content["dim"]) < MAX_DIM or min(int(content[name]) for name in ("count", "nan", "inf")) < 0:
        raise ValueError("a branch has a size that makes no sense")
    return BranchSpecs(
        Kind(content["kind"]),
        int(content["dim"]),
        int(content["count"]),
        int(content["nan"]),
        int(content["inf"]),
        content["min"],
        content["max"],
        int(Fraction(content["total"]) * UNIT),
        int(Fraction(content["squares"]) * UNIT),
        {int(key): int(count) for key, count in content["bins"]},
    )


def _from_original(content: Mapping[str, Any]) -> Specs:
    flat, jagged = sorted(content["fkeys"]), sorted(content["jkeys"])
    extremes = {name: (content["minv"][name], content["maxv"][name]) for name in (*flat, *jagged)}
    dims = {name: int(content["jdim"][name]) for name in jagged}
    branches = {name: BranchSpecs(Kind.FLAT, 1, minimum=low, maximum=high) for name, (low, high) in extremes.items()}
    for name in jagged:
        branches[name] = BranchSpecs(Kind.JAGGED, dims[name], minimum=extremes[name][0], maximum=extremes[name][1])
    return Specs(branches, legacy=True)
