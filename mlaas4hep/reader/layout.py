"""The layout of vectors: which columns belong to which branch.

    layout = VectorLayout.of(specs)
    x, truncated = layout.assemble(source.read(layout.branches, 0, 1000), 1000)

Flat and fixed branches come first, then jagged ones, then nested ones, each sorted by name. Fixed and jagged branches
have the columns name_0 ... name_{dim-1}; nested branches have a column name_i_j for value j of list i. The same specs
always give the same layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlaas4hep.comma_lists import list_setting
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Jagged, Kind, Nested
from mlaas4hep.io.columns import offsets_of, positions_in
from mlaas4hep.reader.selection import pattern_of
from mlaas4hep.specs.specs import Specs


@dataclass(frozen=True, slots=True)
class Slot:
    """The columns of one branch: first <= j < first + width.

    If the branch has lists of lists, each of these has `inner` columns; else `inner` is 1.
    """

    branch: str
    kind: Kind
    first: int
    width: int
    inner: int = 1

    @property
    def length(self) -> int:
        """Number of values, or of inner lists."""
        return self.width // self.inner if self.inner else 0


@dataclass(frozen=True)
class VectorLayout:
    """The columns of each branch; see the module's docstring."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, specs: Specs) -> VectorLayout:
        """Return the layout of the branches of some specs.

        Raises:
            ConfigError: two branches have a column of the same name (a number `a_0` and a list `a`).
        """
        names = sorted(specs.branches, key=lambda name: (specs.branches[name].kind.depth, name))
        slots, first = [], 0
        for name in names:
            branch = specs.branches[name]
            slots.append(Slot(name, branch.kind, first, branch.width, branch.inner))
            first += branch.width
        layout = cls(tuple(slots))
        repeated, owner = _repeated_column(slots)
        if repeated:
            raise ConfigError(
                f"two branches would have a column '{repeated}'",
                hint="exclude one: " + list_setting("exclude-branches", "exclude_branches", [pattern_of(owner)]),
            )
        return layout

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(slot.width for slot in self.slots)

    @cached_property
    def branches(self) -> list[str]:
        """Names of the branches, in the order of the layout."""
        return [slot.branch for slot in self.slots]

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [name for slot in self.slots for name in _column_names(slot)]

    def assemble(self, values: Columns, events: int) -> tuple[np.ndarray, dict[str, int]]:
        """Return the raw vectors of some events, given every branch of the layout.

        Returns:
            float32 (events, width), NaN for padding (and for NaN in the data); and the number of dropped values of each
            branch that has lists longer than its columns.
        """
        x = np.full((events, self.width), np.nan, np.float32)
        truncated: dict[str, int] = {}
        padder = _ListPadder(events)
        # float64 values beyond float32's range become infinite, as in the specs; signalling NaNs are "invalid"
        with np.errstate(over="ignore", invalid="ignore"):
            for slot in self.slots:
                block, data = x[:, slot.first : slot.first + slot.width], values[slot.branch]
                if isinstance(data, Nested):
                    data, dropped = pad_inner_lists(data, slot.length, slot.inner)
                    padder.write(block, data)
                elif isinstance(data, Jagged):
                    dropped = padder.write(block, data)
                else:
                    block[:], dropped = data if data.ndim == 2 else data[:, None], 0
                if dropped:
                    truncated[slot.branch] = dropped
        return x, truncated

    def to_json(self) -> dict[str, list[int | str]]:
        """Return [first column, width, kind] by branch; list i of the branch `x` with lists of lists is `x_i`."""
        simple = [slot for slot in self.slots if slot.kind is not Kind.NESTED]
        nested: dict[str, list[int | str]] = {
            f"{slot.branch}_{index}": [slot.first + index * slot.inner, slot.inner, Kind.JAGGED.value]
            for slot in self.slots
            if slot.kind is Kind.NESTED
            for index in range(slot.length)
        }
        return {**nested, **{slot.branch: [slot.first, slot.width, slot.kind.value] for slot in simple}}


def pad_inner_lists(values: Nested, length: int, inner: int) -> tuple[Jagged, int]:
    """Return one list per event, in which each of at most `length` inner lists takes `inner` numbers.

    Returns:
        Lists of float32, with NaN for padding; and the number of dropped values.
    """
    lists = values.lists
    position = positions_in(values.offsets)
    kept = np.where(position < length, np.minimum(lists.counts, inner), 0)
    starts = offsets_of(kept)
    element = positions_in(starts)
    counts = np.minimum(values.counts, length)
    padded = np.full((int(counts.sum()), inner), np.nan, np.float32)
    row = np.repeat((np.cumsum(position < length) - 1), kept)
    with np.errstate(over="ignore", invalid="ignore"):  # see `VectorLayout.assemble`
        padded[row, element] = lists.content[np.repeat(lists.offsets[:-1], kept) + element]
    return Jagged(offsets_of(counts) * inner, padded.reshape(-1)), int(lists.offsets[-1] - starts[-1])


class _ListPadder:
    """Writes lists into a matrix; keeps the mask for the next branch, which often has lists of the same lengths."""

    def __init__(self, events: int) -> None:
        self._offsets = np.zeros(events + 1, np.int64)
        self._mask = np.zeros((events, 0), bool)

    def write(self, block: np.ndarray, data: Jagged) -> int:
        """Write lists into a view (events, width) and return the number of dropped values."""
        width = block.shape[1]
        if self._mask.shape[1] != width or not np.array_equal(self._offsets, data.offsets):
            self._offsets, self._mask = data.offsets, np.arange(width) < data.counts[:, None]
        content = data.content
        dropped = int(np.maximum(data.counts - width, 0).sum())
        if dropped:
            content = content[positions_in(data.offsets) < width]
        block[self._mask] = content
        return dropped


def _column_names(slot: Slot) -> list[str]:
    if slot.kind is Kind.FLAT:
        return [slot.branch]
    if slot.kind is Kind.NESTED:
        return [f"{slot.branch}_{i}_{j}" for i in range(slot.length) for j in range(slot.inner)]
    return [f"{slot.branch}_{index}" for index in range(slot.width)]


def _repeated_column(slots: Sequence[Slot]) -> tuple[str, str]:
    """Return a column name that two branches share, and the first of the two branches; "" and "" if there is none.

    Two columns can only have the same name if the name of one branch is that of the other with indices, such as `a_0`
    and `a`. The check therefore does not create the names of all columns, which may be hundreds of millions.
    """
    owners = {slot.branch: slot for slot in slots if slot.kind is not Kind.FLAT}
    for slot in slots:
        branch = slot.branch
        indices: list[int] = []
        while len(indices) < 2 and (parts := re.fullmatch("(.*)_(0|[1-9][0-9]{0,17})", branch, re.DOTALL)):
            branch, indices = parts[1], [int(parts[2]), *indices]
            owner = owners.get(branch)
            name = _first_common_column(slot, owner, indices) if owner is not None else ""
            if owner is not None and name:
                return name, min(slot, owner, key=lambda one: one.first).branch
    return "", ""


def _first_common_column(slot: Slot, owner: Slot, indices: Sequence[int]) -> str:
    """Return a column of `slot` that is also one of `owner`, whose name with these indices is that of `slot`; or ""."""
    sizes = [owner.length, owner.inner] if owner.kind is Kind.NESTED else [owner.width]
    own = {Kind.FLAT: 0, Kind.NESTED: 2}.get(slot.kind, 1)
    if len(indices) + own != len(sizes) or not slot.width:
        return ""
    within = all(index < size for index, size in zip(indices, sizes, strict=False))
    return slot.branch + "_0" * own if within and all(sizes) else ""
