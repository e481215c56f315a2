"""What goes into a model and comes out of it, whatever runs the model.

    layout = describe_input("pixels", (None, 3, 32, 32), channels=0, file="model.onnx")
    layout.tensor.shape, layout.channels_first          # (32, 32, 3), True

Clients always give images as (height, width, channels); a model that wants the channels first gets them so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.rows import Request, Rows, plain_rows

Array = NDArray[np.float32]
CHANNELS = (1, 3)  # greyscale, RGB
MOST_VALUES = 10_000_000
"""Values of one event that a model may take: 40 MB, or an image of 1,800 x 1,800 pixels in RGB."""


class Tensor(NamedTuple):
    """What goes into a model, or comes out: its name, and its shape for one event, with None where that is not said."""

    name: str
    shape: tuple[int | None, ...]

    @property
    def is_image(self) -> bool:
        """Whether one event is (height, width, channels), and not (features,)."""
        return len(self.shape) == 3


class Layout(NamedTuple):
    """An input as clients see it, and whether the model itself takes (n, channels, height, width)."""

    tensor: Tensor
    channels_first: bool


def sizes(shape: Sequence[object]) -> tuple[int | None, ...]:
    """Return a shape with None for every size that is no number."""
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in shape)


def describe_input(name: str, shape: Sequence[object] | None, channels: int, file: str) -> Layout:
    """Say what a model takes.

    Args:
        name: of the input.
        shape: with the events in front; None where even the number of dimensions is unknown.
        channels: of images, 1 or 3, as params.json says; 0: as the graph says.
        file: named in errors.

    Raises:
        ConfigError: it takes neither rows of numbers nor images, or too many values per event.
    """
    if shape is None:
        return Layout(Tensor(name, (None, None, channels) if channels else (None,)), False)
    if math.prod(size for size in sizes(shape[1:]) if size) > MOST_VALUES:
        takes = shown(sizes(shape[1:]))
        raise ConfigError(f"{file} takes {takes} values per event, and may take {MOST_VALUES:,}")
    if len(shape) == 2:
        return Layout(Tensor(name, sizes(shape[1:])), False)
    if len(shape) == 4:
        return _describe_images(name, sizes(shape[1:]), channels, file)
    raise ConfigError(f"{file} does not have one input (n, features) or (n, height, width, channels) of real numbers")


def check_fits(array: Array, takes: Tensor) -> None:
    """Check the events that a model is given.

    Raises:
        ConfigError: there is none, or they are of another shape than the model takes.
    """
    given = array.shape[1:]
    if len(given) != len(takes.shape) or any(
        size not in (None, there) for size, there in zip(takes.shape, given, strict=True)
    ):
        kind = "images of " if takes.is_image else ""
        raise ConfigError(f"the model takes {kind}{shown(takes.shape)} values, and there are {shown(given)}")
    if not len(array):
        raise ConfigError("there are no rows")


def rows_of_values(request: Request, takes: Tensor) -> Rows:
    """Make the matrix of a request without names of columns.

    Raises:
        ConfigError: the model takes images, or the values do not fit it.
    """
    check_takes_rows(takes)
    return plain_rows(request, takes.shape[0])


def check_takes_rows(takes: Tensor) -> None:
    """Raise ConfigError if a model takes images."""
    if takes.is_image:
        raise ConfigError("the model takes images, not rows of values", hint="send a PNG or JPEG file to POST /image")


def shown(shape: Sequence[int | None]) -> str:
    """Return a shape in words, as "5" or "8 x 8 x 3"."""
    return " x ".join("any" if size is None else str(size) for size in shape)


def _describe_images(name: str, shape: tuple[int | None, ...], channels: int, file: str) -> Layout:
    """Find the channels, in the back or in front; in doubt they are in the back."""
    wanted = (channels,) if channels else CHANNELS
    if shape[2] in wanted or (shape[2] is None and channels and shape[0] not in wanted):
        return Layout(Tensor(name, (shape[0], shape[1], shape[2] or channels)), False)
    if shape[0] in wanted:
        return Layout(Tensor(name, (shape[1], shape[2], shape[0])), True)
    takes = f"{file} takes images of {shown(shape)}"
    if channels:
        raise ConfigError(f"{takes}, and img_channels in params.json is {channels}")
    raise ConfigError(f"{takes}; those of 1 or 3 channels are served", hint="img_channels in params.json may say it")
