"""Inputs and outputs of models, independent of their framework.

    layout = describe_input("pixels", (None, 3, 32, 32), channels=0, file="model.onnx")
    layout.tensor.shape, layout.channels_first          # (32, 32, 3), True

Clients always send images as (height, width, channels); models with channels first get them transposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import DEFAULTS

Array = NDArray[np.float32]
CHANNELS = (1, 3)  # greyscale, RGB


class Tensor(NamedTuple):
    """An input or output of a model: its name, and its shape per event with None for unknown sizes."""

    name: str
    shape: tuple[int | None, ...]

    @property
    def is_image(self) -> bool:
        """Whether the shape per event is (height, width, channels), not (features,)."""
        return len(self.shape) == 3


class Layout(NamedTuple):
    """An input as clients see it, and whether the model takes (n, channels, height, width)."""

    tensor: Tensor
    channels_first: bool


def sizes(shape: Sequence[object]) -> tuple[int | None, ...]:
    """Return a shape with None for every size that is not a number."""
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in shape)


def describe_input(
    name: str, shape: Sequence[object] | None, channels: int, file: str, most: int = DEFAULTS.input_values
) -> Layout:
    """Return the input of a model as clients see it.

    Args:
        name: name of the input.
        shape: its shape including the batch dimension; None if the number of dimensions is unknown.
        channels: number of image channels in params.json, 1 or 3; 0: taken from the graph.
        file: name of the model's file, for errors.
        most: limit of the number of values per event.

    Raises:
        ConfigError: the input is neither rows of numbers nor images, or has too many values per event.
    """
    if shape is None:
        return Layout(Tensor(name, (None, None, channels) if channels else (None,)), False)
    if math.prod(size for size in sizes(shape[1:]) if size) > most:
        raise ConfigError(f"{file} takes {shown(sizes(shape[1:]))} values per event; the limit is {most:,}")
    if len(shape) == 2:
        return Layout(Tensor(name, sizes(shape[1:])), False)
    if len(shape) == 4:
        return _describe_images(name, sizes(shape[1:]), channels, file)
    raise ConfigError(f"{file} does not have one input (n, features) or (n, height, width, channels) of real numbers")


def check_fits(array: Array, input_tensor: Tensor) -> None:
    """Check that events fit the input of a model.

    Raises:
        ConfigError: there are no events, or they have another shape than the model takes.
    """
    shape = array.shape[1:]
    if len(shape) != len(input_tensor.shape) or any(
        expected not in (None, size) for expected, size in zip(input_tensor.shape, shape, strict=True)
    ):
        kind = "images of " if input_tensor.is_image else ""
        raise ConfigError(f"the model takes {kind}{shown(input_tensor.shape)} values, not {shown(shape)}")
    if not len(array):
        raise ConfigError("there are no rows")


def flattened(shape: Sequence[int | None]) -> tuple[int | None]:
    """Return the shape of the scores of one event: a list, whatever the shape of the model's output."""
    known = [size for size in shape if size is not None]
    return (math.prod(known) if len(known) == len(shape) else None,)


def shown(shape: Sequence[int | None]) -> str:
    """Return a shape for messages, as in "5" or "8 x 8 x 3"."""
    return " x ".join("any" if size is None else str(size) for size in shape)


def _describe_images(name: str, shape: tuple[int | None, ...], channels: int, file: str) -> Layout:
    """Find the channel dimension: the last if it is possible, else the first."""
    expected = (channels,) if channels else CHANNELS
    if shape[2] in expected or (shape[2] is None and channels and shape[0] not in expected):
        return Layout(Tensor(name, (shape[0], shape[1], shape[2] or channels)), False)
    if shape[0] in expected:
        return Layout(Tensor(name, (shape[1], shape[2], shape[0])), True)
    takes = f"{file} takes images of {shown(shape)}"
    if channels:
        raise ConfigError(f"{takes}, but img_channels in params.json is {channels}")
    raise ConfigError(f"{takes}; they must have 1 or 3 channels", hint="set img_channels in params.json")
