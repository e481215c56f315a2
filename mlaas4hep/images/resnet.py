"""Residual networks for images, in Keras 3.

    model = resnet("resnet18", (64, 64, 3), classes=2)

The networks of He et al., 2015 (arXiv:1512.03385). Names of layers and bottleneck blocks are those of
`keras.applications`; basic blocks, which it lacks, are those of torchvision. Blocks that halve the image do so in their
first convolution. The output is logits, without a softmax.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from mlaas4hep.errors import ConfigError, nearest

MIN_SIZE = 8
"""Smallest height and width of an image."""

MOMENTUM = 0.9
"""Momentum of batch normalisation. Moving averages converge in about 30 steps; with Keras's default of 0.99 it would be
300 steps, or ten epochs of 1,000 images."""

CHANNELS_LAST = {"data_format": "channels_last"}
"""The format in which servers send images, independent of the user's keras.json."""


def resnet(name: str, shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return an untrained network.

    Args:
        name: one of `NETWORKS`.
        shape: height, width and channels (1 or 3) of an image.
        classes: number of classes.

    Returns:
        A model from "images", float32 (n, *shape) with values 0 to 255, to logits, float32 (n, classes).

    Raises:
        ConfigError: the name is unknown, or the shape or the number of classes is not supported.
    """
    _check(name, shape, classes)
    block, counts = NETWORKS[name]
    images = keras.Input(shape, name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(images)
    x = _relu(_conv_bn(x, 64, 7, 2, "conv1"), "conv1_relu")
    x = layers.MaxPooling2D(3, 2, name="pool1_pool", **CHANNELS_LAST)(_pad(x, 1, "pool1_pad"))
    for stage, count in enumerate(counts):
        for number in range(count):
            halves = stage > 0 and number == 0
            x = block(x, 64 * 2**stage, 2 if halves else 1, f"conv{stage + 2}_block{number + 1}")
    x = layers.GlobalAveragePooling2D(dtype="float32", name="avg_pool", **CHANNELS_LAST)(x)
    return keras.Model(images, layers.Dense(classes, dtype="float32", name="logits")(x), name=name)


def basic_block(x: Any, filters: int, strides: int, name: str) -> Any:
    """Apply a block of two 3x3 convolutions; the output has `filters` channels."""
    y = _relu(_conv_bn(x, filters, 3, strides, f"{name}_1"), f"{name}_1_relu")
    return _add_shortcut(x, _conv_bn(y, filters, 3, 1, f"{name}_2"), strides, name)


def bottleneck_block(x: Any, filters: int, strides: int, name: str) -> Any:
    """Apply a block of a 3x3 convolution between two 1x1 convolutions; the output has 4 * `filters` channels."""
    y = _relu(_conv_bn(x, filters, 1, strides, f"{name}_1"), f"{name}_1_relu")
    y = _relu(_conv_bn(y, filters, 3, 1, f"{name}_2"), f"{name}_2_relu")
    return _add_shortcut(x, _conv_bn(y, 4 * filters, 1, 1, f"{name}_3"), strides, name)


NETWORKS = {
    "resnet18": (basic_block, (2, 2, 2, 2)),
    "resnet34": (basic_block, (3, 4, 6, 3)),
    "resnet50": (bottleneck_block, (3, 4, 6, 3)),
    "resnet101": (bottleneck_block, (3, 4, 23, 3)),
    "resnet152": (bottleneck_block, (3, 8, 36, 3)),
}
"""The kind of block, and the number of blocks per stage; each stage has twice the filters of the previous one."""


def _add_shortcut(x: Any, y: Any, strides: int, name: str) -> Any:
    """Add the input of a block to its output, projected if the number of channels changes."""
    if x.shape[-1] != y.shape[-1]:
        x = _conv_bn(x, y.shape[-1], 1, strides, f"{name}_0")
    return _relu(layers.Add(name=f"{name}_add")([x, y]), f"{name}_out")


def _conv_bn(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
    """Apply a convolution and batch normalisation; height and width are divided by the strides, rounded up.

    Every gamma starts at 1. With gamma 0 in the last normalisation of each block, the accuracy on new images after four
    epochs of 1,000 images was lower for resnet18, and slightly higher for resnet50.
    """
    if strides > 1 and size > 1:
        x = _pad(x, size // 2, f"{name}_pad")
    options = {"use_bias": False, "kernel_initializer": "he_normal", **CHANNELS_LAST}
    padding = "valid" if strides > 1 else "same"
    convolve = layers.Conv2D(filters, size, strides, padding=padding, name=f"{name}_conv", **options)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=1.001e-5, name=f"{name}_bn")(convolve(x))


def _pad(x: Any, width: int, name: str) -> Any:
    """Pad images with zeros on all sides; with strides of 2, padding="same" would pad only two sides."""
    return layers.ZeroPadding2D(width, name=name, **CHANNELS_LAST)(x)


def _relu(x: Any, name: str) -> Any:
    return layers.Activation("relu", name=name)(x)


def _check(name: str, shape: tuple[int, int, int], classes: int) -> None:
    height, width, channels = shape
    if name not in NETWORKS:
        hint = f"available: {', '.join(NETWORKS)}"
        raise ConfigError(f"unknown network '{name}'", nearest=nearest(name, NETWORKS, 1), hint=hint)
    if channels not in (1, 3):
        raise ConfigError(f"images have {channels} channels", hint="use 1 (grey) or 3 (colour)")
    if min(height, width) < MIN_SIZE:
        hint = f"use at least {MIN_SIZE}x{MIN_SIZE}"
        raise ConfigError(f"images of {height}x{width} pixels are too small for {name}", hint=hint)
    if classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, not {classes}")
