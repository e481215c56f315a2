"""Events whose scores are compared between a model and its ONNX graph: events of the sample, and corner cases.

    events = concatenated([some_of_the_sample, corner_events(specs, inputs, inputs)])
    events.raw, events.inputs           # the input of the ONNX graph, and the inputs of the framework

Operations that are undefined in rare cases, such as the mean of no objects, give the same scores for nearly all events
of a sample even if they are exported wrongly. The corner cases are therefore made up from the specs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from mlaas4hep.io import Jagged, Kind, Nested
from mlaas4hep.io.columns import Values, offsets_of
from mlaas4hep.reader.inputs import VECTOR, Inputs, mask_of, padded
from mlaas4hep.reader.objects import ObjectLayout
from mlaas4hep.specs.specs import BranchSpecs, Specs
from mlaas4hep.stream import Batch

COMPARED_EVENTS = 400
"""Number of events of the sample that are compared, without those in which something is empty."""

INCOMPLETE_EVENTS, SAME_GAPS = 48, 4
"""Number of compared events of the sample in which something is empty, and number of those with the same gaps."""

DENORMAL = 1e-40
"""A number below the smallest normal float32."""


@dataclass(frozen=True)
class ComparedEvents:
    """Some events, as a model gets them and as its ONNX graph gets them.

    Attributes:
        raw: input of the ONNX graph, float32 (events, ...).
        inputs: inputs and masks of the model by name, (events, ...) each.
        names: description of each event, as in "with all values at their maximum".
    """

    raw: np.ndarray
    inputs: Mapping[str, np.ndarray]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)


def concatenated(parts: Sequence[ComparedEvents]) -> ComparedEvents:
    """Return the events of one or more parts, in order."""
    names_of_inputs = [name for name in parts[0].inputs if all(name in part.inputs for part in parts)]
    inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in names_of_inputs}
    names = [name for part in parts for name in part.names]
    return ComparedEvents(np.concatenate([part.raw for part in parts]), inputs, names)


def common_events(lists: Sequence[ComparedEvents]) -> ComparedEvents:
    """Return the first events of several lists, as far as they are the same."""
    names = zip(*(events.names for events in lists), strict=False)
    count = len(list(takewhile(lambda each: len(set(each)) == 1, names)))
    first = lists[0]
    return ComparedEvents(
        first.raw[:count], {name: values[:count] for name, values in first.inputs.items()}, first.names[:count]
    )


@dataclass(frozen=True)
class _Corner:
    """A made-up event.

    Attributes:
        name: its description.
        value: the value of all numbers, or the name of a method of `_Values`.
        length, inner: length of all lists, and of lists in lists; they are not longer than in the sample.
        empty: branches whose lists are empty.
    """

    name: str
    value: float | str = "mean"
    length: float = math.inf
    inner: float = math.inf
    empty: frozenset[str] = frozenset()


def corner_events(specs: Specs, inputs: Inputs, whole: Inputs) -> ComparedEvents:
    """Return made-up events: empty, single and full lists, missing values, zeros, denormals, minima and maxima.

    Args:
        specs: specs of the whole sample.
        inputs: the inputs of the model.
        whole: the inputs for the whole sample, whose layout is that of the ONNX graph's input; with folds it may have
            more columns.
    """
    branches = {slot.branch: specs.branches[slot.branch] for slot in whole.layout.slots}
    lengths, inner = (_list_lengths(branches, whole, depth) for depth in (1, 2))
    corners = [
        _Corner("with all values missing", math.nan, 0),
        _Corner("with empty lists", length=0),
        _Corner("with one entry in each list", length=1, inner=1),
        _Corner("with full lists"),
        _Corner("with all values 0", 0.0),
        _Corner(f"with all values {DENORMAL:g}", DENORMAL),
        _Corner("with all values at their minimum", "minimum"),
        _Corner("with all values at their maximum", "maximum"),
    ]
    if inner:
        corners.append(_Corner("with lists of empty lists", inner=0))
    corners += [
        _Corner(f"without objects in input '{one.name}'", empty=frozenset(one.layout.needed))
        for one in whole.members
        if isinstance(one.layout, ObjectLayout)
    ]
    columns = {
        name: _column(name, branch, corners, lengths.get(name), inner.get(name)) for name, branch in branches.items()
    }
    raw, _ = whole.raw_vectors(columns, len(corners))
    parts, _ = inputs.of_model().make(columns, len(corners))
    return ComparedEvents(np.asarray(raw[VECTOR]), padded(parts, 0.0), [corner.name for corner in corners])


def _list_lengths(branches: Mapping[str, BranchSpecs], inputs: Inputs, depth: int) -> dict[str, int]:
    """Return the length of full lists by branch; those of one collection have the same length.

    Args:
        depth: 1 for the lists of an event, 2 for lists in lists.
    """
    lengths = {
        name: branch.dim if depth == 1 else branch.inner
        for name, branch in branches.items()
        if branch.kind.depth >= depth
    }
    collections = [one.layout.needed for one in inputs.members if isinstance(one.layout, ObjectLayout)]
    for _ in collections:  # repeated, because collections may have branches in common
        for needed in collections:
            lists = [name for name in needed if name in lengths]
            lengths.update(dict.fromkeys(lists, min((lengths[name] for name in lists), default=0)))
    return lengths


def _column(
    name: str, branch: BranchSpecs, corners: Sequence[_Corner], longest: int | None, longest_inner: int | None
) -> Values:
    """Return the values of a branch in all corner events."""
    typical = {"mean": branch.mean, "minimum": branch.minimum or 0.0, "maximum": branch.maximum or 0.0}
    values = np.array([typical[one.value] if isinstance(one.value, str) else one.value for one in corners])
    if longest is None:
        return np.repeat(values[:, None], branch.dim, axis=1) if branch.kind is Kind.FIXED else values
    counts = np.array([0 if name in one.empty else int(min(one.length, longest)) for one in corners])
    lists = Jagged(offsets_of(counts), np.repeat(values, counts))
    if longest_inner is None:
        return lists
    inner = np.repeat([int(min(one.inner, longest_inner)) for one in corners], counts)
    return Nested(lists.offsets, Jagged(offsets_of(inner), np.repeat(lists.content, inner)))


class IncompleteEvents:
    """Collects events of the sample in which an input, a branch or a list is empty.

    It keeps up to SAME_GAPS events with the same gaps, and up to INCOMPLETE_EVENTS in total.

    Attributes:
        batches: the events, in batches.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._kept: Counter[bytes] = Counter()
        self.batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Keep some incomplete events of a batch; shuffled copies are not events of the sample."""
        if self._kept.total() >= INCOMPLETE_EVENTS:
            return
        gaps = self._gaps(batch)
        rows = []
        for row in np.flatnonzero(gaps.any(axis=1) & (batch.entry >= 0)).tolist():
            pattern = gaps[row].tobytes()
            if self._kept[pattern] < SAME_GAPS and self._kept.total() < INCOMPLETE_EVENTS:
                self._kept[pattern] += 1
                rows.append(row)
        if rows:
            self.batches.append(batch[np.array(rows)])

    def _gaps(self, batch: Batch) -> np.ndarray:
        """Return which branches of vectors, and which inputs of objects, are empty: bool (events, gaps)."""
        columns = []
        for one in self._inputs.members:
            mask = np.asarray(batch.inputs[mask_of(one.name)], bool)
            if isinstance(one.layout, ObjectLayout):
                columns.append(~mask.reshape(len(mask), -1).any(axis=1, keepdims=True))
            else:
                first = [slot.first for slot in one.layout.slots if slot.width]
                columns.append(~np.logical_or.reduceat(mask, first, axis=1))
        return np.concatenate(columns, axis=1)
