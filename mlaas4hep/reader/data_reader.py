"""Read one file as vectors.

    for chunk in DataReader("data.root:Events", selected_branches=["Jet_*", "MET_pt"]):
        train(chunk.x, chunk.mask)

A first pass computes the specs (dimension, range and moments of every branch) unless they are given. Then the events
are read in chunks, in the order of the file, as rows of a matrix of fixed width. `stream` reads many files.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock
from typing import cast

import numpy as np
from typing_extensions import Self

from mlaas4hep import console
from mlaas4hep.closeable import Closeable
from mlaas4hep.config import IDENTIFIER, FriendParams, InputParams
from mlaas4hep.errors import BranchNotFound, FileUnreadable, Unreachable
from mlaas4hep.expressions.derived import DerivedColumns
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.expressions.preproc_file import load_preproc
from mlaas4hep.io import Column, Columns
from mlaas4hep.io.blocks import READ_ROWS, ClusterSize, split_into_blocks
from mlaas4hep.io.columns import select_events, slice_columns
from mlaas4hep.io.nested_lists import flatten_nested
from mlaas4hep.io.prefetch import map_ordered
from mlaas4hep.io.storage.location import is_url, redacted, split_tree
from mlaas4hep.list_lengths import MaxLength
from mlaas4hep.normalisation_choice import NormalisationChoice
from mlaas4hep.reader.absent_columns import AbsentColumns
from mlaas4hep.reader.chunk import Chunk
from mlaas4hep.reader.column_choice import ColumnChoices
from mlaas4hep.reader.friends import open_with_friends, unread_friends_notice
from mlaas4hep.reader.inputs import Inputs, UnpaddedInputs, padded
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.memory_check import BLOCK_BYTES, check_memory, row_bytes
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.reader.read_options import ReadOptions
from mlaas4hep.reader.skipping_reader import DamagedClusters, SkippingReader, count_skipped
from mlaas4hep.specs.specs import Provenance, Specs
from mlaas4hep.specs.statistics import Statistics


class DataReader(Closeable):
    """Iterate over one file in chunks of vectors; see the module's docstring.

    Attributes:
        identity: an identifier of the file's content, which does not depend on the file's name.
        friends: the open friend trees.
        num_entries: number of events in the file.
        available: every column of the file after preprocessing, including those that are not numeric.
        features: branches of the vector: flat branches sorted by name, then jagged branches sorted by name.
        identifier: columns of the file that identify an event.
        extra: flat columns that are returned in addition to the features.
        truncated: number of values dropped so far, by jagged branch, and of objects dropped so far, by input.
    """

    def __init__(
        self,
        fin: str | os.PathLike[str],
        branch: str = "Events",
        selected_branches: Sequence[str] | None = None,
        exclude_branches: Sequence[str] | None = None,
        identifier: Sequence[str] = IDENTIFIER,
        nevts: int = -1,
        chunk_size: int = 10_000,
        specs: str | os.PathLike[str] | Specs | None = None,
        workers: int = 1,
        *,
        normalise: NormalisationChoice = "auto",
        nan: float = np.nan,
        preproc: str | os.PathLike[str] | Preproc | None = None,
        redirector: Sequence[str] = (),
        extra: Sequence[str] = (),
        timeout: float = 60.0,
        retries: int = 4,
        on_error: str = "raise",
        inputs: Mapping[str, Mapping[str, object] | InputParams] | None = None,
        max_length: MaxLength = None,
        require_features: bool = True,
        redirectors: Sequence[str] = (),
        friends: Mapping[str, str | Mapping[str, object] | FriendParams] | Sequence[str] | None = None,
        nested: str = "exclude",
    ) -> None:
        """Open a file.

        Args:
            fin: path, URL or LFN; a tree in it (`data.root:Events`) takes precedence over `branch`.
            branch, selected_branches, exclude_branches, identifier, nevts, chunk_size, workers, normalise, redirector,
                timeout, retries, on_error, inputs, max_length, nested, friends: as in params.json, see `ReadParams`.
            specs: a file or a `Specs`; None: the first access to `specs` computes them in a first pass.
            nan: value of x where there is no measured value.
            preproc: a preproc.json, a Python file with `preprocessing(events)`, or a `Preproc`.
            extra: flat columns to return in addition to the features: names, globs, `/regular expressions/`.
            require_features: whether a file without features is an error.
            redirectors: deprecated name of `redirector`.

        Raises:
            FileUnreadable: the file cannot be opened.
            TreeNotFound, BranchNotFound: the file lacks the tree or a branch that is named.
            SpecsMismatch: the specs do not belong to the file.
            ConfigError: an option is invalid.
        """
        given = {name: value for name, value in locals().items() if name in ReadOptions.model_fields}
        if redirectors:
            warnings.warn(
                "DataReader(redirectors=...) is deprecated; use redirector=...", DeprecationWarning, stacklevel=2
            )
        given |= {"redirector": redirector or redirectors, "inputs": inputs or {}}
        if isinstance(preproc, (str, os.PathLike)):
            given["preproc"] = load_preproc(preproc)
        options = ReadOptions.parse(given, "DataReader")
        loaded = Specs.load(os.fspath(specs)) if isinstance(specs, (str, os.PathLike)) else specs
        self._setup(os.fspath(fin), options, loaded, {}, ColumnChoices())

    @classmethod
    def open(
        cls,
        fin: str,
        options: ReadOptions,
        specs: Specs | None = None,
        damaged_clusters: DamagedClusters | None = None,
        choices: ColumnChoices | None = None,
    ) -> Self:
        """Open a file with options that many files share.

        Args:
            damaged_clusters: results of the checks by earlier readers of the file; new results are added.
            choices: choices of columns for other files, which files with the same columns share.
        """
        reader = cls.__new__(cls)
        checks = {} if damaged_clusters is None else damaged_clusters
        reader._setup(os.fspath(fin), options, specs, checks, choices or ColumnChoices())
        return reader

    def _setup(
        self,
        fin: str,
        options: ReadOptions,
        specs: Specs | None,
        damaged_clusters: DamagedClusters,
        choices: ColumnChoices,
    ) -> None:
        _, tree = split_tree(fin)
        self.options = options = options.model_copy(update={"branch": tree}) if tree else options
        self._name = fin
        self._source, self.identity, self.friends = open_with_friends(fin, options)
        self._close = weakref.finalize(self, self._source.close)  # for readers that are never closed
        try:
            chosen = choices.choose(self._source, options, specs)
        except BaseException as error:
            if isinstance(error, BranchNotFound):
                error.hint = "; ".join(filter(None, [error.hint, self.unread_friends]))
            self._close()
            raise
        self.available, self.features = chosen.available, chosen.features
        self.identifier, self.extra = chosen.identifier, chosen.extra
        self._derived, self._cut, self._specs = chosen.derived, chosen.cut, chosen.specs
        self._absent = AbsentColumns.of(chosen.absent, chosen.features, options.inputs)
        self._start = chosen.empty_specs
        self._non_features = [*self.identifier, *self.extra, *self._derived.names]
        self._needed = self._needs([*self.features, *self._non_features])
        self.num_entries = self._source.num_entries
        self.truncated: Counter[str] = Counter()
        self._skipping = SkippingReader(self._source, self._needed, self.stop, options.on_error, damaged_clusters)
        self._lock = Lock()
        self._threads = options.workers + is_url(self.location)  # one more thread waits for the server

    @property
    def location(self) -> str:
        """The path or URL that was opened."""
        return self._source.location

    @property
    def name(self) -> str:
        """The name of the file as it was given, with the tree if it was part of it, without passwords and tokens."""
        return redacted(self._name)

    @property
    def locations(self) -> list[str]:
        """The paths or URLs of the file and its friends."""
        return [self.location, *(friend.source.location for friend in self.friends)]

    @property
    def content_identity(self) -> str:
        """An identifier of the content of the file and its friends, which does not depend on their names."""
        return self._source.identity

    @property
    def unread_friends(self) -> str:
        """A notice about friend trees that ROOT would read together with this one; "" if there are none."""
        return unread_friends_notice(self._source.friends, self.options.branch)

    @property
    def boundaries(self) -> Sequence[int]:
        """First entries of the clusters, followed by the number of entries."""
        return self._source.boundaries

    @cached_property
    def sizes(self) -> Sequence[ClusterSize]:
        """Memory that the columns take, by cluster; see `Source.cluster_sizes`."""
        return self._source.cluster_sizes(sorted(self._needed))

    @property
    def skipped(self) -> dict[tuple[int, int], str]:
        """Reason for each damaged cluster that was found so far (with on_error="skip")."""
        return self._skipping.damaged

    @property
    def stop(self) -> int:
        """Number of entries to read."""
        return self.num_entries if self.options.nevts < 1 else min(self.options.nevts, self.num_entries)

    @property
    def specs(self) -> Specs:
        """Specs of the features; the first access makes a pass over the events unless specs were given."""
        if self._specs is None:
            self._specs = self.first_pass()
        return self._specs

    @cached_property
    def inputs(self) -> Inputs:
        """The tensors that chunks hold."""
        return Inputs.of(self.specs, self.options.inputs, self.options.normalise)

    @cached_property
    def layout(self) -> VectorLayout:
        """The branch and index of each column of x, or of the rows of raw values if there are named inputs."""
        return self.inputs.layout

    @cached_property
    def normalisation(self) -> Normalisation:
        """The normalisation of each column of x."""
        return Normalisation.of(self.specs, self.layout, self.options.normalise)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of x."""
        return self.layout.columns

    def first_pass(self) -> Specs:
        """Read the events and return their specs, even if specs were given."""
        stop = min(2 * READ_ROWS, self.stop) if self.options.nevts == 0 else self.stop
        kinds = {name: self.available[name].kind for name in self.features}
        counters: SimpleQueue[Statistics] = SimpleQueue()
        for _ in range(self._threads):
            counters.put(Statistics(kinds))

        def accumulate(block: tuple[int, int]) -> int:
            values, entries = self.read_columns(*block)
            statistics = counters.get()
            statistics.add(values, len(entries))
            counters.put(statistics)
            return block[1] - block[0]

        with console.progress("first pass", stop) as bar:
            for count in map_ordered(accumulate, self.blocks(READ_ROWS, stop), self._threads):
                bar.advance(count)
        parts = [counters.get().specs() for _ in range(self._threads)]
        whole = Specs.merge_all([self._start, *(part for part in parts if part is not None)])
        file = Provenance(self.name, self.identity, self.num_entries, stop - count_skipped(self.skipped, stop))
        return self.options.limited(Specs(whole.branches, whole.events, (file,), tuple(sorted(self._absent.columns))))

    def read_block(self, start: int, stop: int, raw: bool = False, pad: bool = True, features: bool = True) -> Chunk:
        """Read the entries start <= i < stop that pass the cuts as one chunk of any size.

        Args:
            raw: return rows of raw values (see `layout`), with NaN for missing values, instead of the inputs.
            pad: pad objects to the same number in every event; otherwise they are `Objects` without a mask.
            features: if False, read identifiers and extra columns only.

        Raises:
            FileUnreadable: the bytes cannot be read or are damaged.
        """
        values, entries = self.read_columns(start, stop, None if features else self._non_features)
        return self._make(values, entries, raw, pad, features)

    def read_pieces(self, start: int, stop: int, raw: bool = False, most: int = 0) -> Iterator[Chunk]:
        """Read the entries start <= i < stop that pass the cuts as several chunks.

        Chunks that would take more than BLOCK_BYTES together are made one by one, when they are needed.

        Args:
            raw: see `read_block`.
            most: maximum number of events per chunk; 0: as many as fit into BLOCK_BYTES.
        """
        values, entries = self.read_columns(start, stop)
        width = row_bytes(self.inputs, raw)
        size, most = len(entries) * width, most or max(BLOCK_BYTES // width, 1)
        count = max(1, -(-len(entries) // most))
        edges = [len(entries) * i // count for i in range(count + 1)]
        spans = [(begin, end) for begin, end in pairwise(edges) if end > begin]
        if size <= BLOCK_BYTES:
            whole = self._make(values, entries, raw)
            return (whole[begin:end] for begin, end in spans)
        return (self._make(slice_columns(values, begin, end), entries[begin:end], raw) for begin, end in spans)

    def _make(
        self, values: Columns, entries: np.ndarray, raw: bool = False, pad: bool = True, features: bool = True
    ) -> Chunk:
        """Make a chunk from columns; see `read_block`."""
        parts: UnpaddedInputs = {}
        truncated: Mapping[str, int] = {}
        if not features:
            pass
        elif raw:
            parts, truncated = self.inputs.raw_vectors(values, len(entries))
        else:
            parts, truncated = self.inputs.make(values, len(entries), self.options.nan)
        with self._lock:
            self.truncated.update(truncated)
        return Chunk(
            padded(parts, self.options.nan) if pad else parts,
            _flat(values, self.identifier),
            {**_flat(values, self.extra), **self._derived.evaluate(values, len(entries))},
            entries,
        )

    def blocks(self, target: int | None = None, stop: int | None = None) -> list[tuple[int, int]]:
        """Return (start, stop) of the blocks of entries in which to read the file."""
        target = target or max(self.options.chunk_size, READ_ROWS)
        return split_into_blocks(self._source.boundaries, stop or self.stop, target, self.sizes)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield all events once, in the order of the file, in chunks of at most `chunk_size` events.

        Raise ConfigError if a chunk takes more memory than is available.
        """
        size = self.options.chunk_size
        check_memory(self.inputs, min(size, self.stop), "chunk", "--chunk-size")

        def load(block: tuple[int, int]) -> Iterator[Chunk]:
            return self.read_pieces(*block, most=size)

        for chunks in map_ordered(load, self.blocks(), self._threads):
            yield from chunks
            del chunks  # frees its memory for the next

    def close(self) -> None:
        """Close the file."""
        self._close()

    def unique(self, name: str) -> np.ndarray:
        """Return the distinct values of a flat column over all events that pass the cuts, sorted."""
        seen = [np.unique(cast(np.ndarray, self.read_columns(*block, (name,))[0][name])) for block in self.blocks()]
        return np.unique(np.concatenate(seen)) if seen else np.empty(0)

    def sum_before_cuts(self, weight: DerivedColumns) -> int:
        """Return the exact sum of the only expression in `weight` over the events to read, in units of 2^-1074.

        Events that fail cuts count; those in damaged clusters do not.

        Raises:
            BranchNotFound: the file lacks a branch of the expression.
            ConfigError: the expression is not a finite number for some event.
        """
        weight.check(self._source.columns, f"tree '{self.options.branch}' of {self._source.location}")
        names, total = sorted(weight.names), 0
        for block in self.blocks():
            values, entries = self._skipping.read(names, *block)
            total += weight.exact_sum(values, len(entries))
        return total

    def identifiers(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the identifiers of all entries, including those that fail the cuts, (entries,) each.

        Columns that preprocessing defines are left out. In damaged clusters, the values may be 0.
        """
        names = [name for name in self.identifier if name in self._source.columns]
        parts = [self._identifiers(names, span, reason) for span, reason in self._skipping.spans(start, stop)]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _identifiers(self, names: Sequence[str], span: tuple[int, int], lost: str) -> dict[str, np.ndarray]:
        try:
            return _flat(self._source.read(names, *span), names)
        except Unreachable:
            raise
        except FileUnreadable:
            if not lost:
                raise
        return {name: np.zeros(span[1] - span[0], self.available[name].dtype) for name in names}

    def read_columns(self, start: int, stop: int, names: Sequence[str] | None = None) -> tuple[Columns, np.ndarray]:
        """Return columns (default: all) of the entries start <= i < stop that pass the cuts, and these entries."""
        needed = self._needed if names is None else self._needs(names)
        values, entries = self._skipping.read(sorted(needed), start, stop)
        if self.options.preproc is not None:
            values, kept = self.options.preproc.apply(values)
            entries = entries[kept]
            if self.options.nested == "flatten":
                values = flatten_nested(values)
        if self._cut is not None:
            kept = self._cut.passes(values)
            values, entries = {name: select_events(column, kept) for name, column in values.items()}, entries[kept]
        return self._absent.add_to(values, len(entries), names), entries

    @property
    def preprocessed_from(self) -> set[str]:
        """Columns of the file from which the preprocessing computes features and decides on cuts; empty without one."""
        preproc, names = self.options.preproc, {*self.features} - self._absent.columns.keys()
        return preproc.needs(self._source.columns, names) if preproc else set()

    @property
    def preprocessing_inputs(self) -> dict[str, Column]:
        """The columns of the file in `preprocessed_from`, sorted by name."""
        return {name: self._source.columns[name] for name in sorted(self.preprocessed_from)}

    def _needs(self, names: Sequence[str]) -> set[str]:
        """Return the columns of the file from which preprocessing computes some columns."""
        present = {*names, *(self._cut.expression.names if self._cut else ())} - self._absent.columns.keys()
        preproc = self.options.preproc
        return preproc.needs(self._source.columns, present) if preproc else present


def _flat(values: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: cast(np.ndarray, values[name]) for name in names}  # checked by `flat_columns`
