"""Many files at once as batches: mixed, shuffled, split into parts, every event once an epoch.

    generator = DataGenerator(["ggH.root", "VBF.root"], labels=["ggH", "VBF"], params={"batch_size": 512})
    for epoch in range(10):
        for batch in generator.batches("train", epoch):
            step(batch.x, batch.mask, batch.y, batch.weight)

Which events a batch holds depends on the files, the parameters, the seed and the epoch, never on the number of workers
or on timing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from mlaas4hep.closing import Closing
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.io.ahead import in_background
from mlaas4hep.reader import Specs, VectorLayout
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.census import Composition
from mlaas4hep.stream.contrast import with_shuffled_copies
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.lanes import Block, Lane, even_shares, make_lanes, shares
from mlaas4hep.stream.picks import Picks, rebatch
from mlaas4hep.stream.sample import Sample, parse_params
from mlaas4hep.stream.split import PARTS

# One stream of random numbers for each use, so that none depends on how much another has drawn.
_ORDER, _ROWS, _CHUNK, _COPIES, _REPEATS = range(5)

AHEAD = 4
"""Batches that wait for who trains on them."""


class DataGenerator(Closing):
    """Files and labels as batches; see the module's docstring.

    Attributes:
        params: how to read and mix.
        sample: the files, their labels and their specs.
    """

    def __init__(
        self,
        files: str | Sequence[str | os.PathLike[str]],
        labels: str | Sequence[object] | None = None,
        params: Params | Mapping[str, Any] | None = None,
        specs: str | os.PathLike[str] | Specs | None = None,
        *,
        preproc: str | os.PathLike[str] | Preproc | None = None,
        fold: int = 0,
    ) -> None:
        """Open the files, read the labels, and make a first pass over the events unless specs are given.

        Args:
            files: a list of files, or the path of a text file with one a line, a comma list, or a glob.
            labels: one a file; or the path of a text file with one a line, a comma list, or the name of a branch;
                None: the events are told from copies of themselves, see `contrast`.
            params: the content of params.json, or a part of it.
            specs: a file or a `Specs`.
            preproc: new branches and cuts, see `DataReader`.
            fold: which of `kfold` folds is the test part.

        Raises:
            FileUnreadable, TreeNotFound, BranchNotFound: a file cannot be read as asked.
            ConfigError: params or labels make no sense.
            SpecsMismatch: the files do not have the same branches, or not those of the specs.
        """
        self.params = parse_params(params)
        self.sample = Sample(files, labels, self.params, specs, preproc, fold)
        lanes = make_lanes(self.sample.entries, self.sample.groups, self.sample.plan.lanes)
        if self.params.mix == "sequential":
            lanes = [list(range(len(self.sample.files)))]
        self._lanes = [lane for lane in lanes if sum(self.sample.entries[file] for file in lane)]
        self._at: dict[str, Any] = {}
        self._begin: Mapping[str, Any] | None = None

    @property
    def specs(self) -> Specs:
        """What one pass over all files learnt."""
        return self.sample.specs

    @property
    def layout(self) -> VectorLayout:
        """Which column of x holds what; of the rows of raw numbers, where there are other inputs."""
        return self.sample.inputs.layout

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one event, by input, without masks: {"x": (features,)} where the params name no inputs."""
        return self.sample.inputs.shapes

    @property
    def columns(self) -> list[str]:
        """Names of the columns of x."""
        return self.layout.columns

    @property
    def labels(self) -> Labels:
        """What the model learns to tell apart."""
        return self.sample.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; y counts them from 0."""
        return self.labels.classes

    @property
    def composition(self) -> Composition:
        """How many events there are of what class in which part."""
        return self.sample.composition

    @property
    def num_entries(self) -> int:
        """Events of all files, before cuts."""
        return sum(self.sample.entries)

    @property
    def training_entries(self) -> int:
        """About how many of these are for training."""
        return int(self.num_entries * self.sample.split.share_of_training)

    def leave_raw(self) -> None:
        """Normalise nothing, where `normalise` of the params is "auto"."""
        if self.params.normalise == "auto":
            self.sample.renormalise("none")

    def __iter__(self) -> Iterator[Batch]:
        """Yield every event of the sample once, whatever its part, in the order of epoch 0."""
        return self.batches()

    def batches(
        self,
        part: str | None = None,
        epoch: int = 0,
        shuffle: bool | None = None,
        shard: tuple[int, int] = (0, 1),
        skip: int = 0,
        balanced: bool = True,
    ) -> Iterator[Batch]:
        """Yield batches until every event of a part was delivered once.

        Args:
            part: "train", "valid" or "test"; None: all events.
            epoch: together with the seed it decides the order.
            shuffle: whether the order is random; None: as the params say.
            shard: (rank, world size): of so many processes each gets other events, and together they get all.
            skip: begin after so many batches.
            balanced: whether `balance` of the params counts.

        Yields:
            Batch of n events, n <= batch_size; the last may be short. In the training part, with `balance`, events
            of smaller classes have larger weights, or come several times.

        Raises:
            FileUnreadable: a file cannot be read any more, or is damaged.
        """
        if part is not None and part not in PARTS:
            raise ConfigError(f"there is no part '{part}'", hint="parts are " + ", ".join(PARTS))
        rank, world = shard
        if not 0 <= rank < world:
            raise ConfigError(f"there is no rank {rank} among {world}", hint="ranks count from 0")
        order = self.params.shuffle if shuffle is None else shuffle
        position = {"part": part, "epoch": epoch, "shuffle": order, "shard": [rank, world]}
        if self._begin is not None and {key: self._begin[key] for key in position} == position:
            skip, self._begin = max(skip, self._begin["batches"]), None
        balance = self.params.balance if balanced else "none"
        found = rebatch(self._chunks(part, epoch, order, rank, world, balance), self.params.batch_size)
        weighed = self._weighed(part, balance, (picks.gather() for picks in islice(found, skip, None)))
        self._at = {**position, "batches": skip}
        return _counted(in_background(weighed, AHEAD), self._at)

    def state_dict(self) -> dict[str, Any]:
        """Return where the latest call of `batches` stands, as plain numbers and texts."""
        return {"key": self.sample.key, **self._at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next call of `batches` for the same part and epoch go on with the next event.

        Raises:
            ConfigError: the state is that of other files, labels, preprocessing or parameters.
        """
        if state.get("key") != self.sample.key:
            raise ConfigError(
                "the state belongs to other files, labels, preprocessing or parameters",
                hint="begin anew, or give what was given when it was saved",
            )
        self._begin = state if "batches" in state else None

    def _weighed(self, part: str | None, balance: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Let classes count alike in training and validation, where that is asked for."""
        factors = None
        if balance == "weights" and part in ("train", "valid"):
            factors = self.sample.composition.factors("weights")
        for batch in batches:
            if factors is None:
                yield batch
            else:
                yield replace(batch, weight=(batch.weight * factors[batch.y]).astype(np.float32))

    def examples(self, count: int, part: str | None = "test", raw: bool = False) -> Batch:
        """Return up to `count` events of a part, or of all, from each file in turn.

        Args:
            raw: as rows of numbers as they are in the files (`layout`), NaN where there is none.
        """
        by_file = []
        for file in range(len(self.sample.files)):
            for start, stop in self.sample.blocks(file, self.sample.plan.rows)[:1]:
                events = self.sample.load(file, start, stop, raw)
                by_file.append(Picks.of(events, _rows_of(events, part)).gather())
        events = Batch.concatenate(by_file)
        rank = np.concatenate([np.arange(len(batch)) for batch in by_file])
        return events[np.argsort(rank, kind="stable")[:count]]

    def _chunks(
        self, part: str | None, epoch: int, shuffle: bool, rank: int, world: int, balance: str
    ) -> Iterator[Picks]:
        """Yield the part's events of chunks of about chunk_size entries, mixed as the params say."""
        owners = self._owners(world)
        blocks = [
            [block for block in self._blocks(files, epoch, shuffle) if owners[block] == rank] for files in self._lanes
        ]
        lengths = [sum(block.stop - block.start for block in lane) for lane in blocks]
        count = -(-sum(lengths) // self.params.chunk_size)
        classes = [self.sample.groups[files[0]] for files in self._lanes]  # a lane has one
        divide = partial(even_shares, classes) if self.params.mix == "balanced" else shares
        with ThreadPoolExecutor(self.params.workers) as pool:
            lanes = [self._open_lane(lane, part, epoch, shuffle, balance, pool) for lane in blocks]
            for index in range(count):
                pairs = zip(lanes, divide(lengths, index, count), strict=True)
                pieces = [piece for lane, share in pairs for piece in lane.take(share)]
                if not pieces:
                    continue
                chunk = Picks.concatenate(pieces)
                if shuffle:
                    chunk = chunk[self._rng(_CHUNK, epoch, index).permutation(len(chunk))]
                if self.sample.labels.contrast:
                    rng = self._rng(_COPIES, epoch if shuffle else 0, index)
                    chunk = Picks.of(with_shuffled_copies(chunk.gather(), rng))
                if len(chunk):
                    yield chunk

    def _open_lane(
        self,
        blocks: Sequence[Block],
        part: str | None,
        epoch: int,
        shuffle: bool,
        balance: str,
        pool: ThreadPoolExecutor,
    ) -> Lane:
        rates = None
        if balance == "sampling" and part == "train":
            rates = self.sample.composition.factors("sampling")

        def load(block: Block) -> Picks:
            events = self.sample.load(block.file, block.start, block.stop)
            rows = _rows_of(events, part)
            if rates is not None:
                rows = _repeated(rows, rates[events.y[rows]], self._rng(_REPEATS, epoch, block.file, block.start))
            if shuffle:
                rows = self._rng(_ROWS, epoch, block.file, block.start).permutation(rows)
            return Picks.of(events, rows)

        return Lane(iter(blocks), load, pool, max(1, self.params.workers // len(self._lanes)))

    def _owners(self, world: int) -> dict[Block, int]:
        """Give each block of a file to one of so many ranks, in turn to the one that has the fewest events."""
        owners: dict[Block, int] = {}
        events = [0] * world
        for files in self._lanes:
            for block in self._blocks(files, 0, shuffle=False):
                owners[block] = rank = events.index(min(events))
                events[rank] += block.stop - block.start
        return owners

    def _blocks(self, files: Sequence[int], epoch: int, shuffle: bool) -> Iterator[Block]:
        """Yield the blocks of a lane in the order in which they are read: files shuffled, and blocks within a file."""
        rng = self._rng(_ORDER, epoch, files[0])
        sequential = self.params.mix == "sequential"
        for file in rng.permutation(files).tolist() if shuffle and not sequential else files:
            cut = self.sample.blocks(file, self.sample.plan.rows)
            for index in rng.permutation(len(cut)) if shuffle else range(len(cut)):
                yield Block(file, *cut[index])

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, *stream])

    def close(self) -> None:
        """Close all files."""
        self.sample.close()


def _counted(batches: Iterator[Batch], position: dict[str, Any]) -> Iterator[Batch]:
    for batch in batches:
        position["batches"] += 1
        yield batch


def _rows_of(events: Batch, part: str | None) -> np.ndarray:
    return np.arange(len(events)) if part is None else np.flatnonzero(events.part == PARTS.index(part))


def _repeated(rows: np.ndarray, rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each row as often as its rate says, on average."""
    whole = np.floor(rates)
    times = (whole + (rng.uniform(size=len(rows)) < rates - whole)).astype(np.int64)
    return np.repeat(rows, times)
