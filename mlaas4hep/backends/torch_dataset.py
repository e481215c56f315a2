"""Events as a PyTorch dataset, for custom training loops.

dataset = EventDataset(["ggH.root", "VBF.root"], ["ggH", "VBF"], {"batch_size": 512})
loader = DataLoader(dataset, batch_size=None, num_workers=2)
for epoch in range(10):
    for batch in loader:
        step(batch["x"], batch["mask"], batch["y"], batch["weight"])

Each pass is the next epoch. The numbers of the epochs are in shared memory, because the workers of a `DataLoader` have
copies of the dataset, and may live for one pass or for several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from mlaas4hep import console
from mlaas4hep.config import Params, parse_params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator

MOST_WORKERS = 4096
"""Maximum number of workers of a `DataLoader`."""


class EventDataset(IterableDataset[dict[str, torch.Tensor]]):  # type: ignore[misc]  # mypy does not follow torch
    """Batches of a sample. Workers of a `DataLoader` and ranks of `torch.distributed` get disjoint events.

    Attributes:
        specs: `Specs` of the sample.
        shapes: per-event shape of each input, masks excluded.
        classes: names of the classes; y counts them from 0.
    """

    def __init__(
        self,
        files: str | Sequence[str | os.PathLike[str]],
        labels: str | Sequence[object] | None = None,
        params: Params | Mapping[str, Any] | None = None,
        specs: Any = None,
        *,
        preproc: Any = None,
        part: str | None = "train",
        num_workers: int = 0,
    ) -> None:
        """Open the files; for the other arguments and the errors see `DataGenerator`.

        Args:
            part: "train", "valid" or "test"; None: all events.
            num_workers: number of workers of the `DataLoader`, which the number of batches (`len`) depends on.
        """
        super().__init__()
        self._arguments = (files, labels, parse_params(params))
        self._preproc, self._part, self._num_workers = preproc, part, num_workers
        with DataGenerator(*self._arguments, specs, preproc=preproc) as generator:
            self.specs, self.shapes, self.classes = generator.specs, generator.shapes, generator.classes
            self._key = generator.sample.order_key
        self._epoch = self._delivered = 0
        self._loaded: dict[str, Any] | None = None
        self._lengths: dict[tuple[int, int], int] = {}
        # The number of the next epoch: of this process, and of each worker. Workers share this memory.
        self._next_epoch = torch.zeros(1 + MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._in_workers = torch.zeros(1, dtype=torch.bool).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, which determines the order of events. Further passes count from there."""
        self._set_next_epoch(epoch)

    def _set_next_epoch(self, epoch: int) -> None:
        self._epoch, self._delivered = epoch, 0
        if get_worker_info() is None:
            self._next_epoch[:] = epoch
        else:
            self._next_epoch[_slot()] = epoch

    def __len__(self) -> int:
        """Return the number of batches of a pass, in this rank of `torch.distributed`.

        Raises:
            TypeError: `balance` is "sampling", so that epochs differ in length.
        """
        rank, world = _rank()
        workers = max(1, self._num_workers)
        shards = [(rank * workers + worker, world * workers) for worker in range(workers)]
        missing = [shard for shard in shards if shard not in self._lengths]
        if missing:
            try:
                with DataGenerator(*self._arguments, self.specs, preproc=self._preproc) as generator:
                    for shard in missing:
                        events = generator.num_events(self._part, shard)
                        self._lengths[shard] = -(-events // generator.params.batch_size)
            except ConfigError as error:
                raise TypeError(str(error)) from error
        return sum(self._lengths[shard] for shard in shards)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield batches as dicts of tensors: inputs, masks, "y", "weight"; use `DataLoader(..., batch_size=None)`.

        The pass is that of the epoch after the previous one, or of the epoch that was set. It begins with the first
        batch, because torchdata's StatefulDataLoader creates iterators that it does not use.

        Raises:
            ConfigError: a position was loaded that another number of workers or ranks has saved.
        """
        self._in_workers[0] = get_worker_info() is not None
        self._epoch = epoch = int(self._next_epoch[_slot()])
        self._next_epoch[_slot()] += 1
        self._delivered = skip = self._events_to_skip()
        with DataGenerator(*self._arguments, self.specs, preproc=self._preproc) as generator:
            for batch in generator.batches(self._part, epoch, shard=_shard(), skip_events=skip):
                arrays = {**batch.inputs, "y": batch.y, "weight": batch.weight}
                self._delivered += len(batch)
                yield {name: torch.from_numpy(values) for name, values in arrays.items()}
        self._epoch, self._delivered = int(self._next_epoch[_slot()]), 0

    def _events_to_skip(self) -> int:
        """Return the number of events that were delivered before the position was loaded; 0 if none was loaded."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return 0
        if loaded["epoch"] != self._epoch:
            console.notice(
                f"the position that was loaded is in epoch {loaded['epoch']}, so that it does not apply to epoch"
                f" {self._epoch}, which starts at its beginning"
            )
            return 0
        if tuple(loaded["shard"]) != _shard():
            raise ConfigError(
                f"the position that was loaded is that of shard {loaded['shard'][0]} of {loaded['shard'][1]}, but this"
                f" is shard {_shard()[0]} of {_shard()[1]}",
                hint="use the same number of workers and ranks, or start the epoch at its beginning: set_epoch",
            )
        return int(loaded["events"])

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch, and the number of its events that were delivered, as JSON values.

        After a complete pass, this is the beginning of the next epoch. In a worker of a `DataLoader`, it is the
        position of this worker.

        Raises:
            ConfigError: workers of a `DataLoader` make the batches; they are ahead of the batches taken from it.
        """
        if get_worker_info() is None and self._in_workers:
            raise ConfigError(
                "the position in the pass is unknown, because the workers of a DataLoader make the batches",
                hint="use num_workers=0 and more 'workers' (threads) in the params, or torchdata's StatefulDataLoader",
            )
        return {"key": self._key, "shard": list(_shard()), "epoch": self._epoch, "events": self._delivered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass continue the epoch after the events that were delivered when the state was saved.

        The batch size may differ from that of the state.

        Raises:
            ConfigError: the state was saved with other files, labels, preprocessing or params.
        """
        if state.get("key") != self._key:
            raise ConfigError(
                "the state was saved with other files, labels, preprocessing or params",
                hint="use the same ones as when it was saved, or start from the beginning",
            )
        self._set_next_epoch(int(state["epoch"]))
        self._delivered = int(state["events"])
        self._loaded = dict(state) if self._delivered else None


def _slot() -> int:
    """Return the index of this process in the numbers of the next epochs."""
    worker = get_worker_info()
    return 0 if worker is None else 1 + worker.id


def _rank() -> tuple[int, int]:
    """Return rank and world size of `torch.distributed`."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _shard() -> tuple[int, int]:
    """Return the index of this process among all processes that read, and their number."""
    rank, world = _rank()
    worker = get_worker_info()
    if worker is None:
        return rank, world
    return rank * worker.num_workers + worker.id, world * worker.num_workers
