"""Images that clients send, as the array that a model takes; and the answer for one.

    image = read_image(file, predictor.input)                   # float32 (1, height, width, channels), 0 to 255
    answer("a.png", predictor, predictor.predict(image))

PNG and JPEG, whatever the file is called. Pillow is imported when the first image arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.serving.predictor import Predictor
from mlaas4hep.serving.rows import Matrix
from mlaas4hep.serving.tensor import Array, Tensor

LARGEST = 25_000_000
"""Pixels of an image; a few bytes can stand for as many as one likes."""

_BEST = 5
_FORMATS = ("PNG", "JPEG")


def read_image(file: BinaryIO, takes: Tensor) -> Array:
    """Decode an image in the size and with the channels that a model takes.

    An image of another size is resized, bilinearly; EXIF orientation is respected; 16 bits become 8, and transparency
    is left out, as in the stock server.

    Returns:
        float32 (1, height, width, channels), 0 to 255.

    Raises:
        ConfigError: it is no PNG or JPEG image, is damaged or too large, or the model takes no images.
    """
    if not takes.is_image:
        raise ConfigError("the model takes rows of values, not images", hint="send them to POST /json")
    height, width, channels = takes.shape
    image = _decoded(file, "L" if channels == 1 else "RGB")
    size = (width or image.width, height or image.height)
    if size != image.size:
        image = image.resize(size, require("PIL.Image", "server", "reading images").Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32)
    return pixels.reshape(1, size[1], size[0], channels or 3)


def answer(filename: str, predictor: Predictor, scores: Matrix) -> Any:
    """Return what the client of an image is told, as TFaaS says it.

    Args:
        filename: the image's, as the client calls it.
        predictor: the model.
        scores: float32 (1, k).

    Returns:
        The output's numbers for a SavedModel, and where there is not a label for each; else the five best labels.
    """
    row = [float(str(score)) if math.isfinite(score) else None for score in scores[0]]
    if predictor.platform == "tensorflow_savedmodel" or len(predictor.labels) != len(row):
        return row
    return {"filename": filename, "labels": _best(predictor.labels, row)}


def _best(labels: Sequence[str], row: Sequence[float | None]) -> list[dict[str, Any]]:
    pairs = sorted(zip(labels, row, strict=True), key=lambda pair: -math.inf if pair[1] is None else pair[1])
    return [{"label": label, "probability": probability} for label, probability in pairs[: -_BEST - 1 : -1]]


def _decoded(file: BinaryIO, mode: str) -> Any:
    image_module = require("PIL.Image", "server", "reading images")
    image_ops = require("PIL.ImageOps", "server", "reading images")
    try:
        with image_module.open(file, formats=_FORMATS) as image:
            if image.width * image.height > LARGEST:
                raise ConfigError(f"the image has more than {LARGEST / 1e6:.0f} million pixels")
            image.load()
            upright = image_ops.exif_transpose(image)
    except ConfigError:
        raise
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        raise ConfigError(f"the image has more than {LARGEST / 1e6:.0f} million pixels") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ConfigError("the image is no PNG or JPEG file, or is damaged") from error
    if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        upright = image_module.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright.convert(mode)
