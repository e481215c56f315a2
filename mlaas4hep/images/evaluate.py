"""A trained classifier on images that it may not know: figures of merit, and what is taken for what.

    tested = evaluate_model("models", Images("more_images", "labels.csv"))
    tested.scored.figures(), tested.confusion()

The bundle's ONNX graph is what is run, as a server does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.images.check import Checked, check_images
from mlaas4hep.images.folder import ImageFolder, read_folder
from mlaas4hep.images.graph import run_graph
from mlaas4hep.images.quantise import QUANTISED
from mlaas4hep.images.stream import ImageStream
from mlaas4hep.images.train import Images
from mlaas4hep.input_files import read_lines
from mlaas4hep.lists import some
from mlaas4hep.stream import Batch
from mlaas4hep.training.loop import Scored
from mlaas4hep.training.metrics import confusion_matrix
from mlaas4hep.training.scoring import open_session
from mlaas4hep.training.task import Task

GRAPH = "model.onnx"


@dataclass(frozen=True)
class Tested:
    """What a model said.

    Attributes:
        images: those that were shown to it.
        classes: of the model, in its order.
        scored: labels and scores.
    """

    images: ImageFolder
    classes: tuple[str, ...]
    scored: Scored

    def confusion(self) -> np.ndarray:
        """Return how many images of each class (rows) are taken for which (columns), int64 (classes, classes)."""
        return confusion_matrix(self.scored.y, self.scored.scores).astype(np.int64)


def evaluate_model(
    bundle: str | os.PathLike[str], images: Images, params: Params, *, quantised: bool = False
) -> Tested:
    """Show all images of a folder to a model, or those for testing where it is divided.

    Args:
        images: size and channels are the model's.
        params: batch size and threads.
        quantised: take the model of 8 bits.

    Raises:
        FileUnreadable, ConfigError: there is no such bundle, or the images are not of its classes.
    """
    folder = Path(bundle)
    session = open_session(folder / (QUANTISED if quantised else GRAPH))
    shape = tuple(session.get_inputs()[0].shape[1:])
    if len(shape) != 3:
        raise ConfigError(f"{folder} takes no images", hint="models of vectors: workflow.py --predict")
    classes = tuple(read_lines(folder / "labels.txt"))
    there = read_folder(images.folder, images.labels, images.ext, use="test")
    found = check_images(_in_classes(there, classes), images.skip_bad)
    _compare(found, shape)
    stream = ImageStream(found.images, shape, params)
    scored = run_graph(session, _with_progress(stream), Task("classification", classes))
    return Tested(found.images, classes, scored)


def _compare(found: Checked, shape: tuple[int, ...]) -> None:
    """Say how images are made to be as the model takes them."""
    height, width, channels = shape
    if (found.height, found.width) != (height, width):
        console.notice(
            f"images are {found.height} x {found.width} (height x width), and the model takes {height} x {width}; they"
            " are resized"
        )
    if found.channels != channels:
        colours = ("grey", "colours") if channels == 3 else ("colours", "grey")
        console.notice(f"images are in {colours[0]}, and the model takes {colours[1]}; they are converted")


def _with_progress(stream: ImageStream) -> Iterator[Batch]:
    with console.progress("testing", len(stream.images), "images") as bar:
        for batch in stream.batches(shuffle=False, balanced=False):
            yield batch
            bar.advance(len(batch))


def _in_classes(images: ImageFolder, classes: tuple[str, ...]) -> ImageFolder:
    """Return images whose labels are numbered as the model does it."""
    unknown = [name for name in images.classes if name not in classes]
    if unknown:
        raise ConfigError(
            f"the model does not know {some([repr(name) for name in unknown])}", hint=f"it knows {some(list(classes))}"
        )
    number = np.array([classes.index(name) for name in images.classes])
    return replace(images, classes=classes, y=number[images.y])
