"""Columns for the members of structs in a TTree: names, descriptions and values.

    records = Records.of({"p": tree["p"], "met": tree["met"]})
    records.names                                       # p.px and p.py of a leaf list px/F:py/F, and met
    records.unpack(["p.px", "met"], values)             # values of the branches in `records.stored`

A branch is read once, as bytes, for all of its columns. The names of nested members are joined by dots, as in Parquet
and RNTuples. Members of base classes have no prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

import numpy as np

from mlaas4hep.errors import Unreachable
from mlaas4hep.io.columns import Column, Jagged, Kind, Nested, Values, lists_of
from mlaas4hep.io.records.branches import Form, Record, class_of, decode, record_of
from mlaas4hep.io.records.types import Undecodable, numbers_of

_BYTES = "\0"
"""Suffix of the name of the bytes of a branch of structs."""


@dataclass(frozen=True, slots=True)
class Member:
    """A column that is a member of the structs of a branch.

    Attributes:
        branch: name of the branch.
        index: index of the number in a struct.
        column: description of the column.
    """

    branch: str
    index: int
    column: Column


def members_of(branch: str, record: Record) -> list[Member]:
    """Return the columns of a branch of structs, in the order in which they are stored."""
    prefix = branch.removesuffix(".")
    members = []
    for index, (path, number) in enumerate(numbers_of(record.content)):
        name = ".".join((prefix, *path)) if path else branch
        members.append(Member(branch, index, Column.of(name, number.dtype, number.shape, record.form is not Form.ROWS)))
    return members


def unique_names(branches: Iterable[Sequence[Member]], taken: Iterable[str]) -> dict[str, Member]:
    """Return the members of each branch by unique names, given the names of other branches that are taken.

    If a name is taken, a slash instead of a dot follows the branch, and if that is taken too, a number is appended. Of
    members with the same name, the member of the derived class keeps it, as in C++.
    """
    by_name: dict[str, Member] = {}
    used = set(taken)
    for members in branches:
        names = [_unique(member, used) for member in reversed(members)]
        for name, member in zip(reversed(names), members, strict=True):
            by_name[name] = replace(member, column=replace(member.column, name=name))
    return by_name


def _unique(member: Member, used: set[str]) -> str:
    """Return an unused name, and add it to `used`."""
    name = member.column.name
    if name in used:
        prefix = member.branch.removesuffix(".")
        name = f"{prefix}/{name[len(prefix) + 1 :]}"
    unique = next(name for name in chain([name], (f"{name}#{number}" for number in count(2))) if name not in used)
    used.add(unique)
    return unique


class Records:
    """The branches of a tree that hold structs, and their columns.

    Attributes:
        names: all columns of the tree in the order of its branches; None for columns that are not members of structs.
    """

    def __init__(self) -> None:
        """Describe a tree without structs; see `of`."""
        self.names: dict[str, Member | None] = {}
        self._records: dict[str, Record] = {}
        self._branches: Mapping[str, Any] = {}
        self._reasons: dict[str, str] = {}

    @classmethod
    def of(cls, branches: Mapping[str, Any]) -> Records:
        """Describe the structs among uproot's branches, given by name."""
        self = cls()
        self._branches = branches
        for name, branch in branches.items():
            try:
                record = record_of(branch)
            except Undecodable as error:
                self._reasons[name] = f"{class_of(branch)}: {error}"
            except Unreachable:
                raise
            except Exception:  # damaged metadata, which reading the branch reports
                continue
            else:
                if record is not None and any(numbers_of(record.content)):
                    self._records[name] = record
        members = [members_of(name, record) for name, record in self._records.items()]
        by_branch: dict[str, dict[str, Member | None]] = {name: {name: None} for name in branches}
        by_branch.update({name: {} for name in self._records})
        for name, member in unique_names(members, branches.keys() - self._records.keys()).items():
            by_branch[member.branch][name] = member
        self.names = {name: member for columns in by_branch.values() for name, member in columns.items()}
        return self

    def stored_record(self, name: str) -> Record | None:
        """Return the description of the structs with a name from `stored`; None if these are not structs."""
        return self._records[branch_of(name)] if name.endswith(_BYTES) else None

    def stored(self, names: Iterable[str]) -> list[str]:
        """Return the names to read for some columns: branches, or the bytes of branches of structs."""
        if not self._records:
            return list(names)
        members = ((name, self.names.get(name)) for name in names)
        return list(dict.fromkeys(member.branch + _BYTES if member else name for name, member in members))

    def unpack(self, names: Iterable[str], stored: dict[str, Values]) -> dict[str, Values]:
        """Return columns, given the values of the names from `stored`; see `branches.decode`."""
        if not self._records:
            return stored
        columns: dict[str, Values] = {}
        by_branch: dict[str, dict[str, Member]] = {}
        for name in names:
            member = self.names.get(name)
            if member is None:
                columns[name] = stored[name]
            else:
                by_branch.setdefault(member.branch, {})[name] = member
        for branch, members in by_branch.items():
            columns.update(unpack(members, self._records[branch], stored[branch + _BYTES]))
        return columns

    def check(self, name: str, values: Values) -> None:
        """Raise Undecodable if the bytes of a branch of structs do not match its description; accept other values."""
        if record := self.stored_record(name):
            unpack({member.column.name: member for member in members_of(branch_of(name), record)}, record, values)

    def describe(self, name: str) -> Column | None:
        """Return the description of a member of a struct, or of a struct that cannot be decoded; else None.

        The first basket is compared with the description of the class, because custom streamers may differ from it.
        """
        member = self.names[name]
        if member is None:
            reason = self._reasons.get(name)
            return Column.unsupported(name, reason) if reason else None
        if member.branch not in self._reasons:
            self._reasons[member.branch] = self._first_mismatch(member.branch)
        reason = self._reasons[member.branch]
        return Column.unsupported(name, reason) if reason else member.column

    def _first_mismatch(self, name: str) -> str:
        """Return why the first basket of a branch does not match its description; "" if it does, or cannot be read."""
        branch, record = self._branches[name], self._records[name]
        if record.size or not branch.num_baskets:
            return ""
        try:
            basket = branch.basket(0)
            lists = Jagged(np.asarray(basket.byte_offsets, np.int64), np.asarray(basket.data))
            self.check(name + _BYTES, lists)
        except Undecodable as error:
            return f"{class_of(branch)}: its bytes do not match the description of the class: {error}"
        except Unreachable:
            raise
        except Exception:  # damage, which reading the branch reports
            pass
        return ""


def branch_of(name: str) -> str:
    """Return the name of the branch for a name from `Records.stored`."""
    return name.removesuffix(_BYTES)


def unpack(members: Mapping[str, Member], record: Record, raw: Values) -> dict[str, Values]:
    """Return the values of some members of a branch by name of the column; see `branches.decode`."""
    wanted = sorted({member.index for member in members.values() if member.column.kind is not Kind.OTHER})
    numbers = decode(record, raw, wanted)
    return {name: _as_column(numbers[one.index], one.column) for name, one in members.items() if one.index in numbers}


def _as_column(values: Values, column: Column) -> Values:
    if isinstance(values, Jagged):
        return lists_of(values.offsets, values.content)
    if isinstance(values, Nested) or column.kind is Kind.FLAT:
        return values
    return values.reshape(len(values), column.size)
