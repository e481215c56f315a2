"""The readable columns of an RNTuple, and the stored columns that each of them needs.

    leaves = leaves_of(schema)
    leaves["Muon.pt"].column.kind, leaves["Muon.pt"].lists

Fields of records have their full path as name (`Muon.pt`). Fields that ROOT's importer creates for collections
(`_collection0`) are ignored, because each of their members is a field of its own. Arrays of arrays are flattened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.io.columns import Column, Kind
from mlaas4hep.io.rntuple.encodings import Encoding, UnsupportedRNTuple
from mlaas4hep.io.rntuple.envelopes import DamagedMetadata
from mlaas4hep.io.rntuple.records import Role, Schema

IMPORTED = re.compile(r"_collection\d+")
"""Names of the fields that ROOT's importer creates for collections."""

_BASE_CLASS = re.compile(r":_\d+")
_TUPLE_MEMBER = re.compile(r"_\d+")
_MAX_DEPTH = 100
_MAX_SIZE = 1 << 31


class StoredColumn(NamedTuple):
    """A stored column, and its number of elements.

    Attributes:
        number: number of the column, in its first representation.
        parent: number of the column with the offsets of the lists that contain its elements; -1: not in lists.
        factor: elements per item of these lists, or per entry.
    """

    number: int
    parent: int
    factor: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """A readable column of an RNTuple.

    Attributes:
        column: its description.
        lists: the columns with the offsets of the lists around the values, outermost first.
        present: for optional values, the column with the offsets of lists of 0 or 1 values; None: not optional.
        values: the column with the values; None if there is none, or uproot must read the column.
        counts_lists: whether the values are the lengths of lists, whose offsets are in the column `values`.
    """

    column: Column
    lists: tuple[StoredColumn, ...] = ()
    present: StoredColumn | None = None
    values: StoredColumn | None = None
    counts_lists: bool = False

    @property
    def stored(self) -> list[StoredColumn]:
        """All stored columns that are needed."""
        return [*self.lists, *([self.present] if self.present else []), *([self.values] if self.values else [])]


class _Place(NamedTuple):
    """Position of a field: its path, its dimensions (0: variable length), and the offsets of the lists around it."""

    path: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    lists: tuple[StoredColumn, ...] = ()
    parent: int = -1
    factor: int = 1
    present: StoredColumn | None = None
    is_optional: bool = False
    is_plain: bool = True  # whether the page reader supports it
    depth: int = 0

    def below(self, *names: str) -> _Place:
        return self._replace(path=(*self.path, *names), depth=self.depth + 1)

    def column(self, number: int) -> StoredColumn:
        return StoredColumn(number, self.parent, self.factor)


def leaves_of(schema: Schema) -> dict[str, Leaf]:
    """Return the columns by name, in the order of the fields.

    Raises:
        UnsupportedRNTuple: a combination of fields is unknown, or two columns have the same name.
        DamagedMetadata: fields or columns refer to others that do not exist.
    """
    leaves = list(_Fields(schema).leaves())
    by_name = {leaf.column.name: leaf for leaf in leaves}
    if len(by_name) < len(leaves):
        raise UnsupportedRNTuple("two columns have the same name")
    return by_name


