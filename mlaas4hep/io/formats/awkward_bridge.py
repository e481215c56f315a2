"""Convert columns to awkward arrays and back, and describe the columns of an awkward form.

    lists = to_awkward(Jagged(np.array([0, 2, 3]), pt))
    from_awkward(lists[:, :1])
    leaves_of(array.layout.form)      # {"Muon.pt": LeafColumn(Column("Muon.pt", JAGGED, float32), ("Muon", "pt")), ...}

awkward is imported at the first call.
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
from mlaas4hep.io.columns import Column, Jagged, Kind, Nested, Values, lists_of, offsets_of
from mlaas4hep.unique_names import check_unique

if TYPE_CHECKING:
    import awkward as ak


def to_awkward(values: Values) -> ak.Array:
    """Return a column as an awkward array of shape (events,) or (events, size), or of lists, or of lists of lists."""
    import awkward as ak

    if isinstance(values, Nested):
        return ak.unflatten(to_awkward(values.lists), values.counts)
    if isinstance(values, Jagged):
        return ak.unflatten(ak.Array(values.content), values.counts)
    return ak.Array(values)


def from_awkward(array: Any, dtype: np.dtype[Any] | None = None) -> Values:
    """Return an awkward array as a column: an array of shape (events,) or (events, size), `Jagged` or `Nested`.

    A missing list becomes an empty list.

    Args:
        dtype: type of the numbers. With a floating type, missing numbers become NaN. None: the type of the array, but
            float64 if numbers may be missing; missing bools become False.

    Raises:
        ConfigError: the array does not hold numbers, or is nested too deeply, or integers are missing.
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
            raise ConfigError(
                f"arrays of {size} numbers are missing", hint="exclude the column with --exclude-branches"
            )
        return numbers.reshape(events, size)
    if array.ndim not in (2, 3):
        raise ConfigError(f"values of type {array.type} are neither numbers, lists of numbers nor lists of such lists")
    counts = ak.to_numpy(ak.fill_none(ak.num(array), 0))
    content = from_awkward(ak.flatten(array), dtype)
    if isinstance(content, Jagged):
        return Nested(offsets_of(counts), content)
    assert isinstance(content, np.ndarray)
    return lists_of(offsets_of(counts), content)


def _regular_sizes(array: Any) -> list[int]:
    """Return the sizes of the regular dimensions of an event, up to the first variable one."""
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
        raise ConfigError(f"values of type {array.type} are not numbers")
    if not isinstance(numbers, np.ma.MaskedArray):
        return np.asarray(numbers) if dtype is None else numbers.astype(dtype, copy=False)
    if dtype is None and numbers.dtype.kind == "b":
        return np.asarray(numbers.filled(False))
    dtype = np.dtype(np.float64) if dtype is None else dtype
    if dtype.kind == "f":
        return np.ma.filled(numbers.astype(dtype), np.nan)
    if np.ma.getmaskarray(numbers).any():
        raise undeclared_gaps(dtype)
    return np.asarray(numbers.filled(0).astype(dtype, copy=False))


def undeclared_gaps(dtype: np.dtype[Any]) -> ConfigError:
    """Return the error for missing bools or integers, of the given type, in a column that is declared to have none."""
    noun = "bools" if dtype.kind == "b" else "integers"
    return ConfigError(
        f"{noun} are missing, although the metadata declare none", hint="exclude the column with --exclude-branches"
    )


@dataclass(frozen=True, slots=True)
class LeafColumn:
    """A column of an awkward array of records.

    Attributes:
        column: description of the column.
        path: names of the nested fields that lead to it.
        is_rounded: whether 64-bit integers are converted to float64, because some are missing.
    """

    column: Column
    path: tuple[str, ...]
    is_rounded: bool = False

    def read(self, array: Any) -> Values:
        """Return the values of the column in an array of records.

        Raises:
            ConfigError: integers are missing in a list, although the metadata declare none.
        """
        values = from_awkward(array[self.path], self.column.dtype)
        self.warn_of_rounding(values)
        return values

    def warn_of_rounding(self, values: Values) -> None:
        """Print a warning if float64 cannot represent values that are stored as 64-bit integers."""
        if self.is_rounded and (np.abs(_numbers_of(values)) >= 2**53).any():
            _warn_of_rounding(self.column.name)


