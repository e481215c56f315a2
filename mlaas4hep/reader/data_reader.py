"""One file as vectors.

    for chunk in DataReader("data.root", branch="Events", selected_branches=["Jet_*", "MET_pt"]):
        train(chunk.x, chunk.mask)

A first pass learns the specs (dimension, extremes, moments of every branch), unless they are given; then the events
come in chunks, in the order of the file, as rows of a fixed-size matrix. Many files at once are `stream`'s business.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from typing_extensions import Self

from mlaas4hep import console
from mlaas4hep.closing import Closing
from mlaas4hep.errors import ConfigError, FileUnreadable, SpecsMismatch, Unreachable
from mlaas4hep.io import Column, Columns, Kind, Source, open_source
from mlaas4hep.io.ahead import ahead
from mlaas4hep.io.blocks import READ_ROWS, blocks
from mlaas4hep.io.location import is_url, shown
from mlaas4hep.io.replicas import PATIENCE, Patience
from mlaas4hep.methods import Choice, parse_choice
from mlaas4hep.reader.derived import Derived
from mlaas4hep.reader.inputs import VECTOR, Inputs, Parts, branches_of, padded
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.reader.selection import IDENTIFIER, check_kept, flat_columns, match, remaining, select
from mlaas4hep.reader.skipping import Skipping, Verdicts
from mlaas4hep.reader.specs import BranchSpecs, Provenance, Specs, check_same
from mlaas4hep.reader.statistics import Statistics

if TYPE_CHECKING:
    from mlaas4hep.config import InputParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive events as vectors.

    Attributes:
        inputs: float32 tensors (events, ...) and bool masks by name, see `reader.inputs`.
        x: the vectors, float32 (events, features); normalised values are finite, padding and NaN hold the fill value.
        mask: bool (events, features), True where a real value stands, False where padding or NaN does.
        ids: the identifier's columns, each (events,) in the file's own integer type; never features.
        extra: further flat columns that were asked for, as read, and what was derived, (events,) each.
        entries: int64 (events,), the entry numbers of the events in the file.
    """

    inputs: Mapping[str, Any]
    ids: Mapping[str, np.ndarray]
    extra: Mapping[str, np.ndarray]
    entries: np.ndarray

    @property
    def x(self) -> np.ndarray:
        x: np.ndarray = self.inputs[VECTOR]
        return x

    @property
    def mask(self) -> np.ndarray:
        mask: np.ndarray = self.inputs["mask"]
        return mask

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, rows: slice | np.ndarray) -> Chunk:
        """Return some of the rows: a slice, an index or a bool mask."""
        return Chunk(
            {name: values[rows] for name, values in self.inputs.items()},
            {name: values[rows] for name, values in self.ids.items()},
            {name: values[rows] for name, values in self.extra.items()},
            self.entries[rows],
        )


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a file; the same for all files of a sample.

    Attributes:
        branch: name of the tree.
        selected_branches, exclude_branches: names, globs, `/regular expressions/`, `@files`; None selects every number.
        identifier: columns that name an event. Those of the default may be missing.
        nevts: events of each file to read; -1 all; 0 all, with a first pass over the first 20,000 only.
        chunk_size: events a chunk holds at most.
        normalise: auto, standard, minmax or none; others for some branches as in "auto,Jet_*=standard".
        fill: what stands in x where there is no value.
        preproc: new branches and cuts.
        redirectors: where LFNs are looked for that are not on disk.
        extra: flat columns that come along and are no features: names, globs, `/regular expressions/`.
        derived: further numbers that come along, as expressions, by what they are for.
        workers: threads that read, decompress and fill the matrix, each a block at a time; the result is the same.
        patience: how long to wait for servers.
        on_error: "raise" where bytes are damaged, or "skip" the clusters that cannot be read, see `skipping`.
        inputs: named tensors in place of one vector of the selected branches.
    """

    branch: str = "Events"
    selected_branches: Sequence[str] | None = None
    exclude_branches: Sequence[str] | None = None
    identifier: Sequence[str] = IDENTIFIER
    nevts: int = -1
    chunk_size: int = 10_000
    normalise: Choice = "auto"
    fill: float = np.nan
    preproc: Preproc | None = None
    redirectors: Sequence[str] = ()
    extra: Sequence[str] = ()
    workers: int = 1
    patience: Patience = PATIENCE
    on_error: str = "raise"
    inputs: Mapping[str, InputParams] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size is {self.chunk_size}; a chunk holds at least 1 event")
        if self.nevts < -1:
            raise ConfigError(f"nevts is {self.nevts}; it is -1 for all events, or how many")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; at least 1 is needed")
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is '{self.on_error}'; it is raise or skip")
        parse_choice(self.normalise)


class DataReader(Closing):
    """Iterate over one file in chunks of vectors; see the module's docstring.

    Attributes:
        num_entries: events in the file.
        available: every column of the file, those that are no numbers included, after preprocessing.
        features: branches that go into the vector: flat ones sorted, then jagged ones sorted.
        identifier: columns that name an event and are there.
        extra: flat columns that come along.
        truncated: by jagged branch, how many values did not fit into the vector so far.
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
        normalise: Choice = "auto",
        nan: float = np.nan,
        preproc: str | os.PathLike[str] | Preproc | None = None,
        redirectors: Sequence[str] = (),
        extra: Sequence[str] = (),
        timeout: float = PATIENCE.timeout,
        retries: int = PATIENCE.retries,
        on_error: str = "raise",
        inputs: Mapping[str, Mapping[str, object] | InputParams] | None = None,
    ) -> None:
        """Open a file.

        Args:
            fin: path, URL or LFN.
            specs: a file or a `Specs`; None makes them by a first pass when they are first needed.
            nan: what stands in x where there is no value.
            preproc: a preproc.json, a Python file with `preprocessing(events)`, or a `Preproc`.
            inputs: named tensors in place of one vector: {"jets": {"branches": ["Jet_pt"], "length": 8}}.
            timeout, retries: how long to wait for servers, in seconds, and how often to try again; see `Patience`.

        The rest is described at `ReadOptions`.

        Raises:
            FileUnreadable: the file cannot be opened.
            TreeNotFound, BranchNotFound: it lacks the tree, or a branch that is named.
            SpecsMismatch: the specs do not belong to the file.
        """
        if isinstance(preproc, (str, os.PathLike)):
            preproc = Preproc.load(preproc)
        options = ReadOptions(
            branch,
            selected_branches,
            exclude_branches,
            identifier,
            nevts,
            chunk_size,
            normalise,
            nan,
            preproc,
            redirectors,
            extra,
            workers,
            Patience(timeout, retries),
            on_error,
            _parsed(inputs) if inputs else {},
        )
        self._setup(fin, options, Specs.load(os.fspath(specs)) if isinstance(specs, (str, os.PathLike)) else specs)

    @classmethod
    def open(
        cls,
        fin: str | os.PathLike[str],
        options: ReadOptions,
        specs: Specs | None = None,
        verdicts: Verdicts | None = None,
    ) -> Self:
        """Open a file with options that many files share.

        Args:
            verdicts: which of its clusters are known to be damaged, or not, from when it was open before.
        """
        reader = cls.__new__(cls)
        reader._setup(fin, options, specs, verdicts)
        return reader

    def _setup(
        self,
        fin: str | os.PathLike[str],
        options: ReadOptions,
        specs: Specs | None,
        verdicts: Verdicts | None = None,
    ) -> None:
        self.options = options
        self._name = os.fspath(fin)
        self._source: Source = open_source(self._name, options.branch, options.redirectors, options.patience)
        self._close = weakref.finalize(self, self._source.close)  # for readers that nobody closes
        try:
            self._choose_columns(specs)
        except BaseException:
            self._close()
            raise
        self.num_entries = self._source.num_entries
        self.truncated: dict[str, int] = {}
        known = {} if verdicts is None else verdicts
        self._skipping = Skipping(self._source, self._needed, self.stop, options.on_error, known)
        self._lock = Lock()
        self._threads = options.workers + is_url(self.location)  # one more, which waits for the server

    def _choose_columns(self, specs: Specs | None) -> None:
        options, where = self.options, f"tree '{self.options.branch}' of {self._source.location}"
        self.available: Mapping[str, Column] = self._source.columns
        optional = tuple(options.identifier) == IDENTIFIER
        self._derived = Derived(options.derived)
        if options.preproc is not None:
            self.available = options.preproc.columns(self._source.columns)
            asked = (
                options.selected_branches or (),
                options.exclude_branches or (),
                options.extra,
                self._derived.names,
            )
            inputs = (one.branches for one in options.inputs.values())
            identifier = () if optional else options.identifier
            check_kept(self.available, self._source.columns, chain(*asked, *inputs, identifier), where)
        self.identifier = flat_columns(self.available, options.identifier, where, optional)
        self.extra = flat_columns(self.available, match(self.available, options.extra, where), where)
        self._derived.check(self.available, where)
        chosen = options.selected_branches
        if options.inputs:
            if chosen:
                raise ConfigError("both selected branches and inputs are given", hint="name all branches in the inputs")
            chosen = branches_of(options.inputs, self.available, where)
        gone = (*options.identifier, *self.extra)
        if specs is not None and not chosen:
            names = VectorLayout.of(specs).branches
            self.features = remaining(
                names, {**self.available, **specs.branches}, options.exclude_branches, gone, where
            )
        else:
            self.features = select(self.available, chosen, options.exclude_branches, gone, where)
        if specs is None:
            Inputs.of(self._empty_specs(), options.inputs, options.normalise)  # mistakes show before the first pass
        else:
            specs = specs.select(self.features)
            found = {name: self.available[name] for name in self.features if name in self.available}
            _check_belongs(specs, found, where)
            if not specs.events and not specs.legacy and self._source.num_entries:
                raise SpecsMismatch(
                    "the specs are of no events, and know nothing of values",
                    hint="make them of files that have some: reader.py --fin=FILE --fout=specs.json",
                )
        self._specs = specs
        self._beside = [*self.identifier, *self.extra, *self._derived.names]
        self._needed = self._needs([*self.features, *self._beside])

    @property
    def location(self) -> str:
        """The place that was opened."""
        return self._source.location

    @property
    def identity(self) -> str:
        """A name of the file's content that renaming does not change."""
        return self._source.identity

    @property
    def boundaries(self) -> Sequence[int]:
        """Where clusters begin, 0 and the number of entries included."""
        return self._source.boundaries

    @property
    def skipped(self) -> dict[tuple[int, int], str]:
        """The clusters that cannot be read, as far as is known (with on_error="skip"), and why."""
        return self._skipping.lost

    @property
    def stop(self) -> int:
        """Entries from here on are not read."""
        return self.num_entries if self.options.nevts < 1 else min(self.options.nevts, self.num_entries)

    @property
    def specs(self) -> Specs:
        """What the data are like; the first call makes a pass over them unless specs were given."""
        if self._specs is None:
            self._specs = self.first_pass()
        return self._specs

    @cached_property
    def inputs(self) -> Inputs:
        """The tensors that chunks hold."""
        return Inputs.of(self.specs, self.options.inputs, self.options.normalise)

    @cached_property
    def layout(self) -> VectorLayout:
        """Which column of x holds what; of the rows of raw numbers, where there are other inputs."""
        return self.inputs.layout

    @cached_property
    def normalisation(self) -> Normalisation:
        """How raw values become those of x."""
        return Normalisation.of(self.specs, self.layout, self.options.normalise)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of x."""
        return self.layout.columns

    def first_pass(self) -> Specs:
        """Pass over the events and learn the specs, whatever specs there are already."""
        stop = min(2 * READ_ROWS, self.stop) if self.options.nevts == 0 else self.stop
        kinds = {name: self._kind(name) for name in self.features}
        counters: SimpleQueue[Statistics] = SimpleQueue()
        for _ in range(self._threads):
            counters.put(Statistics(kinds))

        def learn(block: tuple[int, int]) -> int:
            values, entries = self._read(*block)
            mine = counters.get()
            mine.add(values, len(entries))
            counters.put(mine)
            return block[1] - block[0]

        with console.progress("first pass", stop) as bar:
            for count in ahead(learn, blocks(self._source.boundaries, stop), self._threads):
                bar.advance(count)
        parts = [counters.get().specs() for _ in range(self._threads)]
        whole = Specs.merge_all([self._empty_specs(), *(part for part in parts if part is not None)])
        lost = sum(max(min(end, stop) - begin, 0) for begin, end in self.skipped)
        file = Provenance(shown(self._name), self.identity, self.num_entries, stop - lost)
        return Specs(whole.branches, whole.events, (file,))

    def read_block(self, start: int, stop: int, raw: bool = False, pad: bool = True, features: bool = True) -> Chunk:
        """Read the entries start <= i < stop that pass the cuts as one chunk, of whatever size.

        Args:
            raw: make rows of numbers as they are in the file (`layout`), NaN where there is none, whatever the inputs.
            pad: give every event room for as many objects; else inputs of objects are `Objects`, and have no mask.
            features: without them, only identifiers and what comes along are read, and there are no inputs.

        Raises:
            FileUnreadable: the bytes cannot be had or are damaged.
        """
        values, entries = self._read(start, stop, None if features else self._beside)
        parts: Parts = {}
        truncated: Mapping[str, int] = {}
        if not features:
            pass
        elif raw:
            parts, truncated = self.inputs.rows(values, len(entries))
        else:
            parts, truncated = self.inputs.make(values, len(entries), self.options.fill)
        self._note(truncated)
        return Chunk(
            padded(parts, self.options.fill) if pad else parts,
            _flat(values, self.identifier),
            {**_flat(values, self.extra), **self._derived.evaluate(values, len(entries))},
            entries,
        )

    def blocks(self, target: int | None = None) -> list[tuple[int, int]]:
        """Return the stretches of entries that are best read at a time."""
        return blocks(self._source.boundaries, self.stop, target or max(self.options.chunk_size, READ_ROWS))

    def __iter__(self) -> Iterator[Chunk]:
        """Yield all events once, in the order of the file, in chunks of at most `chunk_size` events."""
        self.inputs  # noqa: B018  made here, once, and not by several threads
        for block in ahead(lambda span: self.read_block(*span), self.blocks(), self._threads):
            pieces = max(1, -(-len(block) // self.options.chunk_size))
            edges = [len(block) * i // pieces for i in range(pieces + 1)]
            for begin, end in pairwise(edges):
                if end > begin:
                    yield block[begin:end]
            del block  # or its memory could not be used for the next

    def close(self) -> None:
        """Close the file."""
        self._close()

    def unique(self, name: str) -> np.ndarray:
        """Return the different values of a flat column over all events that pass the cuts, sorted."""
        seen = [np.unique(cast(np.ndarray, self._read(*block, (name,))[0][name])) for block in self.blocks()]
        return np.unique(np.concatenate(seen)) if seen else np.empty(0)

    def read_columns(self, start: int, stop: int) -> tuple[Columns, np.ndarray]:
        """Return all that a chunk is made of, by branch, and the entries that pass the cuts, int64 (events,)."""
        return self._read(start, stop)

    def identifiers(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the identifier's columns of all entries, those that do not pass the cuts included, (entries,) each.

        Columns that only preprocessing makes are left out; where a cluster is lost, they may be 0.
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

    def _read(self, start: int, stop: int, names: Sequence[str] | None = None) -> tuple[Columns, np.ndarray]:
        """Read and preprocess `names`, or else all that a chunk is made of; return them and the surviving entries."""
        needed = self._needed if names is None else self._needs(names)
        values, entries = self._skipping.read(sorted(needed), start, stop)
        if self.options.preproc is not None:
            values, kept = self.options.preproc.apply(values)
            entries = entries[kept]
        return values, entries

    def _needs(self, names: Sequence[str]) -> set[str]:
        """Return the columns of the file that some columns after preprocessing are made of."""
        preproc = self.options.preproc
        return preproc.needs(self._source.columns, set(names)) if preproc else set(names)

    def _note(self, truncated: Mapping[str, int]) -> None:
        with self._lock:
            for name, count in truncated.items():
                self.truncated[name] = self.truncated.get(name, 0) + count

    def _kind(self, name: str) -> Kind:
        return self.available[name].kind

    def _empty_specs(self) -> Specs:
        """Specs of no events; fixed branches have their size already."""
        columns = {name: self.available[name] for name in self.features}
        dims = {name: 0 if column.kind is Kind.JAGGED else column.size for name, column in columns.items()}
        return Specs({name: BranchSpecs(column.kind, dims[name]) for name, column in columns.items()})


def _parsed(inputs: Mapping[str, Mapping[str, object] | InputParams]) -> Mapping[str, InputParams]:
    from mlaas4hep.config import parse_inputs  # with pydantic, which takes a quarter of a second

    return parse_inputs(inputs)


def _check_belongs(specs: Specs, found: Mapping[str, Column], where: str) -> None:
    check_same(specs.branches, found, where)
    for name, branch in specs.branches.items():
        if branch.kind is Kind.FIXED and branch.dim != found[name].size:
            raise SpecsMismatch(
                f"the specs do not belong to {where}: '{name}' has {found[name].size} numbers, not {branch.dim}"
            )


def _flat(values: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: cast(np.ndarray, values[name]) for name in names}  # `flat_columns` saw to that
