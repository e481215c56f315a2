"""Objects of each event, such as jets or muons, as inputs of networks over sets or sequences.

    layout = ObjectLayout("jets", ("Jet_pt", "Jet_eta"), length=8, sort="Jet_pt", descending=True)
    objects, dropped = make_objects(source.read(layout.needed, 0, 1000), 1000, layout, normalisation)
    x, mask = objects.pad()

The compiled loop (`kernel.cpp`) is used if it is available. `with_numpy` gives the same bits, and is used otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Jagged, Kind
from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.io.columns import Values, kernel_buffers, offsets_of
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.normalise import Normalisation


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of some events, without padding.

    Attributes:
        content: float32 (objects, features).
        offsets: int64 (events + 1,); event i has content[offsets[i]:offsets[i + 1]].
        length: maximum number of objects per event.
    """

    content: np.ndarray
    offsets: np.ndarray
    length: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pad(self, rows: np.ndarray | None = None, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return x, float32 (events, length, features), and mask, bool (events, length), True for objects.

        Args:
            rows: int64, indices of the events to return, in this order; None: all events.
        """
        rows = np.arange(len(self)) if rows is None else rows
        return gather([self], np.zeros(len(rows), np.int64), rows, fill)


def gather(
    sources: Sequence[Objects], block: np.ndarray, row: np.ndarray, fill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return x and mask, as `Objects.pad` does, with event row[i] of sources[block[i]] at index i.

    `block` and `row` are int64 (events,). All sources have the same maximum length.
    """
    length, features = sources[0].length, sources[0].content.shape[1]
    x, mask = BUFFER_POOL.empty((len(row), length, features), np.float32), BUFFER_POOL.empty((len(row), length), bool)
    if KERNEL is None:
        x[:], mask[:] = fill, False
        for index, source in enumerate(sources):
            for event in np.flatnonzero(block == index):
                start, stop = source.offsets[row[event] : row[event] + 2]
                x[event, : stop - start], mask[event, : stop - start] = source.content[start:stop], True
        return x, mask
    contents, offsets = [source.content for source in sources], [source.offsets for source in sources]
    KERNEL.gather_objects(contents, offsets, block, row, length, fill, x, mask)
    return x, mask


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """The features of the objects, their order, and their maximum number.

    Attributes:
        name: name of the input, for error messages.
        branches: the features in order; branches of one collection, that is, lists of the same length in every event.
        length: maximum number of objects per event.
        sort: the branch to sort the objects by; "" keeps the order of the file.
        descending: whether the largest value comes first.
    """

    name: str
    branches: tuple[str, ...]
    length: int
    sort: str = ""
    descending: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Per-event shape: (objects, features)."""
        return self.length, len(self.branches)

    @property
    def needed(self) -> list[str]:
        """The branches to read: the features, and the branch to sort by."""
        return [*self.branches, *([self.sort] if self.sort and self.sort not in self.branches else [])]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The columns of `Objects.content`."""
        return tuple(Slot(branch, Kind.JAGGED, index, 1) for index, branch in enumerate(self.branches))


def make_objects(
    values: Columns, events: int, layout: ObjectLayout, normalisation: Normalisation | None, fill: float = 0.0
) -> tuple[Objects, int]:
    """Return the objects of some events, sorted, truncated and normalised, given every branch in `layout.needed`.

    Args:
        normalisation: normalisation of the features; None keeps the raw values.
        fill: value to replace NaN by.

    Returns:
        The objects, and the number of objects that were dropped because of the maximum length.

    Raises:
        ConfigError: the lists of an event have different lengths.
    """
    lists = [_as_lists(values[branch]) for branch in layout.needed]
    _check_equal_lengths(lists, layout)
    features, key = lists[: len(layout.branches)], lists[layout.needed.index(layout.sort)] if layout.sort else None
    offsets = offsets_of(np.minimum(features[0].counts, layout.length))
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
    """Return the features of the `total` objects that are kept, computed with NumPy."""
    offsets, counts = features[0].offsets, features[0].counts
    event = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(event)) - np.repeat(offsets[:-1], counts)
    order = np.lexsort((position, _rank(key.content, layout.descending), event)) if key else np.arange(len(event))
    kept = order[position < layout.length]
    x = np.empty((total, len(features)), np.float32)
    # float64 values beyond float32's range become infinite, as in the specs; signalling NaNs are "invalid"
    with np.errstate(over="ignore", invalid="ignore"):
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
    """Return the features of the `total` objects that are kept, computed by the compiled loop."""
    constants = uses_asinh = None
    if normalisation is not None and not normalisation.is_identity:
        constants, uses_asinh = normalisation.constants, normalisation.uses_asinh
    x = BUFFER_POOL.empty((total, len(features)), np.float32)
    columns, keys = [kernel_buffers(feature) for feature in features], [kernel_buffers(key)] if key else []
    assert KERNEL is not None
    KERNEL.assemble_objects(
        columns, len(features[0]), layout.length, keys, layout.descending, constants, uses_asinh, fill, x
    )
    return x


def _as_lists(values: Values) -> Jagged:
    """Return the values as lists; a fixed-size column has lists of equal length."""
    if isinstance(values, Jagged):
        return values
    events, size = values.shape if values.ndim == 2 else (len(values), 1)
    return Jagged(np.arange(events + 1, dtype=np.int64) * size, values.reshape(-1))


def _check_equal_lengths(lists: Sequence[Jagged], layout: ObjectLayout) -> None:
    first = lists[0].offsets
    for branch, other in zip(layout.needed, lists, strict=True):
        if other.offsets is not first and not np.array_equal(other.offsets, first):
            raise ConfigError(
                f"input '{layout.name}': '{layout.needed[0]}' and '{branch}' have lists of different lengths",
                hint="the branches of an input with a length must belong to one collection; define two inputs",
            )


def _rank(key: np.ndarray, descending: bool) -> np.ndarray:
    """Return numbers whose ascending order, with NaN last, is the order of the objects."""
    if not descending:
        return key
    return np.asarray(-key if key.dtype.kind == "f" else ~key)  # ~key is -1 - key, which cannot overflow
