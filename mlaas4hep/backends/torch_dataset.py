"""Events as a PyTorch dataset, for custom training loops.

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

from mlaas4hep.config import Params, parse_params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator


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
    ) -> None:
        """Open the files; for the other arguments and the errors see `DataGenerator`.

        Args:
            part: "train", "valid" or "test"; None: all events.
        """
        super().__init__()
        self._arguments = (files, labels, parse_params(params))
        self._preproc, self._part = preproc, part
        with DataGenerator(*self._arguments, specs, preproc=preproc) as generator:
            self.specs, self.shapes, self.classes = generator.specs, generator.shapes, generator.classes
        self._epoch = self._delivered = self._skip = 0
        self._in_workers = torch.zeros(1, dtype=torch.bool).share_memory_()  # shared with the workers of a DataLoader

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the following passes, which determines the order of events."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield batches as dicts of tensors: inputs, masks, "y", "weight"; use `DataLoader(..., batch_size=None)`."""
        skip, self._skip = self._skip, 0
        self._delivered = skip
        self._in_workers[0] = get_worker_info() is not None
        with DataGenerator(*self._arguments, self.specs, preproc=self._preproc) as generator:
            for batch in generator.batches(self._part, self._epoch, shard=_shard(), skip=skip):
                arrays = {**batch.inputs, "y": batch.y, "weight": batch.weight}
                self._delivered += 1
                yield {name: torch.from_numpy(values) for name, values in arrays.items()}

    def state_dict(self) -> dict[str, int]:
        """Return the position in the current pass; in a worker of a `DataLoader`, the position of that worker.

        Raises:
            ConfigError: workers of a `DataLoader` make the batches; they are ahead of the batches taken from it.
        """
        if get_worker_info() is None and self._in_workers:
            raise ConfigError(
                "the position in the pass is unknown, because the workers of a DataLoader make the batches",
                hint="use num_workers=0 and more 'workers' (threads) in the params, or torchdata's StatefulDataLoader",
            )
        return {"epoch": self._epoch, "batches": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next pass continue after the batches that were delivered when the state was saved."""
        self._epoch, self._skip = state["epoch"], state["batches"]


def _shard() -> tuple[int, int]:
    """Return the index of this process among all processes that read, and their number."""
    rank, world = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    worker = get_worker_info()
    if worker is None:
        return rank, world
    return rank * worker.num_workers + worker.id, world * worker.num_workers
