"""Read the columns of a TTree with uproot.

    tree = UprootTree(find_tree(uproot_file, "Events", "data.root"))
    tree.columns["Muon_pt"], tree.read(["Muon_pt"], 0, 1000)

This module decides which branches are numeric.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from uproot.behaviors.TBranch import TBranch
from uproot.containers import AsArray, AsVector
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.errors import Unreachable, error_summary
from mlaas4hep.io.columns import Column, Jagged, Kind, Nested, Values, canonical_bools, check_lengths, lists_of
from mlaas4hep.io.records.columns import Records, branch_of
from mlaas4hep.io.root.basket_sizes import Baskets
from mlaas4hep.io.root.baskets import BasketLayout, basket_layout_of
from mlaas4hep.io.root.counted_lists import needs_counts, read_counted
from mlaas4hep.io.root.nested_vectors import BYTES_OF_ENTRIES, nested_vector_of
from mlaas4hep.io.root.object_bits import holds_object_bits, read_object_bits
from mlaas4hep.io.root.packed import Packing, packing_of
from mlaas4hep.io.root.uproot_branches import find_branches, interpretation_of, typename_of, why_unreadable

NUMERIC_KINDS = "biuf"


class UprootTree:
    """A tree that uproot reads at first use; see `TreeMetadata`."""

    def __init__(self, key: Any) -> None:
        self._key = key

    @cached_property
    def _tree(self) -> Any:
        return self._key.get()

    @cached_property
    def _branches(self) -> dict[str, Any]:
        return find_branches(self._tree, f"tree '{self._key.fName}' of {self._key.file.file_path}")

    @property
    def name(self) -> str:
        """Name of the tree, without folders."""
        return str(self._tree.name)

    @property
    def entries(self) -> int:
        """Number of entries."""
        return int(self._tree.num_entries)

    @cached_property
    def records(self) -> Records:
        """The columns that are members of structs."""
        return Records.of(self._branches)

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """All columns, by name."""
        return _LazyColumns(self._branches, self.entries, self.records)

    def basket_layout(self, name: str) -> BasketLayout | None:
        """Return the basket layout of a column, or of stored structs; None if `baskets` does not support it."""
        branch = self._branches[branch_of(name)]
        if record := self.records.stored_record(name):
            return basket_layout_of(branch, record.interpretation)
        column = self.columns[name]
        if column.kind is Kind.NESTED and column.size == 0:
            return basket_layout_of(branch, BYTES_OF_ENTRIES) if nested_vector_of(branch.interpretation) else None
        return basket_layout_of(branch) if column.kind is not Kind.OTHER else None

    def baskets(self, name: str) -> Baskets | None:
        """Return the sizes of the baskets of a branch, or of stored structs; None if the metadata are damaged."""
        branch = self._branches[branch_of(name)]
        edges = np.array(branch.entry_offsets, np.int64)
        embedded = [len(basket.data) for basket in branch.embedded_baskets]  # not included in fTotBytes
        count = len(edges) - 1 - len(embedded)
        stored = np.array([*branch.member("fBasketBytes")[:count], *embedded], np.int64)
        if len(stored) != len(edges) - 1 or (np.diff(edges) < 0).any():
            return None
        return Baskets(edges, stored, int(branch.member("fTotBytes")) + sum(embedded))

    def edges(self) -> Iterable[Sequence[int]]:
        """Return the edges of the baskets of each readable branch."""
        readable = (branch for branch in self._branches.values() if not why_unreadable(branch, self.entries))
        return (list(map(int, branch.entry_offsets)) for branch in readable)

    def read(self, names: list[str], start: int, stop: int) -> dict[str, Values]:
        """Read entries of some branches: top-level branches in one call, sub-branches one by one."""
        branches = {name: self._branches[branch_of(name)] for name in names}
        bits = {
            name: read_object_bits(branch, self.columns[name], start, stop)
            for name, branch in branches.items()
            if holds_object_bits(branch)
        }
        branches = {name: branch for name, branch in branches.items() if name not in bits}
        packings = {name: packing_of(branch) for name, branch in branches.items()}
        own = {name: self._own_interpretation(name, packing) for name, packing in packings.items()}
        counted = {
            name
            for name, branch in branches.items()
            if not self.records.stored_record(name)
            and needs_counts(branch, own[name] or branch.interpretation, bool(packings[name]))
        }
        plain = {name for name in branches if not (name in counted or "/" in name or own[name])}
        top = {branches[name].cache_key for name in plain if self._has_known_classes}
        options = {"entry_start": start, "entry_stop": stop, "array_cache": None}
        arrays = dict(
            self._tree.arrays(filter_branch=lambda branch: branch.cache_key in top, how=dict, **options) if top else {}
        )
        for name, branch in branches.items():
            interpretation = own[name] or branch.interpretation if name in counted else None
            lists = read_counted(branch, interpretation, start, stop) if interpretation else None
            if lists is not None:
                arrays[name] = lists
            elif branch.cache_key not in top:
                arrays[name] = branch.array(own[name], **options)
        check_lengths(arrays, stop - start)  # uproot may return fewer entries without an error
        return bits | {name: _unwrap(arrays[name], self._column(name), packings[name]) for name in branches}

    def _own_interpretation(self, name: str, packing: Packing | None) -> Any:
        """Return the interpretation to use instead of uproot's; None if uproot's is correct."""
        if record := self.records.stored_record(name):
            return record.interpretation
        branch = self._branches[branch_of(name)]
        if packing:
            return packing.interpretation
        interpretation = interpretation_of(branch)
        return None if interpretation is branch.interpretation else interpretation

    def _column(self, name: str) -> Column:
        record = self.records.stored_record(name)
        return record.raw if record else self.columns[name]

    @cached_property
    def _has_known_classes(self) -> bool:
        """Whether uproot knows the classes of all branches, as it must to read several branches in one call."""
        return all(isinstance(branch, TBranch) for branch in self._branches.values())


class _LazyColumns(Mapping[str, Column]):
    """Descriptions of branches, each created at first access, because few of a thousand branches are usually read."""

    def __init__(self, branches: Mapping[str, Any], entries: int, records: Records) -> None:
        self._branches = branches
        self._entries = entries
        self._records = records
        self._described: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._described:
            self._described[name] = self._describe(name)
        return self._described[name]

    def _describe(self, name: str) -> Column:
        member = self._records.names[name]
        branch = self._branches[member.branch if member else name]
        column = self._records.describe(name) or describe(name, branch)
        reason = why_unreadable(branch, self._entries)
        return Column.unsupported(name, reason) if reason and column.kind is not Kind.OTHER else column

    def __iter__(self) -> Iterator[str]:
        return iter(self._records.names)

    def __len__(self) -> int:
        return len(self._records.names)

    def __contains__(self, name: object) -> bool:
        return name in self._records.names


def describe(name: str, branch: Any) -> Column:
    """Return the description of a branch, given its type."""
    if not isinstance(branch, TBranch):
        return Column.unsupported(name, f"{branch.classname}: a class of branches that uproot does not know")
    try:
        packing = packing_of(branch)
        if packing:
            return Column.of(name, packing.dtype, packing.shape, packing.is_list)
        interpretation = interpretation_of(branch)
        typename = typename_of(branch)
    except Unreachable:
        raise
    except Exception as error:  # uproot raises many kinds of exceptions for unknown types
        return Column.unsupported(name, f"unknown to uproot: {error_summary(error)}")
    jagged = isinstance(interpretation, AsJagged)
    content = interpretation.content if jagged else interpretation
    if not isinstance(content, AsDtype):
        return _objects(name, typename, interpretation)
    dtype = content.to_dtype.base
    if dtype.kind not in NUMERIC_KINDS:
        return Column.unsupported(name, f"{typename}: several numbers under one name")
    return Column.of(name, dtype.newbyteorder("="), content.to_dtype.shape, jagged)


def _objects(name: str, typename: str, interpretation: Any) -> Column:
    """Return the description of objects, which may be lists of lists of numbers."""
    depth, model = 0, getattr(interpretation, "model", None)
    while isinstance(model, (AsArray, AsVector)):
        depth, model = depth + 1, model.values
    if depth == 2 and isinstance(model, np.dtype) and model.base.kind in NUMERIC_KINDS and not model.shape:
        return Column(name, Kind.NESTED, model.newbyteorder("="), 0)
    is_number = isinstance(model, np.dtype) or repr(model).startswith(("AsFIXME('Double32_t", "AsFIXME('Float16_t"))
    reason = "lists of lists of lists" if depth > 2 else "lists of lists of packed numbers"
    return Column.unsupported(name, f"{typename}: {reason if depth > 1 and is_number else 'not a number'}")


def _unwrap(array: Any, column: Column, packing: Packing | None) -> Values:
    """Convert an awkward array to a column, without copying numbers that are in native byte order."""
    if isinstance(array, Jagged):
        content = packing.unpack(array.content) if packing else canonical_bools(array.content)
        return lists_of(array.offsets, content.astype(column.dtype, copy=False))
    layout = array.layout
    if column.kind.depth == 0:
        values = _unpacked(layout, packing)
        return values.reshape(len(values), column.size) if column.kind is Kind.FIXED else values
    offsets, content = _lists(layout)
    if column.kind is Kind.NESTED and column.size == 0:
        inner_offsets, content = _lists(content)
        return Nested(offsets, Jagged(inner_offsets, _unpacked(content, packing).astype(column.dtype, copy=False)))
    return lists_of(offsets, _unpacked(content, packing))


def _lists(layout: Any) -> tuple[np.ndarray, Any]:
    """Return the offsets of lists, and the layout of their content; raise ValueError if they are damaged."""
    layout = layout.to_ListOffsetArray64(True)
    offsets = np.asarray(layout.offsets)
    if offsets[0] != 0 or offsets[-1] > len(layout.content) or (np.diff(offsets) < 0).any():  # uproot does not check
        raise ValueError("the offsets of its lists are damaged")
    return offsets, layout.content[: offsets[-1]]


def _unpacked(layout: Any, packing: Packing | None) -> np.ndarray:
    values = np.asarray(layout.to_backend_array())
    return packing.unpack(values) if packing else canonical_bools(values)
