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
from typing import Any

import numpy as np

from mlaas4hep.closing import Closing
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.io.ahead import in_background
from mlaas4hep.reader import Specs, VectorLayout
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.contrast import with_shuffled_copies
from mlaas4hep.stream.lanes import Block, Lane, make_lanes, plan, shares
from mlaas4hep.stream.picks import Picks, rebatch
from mlaas4hep.stream.sample import Sample, parse_params
from mlaas4hep.stream.split import PARTS

# One stream of random numbers for each use, so that none depends on how much another has drawn.
_ORDER, _ROWS, _CHUNK, _COPIES = range(4)

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
    ) -> None:
        """Open the files, read the labels, and make a first pass over the events unless specs are given.

        Args:
            files: a list of files, or the path of a text file with one a line, a comma list, or a glob.
            labels: one a file; or the path of a text file with one a line, a comma list, or the name of a branch;
                None: the events are told from copies of themselves, see `contrast`.
            params: the content of params.json, or a part of it.
            specs: a file or a `Specs`.
            preproc: new branches and cuts, see `DataReader`.

        Raises:
            FileUnreadable, TreeNotFound, BranchNotFound: a file cannot be read as asked.
            ConfigError: params or labels make no sense.
            SpecsMismatch: the files do not have the same branches, or not those of the specs.
        """
        self.params = parse_params(params)
        self.sample = Sample(files, labels, self.params, specs, preproc)
        groups = self.sample.labels.by_file or [0] * len(self.sample.files)
        self._plan = plan(self.sample.inputs.width, len(set(groups)), len(self.sample.files))
        lanes = make_lanes(self.sample.entries, groups, self._plan.lanes)
        self._lanes = [lane for lane in lanes if sum(self.sample.entries[file] for file in lane)]

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
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; y counts them from 0."""
        return self.sample.labels.classes

    @property
    def num_entries(self) -> int:
        """Events of all files, before cuts."""
        return sum(self.sample.entries)

    def __iter__(self) -> Iterator[Batch]:
        """Yield every event of the sample once, whatever its part, in the order of epoch 0."""
        return self.batches()

    def batches(self, part: str | None = None, epoch: int = 0, shuffle: bool | None = None) -> Iterator[Batch]:
        """Yield batches until every event of a part was delivered once.

        Args:
            part: "train", "valid" or "test"; None: all events.
            epoch: together with the seed it decides the order.
            shuffle: whether the order is random; None: as the params say.

        Yields:
            Batch of n events, n <= batch_size; the last may be short.

        Raises:
            FileUnreadable: a file cannot be read any more, or is damaged.
        """
        if part is not None and part not in PARTS:
            raise ConfigError(f"there is no part '{part}'", hint="parts are " + ", ".join(PARTS))
        order = self.params.shuffle if shuffle is None else shuffle
        batches = rebatch(self._chunks(part, epoch, order), self.params.batch_size)
        return in_background((picks.gather() for picks in batches), AHEAD)

    def examples(self, count: int, part: str = "test", raw: bool = False) -> Batch:
        """Return up to `count` events of a part, from each file in turn.

        Args:
            raw: as rows of numbers as they are in the files (`layout`), NaN where there is none.
        """
        by_file = []
        for file in range(len(self.sample.files)):
            for start, stop in self.sample.blocks(file, self._plan.rows)[:1]:
                events = self.sample.load(file, start, stop, raw)
                by_file.append(Picks.of(events, np.flatnonzero(events.part == PARTS.index(part))).gather())
        events = Batch.concatenate(by_file)
        rank = np.concatenate([np.arange(len(batch)) for batch in by_file])
        return events[np.argsort(rank, kind="stable")[:count]]

    def _chunks(self, part: str | None, epoch: int, shuffle: bool) -> Iterator[Picks]:
        """Yield the part's events of chunks of about chunk_size entries, each with the sample's composition."""
        lengths = [sum(self.sample.entries[file] for file in files) for files in self._lanes]
        count = -(-sum(lengths) // self.params.chunk_size)
        with ThreadPoolExecutor(self.params.workers) as pool:
            lanes = [self._open_lane(files, part, epoch, shuffle, pool) for files in self._lanes]
            for index in range(count):
                pairs = zip(lanes, shares(lengths, index, count), strict=True)
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
        self, files: Sequence[int], part: str | None, epoch: int, shuffle: bool, pool: ThreadPoolExecutor
    ) -> Lane:
        def load(block: Block) -> Picks:
            events = self.sample.load(block.file, block.start, block.stop)
            rows = np.arange(len(events)) if part is None else np.flatnonzero(events.part == PARTS.index(part))
            if shuffle:
                rows = self._rng(_ROWS, epoch, block.file, block.start).permutation(rows)
            return Picks.of(events, rows)

        return Lane(self._blocks(files, epoch, shuffle), load, pool)

    def _blocks(self, files: Sequence[int], epoch: int, shuffle: bool) -> Iterator[Block]:
        """Yield the blocks of a lane in the order in which they are read: files shuffled, and blocks within a file."""
        rng = self._rng(_ORDER, epoch, files[0])
        for file in rng.permutation(files).tolist() if shuffle else files:
            cut = self.sample.blocks(file, self._plan.rows)
            for index in rng.permutation(len(cut)) if shuffle else range(len(cut)):
                yield Block(file, *cut[index])

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, *stream])

    def close(self) -> None:
        """Close all files."""
        self.sample.close()
