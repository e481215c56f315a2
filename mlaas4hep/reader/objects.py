"""Objects of each event, such as jets or muons, as inputs of networks over sets or sequences.

    layout = ObjectLayout("jets", ("Jet_pt", "Jet_eta"), length=8, sort="Jet_pt", descending=True)
    objects, dropped = make_objects(source.read(layout.needed, 0, 1000), 1000, layout, normalisation)
    x, mask = objects.pad()

With `inner_length`, the branches have lists of lists, such as the hits of each track, and the objects have parts:

    layout = ObjectLayout("tracks", ("Track_hit_x", "Track_hit_y"), length=8, inner_length=20)

The compiled loop (`kernel.cpp`) is used if it is available. `with_numpy` gives the same bits, and is used otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Columns, Jagged, Kind, Nested
from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.io.columns import Values, equal_offsets, kernel_buffers, offsets_of, positions_in
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.normalise import Normalisation


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of some events, or the parts of their objects, without padding.

    Objects and parts whose features are all NaN are absent, as in the ONNX graph; their places are padded.

    Attributes:
        content: float32 (objects, features), or (parts, features).
        offsets: int64 (events + 1,); event i has content[offsets[i]:offsets[i + 1]].
        shape: (maximum number of objects per event,), or (objects per event, parts per object).
        cells: index of each object or part in the flattened `shape` of its event, int32 (objects,) or (parts,); None:
            the objects have the first places.
    """

    content: np.ndarray
    offsets: np.ndarray
    shape: tuple[int, ...]
    cells: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def places(self) -> np.ndarray:
        """The values of `cells`, also if it is None."""
        if self.cells is not None:
            return self.cells
        return positions_in(self.offsets).astype(np.int32)

    def pad(self, rows: np.ndarray | None = None, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return x, float32 (events, *shape, features), and mask, bool (events, *shape), True for objects or parts.

        Args:
            rows: int64, indices of the events to return, in this order; None: all events.
        """
        rows = np.arange(len(self)) if rows is None else rows
        return gather([self], np.zeros(len(rows), np.int64), rows, fill)


def gather(
    sources: Sequence[Objects], block: np.ndarray, row: np.ndarray, fill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return x and mask, as `Objects.pad` does, with event row[i] of sources[block[i]] at index i.

    `block` and `row` are int64 (events,). All sources have the same shape.
    """
    shape, features = (len(row), *sources[0].shape), sources[0].content.shape[1]
    x, mask = BUFFER_POOL.empty((*shape, features), np.float32), BUFFER_POOL.empty(shape, bool)
    if KERNEL is None:
        gather_with_numpy(sources, block, row, fill, x, mask)
    else:
        contents, offsets = [source.content for source in sources], [source.offsets for source in sources]
        has_cells = any(source.cells is not None for source in sources)
        cells = [source.places for source in sources] if has_cells else None
        KERNEL.gather_objects(contents, offsets, cells, block, row, math.prod(shape[1:]), fill, x, mask)
    return x, mask


def gather_with_numpy(
    sources: Sequence[Objects], block: np.ndarray, row: np.ndarray, fill: float, x: np.ndarray, mask: np.ndarray
) -> None:
    """Do the same as the compiled loop of `gather`: write the objects to x and mask."""
    x[:], mask[:] = fill, False
    size = math.prod(mask.shape[1:])
    places, is_object = x.reshape(len(row), size, x.shape[-1]), mask.reshape(len(row), size)
    for index, source in enumerate(sources):
        for event in np.flatnonzero(block == index):
            start, stop = source.offsets[row[event] : row[event] + 2]
            cells = np.arange(stop - start) if source.cells is None else source.cells[start:stop]
            places[event, cells], is_object[event, cells] = source.content[start:stop], True


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """The features of the objects or of their parts, the order of the objects, and their maximum number.

    Attributes:
        name: name of the input, for error messages.
        branches: the features in order; branches of one collection, that is, lists of the same length in every event.
        length: maximum number of objects per event.
        sort: the branch to sort the objects by; "" keeps the order of the file.
        descending: whether the largest value comes first.
        inner_length: maximum number of parts per object; None: the features are those of objects.
    """

    name: str
    branches: tuple[str, ...]
    length: int
    sort: str = ""
    descending: bool = False
    inner_length: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Per-event shape: (objects, features) or (objects, parts, features)."""
        return *self.mask_shape, len(self.branches)

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Per-event shape of the mask."""
        return (self.length,) if self.inner_length is None else (self.length, self.inner_length)

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
        The objects, and the number of objects, or of parts, that were dropped because of the maximum length. The
        dropped ones include those whose features are all NaN.

    Raises:
        ConfigError: the lists of an event have different lengths.
    """
    if layout.inner_length is not None:
        return _make_parts(values, layout, layout.inner_length, normalisation, fill)
    lists = [_as_lists(values[branch]) for branch in layout.needed]
    _check_equal_lengths([one.offsets for one in lists], layout)
    features, key = lists[: len(layout.branches)], lists[layout.needed.index(layout.sort)] if layout.sort else None
    offsets = offsets_of(np.minimum(features[0].counts, layout.length))
    make = with_numpy if KERNEL is None else with_kernel
    absent = _some_are_absent(features)
    content = make(features, key, layout, normalisation, np.nan if absent else fill, int(offsets[-1]))
    objects = Objects(content, offsets, layout.mask_shape)
    return _without_absent(objects, fill) if absent else objects, int(features[0].offsets[-1] - offsets[-1])


def _some_are_absent(features: Sequence[Jagged]) -> bool:
    """Return whether all features of some object are NaN."""
    if any(feature.content.dtype.kind != "f" for feature in features):
        return False
    absent = np.isnan(features[0].content)
    for feature in features[1:]:
        if not absent.any():
            break
        absent &= np.isnan(feature.content)
    return bool(absent.any())


def _without_absent(objects: Objects, fill: float) -> Objects:
    """Return the objects without those whose features are all NaN, and with NaN replaced by `fill`."""
    missing = np.isnan(objects.content)
    present = ~missing.all(axis=1)
    content = np.where(missing, np.float32(fill), objects.content)[present]
    return Objects(content, offsets_of(present)[objects.offsets], objects.shape, objects.places[present])


def _make_parts(
    values: Columns, layout: ObjectLayout, inner_length: int, normalisation: Normalisation | None, fill: float
) -> tuple[Objects, int]:
    """Return the parts of the objects; see `make_objects`."""
    features = [_as_nested(values[branch]) for branch in layout.branches]
    key = _as_lists(values[layout.sort]) if layout.sort else None
    _check_equal_lengths([*(one.offsets for one in features), *([key.offsets] if key else [])], layout)
    _check_equal_lengths([one.lists.offsets for one in features], layout)
    first = features[0]
    objects = _order(first, key, layout)
    object_offsets = offsets_of(np.minimum(first.counts, layout.length))
    place = positions_in(object_offsets)
    counts = np.minimum(first.lists.counts[objects], inner_length)
    starts = offsets_of(counts)
    position = positions_in(starts)  # of each part in its object
    cells = np.repeat(place * inner_length, counts) + position
    chosen = np.repeat(first.lists.offsets[objects], counts) + position
    offsets = starts[object_offsets]
    parts = [Jagged(offsets, one.lists.content[chosen]) for one in features]
    make = with_numpy if KERNEL is None else with_kernel
    keep_all = replace(layout, length=max(int(np.diff(offsets).max(initial=0)), 1), sort="")
    absent = _some_are_absent(parts)
    content = make(parts, None, keep_all, normalisation, np.nan if absent else fill, len(chosen))
    made = Objects(content, offsets, layout.mask_shape, cells.astype(np.int32))
    return _without_absent(made, fill) if absent else made, int(first.lists.offsets[-1]) - len(chosen)


def _order(lists: Jagged | Nested, key: Jagged | None, layout: ObjectLayout) -> np.ndarray:
    """Return the indices of the objects that are kept, in order, int64 (objects,)."""
    event, position = np.repeat(np.arange(len(lists)), lists.counts), positions_in(lists.offsets)
    order = np.lexsort((position, _rank(key.content, layout.descending), event)) if key else np.arange(len(event))
    return np.asarray(order[position < layout.length])


def with_numpy(
    features: Sequence[Jagged],
    key: Jagged | None,
    layout: ObjectLayout,
    normalisation: Normalisation | None,
    fill: float,
    total: int,
) -> np.ndarray:
    """Return the features of the `total` objects that are kept, computed with NumPy."""
    kept = _order(features[0], key, layout)
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
    assert isinstance(values, np.ndarray)  # `Inputs.of` checks the kinds
    events, size = values.shape if values.ndim == 2 else (len(values), 1)
    return Jagged(equal_offsets(events, size), values.reshape(-1))


def _as_nested(values: Values) -> Nested:
    assert isinstance(values, Nested)  # `Inputs.of` checks the kinds
    return values


def _check_equal_lengths(offsets: Sequence[np.ndarray], layout: ObjectLayout) -> None:
    first = offsets[0]
    for branch, other in zip(layout.needed, offsets, strict=False):
        if other is not first and not np.array_equal(other, first):
            raise ConfigError(
                f"input '{layout.name}': '{layout.needed[0]}' and '{branch}' have lists of different lengths",
                hint="define two inputs, each with a length and the branches of one collection",
            )


def _rank(key: np.ndarray, descending: bool) -> np.ndarray:
    """Return numbers whose ascending order, with NaN last, is the order of the objects."""
    if not descending:
        return key
    return np.asarray(-key if key.dtype.kind == "f" else ~key)  # ~key is -1 - key, which cannot overflow
