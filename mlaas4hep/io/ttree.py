"""ROOT's TTree as a `Source`.

    with TTreeSource(ranges, open_root_file(ranges), "Events") as source:
        source.read(["Muon_pt"], 0, 1000)["Muon_pt"].counts

Of plain trees `tree_record` knows what is in them; of all others uproot does, and which of their branches are numbers
is decided here, once, for all layers above. Baskets of numbers are decoded by `basket_reader`; everything else, and
every basket that is not as it should be, is read by uproot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np
from uproot.containers import AsArray, AsVector
from uproot.interpretation.grouped import AsGrouped
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.closing import Closing
from mlaas4hep.errors import BranchNotFound, FileUnreadable, Unreachable, first_line, nearest
from mlaas4hep.io.basket_reader import BasketReader
from mlaas4hep.io.baskets import Plan, plan_of
from mlaas4hep.io.byte_ranges import ByteRanges
from mlaas4hep.io.columns import Column, Jagged, Kind, no_events
from mlaas4hep.io.packed import Packing, packing_of
from mlaas4hep.io.replicas import read_believed
from mlaas4hep.io.tree_record import read_record

NUMERIC_KINDS = "biuf"


class TreeMetadata(Protocol):
    """What a tree says of itself.

    Attributes:
        name: its own name, without folders.
        entries: number of events.
        columns: what can be read, by name.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def entries(self) -> int:
        """See above."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """See above."""

    def plan(self, name: str) -> Plan | None:
        """Return how to read the baskets of a column; None where it is a job for uproot."""

    def edges(self) -> Iterable[Sequence[int] | np.ndarray]:
        """Return the entries at which the baskets of the branches begin and end, a sequence each."""


class TTreeSource(Closing):
    """One TTree of one ROOT file; see `Source` for what it offers.

    Sub-branches go by their full path (`Muon/Muon.pt`). Numbers come in native byte order.
    """

    def __init__(self, ranges: ByteRanges, file: Any, tree: str) -> None:
        """Take over the bytes of a file that uproot has open, and read the metadata of one of its trees."""
        self._ranges = ranges
        self._file = file
        self._uproot_tree = UprootTree(file, tree)
        self._metadata: TreeMetadata = read_record(ranges, file, tree) or self._uproot_tree
        self.columns = self._metadata.columns
        self.num_entries = self._metadata.entries
        if self.num_entries < 0:
            raise FileUnreadable(f"tree '{tree}' of {self.location} is damaged: it has {self.num_entries} entries")
        self.identity = f"{self._file.file.uuid}:{self._metadata.name}"
        self._plans: dict[str, Plan | None] = {}
        self._edges: dict[bytes, np.ndarray] = {}
        self._baskets = BasketReader(ranges)
        self._uproot = Lock()

    @property
    def location(self) -> str:
        """The place that is read."""
        return self._ranges.location

    @cached_property
    def boundaries(self) -> list[int]:
        """Entries at which the baskets of all branches begin, 0 and num_entries included."""
        edges = [{*map(int, its)} for its in self._metadata.edges()]
        inner = sorted(entry for entry in set.intersection(*edges) if 0 < entry < self.num_entries) if edges else []
        return [0, *inner, *([self.num_entries] if self.num_entries else [])]

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, np.ndarray | Jagged]:
        """Read the entries start <= i < stop of some columns; see `Source.read`. Threads may call it at once."""
        names = list(names)
        for name in names:
            if name not in self.columns:
                raise self._not_found(name)
        if start >= stop:
            return no_events(self.columns, names)
        return read_believed(self._ranges, lambda: self._read(names, start, stop))

    def _read(self, names: list[str], start: int, stop: int) -> dict[str, np.ndarray | Jagged]:
        plans = {name: plan for name in names if (plan := self._plan(name)) is not None}
        try:
            columns = self._baskets.read(plans, start, stop)
        except Unreachable:
            raise
        except OSError as error:
            raise self._unreadable(names, start, stop, error) from error
        rest = [name for name in names if name not in columns]
        if rest:
            with self._uproot:
                columns.update(self._read_with_uproot(rest, start, stop))
        return columns

    def _plan(self, name: str) -> Plan | None:
        if name not in self._plans:
            try:
                plan = self._metadata.plan(name)
            except Exception:  # damage that uproot may explain better
                plan = None
            if plan is not None:
                plan = replace(plan, edges=self._edges.setdefault(plan.edges.tobytes(), plan.edges))
            self._plans[name] = plan
        return self._plans[name]

    def _read_with_uproot(self, names: list[str], start: int, stop: int) -> dict[str, np.ndarray | Jagged]:
        try:
            return self._uproot_tree.read(names, start, stop)
        except Unreachable:
            raise
        except Exception as error:  # uproot raises many kinds for damaged bytes
            raise self._unreadable(names, start, stop, error) from error

    def _unreadable(self, names: list[str], start: int, stop: int, error: Exception) -> FileUnreadable:
        culprit = self._find_culprit(names, start, stop)
        return FileUnreadable(
            f"cannot read {culprit} of {self.location}, entries {start} to {stop - 1}: {first_line(error)}"
        )

    def _not_found(self, name: str) -> BranchNotFound:
        return BranchNotFound(
            f"branch '{name}' is not in tree '{self._metadata.name}' of {self.location}",
            nearest=nearest(name, self.columns),
            hint=f"list all: reader.py --fin={self.location} --branch={self._metadata.name} --info",
        )

    def _find_culprit(self, names: list[str], start: int, stop: int) -> str:
        for name in names:
            try:
                self._uproot_tree.read([name], start, stop)
            except Unreachable:
                raise
            except Exception:
                return f"branch '{name}'"
        return f"tree '{self._metadata.name}'"

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._ranges.close()


class UprootTree:
    """A tree as uproot has it, read when it is first needed; see `TreeMetadata`."""

    def __init__(self, file: Any, tree: str) -> None:
        self._file = file
        self._path = tree

    @cached_property
    def _tree(self) -> Any:
        return self._file[self._path]

    @cached_property
    def _branches(self) -> dict[str, Any]:
        return {
            name: branch
            for name, branch in self._tree.iteritems(recursive=True, full_paths=True)
            if not (branch.branches and isinstance(branch.interpretation, AsGrouped))
        }

    @property
    def name(self) -> str:
        """The tree's own name."""
        return str(self._tree.name)

    @property
    def entries(self) -> int:
        """Number of events."""
        return int(self._tree.num_entries)

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """What can be read, by name."""
        return _Columns(self._branches)

    def plan(self, name: str) -> Plan | None:
        """Return how to read the baskets of a column; None where `baskets` does not know how."""
        return plan_of(self._branches[name]) if self.columns[name].kind is not Kind.OTHER else None

    def edges(self) -> Iterable[Sequence[int]]:
        """Return the edges of the baskets of every branch; if its metadata are damaged, those of the tree."""
        return map(self._edges, self._branches.values())

    def _edges(self, branch: Any) -> Sequence[int]:
        try:
            return list(map(int, branch.entry_offsets))
        except Unreachable:
            raise
        except Exception:  # uproot raises many kinds for damaged bytes; reading the branch says more
            return [0, self.entries]

    def read(self, names: list[str], start: int, stop: int) -> dict[str, np.ndarray | Jagged]:
        """Read top-level branches in one call; uproot knows sub-branches of several parents only one by one."""
        packings = {name: packing_of(self._branches[name]) for name in names}
        alone = [name for name in names if "/" in name or packings[name]]
        top = {self._branches[name].cache_key for name in names if name not in alone}
        options = {"entry_start": start, "entry_stop": stop, "array_cache": None}
        arrays = dict(
            self._tree.arrays(filter_branch=lambda branch: branch.cache_key in top, how=dict, **options) if top else {}
        )
        for name in alone:
            packing = packings[name]
            arrays[name] = self._branches[name].array(packing.interpretation if packing else None, **options)
        for name in names:
            if len(arrays[name]) != stop - start:  # uproot returns what there is
                raise ValueError(f"the tree has {self.entries} entries, and branch '{name}' another number")
        return {name: _unwrap(arrays[name], self.columns[name], packings[name]) for name in names}


