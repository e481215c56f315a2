"""What a bundle and its report say of the events, or images, that a model was trained on, and how a graph takes them.

All else of a bundle is the same for all; see `bundle`. Events are in `event_content`, images in `images.content`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlaas4hep.stream import PARTS

if TYPE_CHECKING:
    from mlaas4hep.training.bundle import Trained

Section = tuple[str, Callable[[], str]]
"""Of a report: its title, and what makes its HTML."""

WORDS = {"train": "training", "valid": "validation", "test": "test"}


class Content(Protocol):
    """The sample of a run, as a bundle and its report have it.

    Attributes:
        channels: of images, 1 or 3; 0 for events.
        packages: that read it, whose versions matter.
    """

    channels: int
    packages: Sequence[str]

    def about(self) -> dict[str, Any]:
        """Return what training.json says of it."""

    def write(self, folder: Path, fold: int | None = None) -> None:
        """Write the files that a bundle, or the folder of one of its models, has of it."""

    def example(self, name: str, count: int) -> dict[str, Any] | None:
        """Return some events of the test part with their labels, as example.json has them; None: there is none.

        Args:
            name: of the model.
        """

    def raw(self, count: int) -> np.ndarray:
        """Return some events as the graph takes them, float32 (events, ...), always the same."""

    def graph(self, network: Any, takes: Sequence[str], fold: int) -> Any:
        """Return the ONNX graph from raw events, `inputs`, to `scores`.

        Args:
            network: the graph from what the model takes.
            takes: what that is.
            fold: which model it is of.
        """

    def metadata(self) -> dict[str, str]:
        """Return what a graph says of its inputs."""

    def after_graph(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Write what is made of the bundle's graph; return what metrics.json says of that."""

    def losses(self) -> Sequence[str]:
        """Return what was not read, or not whole, a line each."""

    def sample(self, training: Mapping[str, Any]) -> str:
        """Return how the parts were made and of which files, as HTML.

        Args:
            training: the content of training.json.
        """

    def before(self) -> Sequence[Section]:
        """Return the sections of a report in front of the training's."""

    def after(self, trained: Trained) -> Sequence[Section]:
        """Return the sections behind the scores'."""


def in_words(shares: Sequence[float]) -> str:
    """Return the shares of the parts: "70% training, 15% validation, 15% test"."""
    return ", ".join(f"{share:.0%} {WORDS[part]}" for part, share in zip(PARTS, shares, strict=True))
