"""Columns as awkward arrays, and back, and what columns an awkward form has.

    lists = to_awkward(Jagged(np.array([0, 2, 3]), pt))
    from_awkward(lists[:, :1])
    leaves_of(array.layout.form)      # {"Muon.pt": Leaf(Column("Muon.pt", JAGGED, float32), ("Muon", "pt")), ...}

awkward is imported by the first call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError
from mlaas4hep.io.columns import Column, Jagged, Kind, Values

if TYPE_CHECKING:
    import awkward as ak


def to_awkward(values: Values) -> ak.Array:
    """Return a column as an awkward array: (events,), (events, size), or lists."""
    import awkward as ak

    if isinstance(values, Jagged):
        return ak.unflatten(ak.Array(values.content), values.counts)
    return ak.Array(values)


def from_awkward(array: Any, dtype: np.dtype[Any] | None = None) -> Values:
    """Return an awkward array as a column: (events,) or (events, size), or `Jagged`.

    A missing list becomes an empty one.

    Args:
        dtype: of the numbers; where it is real, a missing number becomes NaN. None: their own type, but float64 where
            numbers may be missing (a missing condition is False).

    Raises:
        ConfigError: it holds no numbers, or lists of lists; or whole numbers are missing.
    """
    import awkward as ak

    array = ak.Array(array)
    if array.ndim == 1:
        return _numbers(array, dtype)
    sizes = _regular_sizes(array)
    if len(sizes) == array.ndim - 1:
        events, size = len(array), math.prod(sizes)
        for _ in sizes:
            array = ak.flatten(array)
        numbers = _numbers(array, dtype)
        if len(numbers) != events * size:
            raise ConfigError(f"whole arrays of {size} numbers are missing", hint="leave it out: --exclude-branches")
        return numbers.reshape(events, size)
    if array.ndim != 2:
        raise ConfigError(f"values of type {array.type} are neither a number nor a list of numbers an event")
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(ak.to_numpy(ak.fill_none(ak.num(array), 0)), out=offsets[1:])
    return Jagged(offsets, _numbers(ak.flatten(array), dtype))


def _regular_sizes(array: Any) -> list[int]:
    """Return the lengths of the lists of one length that an event consists of, up to the first of any length."""
    import awkward as ak

    sizes, kind = [], array.type.content
    while isinstance(kind, (ak.types.OptionType, ak.types.RegularType)):
        if isinstance(kind, ak.types.RegularType):
            sizes.append(kind.size)
        kind = kind.content
    return sizes


def _numbers(array: Any, dtype: np.dtype[Any] | None) -> np.ndarray:
    import awkward as ak

    numbers = ak.to_numpy(array)
    if numbers.dtype.kind not in "biuf":
        raise ConfigError(f"values of type {array.type} are no numbers")
    if not isinstance(numbers, np.ma.MaskedArray):
        return np.asarray(numbers) if dtype is None else numbers.astype(dtype, copy=False)
    if dtype is None:
        dtype = np.dtype(bool if numbers.dtype.kind == "b" else np.float64)
    if dtype.kind == "f":
        return np.ma.filled(numbers.astype(dtype), np.nan)
    if dtype.kind != "b" and np.ma.getmaskarray(numbers).any():
        raise ConfigError("whole numbers are missing, which the file does not say", hint="use --exclude-branches")
    return np.asarray(numbers.filled(0).astype(dtype, copy=False))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column of an awkward array.

    Attributes:
        column: what it is.
        path: the fields that lead to it.
        is_rounded: whether its numbers are whole ones of 64 bits, and real only since some are missing.
    """

    column: Column
    path: tuple[str, ...]
    is_rounded: bool = False

    def of(self, array: Any) -> Values:
        """Return the column's values out of an array of records.

        Raises:
            ConfigError: a list lacks whole numbers although the file has none missing, or does not say so.
        """
        values = from_awkward(array[self.path], self.column.dtype)
        if self.is_rounded and (np.abs(values.content if isinstance(values, Jagged) else values) >= 2**53).any():
            _say_that_it_is_rounded(self.column.name)
        return values


@cache
def _say_that_it_is_rounded(name: str) -> None:
    """Say it once, however many files and chunks there are."""
    console.notice(f"column '{name}' lacks some values and so becomes float64, which rounds its numbers beyond 2^53")


def read_leaves(
    leaves: Mapping[str, Leaf], names: Iterable[str], fetch: Callable[[list[str]], Any]
) -> dict[str, Values]:
    """Return the values of some columns; `fetch` returns an array of the top-level fields that it is given."""
    array = fetch(list(dict.fromkeys(leaves[name].path[0] for name in names)))
    return {name: leaves[name].of(array) for name in names}


def leaves_of(form: Any, missing: frozenset[str] | None = None) -> dict[str, Leaf]:
    """Return the columns of a record form by name; fields of records within are joined by dots.

    Args:
        form: of the events.
        missing: columns in which values are missing; whole numbers become float64 there, to have NaN. None: all columns
            whose type allows it.
    """
    found = {}
    for field, content in zip(form.fields, form.contents, strict=True):
        for leaf in _leaves(content, (field,), [], False, missing):
            found[leaf.column.name] = leaf
    return found


def _leaves(
    form: Any, path: tuple[str, ...], lists: list[int], optional: bool, missing: frozenset[str] | None
) -> Iterator[Leaf]:
    """Walk down a form; `lists` has the length of every list on the way, 0 where it varies."""
    import awkward as ak

    if form.parameter("__array__") in ("string", "bytestring", "char", "byte", "categorical"):
        yield left_out(path, "text")
    elif form.is_record:
        for field, content in zip(form.fields, form.contents, strict=True):
            yield from _leaves(content, (*path, field), lists, optional, missing)
    elif form.is_option:
        yield from _leaves(form.content, path, lists, True, missing)
    elif form.is_indexed:
        yield from _leaves(form.content, path, lists, optional, missing)
    elif form.is_list:
        length = form.size if isinstance(form, ak.forms.RegularForm) else 0
        optional = optional and length > 0  # a missing list of any length is an empty one
        yield from _leaves(form.content, path, [*lists, length], optional, missing)
    elif form.is_numpy:
        dtype = ak.types.numpytype.primitive_to_dtype(form.primitive)
        if optional and dtype.kind in "biu" and (missing is None or ".".join(path) in missing):
            leaf = _leaf(path, np.dtype(np.float64), [*lists, *form.inner_shape])
            yield replace(leaf, is_rounded=dtype.itemsize == 8)
        else:
            yield _leaf(path, dtype, [*lists, *form.inner_shape])
    else:
        yield left_out(path, "several types in one column" if form.is_union else "no type")


def _leaf(path: tuple[str, ...], dtype: np.dtype[Any], lists: list[int]) -> Leaf:
    name = ".".join(path)
    if dtype.kind not in "biuf":
        return left_out(path, f"{dtype}: not a number")
    if not lists:
        return Leaf(Column(name, Kind.FLAT, dtype), path)
    if all(lists):
        return Leaf(Column(name, Kind.FIXED, dtype, size=math.prod(lists)), path)
    if len(lists) > 1:
        return left_out(path, "lists of lists")
    return Leaf(Column(name, Kind.JAGGED, dtype), path)


def left_out(path: tuple[str, ...], reason: str) -> Leaf:
    """Return a leaf that cannot be a feature."""
    return Leaf(Column(".".join(path), Kind.OTHER, np.dtype(object), reason=reason), path)
