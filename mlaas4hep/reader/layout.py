"""Specs → which column of the matrix holds what, and columns of a file → that matrix.

    layout = VectorLayout.of(specs)
    x, truncated = layout.assemble(source.read(layout.branches, 0, 1000), 1000)

Flat and fixed branches come first in sorted order, then jagged ones in sorted order, each of the latter two as
name_0 ... name_{dim-1}. The same specs always give the same layout.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Jagged, Kind
from mlaas4hep.reader.specs import Specs


@dataclass(frozen=True, slots=True)
class Slot:
    """The columns first <= j < first + width of the matrix, which hold one branch."""

    branch: str
    kind: Kind
    first: int
    width: int


@dataclass(frozen=True)
class VectorLayout:
    """Which column of the matrix holds what; see the module's docstring."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, specs: Specs) -> VectorLayout:
        """Lay out the branches of some specs.

        Raises:
            ConfigError: two branches give columns of the same name (`a_0`, and the list `a`).
        """
        names = sorted(specs.branches, key=lambda name: (specs.branches[name].kind is Kind.JAGGED, name))
        slots, first = [], 0
        for name in names:
            branch = specs.branches[name]
            slots.append(Slot(name, branch.kind, first, branch.dim))
            first += branch.dim
        layout = cls(tuple(slots))
        repeated = [name for name, times in Counter(layout.columns).items() if times > 1]
        if repeated:
            raise ConfigError(
                f"two branches would both have a column '{repeated[0]}'", hint="leave one out with exclude_branches"
            )
        return layout

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(slot.width for slot in self.slots)

    @cached_property
    def branches(self) -> list[str]:
        """Names of the branches, in order."""
        return [slot.branch for slot in self.slots]

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return [name for slot in self.slots for name in _column_names(slot)]

    def assemble(self, values: Columns, events: int) -> tuple[np.ndarray, dict[str, int]]:
        """Write columns of a file into a matrix.

        Args:
            values: every branch of the layout, over the same events.
            events: how many events these are.

        Returns:
            float32 (events, width), NaN where a list has ended (and where the data say NaN); and for each jagged branch
            that had lists longer than its width, how many values were cut off.
        """
        x = np.full((events, self.width), np.nan, np.float32)
        truncated: dict[str, int] = {}
        present = _Presence(events)
        with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, as the specs count it
            for slot in self.slots:
                block, data = x[:, slot.first : slot.first + slot.width], values[slot.branch]
                if isinstance(data, Jagged):
                    lost = present.write(block, data)
                    if lost:
                        truncated[slot.branch] = lost
                else:
                    block[:] = data if data.ndim == 2 else data[:, None]
        return x, truncated

    def to_json(self) -> dict[str, list[int | str]]:
        """Return branch → [first column, width, kind]."""
        return {slot.branch: [slot.first, slot.width, slot.kind.value] for slot in self.slots}


class _Presence:
    """Which cells of a jagged branch have a value; remembered, since the branches of one collection share it."""

    def __init__(self, events: int) -> None:
        self._offsets = np.zeros(events + 1, np.int64)
        self._cells = np.zeros((events, 0), bool)

    def write(self, block: np.ndarray, data: Jagged) -> int:
        """Write lists into a (events, width) view; return how many values did not fit."""
        width = block.shape[1]
        if self._cells.shape[1] != width or not np.array_equal(self._offsets, data.offsets):
            self._offsets, self._cells = data.offsets, np.arange(width) < data.counts[:, None]
        content = data.content
        lost = int(np.maximum(data.counts - width, 0).sum())
        if lost:
            position = np.arange(len(content)) - np.repeat(data.offsets[:-1], data.counts)
            content = content[position < width]
        block[self._cells] = content
        return lost


def _column_names(slot: Slot) -> list[str]:
    if slot.kind is Kind.FLAT:
        return [slot.branch]
    return [f"{slot.branch}_{index}" for index in range(slot.width)]
