"""Statistics of every branch (specs), and how those of several parts of the data are merged.

    specs = Specs.load("specs.json"); specs.branches["MET_pt"].maximum
    total = part_a.merge(part_b)

Merging is exact: the result has the same bits however the data were divided and in whatever order the parts are merged.
Counts, extremes and the quantile sketch are integers or single values, and the sums behind the mean and the standard
deviation are computed without rounding (see `exact`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np

from mlaas4hep.comma_lists import first_few
from mlaas4hep.errors import ConfigError, SpecsMismatch
from mlaas4hep.files import write_json
from mlaas4hep.input_files import read_json
from mlaas4hep.io import Column, Jagged, Kind, Nested
from mlaas4hep.io.columns import Values
from mlaas4hep.list_lengths import ListLength
from mlaas4hep.specs import sketch, specs_file
from mlaas4hep.specs.exact import UNIT, exact_sum, exact_sum_of_squares
from mlaas4hep.unique_names import first_repeated

FORMAT = 1
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class BranchSpecs:
    """Statistics of one branch.

    Attributes:
        kind: FLAT, FIXED, JAGGED or NESTED.
        dim: 1, the fixed size, or the length of the longest list, limited by `max_length`.
        count: number of finite values.
        nan, inf: numbers of NaN and of infinite values, which all other statistics exclude. Values beyond float32's
            range (3.4e38) count as infinite.
        minimum, maximum: extremes of the finite values, in the type of the branch; None if there are none.
        total, squares: exact sums of the finite values and of their squares, in units of 2^-1074.
        bins: number of finite values by bin of `sketch`.
        inner: length of the longest inner list, limited by `max_length`, if kind is NESTED; else 1.
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
    inner: int = 1

    @property
    def width(self) -> int:
        """Number of columns in the vector."""
        return self.dim * self.inner

    @classmethod
    def of(cls, values: Values, kind: Kind) -> BranchSpecs:
        """Return the specs of some values: flat (n,), fixed (n, size), jagged or nested."""
        if isinstance(values, Nested):
            dim, inner = (int(counts.max(initial=0)) for counts in (values.counts, values.lists.counts))
            return replace(cls.of(values.flattened, kind), dim=dim, inner=inner)
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
            numbers.min().item() + 0,  # turns -0.0 into 0.0, or the minimum of both would depend on their order
            numbers.max().item() + 0,
            total=exact_sum(numbers),
            squares=exact_sum_of_squares(numbers),
            bins=sketch.fill(numbers),
        )

    def as_column(self, name: str) -> Column:
        """Return the description of a column of this kind and size, as float32."""
        size = self.dim if self.kind is Kind.FIXED else 0 if self.kind is Kind.NESTED else 1
        return Column(name, self.kind, np.dtype(np.float32), size)

    def merge(self, other: BranchSpecs) -> BranchSpecs:
        """Return the specs of both parts combined."""
        bins = dict(self.bins)
        for key, count in other.bins.items():
            bins[key] = bins.get(key, 0) + count
        return BranchSpecs(
            self.kind,
            max(self.dim, other.dim),
            self.count + other.count,
            self.nan + other.nan,
            self.inf + other.inf,
            _combine(min, self.minimum, other.minimum),
            _combine(max, self.maximum, other.maximum),
            self.total + other.total,
            self.squares + other.squares,
            bins,
            max(self.inner, other.inner),
        )

    @property
    def mean(self) -> float:
        """Mean of the finite values; 0 if there are none."""
        return float(Fraction(self.total, UNIT * self.count)) if self.count else 0.0

    @property
    def std(self) -> float:
        """Population standard deviation of the finite values; 0 if there are none."""
        if not self.count:
            return 0.0
        variance = Fraction(self.squares * self.count * UNIT - self.total**2, (UNIT * self.count) ** 2)
        return math.sqrt(max(variance, Fraction(0)))

    def quantiles(self, probabilities: Iterable[float]) -> np.ndarray:
        """Return approximate quantiles of the finite values, float64 (probabilities,); see `sketch`."""
        return sketch.quantiles(self.bins, probabilities, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class Provenance:
    """A file that specs were computed from.

    Attributes:
        name, identity: its name, and an identifier of its content.
        entries: number of entries in the file.
        entries_read: number of entries that the specs include, before cuts; `passed` in specs.json.
    """

    name: str
    identity: str
    entries: int
    entries_read: int


@dataclass(frozen=True)
class Specs:
    """Statistics of every feature branch; see the module's docstring.

    Attributes:
        branches: specs of each feature branch by name, in the order of the vector.
        events: number of events, after cuts.
        files: the files that the events came from, sorted by name.
        missing: branches that some of the files lack, sorted; those that are in `branches` are NaN there, the others
            were left out.
        legacy: whether the specs were read from a file of the original MLaaS4HEP, which has only dimensions and
            extremes.
    """

    branches: Mapping[str, BranchSpecs]
    events: int = 0
    files: tuple[Provenance, ...] = ()
    missing: tuple[str, ...] = ()
    legacy: bool = False

    @property
    def num_flat(self) -> int:
        """Number of flat and fixed branches."""
        return sum(branch.kind.depth == 0 for branch in self.branches.values())

    @property
    def num_jagged(self) -> int:
        """Number of branches with lists, or with lists of lists."""
        return len(self.branches) - self.num_flat

    @property
    def width(self) -> int:
        """Number of columns of the vector."""
        return sum(branch.width for branch in self.branches.values())

    def merge(self, other: Specs) -> Specs:
        """Return the specs of both parts combined; raise SpecsMismatch if they have different branches."""
        check_same_branches(self.branches, other.branches, "the two parts")
        branches = {name: branch.merge(other.branches[name]) for name, branch in self.branches.items()}
        files: dict[tuple[str, str], Provenance] = {}
        for file in (*self.files, *other.files):
            same = files.get((file.name, file.identity))
            read = file.entries_read + (same.entries_read if same else 0)
            files[file.name, file.identity] = Provenance(file.name, file.identity, file.entries, read)
        missing = tuple(sorted({*self.missing, *other.missing}))
        return Specs(branches, self.events + other.events, tuple(files[key] for key in sorted(files)), missing)

    def select(self, names: Iterable[str]) -> Specs:
        """Return the specs of the branches in `names`; names without specs are ignored."""
        branches = {name: self.branches[name] for name in names if name in self.branches}
        return replace(self, branches=branches)

    def with_max_lengths(self, lengths: Mapping[str, ListLength]) -> Specs:
        """Return the specs with `dim` and `inner` limited to the given maximum lengths, by branch."""
        shorter = {
            name: replace(
                branch,
                dim=min(branch.dim, lengths[name].outer),
                inner=min(branch.inner, lengths[name].inner) if branch.kind is Kind.NESTED else 1,
            )
            for name, branch in self.branches.items()
            if name in lengths
        }
        return replace(self, branches={**self.branches, **shorter}) if shorter else self

    @staticmethod
    def merge_all(parts: Iterable[Specs]) -> Specs:
        """Return the specs of one or more parts combined."""
        return reduce(Specs.merge, parts)

    def save(self, path: str) -> None:
        """Write specs.json; raise ConfigError if the specs have more columns than `load` accepts."""
        if self.width > specs_file.MAX_WIDTH:
            longest = max(self.branches, key=lambda name: self.branches[name].width)
            raise ConfigError(
                f"the specs have {self.width} columns, {self.branches[longest].width} of them from '{longest}', and"
                f" at most {specs_file.MAX_WIDTH} are supported",
                hint="exclude this branch, or shorten its lists, as with --max-length=100 of reader.py",
            )
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str) -> Specs:
        """Read specs.json, in our format or in that of the original MLaaS4HEP; raise ConfigError if it has neither."""
        return cls.from_json(read_json(path), path)

    def to_json(self) -> dict[str, Any]:
        """Return the content of specs.json: the keys of the original MLaaS4HEP and additional ones."""
        branches = self.branches.items()
        return {
            "format": FORMAT,
            "events": self.events,
            "fkeys": [name for name, branch in branches if not branch.kind.depth],
            "jkeys": [name for name, branch in branches if branch.kind.depth],
            "jdim": {name: branch.dim for name, branch in branches if branch.kind.depth},
            "minv": {name: branch.minimum for name, branch in branches},
            "maxv": {name: branch.maximum for name, branch in branches},
            "nans": {name: _scaled_zero(branch) for name, branch in branches},
            "branches": {name: _branch_to_json(branch) for name, branch in branches},
            "files": [
                {"name": file.name, "identity": file.identity, "entries": file.entries, "passed": file.entries_read}
                for file in self.files
            ],
            **({"missing_branches": list(self.missing)} if self.missing else {}),
        }

    @classmethod
    def from_json(cls, content: Any, where: str = "specs") -> Specs:
        """Return the specs that `to_json`, or the original MLaaS4HEP, described.

        Raises:
            ConfigError: the content is not in one of these formats, or its numbers contradict each other.
        """
        try:
            if "format" not in content:
                return _from_legacy(content)
            if content["format"] != FORMAT:
                raise ConfigError(f"{where} has format {content['format']}; this version reads format {FORMAT}")
            return _from_current(content)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{where} is not a specs file", hint="make one: reader.py --fin=FILE --fout=specs.json"
            ) from error


