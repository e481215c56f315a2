"""The stream of events as a data set of PyTorch's, for training loops of your own.

dataset = EventDataset(["ggH.root", "VBF.root"], ["ggH", "VBF"], {"batch_size": 512})
for epoch in range(10):
    dataset.set_epoch(epoch)
    for batch in DataLoader(dataset, batch_size=None, num_workers=2):
        step(batch["x"], batch["mask"], batch["y"], batch["weight"])
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.sample import parse_params


class EventDataset(IterableDataset[dict[str, torch.Tensor]]):  # type: ignore[misc]  # mypy is told not to follow torch
    """Batches of one part of a sample; each process of a `DataLoader`, and each rank of a job, gets others.

    Attributes:
        specs: what one pass over all files learnt.
        shapes: of one event, by input, without masks.
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
    ) -> None:
        """Look at the files; the arguments are those of `DataGenerator`, whose errors are raised.

        Args:
            part: "train", "valid" or "test"; None: all events.
        """
        super().__init__()
        self._arguments = (files, labels, parse_params(params))
        self._preproc, self._part = preproc, part
        with DataGenerator(*self._arguments, specs, preproc=preproc) as generator:
            self.specs, self.shapes, self.classes = generator.specs, generator.shapes, generator.classes
        self._epoch = self._delivered = self._begin = 0
        self._elsewhere = torch.zeros(1, dtype=torch.bool).share_memory_()  # seen by the processes of a loader

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the events of the passes to come."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield batches: the inputs and masks by name, "y" and "weight"; use `DataLoader(..., batch_size=None)`."""
        skip, self._begin = self._begin, 0
        self._delivered = skip
        self._elsewhere[0] = get_worker_info() is not None
        with DataGenerator(*self._arguments, self.specs, preproc=self._preproc) as generator:
            for batch in generator.batches(self._part, self._epoch, shard=_shard(), skip=skip):
                arrays = {**batch.inputs, "y": batch.y, "weight": batch.weight}
                self._delivered += 1
                yield {name: torch.from_numpy(values) for name, values in arrays.items()}

    def state_dict(self) -> dict[str, int]:
        """Return where the pass under way stands; in a process of a loader, where its own share of it does.

        Raises:
            ConfigError: the processes of a `DataLoader` made the batches, and they are ahead of what was taken from it.
        """
        if get_worker_info() is None and self._elsewhere:
            raise ConfigError(
                "where the pass stands is not known here: the batches are made by the processes of a DataLoader",
                hint="take num_workers=0 and more 'workers' in the params, which are threads, or a StatefulDataLoader",
            )
        return {"epoch": self._epoch, "batches": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next pass go on with the event after those that were delivered when the state was taken."""
        self._epoch, self._begin = state["epoch"], state["batches"]


def _shard() -> tuple[int, int]:
    """Return the number of this process among all that read, and how many these are."""
    rank, world = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    worker = get_worker_info()
    if worker is None:
        return rank, world
    return rank * worker.num_workers + worker.id, world * worker.num_workers
