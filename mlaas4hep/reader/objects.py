"""Columns of a file → the objects of each event: jets, muons, particles, as a network over sets takes them.

    layout = ObjectLayout("jets", ("Jet_pt", "Jet_eta"), length=8, sort="Jet_pt", descending=True)
    x, mask, lost = tensorise(source.read(layout.needed, 0, 1000), 1000, layout, normalisation, fill=0.0)

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

Objects = tuple[np.ndarray, np.ndarray, int]


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


def tensorise(
    values: Columns, events: int, layout: ObjectLayout, normalisation: Normalisation | None, fill: float = np.nan
) -> Objects:
    """Make objects of lists.

    Args:
        values: every branch that the layout needs, over the same events.
        events: how many events these are.
        normalisation: None leaves values as they are.
        fill: what stands where there is no object, and where a value is NaN.

    Returns:
        x, float32 (events, length, features); mask, bool (events, length), True where there is an object; and how many
        objects were cut off.

    Raises:
        ConfigError: the lists are not of the same lengths.
    """
    lists = [_as_lists(values[branch]) for branch in layout.needed]
    _check_alike(lists, layout)
    features, key = lists[: len(layout.branches)], lists[layout.needed.index(layout.sort)] if layout.sort else None
    make = with_numpy if KERNEL is None else with_kernel
    return make(features, key, events, layout, normalisation, fill)


def with_numpy(
    features: Sequence[Jagged],
    key: Jagged | None,
    events: int,
    layout: ObjectLayout,
    normalisation: Normalisation | None,
    fill: float,
) -> Objects:
    """Do what `tensorise` says, step by step."""
    offsets, counts = features[0].offsets, features[0].counts
    event = np.repeat(np.arange(events), counts)
    position = np.arange(len(event)) - np.repeat(offsets[:-1], counts)
    order = np.lexsort((position, _rank(key.content, layout.descending), event)) if key else slice(None)
    kept = position < layout.length
    x = np.full((events, *layout.shape), np.nan, np.float32)
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, as the specs count it
        for index, feature in enumerate(features):
            x[event[kept], position[kept], index] = feature.content[order][kept]
    mask = np.arange(layout.length) < counts[:, None]
    if normalisation is not None:
        normalisation.apply(x, fill)
    elif not np.isnan(fill):
        x[np.isnan(x)] = fill
    return x, mask, int((~kept).sum())


def with_kernel(
    features: Sequence[Jagged],
    key: Jagged | None,
    events: int,
    layout: ObjectLayout,
    normalisation: Normalisation | None,
    fill: float,
) -> Objects:
    """Do what `tensorise` says, compiled."""
    curves = bends = None
    if normalisation is not None and not normalisation.is_plain:
        curves, bends = normalisation.curves, normalisation.bends
    x = MEMORY.empty((events, *layout.shape), np.float32)
    mask = MEMORY.empty((events, layout.length), bool)
    columns, keys = [buffers(feature) for feature in features], [buffers(key)] if key else []
    assert KERNEL is not None
    lost = KERNEL.assemble_objects(
        columns, events, layout.length, keys, layout.descending, curves, bends, fill, x, mask
    )
    return x, mask, lost


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
