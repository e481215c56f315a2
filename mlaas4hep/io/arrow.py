"""Parquet and Arrow IPC files (Feather) as stores, through pyarrow.

    ParquetStore(open("data.parquet", "rb")).load(0, ["MET_pt"])

Chunks are row groups and record batches. Lists are jagged columns, fields of structs go by their full path (`Muon.pt`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, BinaryIO

from mlaas4hep.errors import require
from mlaas4hep.io.awkward_bridge import Leaf, leaves_of, left_out, read_leaves
from mlaas4hep.io.columns import Column, Columns

_ENDS = 65_536
"""Bytes at either end of a file that its identity is made of, beside its length."""


class ArrowStore:
    """What the two formats share: a schema, and tables of some columns of a chunk."""

    def __init__(self, file: BinaryIO, schema: Any, lengths: Sequence[int], complete: frozenset[str]) -> None:
        self._file = file
        self.identity = identity_of(file)
        self._leaves = _leaves_of(schema, complete)
        self.columns: Mapping[str, Column] = {name: leaf.column for name, leaf in self._leaves.items()}
        self.edges: Sequence[int] = [0, *accumulate(length for length in lengths if length)]
        self._chunks = [chunk for chunk, length in enumerate(lengths) if length]

    def load(self, chunk: int, names: Sequence[str]) -> Columns:
        """See `Store`."""
        import awkward as ak

        return read_leaves(self._leaves, names, lambda fields: ak.from_arrow(self._table(self._chunks[chunk], fields)))

    def _table(self, chunk: int, fields: list[str]) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """See `Store`."""
        self._file.close()


class ParquetStore(ArrowStore):
    """A Parquet file; see `Store` for what it offers."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the footer of an open file."""
        parquet = require("pyarrow.parquet", "formats", "Parquet")
        self._parquet = parquet.ParquetFile(file)
        metadata = self._parquet.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        schema = self._parquet.schema_arrow
        super().__init__(file, schema, [group.num_rows for group in groups], _without_nulls(groups))

    def _table(self, chunk: int, fields: list[str]) -> Any:
        return self._parquet.read_row_group(chunk, columns=fields, use_threads=False)


class IpcStore(ArrowStore):
    """An Arrow IPC file, also called Feather; see `Store` for what it offers."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the footer of an open file."""
        arrow = require("pyarrow", "formats", "Arrow")
        self._arrow = arrow
        self._reader = arrow.ipc.open_file(file)
        batches = range(self._reader.num_record_batches)
        missing: set[str] = set()
        lengths = []
        for index in batches:
            batch = self._reader.get_batch(index)
            lengths.append(batch.num_rows)
            missing.update(name for name in batch.schema.names if batch.column(name).null_count)
        schema = self._reader.schema
        super().__init__(file, schema, lengths, frozenset(schema.names) - missing)

    def _table(self, chunk: int, fields: list[str]) -> Any:
        return self._arrow.Table.from_batches([self._reader.get_batch(chunk)]).select(fields)


def identity_of(file: BinaryIO) -> str:
    """Return a name of an open file's content: a hash of its length and of its ends, where formats keep their index."""
    length = file.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(str(length).encode(), digest_size=16)
    for start in (0, max(length - _ENDS, 0)):
        file.seek(start)
        digest.update(file.read(_ENDS))
    file.seek(0)
    return digest.hexdigest()


def _leaves_of(schema: Any, complete: frozenset[str]) -> dict[str, Leaf]:
    """Describe field by field, since awkward knows no form for some types, and then for none of the schema."""
    import awkward as ak

    arrow = require("pyarrow", "formats", "Arrow")
    leaves: dict[str, Leaf] = {}
    for field in schema:
        try:
            leaves.update(leaves_of(ak.from_arrow_schema(arrow.schema([field])), complete))
        except Exception:  # a type that awkward does not know
            leaves[field.name] = left_out((field.name,), f"{field.type}: not a number")
    return leaves


def _without_nulls(groups: Sequence[Any]) -> frozenset[str]:
    """Return the plain fields of which the statistics of every row group say that no value is missing."""
    known: dict[str, bool] = {}
    for group in groups:
        for index in range(group.num_columns):
            column = group.column(index)
            statistics = column.statistics
            whole = statistics is not None and statistics.has_null_count and statistics.null_count == 0
            known[column.path_in_schema] = known.get(column.path_in_schema, True) and whole
    return frozenset(name for name, whole in known.items() if whole)
