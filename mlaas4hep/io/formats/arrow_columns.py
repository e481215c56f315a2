"""Convert Arrow arrays to columns, without copying the numbers if possible.

    read_column(table.column("Muon"), ("pt",), Column("Muon.pt", Kind.JAGGED, np.dtype(np.float32)))

The result is the same as that of `awkward_bridge`, which converts the arrays that this module does not support.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlaas4hep.errors import require
from mlaas4hep.io.columns import Column, Jagged, Nested, Values, equal_offsets, lists_of, offsets_of
from mlaas4hep.io.formats.awkward_bridge import undeclared_gaps


class UnsupportedArray(Exception):
    """An Arrow array has a type, or missing values, that this module does not support."""


def read_column(chunks: Any, path: Sequence[str], column: Column) -> Values:
    """Return the values of a column.

    Args:
        chunks: a `pyarrow.ChunkedArray`.
        path: names of the fields of structs that lead to the column.
        column: description of the column, which determines the type of the numbers.

    Raises:
        UnsupportedArray: the array is not supported.
        ConfigError: integers or bools are missing, although the metadata declare none.
        ValueError: the lengths of lists are damaged.
    """
    array = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    types = require("pyarrow", "formats", "Arrow").types
    lists: list[np.ndarray] = []  # offsets of lists, from the outermost to the innermost
    sizes: list[int] = []  # length of each list; 0 if it varies
    names = list(path)
    while True:
        kind = array.type
        if types.is_struct(kind) and names:
            array = _field(array, names.pop(0))
        elif types.is_list(kind) or types.is_large_list(kind):
            offsets, array = _lists(array)
            lists.append(offsets)
            sizes.append(0)
        elif types.is_fixed_size_list(kind) and kind.list_size and not array.null_count:
            array = array.flatten()
            sizes.append(kind.list_size)
        else:
            break
    if names:
        raise UnsupportedArray(str(array.type))
    return _assemble(_numbers(array, column.dtype), lists, sizes, column)


def _field(array: Any, name: str) -> Any:
    """Return a field of an array of structs; it is missing where the struct is."""
    index = array.type.get_field_index(name)
    if index < 0:
        raise UnsupportedArray(f"no unique field '{name}'")
    return array.flatten()[index] if array.null_count else array.field(index)


def _lists(array: Any) -> tuple[np.ndarray, Any]:
    """Return the offsets of lists, int64 (lists + 1,), and their content. A missing list is empty."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    counts = np.diff(offsets)
    if (counts < 0).any() or offsets[0] < 0 or offsets[-1] > len(array.values):
        raise ValueError("the lengths of its lists are damaged")
    if not array.null_count:
        return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0])
    counts[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return offsets_of(counts), array.flatten()


def _numbers(array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Return numbers as an array of the given type, with NaN for missing ones."""
    kind, types = array.type, require("pyarrow", "formats", "Arrow").types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise UnsupportedArray(str(kind))
    if array.null_count and types.is_float16(kind):
        raise UnsupportedArray("float16 with missing values")
    if array.null_count and dtype.kind != "f":
        raise undeclared_gaps(dtype)
    if array.null_count and types.is_boolean(kind):
        array = array.cast("uint8")
    numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
    return numbers.astype(dtype, copy=False)


def _assemble(numbers: np.ndarray, lists: Sequence[np.ndarray], sizes: list[int], column: Column) -> Values:
    """Return the numbers in the lists and arrays that contain them.

    Args:
        lists: offsets of the lists of variable length, from the outermost to the innermost.
        sizes: length of each list around a number, 0 if it varies.
    """
    depth = column.kind.depth
    if depth == 0 and not lists:
        return numbers.reshape(-1, math.prod(sizes)) if sizes else numbers
    if sizes == [0] and depth == 1:
        return Jagged(lists[0], numbers)
    if sizes == [0, 0] and depth == 2:
        return Nested(lists[0], Jagged(lists[1], numbers))
    if len(sizes) == 2 and sizes[0] == 0 and depth == 2:
        return lists_of(lists[0], numbers.reshape(-1, sizes[1]))
    if len(sizes) == 2 and sizes[1] == 0 and depth == 2:
        events = (len(lists[0]) - 1) // sizes[0]
        return Nested(equal_offsets(events, sizes[0]), Jagged(lists[0], numbers))
    raise UnsupportedArray(f"{column.kind.value} column with lists of {sizes}")