class _Fields:
    """The tree of fields."""

    def __init__(self, schema: Schema) -> None:
        self._fields = schema.fields
        self._columns = schema.columns
        count = len(schema.fields)
        self._children: list[list[int]] = [[] for _ in range(count)]
        self._columns_of: list[list[int]] = [[] for _ in range(count)]
        self._top: list[int] = []
        for number, field in enumerate(schema.fields):
            if not (field.parent < count and field.source < count):
                raise DamagedMetadata("a field refers to a field that does not exist")
            (self._top if field.parent == number else self._children[field.parent]).append(number)
        for number, column in enumerate(schema.columns):
            if column.field >= count:
                raise DamagedMetadata("a column belongs to a field that does not exist")
            if column.representation == 0:
                self._columns_of[column.field].append(number)

    def leaves(self) -> Iterator[Leaf]:
        names = [self._fields[number].name for number in self._top]
        if len(set(names)) < len(names):
            raise UnsupportedRNTuple("two fields have the same name")
        for number, name in zip(self._top, names, strict=True):
            if not IMPORTED.fullmatch(name):
                yield from self._below(number, _Place((name,)))

    def _below(self, number: int, place: _Place) -> Iterator[Leaf]:
        """Yield the columns of a field."""
        if place.depth > _MAX_DEPTH:
            raise DamagedMetadata("its fields are nested too deeply")
        role = self._fields[number].role
        if role is Role.LEAF:
            yield from self._leaf(number, place)
        elif role is Role.COLLECTION:
            yield from self._collection(number, place)
        elif role is Role.RECORD:
            for name, member in self._members(number):
                yield from self._below(member, place.below(name))
        elif role is Role.VARIANT:
            yield _unreadable(place, "several types in one column")
        else:
            yield _unreadable(place, f"{self._fields[number].type.decode()}: objects that are stored as a whole")

    def _leaf(self, number: int, place: _Place) -> Iterator[Leaf]:
        field = self._fields[number]
        if field.repetition:
            children = self._children[number]
            factor = place.factor * field.repetition
            if factor > _MAX_SIZE:
                raise DamagedMetadata(f"field '{field.name}' has arrays of {factor} numbers")
            inner = place._replace(
                sizes=(*place.sizes, field.repetition),
                factor=factor,
                is_plain=place.is_plain and not place.is_optional,
                depth=place.depth + 1,
            )
            # an array has one subfield, a bitset has none
            yield from self._below(children[0], inner) if children else self._numbers(number, inner)
            return
        source = field.source
        if not self._columns_of[source] and len(self._children[source]) == 1:  # atomic numbers and enumerations
            (source,) = self._children[source]
        yield from self._numbers(source, place, b"RNTupleCardinality" in field.type)

    def _numbers(self, number: int, place: _Place, counts_lists: bool = False) -> Iterator[Leaf]:
        """Yield the column of a field without subfields."""
        columns = self._columns_of[self._fields[number].source]
        encodings = [self._columns[column].encoding for column in columns]
        if len(encodings) == 2 and (second := encodings[1]) is not None and second.is_char:
            yield _unreadable(place, "text")
            return
        if len(encodings) != 1 or (encoding := encodings[0]) is None or encoding.is_index != counts_lists:
            raise UnsupportedRNTuple(f"field '{self._fields[number].name}' has unknown columns")
        yield self._described(place, columns[0], encoding)

    def _described(self, place: _Place, number: int, encoding: Encoding) -> Leaf:
        column = _described(place, encoding.declared)
        if column.kind is Kind.OTHER or not place.is_plain:
            return Leaf(column)
        return Leaf(column, place.lists, place.present, place.column(number), encoding.is_index)

    def _collection(self, number: int, place: _Place) -> Iterator[Leaf]:
        children = self._children[number]
        source = self._fields[number].source
        columns = self._columns_of[source]
        encoding = self._columns[columns[0]].encoding if columns else None
        if len(children) != 1 or encoding is None or not encoding.is_index:
            raise UnsupportedRNTuple(f"field '{self._fields[number].name}' is a collection of an unknown kind")
        ends = place.column(columns[0])
        inner = place._replace(parent=ends.number, factor=1, depth=place.depth + 1)
        if self._fields[source].type.startswith(b"std::optional"):
            is_plain = place.is_plain and not place.is_optional and not any(place.sizes)
            inner = inner._replace(present=ends, is_optional=True, is_plain=is_plain)
        else:  # optional lists are left to uproot
            is_plain = place.is_plain and not place.is_optional
            sizes, lists = (*place.sizes, 0), (*place.lists, ends)
            inner = inner._replace(sizes=sizes, lists=lists, is_optional=False, is_plain=is_plain)
        yield from self._below(children[0], inner)

    def _members(self, number: int) -> list[tuple[str, int]]:
        """Return the names and numbers of the subfields of a record; those of its base classes come last."""
        members, pending = [], [number]
        while pending:
            for child in self._children[pending.pop()]:
                if _BASE_CLASS.fullmatch(self._fields[child].name):
                    pending.append(child)
                else:
                    members.append(child)
        names = [self._fields[member].name for member in members]
        if all(map(_TUPLE_MEMBER.fullmatch, names)):
            names = list(map(str, range(len(members))))
        names = [name[1:] if _TUPLE_MEMBER.fullmatch(name) else name for name in names]
        if len(set(names)) < len(names):
            raise UnsupportedRNTuple("two members of a record have the same name")
        return list(zip(names, members, strict=True))


def _unreadable(place: _Place, reason: str) -> Leaf:
    return Leaf(Column.unsupported(".".join(place.path), reason))


def _described(place: _Place, dtype: np.dtype[Any]) -> Column:
    """Return the column of numbers at a position in the tree of fields."""
    name, sizes = ".".join(place.path), place.sizes
    if place.is_optional and dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    if all(sizes) or len(sizes) == 1:
        is_list = not all(sizes)
        return Column.of(name, dtype, () if is_list else sizes, is_list)
    if len(sizes) > 2:
        return Column.unsupported(name, "lists of lists of lists")
    return Column(name, Kind.NESTED, dtype, sizes[1])
