"""A second class for samples without labels: copies of the events, with columns from different events.

    units = shuffling_units(specs, layout)
    both = add_shuffled_copies(chunk, rng, units)

The columns are shuffled among the events in groups. In the copies, every group has the distribution of the data, but
the groups are independent. A classifier that separates events from copies learns the ratio of the joint density to the
product of the densities of the groups (Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, section
14.2.4), that is, the correlations of the groups.

A group is a flat branch, or all lists of a collection with its number of objects. If each column were shuffled alone,
objects without pT, or a wrong number of objects, would make the copies easy to recognise.
"""

from __future__ import annotations

import numpy as np

from mlaas4hep.io import Kind
from mlaas4hep.reader import Specs, VectorLayout
from mlaas4hep.specs.exact import UNIT
from mlaas4hep.specs.specs import BranchSpecs
from mlaas4hep.stream.batch import Batch


def shuffling_units(specs: Specs, layout: VectorLayout) -> np.ndarray:
    """Return the number of the group to which each column belongs, int64 (columns,).

    Lists belong to the same collection if they have the same total number of values and the same maximum length. The
    number of objects is a flat branch whose sum is this total, and whose maximum is this length. If the specs lack
    these statistics, as those of the original MLaaS4HEP do, each branch is a group.
    """
    numbers: dict[object, int] = {}
    units = np.zeros(layout.width, np.int64)
    for slot in layout.slots:
        collection = _collection(specs.branches[slot.branch])
        unit = slot.branch if collection is None else collection
        units[slot.first : slot.first + slot.width] = numbers.setdefault(unit, len(numbers))
    return units


def _collection(branch: BranchSpecs) -> tuple[int, int] | None:
    """Return the total and the maximum number of objects that a branch contains or counts; None: no collection."""
    values = branch.count + branch.nan + branch.inf
    if branch.kind is Kind.JAGGED and values:
        return values, branch.dim
    if branch.kind is Kind.FLAT and branch.minimum is not None and branch.minimum >= 0 and not branch.nan + branch.inf:
        total, rest = divmod(branch.total, UNIT)
        if total and not rest and branch.maximum == int(branch.maximum or 0):
            return total, int(branch.maximum or 0)
    return None


def add_shuffled_copies(events: Batch, rng: np.random.Generator, units: np.ndarray) -> Batch:
    """Return the events (y = 1) and as many copies (y = 0), in random order. A value and its mask stay together.

    Args:
        units: number of the group of each column, see `shuffling_units`.
    """
    count = len(events)
    parts = int(units.max(initial=-1)) + 1
    rows = rng.permuted(np.broadcast_to(np.arange(count)[:, None], (count, parts)), axis=0)[:, units]
    columns = np.arange(len(units))
    copies = Batch(
        inputs={name: values[rows, columns] for name, values in events.inputs.items()},
        y=np.zeros(count, np.int64),
        weight=events.weight,
        ids={name: np.zeros_like(values) for name, values in events.ids.items()},
        part=events.part,
        file=events.file,
        entry=np.full(count, -1, np.int64),
    )
    both = Batch.concatenate([events, copies])
    return both[rng.permutation(len(both))]
