"""Friend trees: their columns as further columns of a main file.

    friends = open_friends(main, "a.root", "Events", {"scores": FriendParams(file="scores/{stem}.root")}, open_tree)
    FriendedSource(main, friends).read(["MET_pt", "scores.ttH"], 0, 1000)

Entries of a friend belong to those of the main tree with the same entry number, or with the same values in the columns
of an index. A main entry without an entry in the friend has missing values: NaN, and empty lists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from mlaas4hep import console
from mlaas4hep.closeable import Closeable
from mlaas4hep.config import FriendParams
from mlaas4hep.errors import BranchNotFound, ConfigError, MLaaS4HEPError, TreeNotFound, nearest
from mlaas4hep.io.blocks import READ_ROWS, ClusterSize, split_into_blocks
from mlaas4hep.io.columns import (
    Column,
    Columns,
    Kind,
    Values,
    check_readable,
    concatenate_events,
    empty_columns,
    offsets_of,
    take_events,
)
from mlaas4hep.io.friend_index import MISSING, Lookup, build_lookup
from mlaas4hep.io.source import DeclaredFriend, Source
from mlaas4hep.io.storage.location import folder_of, stem_of

_reported: set[tuple[str, str]] = set()
"""Identities of main and friend trees with ambiguous entries that were reported; files may be opened many times."""


def open_friends(
    main: Source,
    name: str,
    main_tree: str,
    friends: Mapping[str, FriendParams],
    open_tree: Callable[[str, str], Source],
) -> list[Friend]:
    """Open the friends of a file.

    Args:
        main: the open file, which is not closed.
        name: its name as the user gave it, which placeholders in names of friends refer to.
        main_tree: name of its tree.
        friends: the friends by alias.
        open_tree: opens a tree, given the names of file and tree.

    Raises:
        FileUnreadable, TreeNotFound: a friend cannot be opened.
        BranchNotFound, ConfigError: a friend does not match the main tree.
    """
    opened: list[Friend] = []
    try:
        for alias, params in friends.items():
            file = params.file.replace("{stem}", stem_of(name)).replace("{dir}", folder_of(name)) or name
            tree = params.tree or alias
            with _friend_context(alias, tree, main):
                source = open_tree(file, tree)
                try:
                    if not params.index:
                        _check_length(main, main_tree, source, alias)
                    opened.append(_match(main, source, alias, tree, params.index))
                except BaseException:
                    source.close()
                    raise
    except BaseException:
        for friend in opened:
            friend.source.close()
        raise
    return opened


@contextmanager
def _friend_context(alias: str, tree: str, main: Source) -> Iterator[None]:
    """Prefix the messages of errors in the block with the friend and its main file."""
    try:
        yield
    except MLaaS4HEPError as error:
        error.what = f"friend '{alias}' (tree '{tree}') of {main.location}: {error.what}"
        if isinstance(error, TreeNotFound):
            error.hint = "correct the tree in 'friends'"
        raise


def _check_length(main: Source, main_tree: str, source: Source, alias: str) -> None:
    if source.num_entries != main.num_entries:
        example = json.dumps({"friends": {alias: {"index": ["run", "event"]}}})
        raise ConfigError(
            f"{source.location} has {source.num_entries} entries, but tree '{main_tree}' of {main.location} has"
            f" {main.num_entries}",
            hint=f"to match entries by the values of columns that both trees have, give these columns, as in {example}",
        )


def _match(main: Source, source: Source, alias: str, tree: str, index: Mapping[str, str]) -> Friend:
    if not index:
        return Friend(alias, source, tree)
    lookup = build_lookup(main, source, index)
    key = (main.identity, source.identity)
    if lookup.ambiguous and key not in _reported:
        _reported.add(key)
        console.notice(
            f"friend '{alias}' of {main.location}: for {lookup.ambiguous} entries, tree '{tree}' of {source.location}"
            f" has several entries with the same {', '.join(index.values())}; the first one is used"
        )
    return Friend(alias, source, tree, index, lookup)


@dataclass(frozen=True)
class Friend:
    """An open friend tree, whose entries are addressed by the entry numbers of the main tree.

    Attributes:
        alias: its name; its columns are called `alias.column`.
        source: the open tree.
        tree: name of the tree.
        index: name of each column of the index in the friend, by its name in the main tree.
        lookup: the entry for each main entry; None: the entry with the same number.
    """

    alias: str
    source: Source
    tree: str
    index: Mapping[str, str] | None = None
    lookup: Lookup | None = None
    _edges: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def has_missing(self) -> bool:
        """Whether some main entries have no entry in the friend."""
        return self.lookup is not None and self.lookup.has_missing

    def __str__(self) -> str:
        how = f"matched by {', '.join(self.index)}" if self.index else "matched by entry number"
        missing = 0 if self.lookup is None else int((self.lookup.rows == MISSING).sum())
        gaps = f"; {missing} entries have no partner" if missing else ""
        return f"{self.alias}: tree '{self.tree}' of {self.source.location}, {how}{gaps}"

    def columns(self) -> dict[str, Column]:
        """Return the columns by their names in the friend; integers with missing values are float64."""
        return {name: self._with_missing(column) for name, column in self.source.columns.items()}

    def _with_missing(self, column: Column) -> Column:
        becomes_float = self.has_missing and column.kind in (Kind.FLAT, Kind.FIXED) and column.dtype.kind in "iub"
        return replace(column, dtype=np.dtype(np.float64)) if becomes_float else column

    def read(self, names: Sequence[str], start: int, stop: int) -> Columns:
        """Return columns for the main entries start <= i < stop; names are those in the friend."""
        if self.lookup is None:
            return self.source.read(names, start, stop)
        rows = self.lookup.known_rows(start, stop)
        exists = rows >= 0
        wanted, positions = np.unique(rows[exists], return_inverse=True)
        stored = self._read_rows(names, wanted)
        found = {name: take_events(values, positions) for name, values in stored.items()}
        if exists.all() and not self.has_missing:
            return found
        return {name: _fill(self._with_missing(self.source.columns[name]), found[name], exists) for name in names}

    def _read_rows(self, names: Sequence[str], rows: np.ndarray) -> Columns:
        """Read some rows of the friend, which are sorted. Read one block at a time, because rows may be far apart."""
        blocks = np.searchsorted(self._block_edges(tuple(names)), rows, "right")
        begins = np.flatnonzero(np.diff(blocks, prepend=0)).tolist()
        parts: list[Columns] = []
        for begin, end in pairwise([*begins, len(rows)]):
            first, last = int(rows[begin]), int(rows[end - 1])
            block = self.source.read(names, first, last + 1)
            parts.append({name: take_events(values, rows[begin:end] - first) for name, values in block.items()})
        if not parts:
            return empty_columns(self.source.columns, names)
        return {name: concatenate_events([part[name] for part in parts]) for name in names}

    def _block_edges(self, names: tuple[str, ...]) -> np.ndarray:
        """Return the first row of each block of the friend, int64 (blocks,)."""
        if names not in self._edges:
            source = self.source
            sizes = source.cluster_sizes(names)
            blocks = split_into_blocks(source.boundaries, source.num_entries, READ_ROWS, sizes)
            self._edges[names] = np.array([start for start, _ in blocks], np.int64)
        return self._edges[names]

    def cluster_sizes(self, names: Sequence[str], boundaries: Sequence[int]) -> Sequence[ClusterSize]:
        """Estimate the decoded size of columns for each cluster of the main tree; return nothing if that is unknown."""
        sizes = self.source.cluster_sizes(names)
        if not sizes:
            return ()
        edges = np.array(self.source.boundaries)
        bytes_before = np.concatenate([[0], np.cumsum(np.diff(edges) * [size.entry_bytes for size in sizes])])
        if self.lookup is not None:
            converted = (self.source.columns[name] for name in names if self.has_missing)
            entry_bytes = bytes_before[-1] / edges[-1] + sum(8 * column.size for column in converted)
            return [ClusterSize(entry_bytes, 1) for _ in pairwise(boundaries)]
        units = np.array([size.unit for size in sizes])
        found = []
        for start, stop in pairwise(boundaries):
            first, last = np.searchsorted(edges, start, "right") - 1, np.searchsorted(edges, stop)
            entry_bytes = np.diff(np.interp([start, stop], edges, bytes_before))[0] / (stop - start)
            found.append(ClusterSize(float(entry_bytes), min(int(units[first:last].max()), stop - start)))
        return found


def _fill(column: Column, values: Values, exists: np.ndarray) -> Values:
    """Return the values of all entries, given those of the entries that exist."""
    if not isinstance(values, np.ndarray):
        counts = np.zeros(len(exists), np.int64)
        counts[exists] = values.counts
        return replace(values, offsets=offsets_of(counts))
    filled = np.full((len(exists), *values.shape[1:]), np.nan, column.dtype)
    filled[exists] = values
    return filled


class FriendedSource(Closeable):
    """A main file and its friends as one `Source`. Clusters are those of the main file."""

    def __init__(self, main: Source, friends: Sequence[Friend]) -> None:
        """Take ownership of a main file and its friends; raise ConfigError if two columns have the same name."""
        self._main = main
        self._friends = {friend.alias: friend for friend in friends}
        contents = [main.identity, [[one.alias, one.source.identity, dict(one.index or {})] for one in friends]]
        self.identity = json.dumps(contents)
        self.num_entries = main.num_entries
        self.boundaries = main.boundaries
        columns = dict(main.columns)
        for friend in friends:
            _check_names(main, friend)
            for name, column in friend.columns().items():
                full = f"{friend.alias}.{name}"
                columns[full] = replace(column, name=full)
        self.columns: Mapping[str, Column] = columns

    @property
    def location(self) -> str:
        """The path or URL of the main file, without credentials."""
        return self._main.location

    @property
    def friends(self) -> list[DeclaredFriend]:
        """The friends that the main file names, without those that are read."""
        opened = {(one.tree, os.path.basename(one.source.location)) for one in self._friends.values()}
        return [
            friend
            for friend in self._main.friends
            if (friend.tree, os.path.basename(friend.file or self.location)) not in opened
        ]

    def cluster_sizes(self, names: Iterable[str]) -> Sequence[ClusterSize]:
        """Estimate the decoded size of some columns; see `Source.cluster_sizes`."""
        own, by_friend = self._by_source(names)
        parts = [self._main.cluster_sizes(own)] if own or not by_friend else []
        parts += [friend.cluster_sizes(columns, self.boundaries) for friend, columns in by_friend]
        if not all(parts):
            return ()
        return [
            ClusterSize(sum(size.entry_bytes for size in cluster), max(size.unit for size in cluster))
            for cluster in zip(*parts, strict=True)
        ]

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        """Read the entries start <= i < stop of some columns; see `Source.read`."""
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in self.columns:
                close = nearest(name, self.columns)
                raise BranchNotFound(f"branch '{name}' is not in {self.location} and its friends", nearest=close)
        check_readable(self.columns, names, self.location)
        own, by_friend = self._by_source(names)
        columns = dict(self._main.read(own, start, stop)) if own else {}
        for friend, theirs in by_friend:
            with _friend_context(friend.alias, friend.tree, self._main):
                values = friend.read(theirs, start, stop)
            columns.update((f"{friend.alias}.{name}", values[name]) for name in theirs)
        return {name: columns[name] for name in names}

    def _by_source(self, names: Iterable[str]) -> tuple[list[str], list[tuple[Friend, list[str]]]]:
        """Return the columns of the main file, and those of each friend by their names in it."""
        own: list[str] = []
        theirs: dict[str, list[str]] = {}
        for name in names:
            alias, _, column = name.partition(".")
            if alias in self._friends:
                theirs.setdefault(alias, []).append(column)
            else:
                own.append(name)
        return own, [(self._friends[alias], columns) for alias, columns in theirs.items()]

    def close(self) -> None:
        """Close all files."""
        for source in (self._main, *(friend.source for friend in self._friends.values())):
            source.close()


def _check_names(main: Source, friend: Friend) -> None:
    """Raise ConfigError if columns of the main tree could be mistaken for those of a friend."""
    for name in main.columns:
        if name.startswith(f"{friend.alias}."):
            raise ConfigError(
                f"column '{name}' of {main.location} has the name of a column of friend '{friend.alias}' (tree"
                f" '{friend.tree}' of {friend.source.location})",
                hint=f'give the friend another alias, as in {{"friends": {{"{friend.alias}_": {{"tree": ...}}}}}}',
            )
