"""The files of a sample as one: they agree on their branches, and any stretch of any of them can be loaded.

    sample = Sample(["ggH.root", "VBF.root"], ["ggH", "VBF"], Params())
    sample.load(file=0, start=0, stop=1000)

In which order stretches are loaded and how they are mixed is the business of `generator`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, SpecsMismatch
from mlaas4hep.io import Columns
from mlaas4hep.io.ahead import ahead
from mlaas4hep.io.blocks import blocks
from mlaas4hep.io.byte_ranges import changed
from mlaas4hep.io.location import expand, read_file_list, shown
from mlaas4hep.io.replicas import Patience
from mlaas4hep.methods import Choice
from mlaas4hep.reader import DataReader, ReadOptions, Specs
from mlaas4hep.reader.derived import Derived
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.reader.losses import losses, not_finite
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.reader.skipping import Verdicts
from mlaas4hep.reader.specs import FLOAT32_MAX
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.cache import BlockCache, Cached, key_of
from mlaas4hep.stream.census import Composition, count, moments
from mlaas4hep.stream.labels import (
    CONTRAST,
    Labels,
    flags_by_branches,
    is_pattern,
    label_branches,
    labels_by_branch,
    labels_by_branches,
    labels_by_file,
    read_labels,
    targets_by_branches,
    targets_by_file,
)
from mlaas4hep.stream.lanes import plan
from mlaas4hep.stream.open_readers import OpenReaders
from mlaas4hep.stream.split import Split, identity_hash

WEIGHT = "weight"
"""What the expression of the events' weights is called."""

BESIDE = (
    *("workers", "cache", "cache_gb", "timeout", "retries", "redirector", "verbose", "hist", "name"),
    *("checkpoint", "tensorboard", "tfaas", "epochs", "patience"),
)
"""Parameters that have no say in what batches hold."""


