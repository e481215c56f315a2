"""Read a TTree of a ROOT file.

    with TTreeSource(ranges, find_tree(open_root_file(ranges), "Events", ""), "Events") as source:
        source.read(["Muon_pt"], 0, 1000)["Muon_pt"].counts

`metadata.tree_record` reads the metadata of plain trees, `uproot_tree` those of all others. `basket_reader` decodes
baskets of numbers; uproot reads everything else, and baskets that `basket_reader` does not support.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np

from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import BranchNotFound, FileUnreadable, Unreachable, error_summary, nearest
from mlaas4hep.io.blocks import ClusterSize
from mlaas4hep.io.columns import Column, Jagged, Kind, Values, check_readable, empty_columns, split_lists
from mlaas4hep.io.records.columns import Records, branch_of
from mlaas4hep.io.records.types import Undecodable
from mlaas4hep.io.root.basket_reader import BasketReader
from mlaas4hep.io.root.basket_sizes import Baskets, cluster_sizes
from mlaas4hep.io.root.baskets import BasketLayout
from mlaas4hep.io.root.friends import friends_of
from mlaas4hep.io.root.metadata.tree_record import read_record
from mlaas4hep.io.root.nested_vectors import decode_vectors
from mlaas4hep.io.root.tree_keys import identity_of, read_object
from mlaas4hep.io.root.uproot_tree import UprootTree
from mlaas4hep.io.source import DeclaredFriend
from mlaas4hep.io.storage.byte_ranges import ByteRanges
from mlaas4hep.io.storage.location import list_all
from mlaas4hep.io.storage.replicas import read_with_fallback


class TreeMetadata(Protocol):
    """The metadata of a tree."""

    @property
    def name(self) -> str:
        """Name of the tree, without folders."""

    @property
    def entries(self) -> int:
        """Number of entries."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """All columns, by name."""

    @property
    def records(self) -> Records:
        """The columns that are members of structs."""

    def basket_layout(self, name: str) -> BasketLayout | None:
        """Return the basket layout of a column; None if uproot must read it."""

    def baskets(self, name: str) -> Baskets | None:
        """Return the sizes of the baskets of a column; None if the metadata are damaged."""

    def edges(self) -> Iterable[Sequence[int] | np.ndarray]:
        """Return the first entry of each basket, and the number of entries, for each branch."""


class TTreeSource(Closeable):
    """A TTree as a `Source`.

    The name of a sub-branch is its full path (`Muon/Muon.pt`), that of a member of a struct is the branch and its path
    (`p.px`).
    """

    def __init__(self, ranges: ByteRanges, key: Any, tree: str) -> None:
        """Take ownership of a file, and read the metadata of a tree, given its key; `tree` is its path, for messages.

        Raises:
            FileUnreadable: the metadata are damaged.
        """
        self._ranges = ranges
        self._key = key
        self._path = tree
        self._file = key.file
        self._uproot_tree = UprootTree(key)
        self._metadata: TreeMetadata = read_record(ranges, key) or self._uproot_tree
        self.columns = self._metadata.columns
        self.num_entries = self._metadata.entries
        if self.num_entries < 0:
            raise FileUnreadable(f"tree '{tree}' of {self.location} is damaged: it has {self.num_entries} entries")
        self.identity = identity_of(key, tree)
        self._layouts: dict[str, BasketLayout | None] = {}
        self._edges: dict[bytes, np.ndarray] = {}
        self._baskets = BasketReader(ranges)
        self._uproot = Lock()

    @property
    def location(self) -> str:
        """The path or URL that is read, without credentials."""
        return self._ranges.location

    @cached_property
    def friends(self) -> list[DeclaredFriend]:
        """The friends of the tree; see `Source`."""
        try:
            return friends_of(read_object(self._ranges, self._key))
        except Unreachable:
            raise
        except Exception:  # damage, which `read` reports
            return []

    @cached_property
    def boundaries(self) -> list[int]:
        """Entries at which baskets of all branches begin, and num_entries."""
        edges = [{*map(int, branch_edges)} for branch_edges in self._metadata.edges()]
        inner = sorted(entry for entry in set.intersection(*edges) if 0 < entry < self.num_entries) if edges else []
        return [0, *inner, *([self.num_entries] if self.num_entries else [])]

    def cluster_sizes(self, names: Iterable[str]) -> list[ClusterSize]:
        """Estimate the decoded size of some columns; see `Source.cluster_sizes`."""
        stored = self._metadata.records.stored(names)
        sizes = (self._baskets_of(name) for name in stored)
        return cluster_sizes([baskets for baskets in sizes if baskets is not None], self.boundaries)

    def _baskets_of(self, name: str) -> Baskets | None:
        try:
            baskets = self._metadata.baskets(name)
        except Unreachable:
            raise
        except Exception:  # damaged metadata, which `read` reports
            return None
        column = self.columns.get(name)
        if baskets is None or column is None or column.kind.depth:
            return baskets
        decoded = self.num_entries * column.size * column.dtype.itemsize
        return Baskets(baskets.edges, baskets.stored, decoded, is_even=True)

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Values]:
        """Read the entries start <= i < stop of some columns; see `Source.read`. It is thread-safe."""
        names = list(names)
        for name in names:
            if name not in self.columns:
                raise self._not_found(name)
        check_readable(self.columns, names, self.location)
        if start >= stop:
            return empty_columns(self.columns, names)
        return read_with_fallback(self._ranges, lambda: self._read(names, start, stop))

    def _read(self, names: list[str], start: int, stop: int) -> dict[str, Values]:
        records = self._metadata.records
        stored = records.stored(names)
        layouts = {name: layout for name in stored if (layout := self._layout(name)) is not None}
        try:
            columns = self._described(self._baskets.read(layouts, start, stop))
        except Unreachable:
            raise
        except OSError as error:
            raise self._unreadable(stored, start, stop, error) from error
        rest = [name for name in stored if name not in columns]
        if rest:
            with self._uproot:
                columns.update(self._read_with_uproot(rest, start, stop))
        try:
            return records.unpack(names, columns)
        except Undecodable as error:
            raise self._unreadable(stored, start, stop, error) from error

    def _described(self, baskets: Mapping[str, Values]) -> dict[str, Values]:
        """Return the values of columns, given what baskets hold: numbers, or bytes of lists of lists.

        Columns whose lists of lists are damaged, or stored in another way, are left out.
        """
        columns: dict[str, Values] = {}
        for name, values in baskets.items():
            column = self.columns.get(name)
            if isinstance(values, Jagged) and column is not None and column.kind is Kind.NESTED:
                with suppress(ValueError):
                    split = split_lists(values, column.size) if column.size else decode_vectors(values, column.dtype)
                    columns[name] = split
            else:
                columns[name] = values
        return columns

    def _layout(self, name: str) -> BasketLayout | None:
        if name not in self._layouts:
            try:
                layout = self._metadata.basket_layout(name)
            except Exception:  # uproot reads the branch, or reports the damage
                layout = None
            if layout is not None:
                layout = replace(layout, edges=self._edges.setdefault(layout.edges.tobytes(), layout.edges))
            self._layouts[name] = layout
        return self._layouts[name]

    def _read_with_uproot(self, names: list[str], start: int, stop: int) -> dict[str, Values]:
        try:
            return self._uproot_tree.read(names, start, stop)
        except Unreachable:
            raise
        except Exception as error:  # uproot raises many kinds of exceptions for damaged data
            raise self._unreadable(names, start, stop, error) from error

    def _unreadable(self, names: list[str], start: int, stop: int, error: Exception) -> FileUnreadable:
        branch = self._failing_branch(names, start, stop)
        where = f"{branch} of {self.location}, entries {start} to {stop - 1}"
        return FileUnreadable(f"cannot read {where}: {error_summary(error)}")

    def _not_found(self, name: str) -> BranchNotFound:
        return BranchNotFound(
            f"branch '{name}' is not in tree '{self._metadata.name}' of {self.location}",
            nearest=nearest(name, self.columns),
            hint=list_all(self.location, self._path),
        )

    def _failing_branch(self, stored: list[str], start: int, stop: int) -> str:
        for name in stored:
            try:
                self._uproot_tree.records.check(name, self._uproot_tree.read([name], start, stop)[name])
            except Unreachable:
                raise
            except Exception:
                return f"branch '{branch_of(name)}'"
        return f"tree '{self._metadata.name}'"

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._ranges.close()
