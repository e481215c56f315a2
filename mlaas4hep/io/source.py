"""One open file, whatever its format and wherever it lies.

    with open_source("data.root", tree="Events") as source:
        source.columns["MET_pt"], source.num_entries
        source.read(["MET_pt", "Muon_pt"], 0, 1000)

A new format is one more module with a class that passes `tests/check_source.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from mlaas4hep.io.columns import Column, Columns
from mlaas4hep.io.location import candidates
from mlaas4hep.io.replicas import PATIENCE, Patience, open_ranges, read_believed


class Source(Protocol):
    """One open file as a table of events.

    Attributes:
        location: the place that is read, fit to be shown.
        identity: a name of the content that moving or renaming the file does not change.
        columns: what can be read, in the order of the file, by name.
        num_entries: number of events.
        boundaries: entry numbers, from 0 to num_entries, at which reading may start without decompressing anything
            twice; strictly increasing.
    """

    identity: str
    num_entries: int

    @property
    def location(self) -> str:
        """See above."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """See above."""

    @property
    def boundaries(self) -> Sequence[int]:
        """See above."""

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        """Read the entries start <= i < stop of some columns.

        Raises:
            BranchNotFound: there is no such column.
            FileUnreadable: the bytes are damaged; names file, column and entries.
            Unreachable: no place gives the bytes.
        """

    def close(self) -> None:
        """Give back the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(
    name: str, tree: str = "Events", redirectors: Sequence[str] = (), patience: Patience = PATIENCE
) -> Source:
    """Open a file at the first of its places that answers; when that fails later, reading goes on at the next.

    Args:
        name: path, URL or LFN.
        tree: name of the tree or RNTuple, with its folders (`boostedAk8/events`); other formats have none.
        redirectors: where to look for an LFN that is not on disk.
        patience: how long to wait for servers.

    Raises:
        FileUnreadable: no place has the file, or it is of no format that can be read.
        TreeNotFound: the ROOT file has no such tree; the message names those there are.
    """
    from mlaas4hep.io.formats import open_format

    ranges = open_ranges(candidates(name, redirectors), patience)
    try:
        return read_believed(ranges, lambda: open_format(ranges, tree))
    except BaseException:
        ranges.close()
        raise
