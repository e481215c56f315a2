"""Read events from data files (ROOT, Parquet and the other formats of `io`) as the rows that a client sends.

    with EventFile("events.root:Events") as file:
        for events in file.read(["MET_pt", "Jet_pt", "Muon_pt_0"]):
            client.predict(events, "htautau")

A key is a branch, whose value may be a list, or one element of a list (`Muon_pt_0`; null if the list is shorter). The
file is read in blocks. A preprocessing adds branches and drops the events that fail its cuts. `protocol.event_rows`
converts values to JSON.
"""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.client.bodies import opened
from mlaas4hep.client.events import Events, rows_per_request
from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_json import JsonPreproc
from mlaas4hep.io import Column, Columns, Kind, open_source
from mlaas4hep.io.blocks import split_into_blocks
from mlaas4hep.io.columns import slice_events
from mlaas4hep.io.formats.detect import SUPPORTED_FORMATS
from mlaas4hep.io.nested_lists import with_nested
from mlaas4hep.io.storage.location import ENDINGS, TEXT_DATA, format_of, is_url, split_tree
from mlaas4hep.protocol.event_rows import to_lists


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
        num_events: number of events that will be read, including those that fail cuts.

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

    def read(self, keys: Sequence[str], preproc: Preproc | None = None) -> Iterator[Events]:
        """Yield the events in order, in pieces that each fit into one request.

        Args:
            keys: branches, or elements of branches with lists, in the order of the values of a row.
            preproc: new branches and cuts.

        Raises:
            BranchNotFound: the file has no branch for a key, or for the preprocessing.
            ConfigError: a branch is not numeric, or the preprocessing cannot be applied to the file.
            FileUnreadable: the file is damaged.
        """
        source = self._source
        if isinstance(preproc, JsonPreproc) and _has_lists_of_lists(source.columns, preproc.used_names):
            source = with_nested(source, "flatten")  # as in training, or expressions would refuse them
        available = preproc.columns(source.columns) if preproc else source.columns
        key_sources = [_key_source(key, available, source.location) for key in keys]
        names = sorted({one.branch for one in key_sources})
        if preproc:
            names = sorted(preproc.needs(source.columns, set(names)))
        step = rows_per_request(len(keys))
        sizes = source.cluster_sizes(names)
        for begin, end in split_into_blocks(source.boundaries, self.num_events, sizes=sizes):
            columns, kept = source.read(names, begin, end), np.ones(end - begin, bool)
            if preproc:
                columns, kept = preproc.apply(columns)
            entries = begin + np.flatnonzero(kept)
            for start in range(begin, end, step):
                stop = min(start + step, end)
                first, last = np.searchsorted(entries, (start, stop)).tolist()
                events = Events(list(keys), _rows(columns, key_sources, first, last), is_batch=True, first=start)
                if preproc:
                    passing = (entries[first:last] - start).tolist()
                    events = replace(events, passing=passing, count=stop - start)
                yield events


def _has_lists_of_lists(columns: Mapping[str, Column], names: Iterable[str]) -> bool:
    return any(name in columns and columns[name].kind is Kind.NESTED for name in names)


def _key_source(key: str, columns: Mapping[str, Column], location: str) -> _KeySource:
    """Return the branch of a key; an unknown key is a branch, which the reader reports."""
    if key not in columns and (parts := re.fullmatch(r"(.+)_(\d+)", key)):
        column = columns.get(parts[1])
        if column and column.kind in (Kind.JAGGED, Kind.FIXED, Kind.NESTED):
            return _KeySource(parts[1], (int(parts[2]),))
    if key not in columns and (parts := re.fullmatch(r"(.+)_(\d+)_(\d+)", key)):
        column = columns.get(parts[1])
        if column and column.kind is Kind.NESTED:
            return _KeySource(parts[1], (int(parts[2]), int(parts[3])))
    if key in columns and columns[key].kind is Kind.OTHER:
        raise ConfigError(f"branch '{key}' of {location} is not numeric: {columns[key].reason}")
    return _KeySource(key, ())


def _rows(columns: Columns, sources: Sequence[_KeySource], start: int, stop: int) -> list[list[Any]]:
    """Return the events start <= i < stop, each as a list of Python numbers, None and lists."""
    values = [to_lists(slice_events(columns[branch], start, stop), indices) for branch, indices in sources]
    return list(map(list, zip(*values, strict=True)))
