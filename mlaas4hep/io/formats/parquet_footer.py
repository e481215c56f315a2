"""Parse the footer of a Parquet file: columns with missing values, and sizes of columns.

    footer = ParquetFooter(open("data.parquet", "rb"), pyarrow.parquet.ParquetFile("data.parquet"))
    footer.missing_values()         # {"n"}
    footer.sizes(["n", "Muon"])     # [480_000, 260_000], bytes per row group

pyarrow provides the same statistics, but if they are damaged, it aborts the process with an uncaught C++ exception
(pyarrow 26 does so for 13 of 3,000 footers with one to four random bytes). Therefore this module parses them itself.
The footer is a struct in Thrift's compact protocol, which Thrift's thrift-compact-protocol.md describes; Parquet's
parquet.thrift defines its fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, BinaryIO

from mlaas4hep.errors import require

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

_INTEGERS = (_I16, _I32, _I64)

_ROW_GROUPS = 4  # of FileMetaData
_COLUMNS = 1  # of RowGroup
_METADATA = 3  # of ColumnChunk
_TYPE, _VALUES, _UNCOMPRESSED, _STATISTICS, _SIZES = 1, 5, 6, 12, 16  # of ColumnMetaData
_NULL_COUNT = 3  # of Statistics
_LEVELS = 3  # of SizeStatistics: number of values at each definition level

_ITEM_BYTES = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
"""Bytes of a number by physical type: BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE."""


class ParquetFooter:
    """The column metadata in the footer of a Parquet file, which is parsed at first use."""

    def __init__(self, file: BinaryIO, parquet: Any) -> None:
        """Use the footer of a file that is open, also with pyarrow (`parquet`)."""
        self._file = file
        self._schema = parquet.schema
        self._leaves = {
            field.name: list(_leaves(field.type, field.name, field.nullable, False)) for field in parquet.schema_arrow
        }

    @cached_property
    def _groups(self) -> list[Any]:
        return list(_footer(self._file).get(_ROW_GROUPS, []))

    def missing_values(self) -> frozenset[str]:
        """Return the full names of the columns in which values are, or may be, missing.

        Only files of recent libraries (pyarrow 19) distinguish missing values in lists from empty lists. In other
        files, lists are assumed to have no missing values.
        """
        levels = [self._schema.column(index).max_definition_level for index in range(len(self._schema))]
        leaves = [leaf for leaves_of_field in self._leaves.values() for leaf in leaves_of_field]
        if len(leaves) != len(levels):
            return frozenset(name for name, _, _ in leaves)
        missing = set()
        for group in self._groups if any(levels) else []:
            for (name, optional, in_list), level, chunk in zip(leaves, levels, group[_COLUMNS], strict=True):
                metadata = chunk.get(_METADATA, {})
                if optional and name not in missing and _has_missing(metadata, level, optional, in_list):
                    missing.add(name)
        return frozenset(missing)

    def sizes(self, fields: Iterable[str]) -> list[int]:
        """Return the decoded bytes of some top-level fields for each row group."""
        wanted = set(fields)
        chosen = [field in wanted for field, leaves in self._leaves.items() for _ in leaves]
        return [
            sum(
                _bytes_of(chunk.get(_METADATA, {}))
                for is_chosen, chunk in zip(chosen, group[_COLUMNS], strict=True)
                if is_chosen
            )
            for group in self._groups
        ]


def _bytes_of(metadata: Mapping[int, Any]) -> int:
    """Return the decoded bytes of a column chunk, which may be many more than the encoded bytes."""
    item = _ITEM_BYTES.get(metadata.get(_TYPE, -1))
    return int(metadata.get(_UNCOMPRESSED, 0) if item is None else item * metadata.get(_VALUES, 0))


def _leaves(kind: Any, name: str, optional: int, in_list: bool) -> Iterator[tuple[str, int, bool]]:
    """Yield the columns of an Arrow type in the order of Parquet.

    Each is its full name, the number of optional levels within the innermost list, and whether the column has lists.
    """
    types = require("pyarrow", "formats", "Parquet").types
    if types.is_struct(kind):
        for field in (kind.field(index) for index in range(kind.num_fields)):
            yield from _leaves(field.type, f"{name}.{field.name}", optional + field.nullable, in_list)
    elif types.is_map(kind):
        for field in (kind.key_field, kind.item_field):
            yield from _leaves(field.type, f"{name}.{field.name}", field.nullable, True)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield from _leaves(kind.value_type, name, kind.value_field.nullable, True)
    else:
        yield name, optional, in_list


def _has_missing(metadata: Mapping[int, Any], level: int, optional: int, in_list: bool) -> bool:
    """Return whether a column chunk has missing values. `level` is the definition level of a present value."""
    nulls = metadata.get(_STATISTICS, {}).get(_NULL_COUNT)
    if nulls == 0 or not in_list:
        return bool(nulls != 0)
    return any(metadata.get(_SIZES, {}).get(_LEVELS, [])[level - optional : level])


def _footer(file: BinaryIO) -> Any:
    file.seek(-8, os.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    file.seek(-8 - length, os.SEEK_END)
    return _Struct(file.read(length)).read()


class _Struct:
    """Parser of a Thrift struct. Fields are identified by their numbers.

    A footer may have hundreds of thousands of numbers, so the loops avoid calls.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self) -> dict[int, Any]:
        data, fields, number = self._data, {}, 0
        while head := data[self._at]:
            self._at += 1
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            if kind in _INTEGERS and (byte := data[self._at]) < 128:  # most numbers are small
                self._at += 1
                fields[number] = byte >> 1 ^ -(byte & 1)
            else:
                fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        self._at += 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind in (_LIST, _SET):
            head = self._byte()
            length = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15) for _ in range(length)]
        if kind == _STRUCT:
            return self.read()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise ValueError(f"the footer has a field of type {kind}")  # maps are not in parquet.thrift

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]

    def _unsigned(self) -> int:
        data, at, value, shift = self._data, self._at, 0, 0
        while (byte := data[at]) > 127:
            value |= (byte & 127) << shift
            shift += 7
            at += 1
        self._at = at + 1
        return value | byte << shift

    def _integer(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