class Sample:
    """Files, their labels and their specs; see the module's docstring and `DataGenerator` for the arguments.

    Attributes:
        files: paths, URLs or LFNs, in the order given.
        labels: the classes, and which event is of which.
        specs: of all files together.
        inputs: the tensors that events become.
        identifier: columns that name an event; the same for all files.
        entries: events to be read of each file, before cuts.
        plan: how many files are read beside each other, and how much at a time.
    """

    def __init__(
        self,
        files: str | Sequence[str | os.PathLike[str]],
        labels: str | Sequence[object] | None,
        params: Params,
        specs: str | os.PathLike[str] | Specs | None = None,
        preproc: str | os.PathLike[str] | Preproc | None = None,
        fold: int = 0,
    ) -> None:
        """Open the files; `fold` is that which is the test part, where there are folds."""
        self.files = read_file_list(files) if isinstance(files, str) else expand(os.fspath(file) for file in files)
        if not self.files:
            raise ConfigError("there are no files to read")
        wanted = read_labels(labels) if isinstance(labels, str) else labels
        branches = label_branches(wanted, params.task)
        _check_task(params, wanted)
        self.labels = CONTRAST
        if wanted is not None and not branches and params.task == "classification":
            self.labels = labels_by_file([wanted] if isinstance(wanted, str) else wanted, self.files)
        self.params = params
        self.split = split_of(params, fold)
        self.options = _read_options(
            params,
            Preproc.load(preproc) if isinstance(preproc, (str, os.PathLike)) else preproc,
            branches,
            {**self.split.derived, **({WEIGHT: params.weight} if params.weight else {})},
            len(self.files),
        )
        self._truncated: dict[tuple[int, int, int], Mapping[str, int]] = {}
        self._verdicts: list[Verdicts] = [{} for _ in self.files]  # which clusters are damaged; readers come and go
        self._readers = OpenReaders(self._open)
        self._origins: list[list[object]] = []
        self._lock = threading.Lock()
        self._known = Specs.load(os.fspath(specs)) if isinstance(specs, (str, os.PathLike)) else specs
        self.specs = self._examine()
        self._known = self.specs
        self.close()  # the readers know only their own file's specs
        self.inputs = Inputs.of(self.specs, params.inputs, params.normalise)
        if wanted is None and params.inputs:
            raise ConfigError("events of several inputs need labels", hint="give --labels, or name no inputs")
        self.plan = plan(self.inputs.width, len(set(self.groups)), len(self.files))
        if branches or params.task == "regression":
            assert wanted is not None  # see _check_task
            self.labels = self._labels(wanted, branches)
        self._cache = self._open_cache()

    @property
    def groups(self) -> Sequence[int]:
        """Which files may follow each other where files are mixed: those with the same number, (files,)."""
        return self.labels.by_file or [0] * len(self.files)

    def _labels(self, wanted: str | Sequence[object], branches: Sequence[str]) -> Labels:
        """Return the labels that branches hold, or that are numbers of files."""
        if not branches:
            return targets_by_file(wanted, self.files, self.entries)
        if self.params.task == "multilabel":
            return flags_by_branches(self._extra)
        if self.params.task == "regression":
            self.labels = targets_by_branches(self._extra, *np.ones((2, len(self._extra))).tolist())
            centre, spread = moments(self, self._extra)
            return targets_by_branches(self._extra, centre.tolist(), spread.tolist())
        if is_pattern(branches[0]):
            return labels_by_branches(self._extra)
        return labels_by_branch(branches[0], self._unique(branches[0]))

    @cached_property
    def composition(self) -> Composition:
        """How many events there are of what class in which part."""
        return count(self)

    def renormalise(self, choice: Choice) -> None:
        """Normalise in another way from now on."""
        self.options = replace(self.options, normalise=choice)
        self.inputs = Inputs.of(self.specs, self.params.inputs, choice)
        self.close()
        self._cache = self._open_cache()

    def _examine(self) -> Specs:
        """Open every file once: check that they agree, count their events, learn the specs."""
        self.entries: list[int] = []
        self._boundaries: list[Sequence[int]] = []
        self.identifier: tuple[str, ...] = ()
        self._extra: tuple[str, ...] = ()
        self._id_types: dict[str, np.dtype[Any]] = {}
        specs: Specs | None = None
        files = range(len(self.files))
        for file, reader in zip(
            self.files, ahead(self._learn, files, min(self.params.workers, len(files))), strict=True
        ):
            if specs is not None and reader.identifier != self.identifier:
                raise SpecsMismatch(
                    f"{file} names its events by {reader.identifier}, {self.files[0]} by {self.identifier}",
                    hint="set 'identifier' in the params to branches that all files have",
                )
            if specs is not None and reader.extra != self._extra:
                raise SpecsMismatch(
                    f"{file} has other label branches than {self.files[0]}: {', '.join(reader.extra)}",
                    hint="name branches that all files have",
                )
            self.identifier, self._extra = reader.identifier, reader.extra
            for name in self.identifier:
                self._id_types[name] = _wider(reader.available[name].dtype, self._id_types.get(name))
            self.entries.append(reader.stop)
            self._boundaries.append(reader.boundaries)
            self._origins.append(_origin_of(reader))
            specs = _merge(specs, reader.specs, file, self.files[0]) if self._known is None else reader.specs
        assert specs is not None  # there is at least one file
        if not specs.events and not specs.legacy:
            why = "none passes the cuts" if self.options.preproc and sum(self.entries) else "the files are empty"
            raise ConfigError(f"there are no events: {why}")
        return specs

    def _learn(self, index: int) -> DataReader:
        """Return the reader of a file, of which specs are known."""
        with self.reader(index) as reader:
            reader.specs  # noqa: B018  a first pass, unless there are specs
        return reader

    def _unique(self, branch: str) -> np.ndarray:
        values = []
        for index in range(len(self.files)):
            with self.reader(index) as reader:
                values.append(reader.unique(branch))
        return np.unique(np.concatenate(values))

    def reader(self, index: int) -> AbstractContextManager[DataReader]:
        """Lend the reader of one file; see `OpenReaders.lend`.

        Raises:
            FileChanged: it is another file than when it was first opened.
        """
        return self._readers.lend(index)

    def _open(self, index: int) -> DataReader:
        reader = DataReader.open(self.files[index], self.options, self._known, self._verdicts[index])
        if index < len(self._origins) and _origin_of(reader) != self._origins[index]:
            reader.close()
            raise changed(shown(self.files[index]))
        return reader

    def load(self, file: int, start: int, stop: int, raw: bool = False) -> Batch:
        """Read some entries of a file, in the order of the file, whatever their part.

        Args:
            raw: leave values as they are in the file, NaN where there is none.

        Raises:
            FileUnreadable: the file cannot be read, or is damaged.
            ConfigError: a label, a weight or a split makes no sense for an event.
        """
        block = self._cache.get(file, start, stop) if self._cache and not raw else None
        if block is None:
            block = self._read(file, start, stop, raw=raw)
            if self._cache and not raw:
                self._cache.put(file, start, stop, block)
        if not raw:
            with self._lock:
                self._truncated[file, start, stop] = block.truncated
        self._verdicts[file].update(block.skipped)
        return block.batch

    def bare(self, file: int, start: int, stop: int) -> Batch:
        """Do what `load` does, without features."""
        return self._read(file, start, stop, features=False).batch

    def hashes(self, values: Columns, entries: np.ndarray, identity: str) -> np.ndarray:
        """Return the hash of each event's identity, uint64 (events,), given its columns; see `identity_hash`."""
        return identity_hash({name: np.asarray(values[name]) for name in self.identifier}, entries, identity)

    def _read(self, file: int, start: int, stop: int, raw: bool = False, features: bool = True) -> Cached:
        with self.reader(file) as reader:
            chunk = reader.read_block(start, stop, raw, pad=False, features=features)
            truncated = dict(reader.truncated)
            reader.truncated.clear()
            skipped = {its: why for its, why in reader.skipped.items() if its[0] < stop and start < its[1]}
        hashed = self.hashes(chunk.ids, chunk.entries, reader.identity)
        weight = chunk.extra[WEIGHT] if self.params.weight else np.ones(len(chunk))
        if not (np.abs(weight) <= FLOAT32_MAX).all():
            first = int(np.flatnonzero(~(np.abs(weight) <= FLOAT32_MAX))[0])
            raise ConfigError(
                f"weight: '{self.params.weight}' of entry {chunk.entries[first]} of {self.files[file]} is"
                f" {weight[first]}, no finite number (of float32)",
                hint="change 'weight' in the params, or cut such events away with --preproc",
            )
        batch = Batch(
            chunk.inputs,
            self.labels.of(file, len(chunk), chunk.extra),
            weight.astype(np.float32),
            {name: _convert(values, self._id_types[name], name) for name, values in chunk.ids.items()},
            self.split.parts(hashed, chunk.extra),
            np.full(len(chunk), file, np.int32),
            chunk.entries,
        )
        return Cached(batch, truncated, skipped)

    def _open_cache(self) -> BlockCache | None:
        """Return where blocks are kept, by the name of all that they depend on."""
        preproc = self.options.preproc
        if not self.params.cache or (preproc is not None and not preproc.portable):
            return None
        said = self.params.model_dump(
            include={"branch", "identifier", "inputs", "kfold", "on_error", "split", "task", "weight"}
        )
        labels = [self.labels.classes, self.labels.by_file, self.labels.by_number, self.labels.branches]
        learnt = [self.specs.to_json()["branches"], self.options.normalise, self.split.fold]
        made = None if preproc is None else preproc.key
        return BlockCache.open(key_of([self._origins, said, labels, learnt, made]), int(self.params.cache_gb * 1e9))

    @property
    def key(self) -> str:
        """A name of the events and of how they are read, mixed and shuffled: the same key gives the same batches."""
        said = self.params.model_dump(exclude=set(BESIDE))
        labels = [self.labels.classes, self.labels.by_file, self.labels.by_number, self.labels.branches]
        origins = [origin[:2] for origin in self._origins]  # what is in the files, wherever and since whenever
        made = None if self.options.preproc is None else self.options.preproc.key
        return key_of([origins, said, labels, self.specs.to_json()["branches"], self.split.fold, made])

    @property
    def skipped(self) -> dict[tuple[int, int, int], str]:
        """(file, start, stop) of the clusters that cannot be read, as far as is known, and why."""
        return {
            (file, *cluster): reason
            for file, verdicts in enumerate(self._verdicts)
            for cluster, reason in verdicts.copy().items()
            if reason
        }

    @property
    def truncated(self) -> dict[str, int]:
        """By jagged branch, how many values did not fit into the vector in what was loaded, each once."""
        with self._lock:
            counts = list(self._truncated.values())
        total: Counter[str] = Counter()
        for block in counts:
            total.update(block)
        return dict(total)

    def losses(self) -> list[str]:
        """Return, in words, what did not make it into the vectors so far."""
        lines = losses(self.truncated, {}, self.specs)
        for verdicts in self._verdicts:
            lines += losses({}, {cluster: reason for cluster, reason in verdicts.items() if reason}, Specs({}))
        return lines + not_finite(self.specs)

    def blocks(self, file: int, rows: int) -> list[tuple[int, int]]:
        """Return the stretches of a file that are best read at a time, of about so many rows."""
        return blocks(self._boundaries[file], self.entries[file], rows)

    def close(self) -> None:
        """Close all files; they are opened again when something is loaded."""
        self._readers.close()


