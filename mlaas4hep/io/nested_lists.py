"""Lists of lists: how a reader presents them, by the setting `nested`.

    source = with_nested(open_source("data.root"), "flatten")
    source.columns["Track_hit_x"].kind         # JAGGED: one list per event

`exclude` makes these columns unreadable, `flatten` joins the lists of an event, `pad` leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mlaas4hep.closeable import Closeable
from mlaas4hep.io.blocks import ClusterSize
from mlaas4hep.io.columns import Column, Columns, Kind, Nested, check_readable
from mlaas4hep.io.source import DeclaredFriend, Source

EXCLUDED = "lists of lists; --nested=flatten or --nested=pad includes them"
"""Reason why these columns cannot be features by default."""


def describe_nested(column: Column, how: str) -> Column:
    """Return the description of a column as the reader presents it; `how` is "exclude", "flatten" or "pad"."""
    if column.kind is not Kind.NESTED or how == "pad":
        return column
    if how == "flatten":
        return replace(column, kind=Kind.JAGGED, size=1)
    return Column.unsupported(column.name, EXCLUDED)


def flatten_nested(columns: Columns) -> Columns:
    """Return the columns with one list per event instead of lists of lists."""
    return {name: one.flattened if isinstance(one, Nested) else one for name, one in columns.items()}


def with_nested(source: Source, how: str) -> Source:
    """Return a source that presents lists of lists as the setting `nested` says, and that closes `source`."""
    return source if how == "pad" else _NestedSource(source, how)


class _NestedSource(Closeable):
    """A source without lists of lists."""

    def __init__(self, source: Source, how: str) -> None:
        self._source = source
        self._flattens = how == "flatten"
        self.identity = source.identity
        self.num_entries = source.num_entries
        self.columns: Mapping[str, Column] = _Columns(source.columns, lambda column: describe_nested(column, how))

    @property
    def location(self) -> str:
        return self._source.location

    @property
    def boundaries(self) -> Sequence[int]:
        return self._source.boundaries

    @property
    def friends(self) -> Sequence[DeclaredFriend]:
        return self._source.friends

    def cluster_sizes(self, names: Iterable[str]) -> Sequence[ClusterSize]:
        return self._source.cluster_sizes(names)

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        if self._flattens:
            return flatten_nested(self._source.read(names, start, stop))
        names = list(names)
        check_readable(self.columns, [name for name in names if name in self.columns], self.location)
        return self._source.read(names, start, stop)

    def close(self) -> None:
        self._source.close()


class _Columns(Mapping[str, Column]):
    """Descriptions of columns, each converted at first access, because few of a thousand columns are usually read."""

    def __init__(self, columns: Mapping[str, Column], convert: Callable[[Column], Column]) -> None:
        self._columns = columns
        self._convert = convert

    def __getitem__(self, name: str) -> Column:
        return self._convert(self._columns[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns
