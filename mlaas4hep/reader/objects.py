"""Columns of a file → the objects of each event: jets, muons, particles, as a network over sets takes them.

    layout = ObjectLayout("jets", ("Jet_pt", "Jet_eta"), length=8, sort="Jet_pt", descending=True)
    objects, lost = make_objects(source.read(layout.needed, 0, 1000), 1000, layout, normalisation)
    x, mask = objects.pad()

The compiled loop (`kernel.cpp`) does it where it is there; `with_numpy` is what it must agree with, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Jagged, Kind
from mlaas4hep.io.columns import Values, buffers
from mlaas4hep.io.recycler import MEMORY
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.normalise import Normalisation


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of some events, without the room that is left over behind them.

    Attributes:
        content: float32 (objects, features).
        offsets: int64 (events + 1,); event i has content[offsets[i]:offsets[i + 1]].
        length: objects an event has room for; none has more.
    """

    content: np.ndarray
    offsets: np.ndarray
    length: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pad(self, rows: np.ndarray | None = None, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return x, float32 (events, length, features), and mask, bool (events, length), True where there is an object.

        Args:
            rows: int64, which events, in which order; None: all.
            fill: what stands where there is no object.
        """
        rows = np.arange(len(self)) if rows is None else rows
        return gather([self], np.zeros(len(rows), np.int64), rows, fill)


def gather(
    sources: Sequence[Objects], block: np.ndarray, row: np.ndarray, fill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return event row[i] of sources[block[i]] for every i, as `Objects.pad` does; all have the same length."""
    length, features = sources[0].length, sources[0].content.shape[1]
    x, mask = MEMORY.empty((len(row), length, features), np.float32), MEMORY.empty((len(row), length), bool)
    if KERNEL is None:
        x[:], mask[:] = fill, False
        for index, source in enumerate(sources):
            for place in np.flatnonzero(block == index):
                start, stop = source.offsets[row[place] : row[place] + 2]
                x[place, : stop - start], mask[place, : stop - start] = source.content[start:stop], True
        return x, mask
    contents, offsets = [source.content for source in sources], [source.offsets for source in sources]
    KERNEL.gather_objects(contents, offsets, block, row, length, fill, x, mask)
    return x, mask


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """Which branches are the features of an object, how many objects an event has room for, and which come first.

    Attributes:
        name: of the input, for messages.
        branches: of one collection, that is, lists of the same length in every event; features in this order.
        length: objects an event has room for.
        sort: the branch that orders the objects; "" leaves them as they are in the file.
        descending: whether the largest comes first.
    """

    name: str
    branches: tuple[str, ...]
    length: int
    sort: str = ""
    descending: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Objects and features."""
        return self.length, len(self.branches)

    @property
    def width(self) -> int:
        """Numbers an event."""
        return self.length * len(self.branches)

    @property
    def needed(self) -> list[str]:
        """Every branch that is to be read."""
        return [*self.branches, *([self.sort] if self.sort and self.sort not in self.branches else [])]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The features, each with its branch."""
        return tuple(Slot(branch, Kind.JAGGED, index, 1) for index, branch in enumerate(self.branches))


def make_objects(
    values: Columns, events: int, layout: ObjectLayout, normalisation: Normalisation | None, fill: float = 0.0
) -> tuple[Objects, int]:
    """Make objects of lists.

    Args:
        values: every branch that the layout needs, over the same events.
        events: how many events these are.
        normalisation: None leaves values as they are.
        fill: what stands where a value is NaN.

    Returns:
        the objects, and how many were cut off.

    Raises:
        ConfigError: the lists are not of the same lengths.
    """
    lists = [_as_lists(values[branch]) for branch in layout.needed]
    _check_alike(lists, layout)
    features, key = lists[: len(layout.branches)], lists[layout.needed.index(layout.sort)] if layout.sort else None
    offsets = np.zeros(events + 1, np.int64)
    np.cumsum(np.minimum(features[0].counts, layout.length), out=offsets[1:])
    make = with_numpy if KERNEL is None else with_kernel
    content = make(features, key, layout, normalisation, fill, int(offsets[-1]))
    return Objects(content, offsets, layout.length), int(features[0].offsets[-1] - offsets[-1])


def with_numpy(
    features: Sequence[Jagged],
    key: Jagged | None,
    layout: ObjectLayout,
    normalisation: Normalisation | None,
    fill: float,
    total: int,
) -> np.ndarray:
    """Return the content of the `total` objects that are left, step by step."""
    offsets, counts = features[0].offsets, features[0].counts
    event = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(event)) - np.repeat(offsets[:-1], counts)
    order = np.lexsort((position, _rank(key.content, layout.descending), event)) if key else np.arange(len(event))
    kept = order[position < layout.length]
    x = np.empty((total, len(features)), np.float32)
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, as the specs count it
        for index, feature in enumerate(features):
            x[:, index] = feature.content[kept]
    if normalisation is not None:
        normalisation.apply(x, fill)
    elif not np.isnan(fill):
        x[np.isnan(x)] = fill
    return x


def with_kernel(
    features: Sequence[Jagged],
    key: Jagged | None,
    layout: ObjectLayout,
    normalisation: Normalisation | None,
    fill: float,
    total: int,
) -> np.ndarray:
    """Return the content of the `total` objects that are left, compiled."""
    curves = bends = None
    if normalisation is not None and not normalisation.is_plain:
        curves, bends = normalisation.curves, normalisation.bends
    x = MEMORY.empty((total, len(features)), np.float32)
    columns, keys = [buffers(feature) for feature in features], [buffers(key)] if key else []
    assert KERNEL is not None
    KERNEL.assemble_objects(columns, len(features[0]), layout.length, keys, layout.descending, curves, bends, fill, x)
    return x


def _as_lists(values: Values) -> Jagged:
    """Return lists; arrays of a fixed size are lists of one length."""
    if isinstance(values, Jagged):
        return values
    events, size = values.shape if values.ndim == 2 else (len(values), 1)
    return Jagged(np.arange(events + 1, dtype=np.int64) * size, values.reshape(-1))


def _check_alike(lists: Sequence[Jagged], layout: ObjectLayout) -> None:
    first = lists[0].offsets
    for branch, other in zip(layout.needed, lists, strict=True):
        if other.offsets is not first and not np.array_equal(other.offsets, first):
            raise ConfigError(
                f"input '{layout.name}': '{layout.needed[0]}' and '{branch}' have lists of different lengths",
                hint="the branches of an input with a length belong to one collection; make two inputs",
            )


def _rank(key: np.ndarray, descending: bool) -> np.ndarray:
    """Return numbers whose ascending order, NaN last, is that of the objects."""
    if not descending:
        return key
    if key.dtype.kind == "f":
        return -key
    reversed_: np.ndarray = ~key  # -1 - key, and no smallest integer that has no opposite
    return reversed_
