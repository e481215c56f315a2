"""Residual networks for images, in Keras 3.

    model = resnet("resnet18", (64, 64, 3), classes=2)

They are those of He et al., 2015 (arXiv:1512.03385). Layers are called as in `keras.applications`, and bottlenecks are
the same; basic blocks, which it lacks, are those of torchvision. Both halve the image in their first convolution.
Reading images, training, and the softmax after the last layer are left to others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import layers

from mlaas4hep.errors import ConfigError, nearest

SMALLEST = 8
"""Height and width that an image has at least."""

MOMENTUM = 0.9
"""Of moving means and variances: they take some 30 steps; with Keras's 0.99 it is 300, ten epochs of 1,000 images."""

LAST = {"data_format": "channels_last"}
"""How servers send images, whatever a user's keras.json says."""


def resnet(name: str, shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return an untrained network.

    Args:
        name: one of `NETWORKS`.
        shape: height, width and channels (1 or 3) of an image.
        classes: how many there are.

    Returns:
        From "images", float32 (n, *shape) with values 0 to 255, to logits, float32 (n, classes).

    Raises:
        ConfigError: there is no such network, or none for such images or classes.
    """
    _check(name, shape, classes)
    block, counts = NETWORKS[name]
    images = keras.Input(shape, name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(images)
    x = _relu(_convolve(x, 64, 7, 2, "conv1"), "conv1_relu")
    x = layers.MaxPooling2D(3, 2, name="pool1_pool", **LAST)(_pad(x, 1, "pool1_pad"))
    for stage, count in enumerate(counts):
        for number in range(count):
            halves = stage > 0 and number == 0
            x = block(x, 64 * 2**stage, 2 if halves else 1, f"conv{stage + 2}_block{number + 1}")
    x = layers.GlobalAveragePooling2D(dtype="float32", name="avg_pool", **LAST)(x)
    return keras.Model(images, layers.Dense(classes, dtype="float32", name="logits")(x), name=name)


def basic(x: Any, filters: int, strides: int, name: str) -> Any:
    """Add a block of two 3x3 convolutions; it gives as many channels as it has filters."""
    y = _relu(_convolve(x, filters, 3, strides, f"{name}_1"), f"{name}_1_relu")
    return _join(x, _convolve(y, filters, 3, 1, f"{name}_2"), strides, name)


def bottleneck(x: Any, filters: int, strides: int, name: str) -> Any:
    """Add a block of a 3x3 convolution between two of 1x1; it gives four times as many channels as it has filters."""
    y = _relu(_convolve(x, filters, 1, strides, f"{name}_1"), f"{name}_1_relu")
    y = _relu(_convolve(y, filters, 3, 1, f"{name}_2"), f"{name}_2_relu")
    return _join(x, _convolve(y, 4 * filters, 1, 1, f"{name}_3"), strides, name)


class Plan(NamedTuple):
    """What a network is made of."""

    block: Callable[[Any, int, int, str], Any]
    counts: tuple[int, int, int, int]
    """Blocks of each stage; each stage has twice the filters of the one before."""


NETWORKS = {
    "resnet18": Plan(basic, (2, 2, 2, 2)),
    "resnet34": Plan(basic, (3, 4, 6, 3)),
    "resnet50": Plan(bottleneck, (3, 4, 6, 3)),
    "resnet101": Plan(bottleneck, (3, 4, 23, 3)),
    "resnet152": Plan(bottleneck, (3, 8, 36, 3)),
}


def _join(x: Any, y: Any, strides: int, name: str) -> Any:
    """Add what went through a block to what went past it, projected where the number of channels changes."""
    if x.shape[-1] != y.shape[-1]:
        x = _convolve(x, y.shape[-1], 1, strides, f"{name}_0")
    return _relu(layers.Add(name=f"{name}_add")([x, y]), f"{name}_out")


def _convolve(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
    """Convolve and normalise; 1 / strides of the height and width are left, rounded up.

    Every gamma starts at 1. With 0 in the last of a block, after four epochs of 1,000 images, resnet18 knew new ones
    less well, and resnet50 a little better.
    """
    if strides > 1 and size > 1:
        x = _pad(x, size // 2, f"{name}_pad")
    convolve = layers.Conv2D(
        filters,
        size,
        strides,
        padding="valid" if strides > 1 else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
        **LAST,
    )
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=1.001e-5, name=f"{name}_bn")(convolve(x))


def _pad(x: Any, width: int, name: str) -> Any:
    """Surround images with zeros; padding="same" would put them at two of the sides alone, where strides are 2."""
    return layers.ZeroPadding2D(width, name=name, **LAST)(x)


def _relu(x: Any, name: str) -> Any:
    return layers.Activation("relu", name=name)(x)


def _check(name: str, shape: tuple[int, int, int], classes: int) -> None:
    height, width, channels = shape
    if name not in NETWORKS:
        raise ConfigError(
            f"there is no network '{name}'", nearest=nearest(name, NETWORKS, 1), hint="there are " + ", ".join(NETWORKS)
        )
    if channels not in (1, 3):
        raise ConfigError(f"images have {channels} channels", hint="make it 1 (grey) or 3 (colour)")
    if min(height, width) < SMALLEST:
        raise ConfigError(
            f"images of {height}x{width} pixels are too small for {name}", hint=f"make it {SMALLEST}x{SMALLEST} or more"
        )
    if classes < 2:
        number = "1 class" if classes == 1 else f"{classes} classes"
        raise ConfigError(f"there is nothing to tell apart: {number}", hint="make it 2 or more")
