"""Read events from data files (ROOT, Parquet and the other formats of `io`) as the rows that a client sends.

    with EventFile("events.root:Events") as file:
        for events in file.read(["MET_pt", "Jet_pt", "Muon_pt_0"]):
            client.predict(events, "htautau")

A key is a branch, whose value may be a list, or one element of a list (`Muon_pt_0`; null if the list is shorter). The
file is read in blocks. NaN becomes null. JSON has no infinity; the largest float32 replaces it, which our models treat
in the same way.
"""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.client.bodies import opened
from mlaas4hep.client.events import Events, rows_per_request
from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.io import Kind, Nested, open_source
from mlaas4hep.io.blocks import split_into_blocks
from mlaas4hep.io.columns import Columns, Values, slice_events
from mlaas4hep.io.formats.detect import SUPPORTED_FORMATS
from mlaas4hep.io.storage.location import ENDINGS, TEXT_DATA, format_of, is_url, split_tree

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


class _KeySource(NamedTuple):
    """The branch that a key refers to, and the indices of an element of its lists; () for the whole branch.

    Two indices refer to a list of lists, one to the list of all its values.
    """

    branch: str
    indices: tuple[int, ...]


def is_event_file(path: str) -> bool:
    """Return whether a file is a data file, not JSON with {"keys": ..., "values": ...}; judged by content, then name.

    Raises:
        FileUnreadable: the file is neither, or cannot be read.
    """
    if is_url(path):
        return True
    path, tree = split_tree(path)
    if tree:
        return True
    name, head = path.lower(), None
    if os.path.isfile(path):
        with opened(Path(path)) as file:
            head = file.read(4096)
    if head and format_of(head):
        return True
    if name.endswith(".json"):
        return False
    if name.endswith((".root", *ENDINGS, *TEXT_DATA)):
        return True
    if head is not None and not head.removeprefix(BOM_UTF8).lstrip().startswith((b"{", b"[")):
        raise FileUnreadable(f"{path} is neither JSON nor a data file", hint=f"data formats: {SUPPORTED_FORMATS}")
    return False


class EventFile(Closeable):
    """An open file of events.

    Args:
        path: path or URL; a tree in it (`events.root:Events`) takes precedence over `tree`.
        tree: name of the tree in a ROOT file.
        nevts: number of events to read, from the first; -1: all.

    Attributes:
        num_events: number of events that will be read.

    Raises:
        ConfigError: `nevts` is invalid.
        FileUnreadable: the file cannot be read.
        TreeNotFound: the file has no tree of this name.
    """

    def __init__(self, path: str, tree: str = "Events", nevts: int = -1) -> None:
        if nevts < 1 and nevts != -1:
            raise ConfigError(f"nevts must be positive, or -1 for all events, not {nevts}")
        self._source = open_source(path, tree)
        self.num_events = min(nevts, self._source.num_entries) if nevts > 0 else self._source.num_entries

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def read(self, keys: Sequence[str]) -> Iterator[Events]:
        """Yield the events in order, in pieces that each fit into one request.

        Args:
            keys: branches, or elements of branches with lists, in the order of the values of a row.

        Raises:
            BranchNotFound: the file has no branch for a key.
            ConfigError: a branch is not numeric.
            FileUnreadable: the file is damaged.
        """
        sources = [self._key_source(key) for key in keys]
        names = list(dict.fromkeys(source.branch for source in sources))
        step = rows_per_request(len(keys))
        sizes = self._source.cluster_sizes(names)
        for begin, end in split_into_blocks(self._source.boundaries, self.num_events, sizes=sizes):
            columns = self._source.read(names, begin, end)
            for start in range(begin, end, step):
                rows = _rows(columns, sources, start - begin, min(start + step, end) - begin)
                yield Events(list(keys), rows, is_batch=True, first=start)

    def _key_source(self, key: str) -> _KeySource:
        columns = self._source.columns
        if key not in columns and (parts := re.fullmatch(r"(.+)_(\d+)", key)):
            column = columns.get(parts[1])
            if column and column.kind in (Kind.JAGGED, Kind.FIXED, Kind.NESTED):
                return _KeySource(parts[1], (int(parts[2]),))
        if key not in columns and (parts := re.fullmatch(r"(.+)_(\d+)_(\d+)", key)):
            column = columns.get(parts[1])
            if column and column.kind is Kind.NESTED:
                return _KeySource(parts[1], (int(parts[2]), int(parts[3])))
        if key in columns and columns[key].kind is Kind.OTHER:
            reason = columns[key].reason
            raise ConfigError(f"branch '{key}' of {self._source.location} is not numeric: {reason}")
        return _KeySource(key, ())


def _rows(columns: Columns, sources: Sequence[_KeySource], start: int, stop: int) -> list[list[Any]]:
    """Return the events start <= i < stop, each as a list of Python numbers, None and lists."""
    values = [_to_list(slice_events(columns[branch], start, stop), indices) for branch, indices in sources]
    return list(map(list, zip(*values, strict=True)))


def _to_list(values: Values, indices: tuple[int, ...]) -> list[Any]:
    """Return the values of a branch, or one element of each of its lists, None if a list is shorter."""
    if isinstance(values, np.ndarray):
        if values.ndim == 1:
            return _numbers(values)
        if indices:
            return _numbers(values[:, indices[0]]) if indices[0] < values.shape[1] else [None] * len(values)
        return [_numbers(row) for row in values]
    if isinstance(values, Nested) and len(indices) < 2:
        values = values.flattened
    items = _to_list(values.lists, indices[1:]) if isinstance(values, Nested) else _numbers(values.content)
    edges = list(pairwise(values.offsets.tolist()))
    if not indices:
        return [items[begin:end] for begin, end in edges]
    return [items[begin + indices[0]] if begin + indices[0] < end else None for begin, end in edges]


def _numbers(values: np.ndarray) -> list[Any]:
    if values.dtype.kind == "b":
        return list(values.astype(np.int8).tolist())
    if values.dtype.kind != "f":
        return list(values.tolist())
    numbers = np.clip(values.astype(np.float64), -_MAX_FLOAT32, _MAX_FLOAT32).tolist()
    return [None if number != number else number for number in numbers]  # NaN differs from itself