def _numbers_of(values: Values) -> np.ndarray:
    """Return all numbers of a column."""
    if isinstance(values, Nested):
        values = values.lists
    return values.content if isinstance(values, Jagged) else values


@cache
def _warn_of_rounding(name: str) -> None:
    """Print a warning once per column, not once per file and chunk."""
    console.notice(f"column '{name}' has missing values, so it becomes float64, which rounds numbers beyond 2^53")


def read_leaves(
    leaves: Mapping[str, LeafColumn], names: Iterable[str], fetch: Callable[[list[str]], Any]
) -> dict[str, Values]:
    """Return the values of some columns. `fetch` reads the top-level fields with these names as an array of records."""
    array = fetch(list(dict.fromkeys(leaves[name].path[0] for name in names)))
    return {name: leaves[name].read(array) for name in names}


def leaves_of(form: Any, missing: frozenset[str] | None = None) -> dict[str, LeafColumn]:
    """Return the columns of a record form by name. Names of nested fields are joined by dots.

    Args:
        missing: names of the columns with missing values, whose integers become float64, so that they can be NaN.
            None: all columns whose type is optional.

    Raises:
        ConfigError: two columns have the same name, like a field `a.b` and the field `b` of the record `a`.
    """
    leaves = [
        leaf
        for field, content in zip(form.fields, form.contents, strict=True)
        for leaf in _leaves(content, (field,), [], False, missing)
    ]
    check_unique(leaf.column.name for leaf in leaves)
    return {leaf.column.name: leaf for leaf in leaves}


def _leaves(
    form: Any, path: tuple[str, ...], lists: list[int], optional: bool, missing: frozenset[str] | None
) -> Iterator[LeafColumn]:
    """Yield the leaves of a form. `lists` are the sizes of the enclosing lists, 0 for variable ones."""
    import awkward as ak

    if form.parameter("__array__") in ("string", "bytestring", "char", "byte", "categorical"):
        yield unreadable_leaf(path, "text")
    elif form.is_record:
        for field, content in zip(form.fields, form.contents, strict=True):
            yield from _leaves(content, (*path, field), lists, optional, missing)
    elif form.is_option:
        yield from _leaves(form.content, path, lists, True, missing)
    elif form.is_indexed:
        yield from _leaves(form.content, path, lists, optional, missing)
    elif form.is_list:
        length = form.size if isinstance(form, ak.forms.RegularForm) else 0
        optional = optional and length > 0  # a missing list of variable length becomes an empty one
        yield from _leaves(form.content, path, [*lists, length], optional, missing)
    elif form.is_numpy:
        dtype = ak.types.numpytype.primitive_to_dtype(form.primitive)
        if optional and dtype.kind in "biu" and (missing is None or ".".join(path) in missing):
            leaf = _leaf(path, np.dtype(np.float64), [*lists, *form.inner_shape])
            yield replace(leaf, is_rounded=dtype.itemsize == 8)
        else:
            yield _leaf(path, dtype, [*lists, *form.inner_shape])
    else:
        yield unreadable_leaf(path, "several types in one column" if form.is_union else "unknown type")


def _leaf(path: tuple[str, ...], dtype: np.dtype[Any], lists: list[int]) -> LeafColumn:
    if dtype.kind not in "biuf":
        return unreadable_leaf(path, f"{dtype}: not a number")
    name = ".".join(path)
    if all(lists) or len(lists) == 1:
        is_list = not all(lists)
        return LeafColumn(Column.of(name, dtype, () if is_list else tuple(lists), is_list), path)
    if len(lists) > 2:
        return unreadable_leaf(path, "lists of lists of lists")
    return LeafColumn(Column(name, Kind.NESTED, dtype, lists[1]), path)


def unreadable_leaf(path: tuple[str, ...], reason: str) -> LeafColumn:
    """Return a leaf for a column that cannot be a feature."""
    return LeafColumn(Column.unsupported(".".join(path), reason), path)
