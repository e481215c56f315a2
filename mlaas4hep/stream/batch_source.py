"""The interface between training and a sample: `DataGenerator` for events in files, `ImageStream` for images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from mlaas4hep.config import Params
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.sample_statistics import Composition


class BatchSource(Protocol):
    """A labelled sample, split into three parts. An event may also be an image."""

    @property
    def params(self) -> Params:
        """The params."""

    @property
    def labels(self) -> Labels:
        """The labels of the sample."""

    @property
    def composition(self) -> Composition:
        """Number of events of each class in each part."""

    def mean_training_weight(self) -> float:
        """Return the mean weight of the training events, after balancing or reweighting.

        Raises:
            ConfigError: the events cannot be reweighted.
        """

    def mean_training_events(self) -> float:
        """Return the mean number of training events in an epoch, after sampling.

        Raises:
            ConfigError: the events cannot be reweighted.
        """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Per-event shape of each input, masks excluded."""

    @property
    def training_entries(self) -> int:
        """Approximate number of entries in the training part, before cuts."""

    def disable_normalisation(self) -> None:
        """Use raw values if `normalise` of the params is "auto"."""

    def batches(
        self,
        part: str | None = None,
        epoch: int = 0,
        shuffle: bool | None = None,
        *,
        skip: int = 0,
        balanced: bool = True,
    ) -> Iterator[Batch]:
        """Yield each event of a part once, in batches; see `DataGenerator.batches`."""

    def examples(self, count: int, part: str | None = "test") -> Batch:
        """Return up to `count` events of a part; None: of the whole sample."""
