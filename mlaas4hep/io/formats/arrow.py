"""Read Parquet and Arrow IPC files (Feather) with pyarrow.

    ParquetReader(lambda: open("data.parquet", "rb")).load(0, ["MET_pt"])

Chunks are row groups or record batches. Lists become jagged columns; fields of structs have their full path as name
(`Muon.pt`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from threading import Lock
from typing import Any, BinaryIO

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.io.columns import Column, Columns, Values
from mlaas4hep.io.formats.arrow_columns import UnsupportedArray, read_column
from mlaas4hep.io.formats.awkward_bridge import LeafColumn, leaves_of, read_leaves, unreadable_leaf
from mlaas4hep.io.formats.parquet_footer import ParquetFooter
from mlaas4hep.unique_names import check_unique

_HASHED_BYTES = 65_536
"""Number of bytes at either end of a file that its identity depends on, besides its length."""


class ArrowReader:
    """Base class of the readers of both formats, which have a schema and chunks that can be read as Arrow tables."""

    def __init__(self, file: BinaryIO, schema: Any, lengths: Sequence[int], missing: frozenset[str]) -> None:
        self._file = file
        self.identity = identity_of(file)
        self._leaves = _leaves_of(schema, missing)
        self.columns: Mapping[str, Column] = {name: leaf.column for name, leaf in self._leaves.items()}
        self.edges: Sequence[int] = [0, *accumulate(length for length in lengths if length)]
        self._chunks = [chunk for chunk, length in enumerate(lengths) if length]

    def add_unreadable(self, name: str, reason: str) -> None:
        """Add the description of a column that cannot be read."""
        self.columns = {**self.columns, name: unreadable_leaf((name,), reason).column}

    def load(self, chunk: int, names: Sequence[str]) -> Columns:
        """See `ChunkReader`."""
        table = self._table(self._chunks[chunk], list(dict.fromkeys(self._leaves[name].path[0] for name in names)))
        columns: dict[str, Values] = {}
        for name in names:
            field, *path = self._leaves[name].path
            with suppress(UnsupportedArray):
                columns[name] = read_column(table.column(field), path, self._leaves[name].column)
                self._leaves[name].warn_of_rounding(columns[name])
        rest = [name for name in names if name not in columns]
        if rest:
            import awkward as ak

            columns.update(read_leaves(self._leaves, rest, lambda fields: ak.from_arrow(table.select(fields))))
        return {name: columns[name] for name in names}

    def sizes(self, names: Sequence[str]) -> list[int]:
        """See `ChunkReader`."""
        sizes = self._sizes(list(dict.fromkeys(self._leaves[name].path[0] for name in names)))
        return [sizes[chunk] for chunk in self._chunks]

    def _table(self, chunk: int, fields: list[str]) -> Any:
        raise NotImplementedError

    def _sizes(self, fields: list[str]) -> Sequence[int]:
        """Return the decoded bytes of some fields for each chunk, including empty chunks."""
        raise NotImplementedError

    def close(self) -> None:
        """See `ChunkReader`."""
        self._file.close()


class ParquetReader(ArrowReader):
    """Reader of a Parquet file; see `ChunkReader`."""

    def __init__(self, open_file: Callable[[], BinaryIO]) -> None:
        """Open a file and read its footer. The file is opened again by each further thread that reads."""
        self._new_parquet = require("pyarrow.parquet", "formats", "Parquet").ParquetFile
        self._open_file = open_file
        file = open_file()
        parquet = self._new_parquet(file)
        self._idle = [parquet]
        self._metadata = parquet.metadata
        groups = [self._metadata.row_group(index) for index in range(self._metadata.num_row_groups)]
        self._footer = ParquetFooter(file, parquet)
        missing = self._footer.missing_values()
        super().__init__(file, parquet.schema_arrow, [group.num_rows for group in groups], missing)

    def _table(self, chunk: int, fields: list[str]) -> Any:
        try:
            parquet = self._idle.pop()
        except IndexError:
            parquet = self._new_parquet(self._open_file(), metadata=self._metadata)
        try:
            return parquet.read_row_group(chunk, columns=fields, use_threads=False)
        finally:
            self._idle.append(parquet)

    def _sizes(self, fields: list[str]) -> list[int]:
        return self._footer.sizes(fields)


class IpcReader(ArrowReader):
    """Reader of an Arrow IPC (Feather) file; see `ChunkReader`."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the footer of an open file."""
        arrow = require("pyarrow", "formats", "Arrow")
        self._arrow = arrow
        self._reader = arrow.ipc.open_file(file)
        self._lock = Lock()
        missing: set[str] = set()
        lengths = []
        self._bytes: list[dict[str, int]] = []
        for index in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(index)
            batch.validate(full=True)
            lengths.append(batch.num_rows)
            self._bytes.append(dict(zip(batch.schema.names, map(_decoded_bytes, batch.columns), strict=True)))
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                missing.update(_with_nulls(column, name))
        super().__init__(file, self._reader.schema, lengths, frozenset(missing))

    def _table(self, chunk: int, fields: list[str]) -> Any:
        with self._lock:
            batch = self._reader.get_batch(chunk)
        return self._arrow.Table.from_batches([batch]).select(fields)

    def _sizes(self, fields: list[str]) -> list[int]:
        return [sum(sizes[field] for field in fields) for sizes in self._bytes]


def identity_of(file: BinaryIO) -> str:
    """Return a hash of the length of a file and of its first and last bytes, where formats store their index."""
    length = file.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(str(length).encode(), digest_size=16)
    for start in (0, max(length - _HASHED_BYTES, 0)):
        file.seek(start)
        digest.update(file.read(_HASHED_BYTES))
    file.seek(0)
    return digest.hexdigest()


def _leaves_of(schema: Any, missing: frozenset[str]) -> dict[str, LeafColumn]:
    """Describe the columns field by field, because awkward rejects the whole schema if it contains an unknown type."""
    import awkward as ak

    arrow = require("pyarrow", "formats", "Arrow")
    leaves: dict[str, LeafColumn] = {}
    for field in schema:
        try:
            leaves_of_field = leaves_of(ak.from_arrow_schema(arrow.schema([field])), missing)
        except ConfigError:
            raise
        except Exception:  # a type that awkward does not know
            leaves_of_field = {field.name: unreadable_leaf((field.name,), f"{field.type}: not a number")}
        check_unique([*leaves, *leaves_of_field])
        leaves.update(leaves_of_field)
    return leaves


def _with_nulls(array: Any, name: str) -> Iterator[str]:
    """Yield the names of the columns in an Arrow array that have missing values."""
    types = require("pyarrow", "formats", "Arrow").types
    if types.is_struct(array.type):
        for field, member in zip(array.type, array.flatten(), strict=True):
            yield from _with_nulls(member, f"{name}.{field.name}")
    elif types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        yield from _with_nulls(array.flatten(), name)
    elif array.null_count:
        yield name


def _decoded_bytes(array: Any) -> int:
    """Return the bytes that the numbers of an Arrow array take as NumPy arrays."""
    types = require("pyarrow", "formats", "Arrow").types
    if types.is_struct(array.type):
        return sum(map(_decoded_bytes, array.flatten()))
    if types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        return _decoded_bytes(array.flatten())
    return len(array) if types.is_boolean(array.type) else int(array.nbytes)
