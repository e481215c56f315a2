"""The interface of an open file of any format, at any location.

    source.columns["MET_pt"], source.num_entries
    source.read(["MET_pt", "Muon_pt"], 0, 1000)

Each format has a class that implements it, and that passes `tests/check_source.py`. `open_source` opens a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from typing_extensions import Self

from mlaas4hep.io.blocks import ClusterSize
from mlaas4hep.io.columns import Column, Columns


class DeclaredFriend(NamedTuple):
    """A friend tree that a file names.

    Attributes:
        tree: name of the tree.
        file: path or URL of its file; "" for the same file.
    """

    tree: str
    file: str

    def __str__(self) -> str:
        return f"'{self.tree}' in {self.file or 'the same file'}"


class Source(Protocol):
    """One open file as a table of events.

    Attributes:
        identity: identifier of the content, which does not change when the file is moved or renamed.
        num_entries: number of entries.
    """

    identity: str
    num_entries: int

    @property
    def location(self) -> str:
        """Path or URL that is read, without credentials."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """All columns, in the order of the file, by name."""

    @property
    def boundaries(self) -> Sequence[int]:
        """First entry of each cluster, and num_entries; strictly increasing.

        If whole clusters are read, each basket is decompressed once.
        """

    @property
    def friends(self) -> Sequence[DeclaredFriend]:
        """Friend trees that the file names, and that are not read."""

    def cluster_sizes(self, names: Iterable[str]) -> Sequence[ClusterSize]:
        """Estimate the decoded size of some columns for each cluster; return nothing if the metadata are damaged."""

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        """Read the entries start <= i < stop of some columns.

        Returns:
            The values of stop - start entries, by column.

        Raises:
            BranchNotFound: a column does not exist.
            FileUnreadable: the data are damaged or incomplete (the message gives file, column and entries), or a column
                is of `Kind.OTHER` (the message gives the reason).
            Unreachable: no location can be read.
        """

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