class _Columns(Mapping[str, Column]):
    """Descriptions of branches, each made when it is first asked for: of a thousand branches most jobs want a few."""

    def __init__(self, branches: Mapping[str, Any]) -> None:
        self._branches = branches
        self._known: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._known:
            self._known[name] = describe(name, self._branches[name])
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._branches)

    def __len__(self) -> int:
        return len(self._branches)

    def __contains__(self, name: object) -> bool:
        return name in self._branches


def describe(name: str, branch: Any) -> Column:
    """Say what a branch holds, from its type alone."""
    try:
        packing = packing_of(branch)
        if packing:
            return _numbers(name, "packed numbers", packing.dtype, packing.shape, packing.is_list)
        interpretation = branch.interpretation
    except Exception as error:
        return _other(name, f"its type is not known to uproot: {first_line(error)}")
    jagged = isinstance(interpretation, AsJagged)
    content = interpretation.content if jagged else interpretation
    if not isinstance(content, AsDtype):
        return _other(name, f"{branch.typename}: {_why_not(interpretation)}")
    return _numbers(name, branch.typename, content.to_dtype.base, content.to_dtype.shape, jagged)


def _numbers(name: str, typename: str, dtype: np.dtype[Any], shape: tuple[int, ...], jagged: bool) -> Column:
    if dtype.kind not in NUMERIC_KINDS:
        return _other(name, f"{typename}: several numbers under one name")
    if jagged and shape:
        return _other(name, f"{typename}: lists of arrays")
    if jagged:
        return Column(name, Kind.JAGGED, dtype.newbyteorder("="))
    if shape:
        return Column(name, Kind.FIXED, dtype.newbyteorder("="), size=int(np.prod(shape)))
    return Column(name, Kind.FLAT, dtype.newbyteorder("="))


def _why_not(interpretation: Any) -> str:
    """Tell lists of lists of numbers from what is no number."""
    depth, model = 0, getattr(interpretation, "model", None)
    while isinstance(model, (AsArray, AsVector)):
        depth, model = depth + 1, model.values
    is_number = isinstance(model, np.dtype) or repr(model).startswith(("AsFIXME('Double32_t", "AsFIXME('Float16_t"))
    return "lists of lists" if depth > 1 and is_number else "not a number"


def _other(name: str, reason: str) -> Column:
    return Column(name, Kind.OTHER, np.dtype(object), reason=reason)


def _unwrap(array: Any, column: Column, packing: Packing | None) -> np.ndarray | Jagged:
    """Take the NumPy buffers out of an awkward array, without copying numbers that are native already."""
    layout = array.layout
    if column.kind is not Kind.JAGGED:
        values = _unpacked(layout, packing)
        return values.reshape(len(values), column.size) if column.kind is Kind.FIXED else values
    layout = layout.to_ListOffsetArray64(True)
    offsets = np.asarray(layout.offsets)
    numbers = _unpacked(layout.content, packing)
    if offsets[0] != 0 or offsets[-1] > len(numbers) or (np.diff(offsets) < 0).any():  # which uproot lets pass
        raise ValueError("the offsets of its lists are damaged")
    return Jagged(offsets, numbers[: offsets[-1]])


def _unpacked(layout: Any, packing: Packing | None) -> np.ndarray:
    values = np.asarray(layout.to_backend_array())
    return packing.unpack(values) if packing else values