def check_same_branches(expected: Mapping[str, BranchSpecs], actual: Mapping[str, Any], where: str) -> None:
    """Raise SpecsMismatch if two sets of branches differ in names or kinds; `actual` has objects with a `kind`."""
    missing = [name for name in expected if name not in actual]
    additional = [name for name in actual if name not in expected]
    changed = [name for name in expected if name in actual and expected[name].kind is not actual[name].kind]
    groups = (("missing", missing), ("not in the specs", additional), ("of different kinds", changed))
    parts = [f"{label}: {first_few(names)}" for label, names in groups if names]
    if parts:
        kinds = {kind for name in changed for kind in (expected[name].kind, actual[name].kind)}
        hint = 'for lists of lists, use the same --nested ("nested" in the params) as for the specs'
        raise SpecsMismatch(
            f"the specs do not belong to {where}: {'; '.join(parts)}",
            hint=hint if kinds & {Kind.NESTED, Kind.OTHER} else "",
        )


def check_columns_match(specs: Specs, columns: Mapping[str, Column], where: str) -> None:
    """Raise SpecsMismatch if the columns of a file do not have the names, kinds and sizes that the specs expect."""
    check_same_branches(specs.branches, columns, where)
    for name, branch in specs.branches.items():
        if branch.kind is Kind.FIXED and branch.dim != columns[name].size:
            raise SpecsMismatch(
                f"the specs do not belong to {where}: '{name}' has {columns[name].size} numbers, not {branch.dim}"
            )


