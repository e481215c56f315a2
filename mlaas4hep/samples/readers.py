"""Readers of the files of a sample, opened when they are needed.

readers = SampleReaders([InputFile("ggH.root", options), InputFile("VBF.root", options)])
with readers.borrow(1) as reader:
    reader.read_block(0, 1000)

A sample may have thousands of files, and cross-validation uses one sample per fold, while a process is often limited to
256 open files. Therefore few readers stay open between two uses, and all samples share one limit.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mlaas4hep.errors import FileUnreadable, TreeNotFound, sample_in_errors
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.io.storage.byte_ranges import file_changed
from mlaas4hep.io.storage.location import redacted
from mlaas4hep.reader import DataReader, ReadOptions, Specs
from mlaas4hep.reader.column_choice import ColumnChoices
from mlaas4hep.reader.skipping_reader import DamagedClusters
from mlaas4hep.samples.bad_files import BadFile

Result = TypeVar("Result")
Origin = list[object]
"""Properties that change with a file: identity of its content and number of entries; and for each file on disk, the
main file and its friends, size and modification time."""


MAX_IDLE = 32
"""Number of files of idle readers, friends included, that stay open, of all samples together."""

_sample_numbers = itertools.count()
_idle: OrderedDict[tuple[int, int], DataReader] = OrderedDict()
"""Idle readers by number of the sample and index of the file, the most recently used one last."""

_lock = threading.Lock()


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        name: path, URL or LFN.
        options: options for reading it.
        sample: name of its sample, for error messages; "": it has none.
    """

    name: str
    options: ReadOptions
    sample: str = ""

    def __str__(self) -> str:
        sample = f" of sample '{self.sample}'" if self.sample else ""
        return f"{redacted(self.name)}{sample}"


class SampleReaders:
    """The readers of a sample's files. It is thread-safe.

    Attributes:
        inputs: the files, and the options for reading each.
        specs: specs of all files; None: each reader makes its own.
        origins: origin of each file when it was first opened; None: not known yet.
        damaged_clusters: results of the checks of clusters, by file; shared by all readers of a file.
    """

    def __init__(self, inputs: Sequence[InputFile], specs: Specs | None = None) -> None:
        self.inputs = inputs
        self.specs = specs
        self.origins: Sequence[Origin] | None = None
        self.damaged_clusters: list[DamagedClusters] = [{} for _ in inputs]
        self._choices = ColumnChoices()
        self._number = next(_sample_numbers)

    def set_specs(self, specs: Specs, origins: Sequence[Origin]) -> None:
        """Use the specs of all files from now on, and refuse files whose origin has changed."""
        if len(self.inputs) > 1 and self.specs is None:  # the open readers have the specs of their own file
            self.close()
        self.specs, self.origins = specs, origins

    @property
    def files(self) -> list[str]:
        """Paths, URLs or LFNs of the files."""
        return [file.name for file in self.inputs]

    @property
    def options(self) -> ReadOptions:
        """Options for reading the first file; the tree, the cut and the weight of other files may differ."""
        return self.inputs[0].options

    def change_options(self, files: Collection[int] | None = None, **changes: object) -> None:
        """Close all files, and use other options for some of them from now on; None: for all of them."""
        self.close()
        changed = {id(file.options): file.options.model_copy(update=changes) for file in self.inputs}
        self.inputs = [
            replace(file, options=changed[id(file.options)]) if files is None or index in files else file
            for index, file in enumerate(self.inputs)
        ]
        self._number = next(_sample_numbers)

    def leave_out(self, files: Container[int]) -> None:
        """Forget some of the files; the others keep their order."""
        self.close()
        kept = [index for index in range(len(self.inputs)) if index not in files]
        self.inputs = [self.inputs[index] for index in kept]
        self.damaged_clusters = [self.damaged_clusters[index] for index in kept]
        self._number = next(_sample_numbers)

    @contextmanager
    def borrow(self, index: int, keep: bool = True) -> Iterator[DataReader]:
        """Yield a reader of a file for exclusive use. Threads that use the same file get different readers.

        Args:
            keep: whether the reader may stay open afterwards.

        Raises:
            FileChanged: the file was replaced since it was first opened.
        """
        key = (self._number, index)
        with _lock:
            reader = _idle.pop(key, None)
        reader = reader or self._open(index)
        try:
            yield reader
        finally:
            with _lock:
                surplus = _put_back(key, reader) if keep else [reader]
            for one in surplus:
                one.close()

    def map(self, use: Callable[[DataReader], Result], workers: int) -> Iterator[Result]:
        """Yield the result of a function for the reader of each file, in order."""

        def work(index: int) -> Result:
            with self.borrow(index, self._keeps) as reader:
                return use(reader)

        return self._map(work, workers)

    def map_readable(self, use: Callable[[DataReader], Result], workers: int) -> Iterator[Result | BadFile]:
        """Yield what a function returns for the reader of each file, in order, or why the file cannot be read."""

        def work(index: int) -> Result | BadFile:
            try:
                with self.borrow(index, self._keeps) as reader:
                    return use(reader)
            except (FileUnreadable, TreeNotFound) as error:
                return BadFile(error)

        return self._map(work, workers)

    @property
    def _keeps(self) -> bool:
        """Whether readers stay open after each of them was used once; if not all can, none would be used again."""
        return len(self.inputs) <= MAX_IDLE

    def _map(self, work: Callable[[int], Result], workers: int) -> Iterator[Result]:
        files = range(len(self.inputs))
        return map_ordered(work, files, min(workers, len(files)))

    def distinct_values(self, branch: str) -> np.ndarray:
        """Return the distinct values of a flat branch in all files, sorted."""
        return np.unique(np.concatenate(list(self.map(lambda reader: reader.unique(branch), 1))))

    def _open(self, index: int) -> DataReader:
        file = self.inputs[index]
        with sample_in_errors(file.sample):
            reader = DataReader.open(file.name, file.options, self.specs, self.damaged_clusters[index], self._choices)
        if self.origins is not None and origin_of(reader) != self.origins[index]:
            reader.close()
            friend = " or a friend of it" if reader.friends else ""
            raise file_changed(f"{redacted(file.name)}{friend}")
        return reader

    @property
    def skipped(self) -> dict[tuple[int, int, int], str]:
        """Reason for each damaged cluster that was found so far, by (file, start, stop)."""
        return {
            (file, *cluster): reason
            for file, clusters in enumerate(self.damaged_clusters)
            for cluster, reason in clusters.copy().items()
            if reason
        }

    def close(self) -> None:
        """Close all files; they are opened again when they are needed."""
        with _lock:
            own = [_idle.pop(key) for key in list(_idle) if key[0] == self._number]
        for reader in own:
            reader.close()


def _put_back(key: tuple[int, int], reader: DataReader) -> list[DataReader]:
    """Keep a reader as idle. Return the readers that have to be closed, the least recently used ones."""
    if key in _idle:  # several threads used the file; one idle reader is enough
        return [reader]
    _idle[key] = reader
    surplus = []
    while len(_idle) > 1 and sum(1 + len(idle.friends) for idle in _idle.values()) > MAX_IDLE:
        surplus.append(_idle.popitem(last=False)[1])
    return surplus


def origin_of(reader: DataReader) -> Origin:
    """Return the origin of an open file."""
    return [reader.content_identity, reader.num_entries, *map(_stamp, reader.locations)]


def _stamp(location: str) -> list[int]:
    """Return the size and modification time of a file on disk."""
    try:
        status = os.stat(location)
    except OSError:  # a remote file
        return []
    return [status.st_size, status.st_mtime_ns]
