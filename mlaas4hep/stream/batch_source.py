"""What training asks of a sample, whatever it consists of: events in files (`DataGenerator`), or images in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from mlaas4hep.config import Params
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.census import Composition
from mlaas4hep.stream.labels import Labels


class BatchSource(Protocol):
    """A labelled sample in three parts; "events" stands for whatever it consists of."""

    @property
    def params(self) -> Params:
        """How to mix and train."""

    @property
    def labels(self) -> Labels:
        """What the model learns to tell apart."""

    @property
    def composition(self) -> Composition:
        """How many events there are of what class in which part."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of one event, by input, without masks."""

    @property
    def training_entries(self) -> int:
        """About how many entries the training part has, before cuts."""

    def leave_raw(self) -> None:
        """Normalise nothing, where the params leave that open."""

    def batches(
        self,
        part: str | None = None,
        epoch: int = 0,
        shuffle: bool | None = None,
        *,
        skip: int = 0,
        balanced: bool = True,
    ) -> Iterator[Batch]:
        """Yield batches until every event of a part was delivered once; see `DataGenerator.batches`."""

    def examples(self, count: int, part: str | None = "test") -> Batch:
        """Return up to `count` events of a part, or of all."""
