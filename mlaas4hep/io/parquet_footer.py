"""In which columns of a Parquet file values are missing, out of its footer.

    missing_values(open("data.parquet", "rb"), pyarrow.parquet.ParquetFile("data.parquet"))     # {"n"}

pyarrow would tell it too, with its statistics; where a bit of these is damaged, it ends the process (a C++ exception
that nobody catches). So they are read here. The footer is a struct of Thrift's compact protocol, described in Thrift's
thrift-compact-protocol.md; what its fields mean is said in Parquet's parquet.thrift.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from mlaas4hep.errors import require

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

_ROW_GROUPS = 4  # of FileMetaData
_COLUMNS = 1  # of RowGroup
_METADATA = 3  # of ColumnChunk
_STATISTICS, _SIZES = 12, 16  # of ColumnMetaData
_NULL_COUNT = 3  # of Statistics
_LEVELS = 3  # of SizeStatistics: how many values there are of each definition level


def missing_values(file: BinaryIO, parquet: Any) -> frozenset[str]:
    """Return the columns in which some values are missing, or may be, by their full names.

    Whether lists lack values, or are just empty, only files of newer libraries (pyarrow 19) tell apart; of others,
    lists count as whole.

    Args:
        file: the file.
        parquet: the same one, opened by pyarrow.
    """
    schema = parquet.schema
    levels = [schema.column(index).max_definition_level for index in range(len(schema))]
    leaves = [leaf for field in parquet.schema_arrow for leaf in _leaves(field.type, field.name, field.nullable, False)]
    if len(leaves) != len(levels):
        return frozenset(name for name, _, _ in leaves)
    found = set()
    for group in _footer(file).get(_ROW_GROUPS, []) if any(levels) else []:
        for (name, optional, in_list), level, chunk in zip(leaves, levels, group[_COLUMNS], strict=True):
            if optional and name not in found and _lacks_some(chunk.get(_METADATA, {}), level, optional, in_list):
                found.add(name)
    return frozenset(found)


def _leaves(kind: Any, name: str, optional: int, in_list: bool) -> Iterator[tuple[str, int, bool]]:
    """Yield the columns of an Arrow type in the order that Parquet has them.

    Yields:
        Full name; at how many levels within the innermost list values may be missing; whether there is a list.
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


def _lacks_some(metadata: Mapping[int, Any], level: int, optional: int, in_list: bool) -> bool:
    """Tell whether values are missing in a chunk of a column; `level` is the definition level of one that is there."""
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
    """Reads a struct from its first byte on; fields go by their numbers."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
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
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
