"""Evaluate a trained classifier on images: metrics and confusion matrix.

    result = evaluate_model("models", ImageOptions("more_images", "labels.csv"), params)
    result.predictions.metrics(), result.confusion()

This runs the bundle's ONNX graph, as servers do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.metrics import confusion_matrix
from mlaas4hep.backends.task import Task
from mlaas4hep.comma_lists import abbreviated
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.images.check import CheckedImages, check_images
from mlaas4hep.images.folder import ImageFolder, read_folder
from mlaas4hep.images.graph import run_graph
from mlaas4hep.images.quantise import QUANTISED
from mlaas4hep.images.stream import ImageStream
from mlaas4hep.images.train import ImageOptions
from mlaas4hep.input_files import read_lines
from mlaas4hep.stream import Batch
from mlaas4hep.training.loop import Predictions
from mlaas4hep.training.onnx_session import open_session

GRAPH = "model.onnx"


@dataclass(frozen=True)
class Evaluation:
    """The labels of some images and the scores of a model, whose classes are in its own order."""

    images: ImageFolder
    classes: tuple[str, ...]
    predictions: Predictions

    def confusion(self) -> np.ndarray:
        """Return the number of images by true class (rows) and predicted class (columns), int64 (classes, classes)."""
        return confusion_matrix(self.predictions.y, self.predictions.scores).astype(np.int64)


def evaluate_model(
    bundle: str | os.PathLike[str], images: ImageOptions, params: Params, *, quantised: bool = False
) -> Evaluation:
    """Evaluate the model of a bundle on all images of a folder, or on those in its `test/`.

    Args:
        images: the images; their size and channels are those of the model.
        params: batch size and number of threads.
        quantised: use the 8-bit model.

    Raises:
        FileUnreadable: the bundle or the images cannot be read.
        ConfigError: the model takes no images, or does not have the classes of the images.
    """
    folder = Path(bundle)
    session = open_session(folder / (QUANTISED if quantised else GRAPH))
    shape = tuple(session.get_inputs()[0].shape[1:])
    if len(shape) != 3:
        raise ConfigError(f"the model in {folder} takes no images", hint="for events use workflow.py --predict")
    classes = tuple(read_lines(folder / "labels.txt"))
    labelled = read_folder(images.folder, images.labels, images.ext, use="test")
    checked = check_images(_with_classes(labelled, classes), images.skip_bad)
    _report_conversions(checked, shape)
    stream = ImageStream(checked.images, shape, params)
    predictions = run_graph(session, _with_progress(stream), Task("classification", classes))
    return Evaluation(checked.images, classes, predictions)


def _report_conversions(checked: CheckedImages, shape: tuple[int, ...]) -> None:
    """Report that images are resized or converted to the input of the model."""
    height, width, channels = shape
    if (checked.height, checked.width) != (height, width):
        console.notice(
            f"images are {checked.height} x {checked.width} (height x width) but the model takes {height} x {width};"
            " they are resized"
        )
    if checked.channels != channels:
        given, taken = ("grey", "colour") if channels == 3 else ("colour", "grey")
        console.notice(f"images are {given} but the model takes {taken}; they are converted")


def _with_progress(stream: ImageStream) -> Iterator[Batch]:
    with console.progress("testing", len(stream.images), "images") as bar:
        for batch in stream.batches(shuffle=False, balanced=False):
            yield batch
            bar.advance(len(batch))


def _with_classes(images: ImageFolder, classes: tuple[str, ...]) -> ImageFolder:
    """Return the images with labels as indices into the classes of the model."""
    unknown = [name for name in images.classes if name not in classes]
    if unknown:
        raise ConfigError(
            f"the model has no class {abbreviated([repr(name) for name in unknown])}",
            hint=f"it has {abbreviated(list(classes))}",
        )
    indices = np.array([classes.index(name) for name in images.classes])
    return replace(images, classes=classes, y=indices[images.y])
