"""Read an RNTuple of a ROOT file.

    with open_rntuple(ranges, find_tree(open_root_file(ranges), "Events", ""), "Events") as source:
        source.read(["Muon_pt"], 0, 1000)["Muon_pt"].counts

The compiled loop decodes the pages of numbers, of lists of numbers, and of optional numbers. uproot reads the few other
columns, and RNTuples with features that this package does not support.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError, Unreachable, error_summary
from mlaas4hep.io.blocks import ClusterSize
from mlaas4hep.io.columns import Column, Columns, Values, empty_columns
from mlaas4hep.io.formats.chunked import ChunkedSource, columns_to_read
from mlaas4hep.io.rntuple.encodings import UnsupportedRNTuple
from mlaas4hep.io.rntuple.envelopes import DamagedMetadata, EnvelopeKind, read_anchor, unpack_envelope
from mlaas4hep.io.rntuple.leaves import Leaf, leaves_of
from mlaas4hep.io.rntuple.page_lists import Clusters, read_page_lists
from mlaas4hep.io.rntuple.page_reader import DamagedPages, PageReader
from mlaas4hep.io.rntuple.records import Schema, read_footer, read_header
from mlaas4hep.io.rntuple.uproot_reader import UprootReader
from mlaas4hep.io.rntuple.values import values_of
from mlaas4hep.io.root.tree_keys import identity_of, read_object
from mlaas4hep.io.source import DeclaredFriend, Source
from mlaas4hep.io.storage.byte_ranges import ByteRanges
from mlaas4hep.io.storage.replicas import read_with_fallback

CHECKSUM_SETTING = "MLAAS4HEP_PAGE_CHECKSUMS"
"""Environment variable; "off": the checksums of pages are not verified."""


def open_rntuple(ranges: ByteRanges, key: Any, tree: str) -> Source:
    """Return a source for an RNTuple, given uproot's key of it; `tree` is its path, for messages.

    The source takes ownership of `ranges` and of the file of the key. Damaged metadata raise FileUnreadable, or various
    other exceptions.
    """
    try:
        schema, clusters = read_metadata(ranges, key)
        leaves = leaves_of(schema)
    except UnsupportedRNTuple:
        return ChunkedSource(UprootReader(key, tree), ranges, tree)
    except DamagedMetadata as error:
        raise FileUnreadable(f"cannot read '{tree}' of {ranges.location}: {error}") from error
    return RNTupleSource(ranges, key, tree, schema, clusters, leaves)


def read_metadata(ranges: ByteRanges, key: Any) -> tuple[Schema, Clusters]:
    """Read the fields, columns and clusters of an RNTuple, given uproot's key of it."""
    anchor = read_anchor(read_object(ranges, key))
    stored = ranges.read([anchor.header.span, anchor.footer.span])
    schema = read_header(unpack_envelope(stored[anchor.header.span], anchor.header, EnvelopeKind.HEADER))
    links = read_footer(unpack_envelope(stored[anchor.footer.span], anchor.footer, EnvelopeKind.FOOTER), schema)
    stored = ranges.read([link.span for link in links])
    lists = [unpack_envelope(stored[link.span], link, EnvelopeKind.PAGE_LIST) for link in links]
    return schema, read_page_lists(lists, schema)


class RNTupleSource(Closeable):
    """An RNTuple as a `Source`. It is thread-safe."""

    friends: Sequence[DeclaredFriend] = ()

    def __init__(
        self, ranges: ByteRanges, key: Any, tree: str, schema: Schema, clusters: Clusters, leaves: Mapping[str, Leaf]
    ) -> None:
        """Take ownership of a file; see `open_rntuple`."""
        self._ranges = ranges
        self._key = key
        self._tree = tree
        self._leaves = leaves
        self._pages = PageReader(ranges, schema, clusters, os.environ.get(CHECKSUM_SETTING, "on") != "off")
        self._uproot: ChunkedSource | None = None
        self._uproot_lock = Lock()
        self.identity = identity_of(key, tree)
        self.columns: Mapping[str, Column] = {name: leaf.column for name, leaf in leaves.items()}
        self.boundaries = clusters.edges
        self.num_entries = clusters.edges[-1]

    @property
    def location(self) -> str:
        """The path or URL that is read, without credentials."""
        return self._ranges.location

    def cluster_sizes(self, names: Iterable[str]) -> list[ClusterSize]:
        """Estimate the decoded size of some columns; see `Source.cluster_sizes`."""
        leaves = [self._leaves[name] for name in dict.fromkeys(names)]
        stored = list(dict.fromkeys(column for leaf in leaves for column in leaf.stored))
        try:
            decoded, pages = self._pages.num_bytes(stored)
        except Unreachable:
            raise
        except Exception:  # damaged metadata, which `read` reports
            return []
        lengths = np.diff(self.boundaries)
        units = np.minimum(np.ceil(lengths * pages / np.maximum(decoded, 1)), lengths)
        return [
            ClusterSize(size / length, int(unit))
            for size, length, unit in zip(decoded.tolist(), lengths.tolist(), units.tolist(), strict=True)
        ]

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        """Read the entries start <= i < stop of some columns; see `Source.read`."""
        names = columns_to_read(self.columns, names, self.location, self._tree)
        if start >= stop or not names:
            return empty_columns(self.columns, names)
        leaves = {name: leaf for name in names if (leaf := self._leaves[name]).values is not None}
        columns = read_with_fallback(self._ranges, lambda: self._read(leaves, start, stop)) if leaves else {}
        rest = [name for name in names if name not in leaves]
        if rest:
            columns |= self._read_with_uproot(rest, start, stop)
        return {name: columns[name] for name in names}

    def _read(self, leaves: Mapping[str, Leaf], start: int, stop: int) -> dict[str, Values]:
        try:
            stored = self._pages.read([column for leaf in leaves.values() for column in leaf.stored], start, stop)
            return {name: values_of(leaf, stored, stop - start) for name, leaf in leaves.items()}
        except Unreachable:
            raise
        except DamagedPages as error:
            name = next(name for name, leaf in leaves.items() if error.column in leaf.stored)
            begin, end = self.boundaries[error.cluster : error.cluster + 2]
            raise self._unreadable(f"column '{name}'", begin, end, error) from error
        except Exception as error:
            raise self._unreadable(self._failing_column(leaves, start, stop), start, stop, error) from error

    def _failing_column(self, leaves: Mapping[str, Leaf], start: int, stop: int) -> str:
        for name, leaf in leaves.items():
            try:
                values_of(leaf, self._pages.read(leaf.stored, start, stop), stop - start)
            except Exception:
                return f"column '{name}'"
        return "the columns"

    def _unreadable(self, what: str, start: int, stop: int, error: Exception) -> FileUnreadable:
        where = f"{what} of {self.location}, entries {start} to {stop - 1}"
        reason = str(error) if isinstance(error, (DamagedPages, DamagedMetadata)) else error_summary(error)
        return FileUnreadable(f"cannot read {where}: {reason}")

    def _read_with_uproot(self, names: list[str], start: int, stop: int) -> Columns:
        try:
            with self._uproot_lock:
                if self._uproot is None:
                    self._uproot = ChunkedSource(UprootReader(self._key, self._tree), self._ranges, self._tree)
        except MLaaS4HEPError:
            raise
        except Exception as error:  # uproot raises many kinds of exceptions for unknown fields
            raise self._unreadable(f"column '{names[0]}'", start, stop, error) from error
        return self._uproot.read(names, start, stop)

    def close(self) -> None:
        """Close the file."""
        self._pages.close()
        self._key.file.close()
        self._ranges.close()
