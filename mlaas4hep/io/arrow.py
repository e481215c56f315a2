"""Parquet and Arrow IPC files (Feather) as stores, through pyarrow.

    ParquetStore(open("data.parquet", "rb")).load(0, ["MET_pt"])

Chunks are row groups and record batches. Lists are jagged columns, fields of structs go by their full path (`Muon.pt`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, BinaryIO

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.io.awkward_bridge import Leaf, leaves_of, left_out, read_leaves
from mlaas4hep.io.columns import Column, Columns
from mlaas4hep.io.parquet_footer import missing_values

_ENDS = 65_536
"""Bytes at either end of a file that its identity is made of, beside its length."""


class ArrowStore:
    """What the two formats share: a schema, and tables of some columns of a chunk."""

    def __init__(self, file: BinaryIO, schema: Any, lengths: Sequence[int], missing: frozenset[str]) -> None:
        self._file = file
        self.identity = identity_of(file)
        self._leaves = _leaves_of(schema, missing)
        self.columns: Mapping[str, Column] = {name: leaf.column for name, leaf in self._leaves.items()}
        self.edges: Sequence[int] = [0, *accumulate(length for length in lengths if length)]
        self._chunks = [chunk for chunk, length in enumerate(lengths) if length]

    def leave_out(self, name: str, reason: str) -> None:
        """List a column that whoever made the file could not write into it."""
        self.columns = {**self.columns, name: left_out((name,), reason).column}

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
        missing = missing_values(file, self._parquet)
        super().__init__(file, schema, [group.num_rows for group in groups], missing)

    def _table(self, chunk: int, fields: list[str]) -> Any:
        return self._parquet.read_row_group(chunk, columns=fields, use_threads=False)


class IpcStore(ArrowStore):
    """An Arrow IPC file, also called Feather; see `Store` for what it offers."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the footer of an open file."""
        arrow = require("pyarrow", "formats", "Arrow")
        self._arrow = arrow
        self._reader = arrow.ipc.open_file(file)
        missing: set[str] = set()
        lengths = []
        for index in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(index)
            batch.validate(full=True)
            lengths.append(batch.num_rows)
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                missing.update(_with_nulls(column, name))
        super().__init__(file, self._reader.schema, lengths, frozenset(missing))

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


def _leaves_of(schema: Any, missing: frozenset[str]) -> dict[str, Leaf]:
    """Describe field by field, since awkward knows no form for some types, and then for none of the schema."""
    import awkward as ak

    arrow = require("pyarrow", "formats", "Arrow")
    leaves: dict[str, Leaf] = {}
    for field in schema:
        try:
            found = leaves_of(ak.from_arrow_schema(arrow.schema([field])), missing)
        except Exception:  # a type that awkward does not know
            found = {field.name: left_out((field.name,), f"{field.type}: not a number")}
        for name in found:
            if name in leaves:
                raise ConfigError(f"two columns are called '{name}'", hint="give them names of their own")
        leaves.update(found)
    return leaves


def _with_nulls(array: Any, name: str) -> Iterator[str]:
    """Yield the columns within an Arrow array in which values are missing."""
    types = require("pyarrow", "formats", "Arrow").types
    if types.is_struct(array.type):
        for field, member in zip(array.type, array.flatten(), strict=True):
            yield from _with_nulls(member, f"{name}.{field.name}")
    elif types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        yield from _with_nulls(array.flatten(), name)
    elif array.null_count:
        yield name