def split_of(params: Params, fold: int = 0) -> Split:
    """Return the rule that some parameters ask for."""
    if isinstance(params.split, dict):
        return Split(expressions=params.split)
    return Split(params.split, folds=params.kfold, fold=fold)


def _check_task(params: Params, wanted: str | Sequence[object] | None) -> None:
    if params.task != "classification" and wanted is None:
        raise ConfigError(f"'task' is '{params.task}', and there are no labels", hint="name branches with --labels")
    if params.balance != "none" and params.task != "classification":
        raise ConfigError(f"'balance' is for classes, and 'task' is '{params.task}'", hint="give a 'weight' instead")


def _read_options(
    params: Params, preproc: Preproc | None, labels: Sequence[str], derived: Mapping[str, str], files: int
) -> ReadOptions:
    exclude = list(params.exclude_branches)
    if params.weight and not params.selected_branches:
        exclude += sorted(Derived({WEIGHT: params.weight}).names)  # what weighs an event often tells its class
    return ReadOptions(
        branch=params.branch,
        selected_branches=params.selected_branches,
        exclude_branches=exclude,
        identifier=params.identifier,
        nevts=params.nevts,
        chunk_size=params.chunk_size,
        normalise=params.normalise,
        fill=0.0,
        preproc=preproc,
        redirectors=params.redirector,
        extra=tuple(labels),
        workers=max(params.workers // files, 1),
        patience=Patience(params.timeout, params.retries),
        on_error=params.on_error,
        inputs=params.inputs,
        derived=derived,
    )


def _origin_of(reader: DataReader) -> list[object]:
    """Return what a file's events depend on: the name of its content, their number, and when it was written."""
    return [reader.identity, reader.num_entries, _stamp(reader.location)]


def _stamp(location: str) -> list[int]:
    """Return what changes when a file on disk is written anew."""
    try:
        status = os.stat(location)
    except OSError:  # it is elsewhere
        return []
    return [status.st_size, status.st_mtime_ns]


def _merge(specs: Specs | None, more: Specs, file: str, first: str) -> Specs:
    if specs is None:
        return more
    try:
        return specs.merge(more)
    except SpecsMismatch as error:
        raise SpecsMismatch(
            f"{file} and {first} do not have the same branches: {error.what.partition(': ')[2]}",
            hint="leave these out with 'exclude_branches', or name what all files have in 'selected_branches'",
        ) from error


def _wider(dtype: np.dtype[Any], known: np.dtype[Any] | None) -> np.dtype[Any]:
    """Return the type of an identifier in all files: uint64, int64 where one is signed, float64 where one has floats.

    NumPy by itself would mix uint64 and int64 to float64, which cannot hold event numbers.
    """
    kinds = {dtype.kind, known.kind if known is not None else dtype.kind}
    return np.dtype(np.float64 if "f" in kinds else np.int64 if "i" in kinds else np.uint64)


def _convert(values: np.ndarray, dtype: np.dtype[Any], name: str) -> np.ndarray:
    if dtype.kind == "i" and values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise ConfigError(f"identifier '{name}' is signed in one file, and too large for that in another")
    return values.astype(dtype)


def parse_params(params: Params | Mapping[str, Any] | None) -> Params:
    """Return checked parameters; None means all defaults."""
    return params if isinstance(params, Params) else Params.parse(params or {})
