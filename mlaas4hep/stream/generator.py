"""Yield the events of many files in batches: mixed, shuffled, split into parts, each event once per epoch.

    generator = DataGenerator(["ggH.root", "VBF.root"], labels=["ggH", "VBF"], params={"batch_size": 512})
    for epoch in range(10):
        for batch in generator.batches("train", epoch):
            step(batch.x, batch.mask, batch.y, batch.weight)

The content of a batch depends on the files, the params, the seed and the epoch, never on the number of workers or on
timing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from mlaas4hep.closeable import Closeable
from mlaas4hep.config import Params, parse_params
from mlaas4hep.errors import ConfigError
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.io.prefetch import prefetch
from mlaas4hep.reader import Specs, VectorLayout
from mlaas4hep.reader.memory_check import BLOCK_BYTES, check_memory, row_bytes
from mlaas4hep.samples.fileset import Files
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.interleaving import Block, BlockQueue, balanced_shares, distribute_files, proportional_shares
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.row_selection import RowSelection, rebatch, repeat_rows, without_first
from mlaas4hep.stream.sample import Sample
from mlaas4hep.stream.sample_statistics import Composition
from mlaas4hep.stream.shuffled_copies import add_shuffled_copies
from mlaas4hep.stream.split import PARTS

# Keys of independent streams of random numbers.
_ORDER, _ROWS, _CHUNK, _COPIES, _REPEATS = range(5)

Factors = Callable[[Batch], np.ndarray]
"""A function from events to their factors or mean numbers of repetitions, float64 (events,)."""

PREFETCH = 4
"""Number of prefetched batches."""


class DataGenerator(Closeable):
    """Yield the events of many files in batches; see the module's docstring.

    Attributes:
        params: the params.
        sample: the files, their labels and their specs.
    """

    def __init__(
        self,
        files: Files,
        labels: str | Sequence[object] | None = None,
        params: Params | Mapping[str, Any] | None = None,
        specs: str | os.PathLike[str] | Specs | None = None,
        *,
        preproc: str | os.PathLike[str] | Preproc | None = None,
        fold: int = 0,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Open the files and read the labels. Without `specs`, compute them in a first pass over the events.

        Args:
            files: a list of files; the path of a samples file or of a text file with one file per line, a
                comma-separated list, or a glob; or the content of a samples file, see `config.samples`.
            labels: one label per file; or the path of a text file with one label per line, a comma-separated list, or
                the name of a branch. None: the labels of the samples; if there are none either, the model learns to
                separate the events from shuffled copies of them, see `shuffled_copies`.
            params: all or some of the keys of params.json.
            specs: a `Specs`, or the path of a file of specs.
            preproc: new branches and cuts, see `DataReader`.
            fold: index of the fold, of `kfold` folds, that is the test part.
            left_out: reasons by name of the files to leave out, because an earlier part of the run did; all others must
                be readable. None: with on_error="skip", leave out the files that cannot be read.

        Raises:
            FileUnreadable, TreeNotFound, BranchNotFound: a file, its tree or a branch of it cannot be read.
            ConfigError: params or labels are invalid.
            SpecsMismatch: the branches of the files differ from each other, or from those of the specs.
        """
        self.params = parse_params(params)
        self._use(Sample(files, labels, self.params, specs, preproc, fold, left_out))

    def for_fold(self, fold: int, specs: Specs) -> DataGenerator:
        """Return a generator for the same files with another fold as the test part; see `Sample.for_fold`."""
        other = copy(self)
        other._use(self.sample.for_fold(fold, specs))
        return other

    def _use(self, sample: Sample) -> None:
        self.sample = sample
        queues = distribute_files(self.sample.entries, self.sample.groups, self.sample.plan.queues)
        if self.params.mix == "sequential":
            queues = [list(range(len(self.sample.files)))]
        self._check_memory()
        self._queues = [queue for queue in queues if sum(self.sample.entries[file] for file in queue)]
        self._position: dict[str, Any] = {}
        self._resume_from: Mapping[str, Any] | None = None

    def _check_memory(self) -> None:
        """Raise ConfigError if a batch or a chunk takes more memory than is available."""
        inputs, entries = self.sample.inputs, self.num_entries
        for name, noun in (("batch_size", "batch"), ("chunk_size", "chunk")):
            if name == "batch_size" or all(isinstance(member.layout, VectorLayout) for member in inputs.members):
                check_memory(inputs, min(getattr(self.params, name), entries), noun, f"'{name}' in params.json")

    @property
    def specs(self) -> Specs:
        """Statistics of each branch over all files."""
        return self.sample.specs

    @property
    def layout(self) -> VectorLayout:
        """The columns of x; or, if the params define inputs, of the rows of raw numbers."""
        return self.sample.inputs.layout

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Per-event shape of each input, masks excluded; {"x": (features,)} if the params define no inputs."""
        return self.sample.inputs.shapes

    @property
    def columns(self) -> list[str]:
        """Names of the columns of x."""
        return self.layout.columns

    @property
    def labels(self) -> Labels:
        """The labels of the sample."""
        return self.sample.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers in y."""
        return self.labels.classes

    @property
    def composition(self) -> Composition:
        """Number of events of each class in each part."""
        return self.sample.composition

    def mean_training_weight(self) -> float:
        """Return the mean weight of the training events, after balancing or reweighting."""
        mean = self.composition.mean_training_weight(self.params.balance)
        reweighting = self.sample.reweighting
        return mean if reweighting is None else reweighting.mean_training_weight(mean)

    def mean_training_events(self) -> float:
        """Return the mean number of training events in an epoch, after balancing or reweighting."""
        number = self.composition.mean_training_events(self.params.balance)
        reweighting = self.sample.reweighting
        return number if reweighting is None else reweighting.mean_training_events(number)

    @property
    def num_entries(self) -> int:
        """Number of entries in all files, before cuts."""
        return sum(self.sample.entries)

    @property
    def training_entries(self) -> int:
        """Approximate number of entries in the training part, before cuts."""
        return int(self.num_entries * self.sample.split.training_share)

    def disable_normalisation(self) -> None:
        """Use raw values if `normalise` of the params is "auto"."""
        if self.params.normalise == "auto":
            self.sample.renormalise("none")

    def __iter__(self) -> Iterator[Batch]:
        """Yield each event of all parts once, in batches, in the order of epoch 0."""
        return self.batches()

    def batches(
        self,
        part: str | None = None,
        epoch: int = 0,
        shuffle: bool | None = None,
        shard: tuple[int, int] = (0, 1),
        skip: int = 0,
        balanced: bool = True,
        skip_events: int = 0,
    ) -> Iterator[Batch]:
        """Yield each event of a part once, in batches.

        Args:
            part: "train", "valid" or "test"; None: all events.
            epoch: number of the epoch; the order of the events depends on it and on the seed.
            shuffle: whether the order is random; None: `shuffle` of the params.
            shard: rank and world size; the shards of all ranks are disjoint and contain all events together.
            skip: number of batches to skip.
            balanced: whether to apply `balance` and `reweight` of the params.
            skip_events: number of events to skip before the first batch.

        Yields:
            Batches of `batch_size` events; the last one may be shorter. If `balance` or `reweight` of the params is
            set, weights are changed, or events occur several times or are left out.

        Raises:
            ConfigError: the part or the rank is invalid, or a label, a weight or a split is invalid for an event.
            FileUnreadable: a file cannot be read any more, or is damaged.
        """
        if part is not None and part not in PARTS:
            raise ConfigError(f"unknown part '{part}'", hint="the parts are " + ", ".join(PARTS))
        rank, world = shard
        if not 0 <= rank < world:
            raise ConfigError(f"invalid rank {rank} for world size {world}", hint="ranks count from 0")
        shuffle = self.params.shuffle if shuffle is None else shuffle
        position = {"part": part, "epoch": epoch, "shuffle": shuffle, "shard": [rank, world]}
        if self._resume_from is not None and {key: self._resume_from[key] for key in position} == position:
            skip, self._resume_from = max(skip, self._resume_from["batches"]), None
        rates, factors = (self._factors(method, part) if balanced else None for method in ("sampling", "weights"))
        chunks = without_first(self._chunks(part, epoch, shuffle, rank, world, rates), skip_events)
        selections = rebatch(chunks, self.params.batch_size)
        batches = (selection.gather() for selection in islice(selections, skip, None))
        self._position = {**position, "batches": skip}
        return _count(prefetch(_weighted(batches, factors), PREFETCH), self._position)

    def num_events(self, part: str | None = None, shard: tuple[int, int] = (0, 1)) -> int:
        """Return the number of events that `batches` yields in an epoch, including shuffled copies.

        Raises:
            ConfigError: events are sampled (`balance`, `reweight`), so that the number differs between epochs.
        """
        if self.params.samples_events and part == "train":
            name = "balance" if self.params.reweight is None else "reweight"
            raise ConfigError(f"with '{name}' by sampling, the number of events differs between epochs")
        rank, world = shard
        files = range(len(self.sample.files))
        blocks = [
            Block(file, *block) for file in files for block in self.sample.survey.blocks(file, self.sample.plan.rows)
        ]
        owners = self._owners(world)
        batches = self.sample.events.without_features(self.sample.plan.rows, self.params.workers)
        counts = (
            len(_rows_of(batch, part))
            for block, batch in zip(blocks, batches, strict=True)
            if owners.get(block) == rank
        )
        return sum(counts) * (1 + self.sample.labels.uses_shuffled_copies)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the latest call of `batches`, as JSON values."""
        return {"key": self.sample.key, **self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position: the next call of `batches` for the same part and epoch continues there.

        Raises:
            ConfigError: the state was saved with other files, labels, preprocessing or params.
        """
        if state.get("key") != self.sample.key:
            raise ConfigError(
                "the state was saved with other files, labels, preprocessing or params",
                hint="use the same ones as when it was saved, or start from the beginning",
            )
        self._resume_from = state if "batches" in state else None

    def _factors(self, method: str, part: str | None) -> Factors | None:
        """Return the factors or repetitions that balancing or reweighting applies to the events of a part; None: none.

        Args:
            method: "weights": factors of the weights, "sampling": mean numbers of repetitions. Events of the validation
                part are never sampled; if those of training are, a reweighting gives them factors instead.
        """
        if part not in ("train", "valid") or (part == "valid" and method == "sampling"):
            return None
        reweighting = self.sample.reweighting if self.params.reweight else None
        if reweighting is not None:
            return reweighting.of_events if part == "valid" or reweighting.params.method == method else None
        factors = self.sample.composition.factors(method) if self.params.balance == method else None
        return None if factors is None else lambda events: np.asarray(factors[events.y])

    def examples(self, count: int, part: str | None = "test", raw: bool = False) -> Batch:
        """Return up to `count` events of a part, taken from each file in turn.

        Args:
            count: maximum number of events.
            part: "train", "valid" or "test"; None: the whole sample.
            raw: whether to return rows of unnormalised numbers (`layout`), NaN where a value is missing.
        """
        by_file = []
        rows = min(self.sample.plan.rows, max(BLOCK_BYTES // row_bytes(self.sample.inputs, raw), 1))
        for file in range(len(self.sample.files)):
            for start, stop in self.sample.survey.blocks(file, rows)[:1]:
                events = self.sample.load(file, start, stop, raw)
                by_file.append(RowSelection.of(events, _rows_of(events, part)).gather())
        events = Batch.concatenate(by_file)
        rank = np.concatenate([np.arange(len(batch)) for batch in by_file])
        return events[np.argsort(rank, kind="stable")[:count]]

    def _chunks(
        self, part: str | None, epoch: int, shuffle: bool, rank: int, world: int, rates: Factors | None
    ) -> Iterator[RowSelection]:
        """Yield mixed chunks of about chunk_size entries, reduced to the events of the part."""
        owners = self._owners(world)
        blocks = [
            [block for block in self._blocks(files, epoch, shuffle) if owners[block] == rank] for files in self._queues
        ]
        lengths = [sum(block.stop - block.start for block in queue) for queue in blocks]
        count = -(-sum(lengths) // self.params.chunk_size)
        classes = [self.sample.groups[files[0]] for files in self._queues]  # all files of a queue have the same class
        divide = partial(balanced_shares, classes) if self.params.mix == "balanced" else proportional_shares
        with ThreadPoolExecutor(self.params.workers) as pool:
            queues = [self._open_queue(queue, part, epoch, shuffle, rates, pool) for queue in blocks]
            for index in range(count):
                pairs = zip(queues, divide(lengths, index, count), strict=True)
                pieces = [piece for queue, share in pairs for piece in queue.take(share)]
                if not pieces:
                    continue
                chunk = RowSelection.concatenate(pieces)
                if shuffle:
                    chunk = chunk[self._rng(_CHUNK, epoch, index).permutation(len(chunk))]
                if self.sample.labels.uses_shuffled_copies:
                    rng = self._rng(_COPIES, epoch if shuffle else 0, index)
                    chunk = RowSelection.of(add_shuffled_copies(chunk.gather(), rng, self.sample.shuffling_units))
                if len(chunk):
                    yield chunk

    def _open_queue(
        self,
        blocks: Sequence[Block],
        part: str | None,
        epoch: int,
        shuffle: bool,
        rates: Factors | None,
        pool: ThreadPoolExecutor,
    ) -> BlockQueue:
        def load(block: Block) -> RowSelection:
            events = self.sample.load(block.file, block.start, block.stop)
            rows = _rows_of(events, part)
            if rates is not None:
                rows = repeat_rows(rows, rates(events)[rows], self._rng(_REPEATS, epoch, block.file, block.start))
            if shuffle:
                rows = self._rng(_ROWS, epoch, block.file, block.start).permutation(rows)
            return RowSelection.of(events, rows)

        return BlockQueue(iter(blocks), load, pool, max(1, self.params.workers // len(self._queues)))

    def _owners(self, world: int) -> dict[Block, int]:
        """Assign each block to one of `world` ranks, always to the one with the fewest events so far."""
        owners: dict[Block, int] = {}
        events = [0] * world
        for files in self._queues:
            for block in self._blocks(files, 0, shuffle=False):
                owners[block] = rank = events.index(min(events))
                events[rank] += block.stop - block.start
        return owners

    def _blocks(self, files: Sequence[int], epoch: int, shuffle: bool) -> Iterator[Block]:
        """Yield the blocks of a queue in reading order: the files, and the blocks within a file, may be shuffled."""
        rng = self._rng(_ORDER, epoch, files[0])
        sequential = self.params.mix == "sequential"
        for file in rng.permutation(files).tolist() if shuffle and not sequential else files:
            ranges = self.sample.survey.blocks(file, self.sample.plan.rows)
            for index in rng.permutation(len(ranges)) if shuffle else range(len(ranges)):
                yield Block(file, *ranges[index])

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, *stream])

    def close(self) -> None:
        """Close all files."""
        self.sample.close()


def _weighted(batches: Iterator[Batch], factors: Factors | None) -> Iterator[Batch]:
    """Multiply the weights of events by their factors, if there are any."""
    for batch in batches:
        yield batch if factors is None else replace(batch, weight=(batch.weight * factors(batch)).astype(np.float32))


def _count(batches: Iterator[Batch], position: dict[str, Any]) -> Iterator[Batch]:
    for batch in batches:
        position["batches"] += 1
        yield batch


def _rows_of(events: Batch, part: str | None) -> np.ndarray:
    return np.arange(len(events)) if part is None else np.flatnonzero(events.part == PARTS.index(part))
