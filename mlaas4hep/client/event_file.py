"""Events in files of data (ROOT, Parquet, all that `io` reads) as the rows that a client sends.

    with EventFile("events.root") as file:
        for events in file.read(["MET_pt", "Jet_pt", "Muon_pt_0"]):
            client.predict(events, "htautau")

A key is a branch, whose value may be a list, or one element of a list (`Muon_pt_0`; null where the list is shorter).
The file is read a stretch at a time. NaN becomes null; JSON cannot say infinite, so the largest float32 stands for it,
which models that were trained here take in the same way.
"""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.client.events import Events, rows_at_once
from mlaas4hep.closing import Closing
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.io import Jagged, Kind, open_source
from mlaas4hep.io.blocks import blocks
from mlaas4hep.io.columns import Columns, Values, slice_events
from mlaas4hep.io.formats import KNOWN
from mlaas4hep.io.location import ENDINGS, MAGIC, TEXT_DATA, is_url

_LARGEST = float(np.finfo(np.float32).max)


class _Pick(NamedTuple):
    """What a key stands for: a branch, or one element of it."""

    branch: str
    element: int | None


def is_event_file(path: str) -> bool:
    """Tell a file of data from one of JSON, {"keys": ..., "values": ...}: by its content, then by its name.

    Raises:
        FileUnreadable: it is neither, or cannot be read.
    """
    if is_url(path):
        return True
    name, head = path.lower(), _head(path) if os.path.isfile(path) else None
    if head and head.startswith(tuple(MAGIC)):
        return True
    if name.endswith(".json"):
        return False
    if name.endswith((".root", *ENDINGS, *TEXT_DATA)):
        return True
    if head is not None and not head.removeprefix(BOM_UTF8).lstrip().startswith((b"{", b"[")):
        raise FileUnreadable(f"{path} is neither JSON nor of a format with events", hint=f"these are {KNOWN}")
    return False


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error


class EventFile(Closing):
    """An open file of events.

    Args:
        path: path or URL.
        tree: name of the tree in a ROOT file.
        nevts: how many events, from the first; -1: all.

    Attributes:
        num_events: how many events there are, `nevts` at most.

    Raises:
        ConfigError: `nevts` is another number below 1.
        FileUnreadable: it cannot be read.
        TreeNotFound: there is no such tree.
    """

    def __init__(self, path: str, tree: str = "Events", nevts: int = -1) -> None:
        if nevts < 1 and nevts != -1:
            raise ConfigError(f"nevts is {nevts}, and must be more than 0, or -1 for all events")
        self._source = open_source(path, tree)
        self.num_events = min(nevts, self._source.num_entries) if nevts > 0 else self._source.num_entries

    def close(self) -> None:
        """Give back the file."""
        self._source.close()

    def read(self, keys: Sequence[str]) -> Iterator[Events]:
        """Yield the events in order, up to some thousands at a time.

        Args:
            keys: branches, or elements of branches with lists, in the order of the values of a row.

        Raises:
            BranchNotFound: a key is none of the file.
            ConfigError: a branch has no numbers.
            FileUnreadable: the file is damaged.
        """
        picks = [self._pick(key) for key in keys]
        names = list(dict.fromkeys(pick.branch for pick in picks))
        step = rows_at_once(len(keys))
        for begin, end in blocks(self._source.boundaries, self.num_events):
            columns = self._source.read(names, begin, end)
            for start in range(begin, end, step):
                rows = _rows(columns, picks, start - begin, min(start + step, end) - begin)
                yield Events(list(keys), rows, many=True, first=start)

    def _pick(self, key: str) -> _Pick:
        columns = self._source.columns
        if key not in columns and (parts := re.fullmatch(r"(.+)_(\d+)", key)):
            column = columns.get(parts[1])
            if column and column.kind in (Kind.JAGGED, Kind.FIXED):
                return _Pick(parts[1], int(parts[2]))
        if key in columns and columns[key].kind is Kind.OTHER:
            reason = columns[key].reason
            raise ConfigError(f"branch '{key}' of {self._source.location} has no numbers: {reason}")
        return _Pick(key, None)


def _rows(columns: Columns, picks: Sequence[_Pick], start: int, stop: int) -> list[list[Any]]:
    """Return the events start <= i < stop of columns, a list of Python numbers, None and lists each."""
    values = [_plain(slice_events(columns[branch], start, stop), element) for branch, element in picks]
    return list(map(list, zip(*values, strict=True)))


def _plain(values: Values, element: int | None) -> list[Any]:
    """Return the values of a branch, or one element of each of its lists, None where there is none."""
    if isinstance(values, Jagged):
        numbers, edges = _numbers(values.content), values.offsets.tolist()
        if element is None:
            return [numbers[begin:end] for begin, end in pairwise(edges)]
        return [numbers[begin + element] if begin + element < end else None for begin, end in pairwise(edges)]
    if values.ndim == 1:
        return _numbers(values)
    if element is not None:
        return _numbers(values[:, element]) if element < values.shape[1] else [None] * len(values)
    return [_numbers(row) for row in values]


def _numbers(values: np.ndarray) -> list[Any]:
    if values.dtype.kind == "b":
        return list(values.astype(np.int8).tolist())
    if values.dtype.kind != "f":
        return list(values.tolist())
    numbers = np.clip(values.astype(np.float64), -_LARGEST, _LARGEST).tolist()
    return [None if number != number else number for number in numbers]  # NaN alone differs from itself