def _combine(choose: Any, one: float | int | None, other: float | int | None) -> float | int | None:
    known = [value for value in (one, other) if value is not None]
    return choose(known, default=None)  # type: ignore[no-any-return]


def _scaled_zero(branch: BranchSpecs) -> float:
    """Return 0 scaled by the minimum and maximum of a branch; `nans` of the original MLaaS4HEP."""
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
        **({"inner": branch.inner} if branch.kind is Kind.NESTED else {}),
    }


def _from_current(content: Mapping[str, Any]) -> Specs:
    branches = {name: BranchSpecs(**specs_file.branch_fields(one)) for name, one in content["branches"].items()}
    specs_file.check_width(branch.width for branch in branches.values())
    files = tuple(Provenance(*specs_file.file_fields(file)) for file in content["files"])
    missing = specs_file.parse_names(content.get("missing_branches", []))
    return Specs(branches, specs_file.parse_count(content["events"]), files, missing)


def _from_legacy(content: Mapping[str, Any]) -> Specs:
    flat, jagged = sorted(content["fkeys"]), sorted(content["jkeys"])
    repeated = first_repeated([*flat, *jagged])
    if repeated is not None:
        raise ConfigError(f"branch '{repeated}' is listed twice in the specs", hint="keep it in 'fkeys' or in 'jkeys'")
    dims = dict.fromkeys(flat, (Kind.FLAT, 1))
    dims |= {name: (Kind.JAGGED, specs_file.parse_count(content["jdim"][name])) for name in jagged}
    branches = {}
    for name, (kind, dim) in dims.items():
        low, high = (specs_file.parse_extreme(content[key][name]) for key in ("minv", "maxv"))
        branches[name] = BranchSpecs(kind, dim, minimum=low, maximum=high)
    specs_file.check_width(branch.dim for branch in branches.values())
    return Specs(branches, legacy=True)
