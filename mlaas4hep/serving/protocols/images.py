"""Uploaded images: the array that a model takes, and the result of a prediction.

    image = read_image(file, predictor.input)                   # float32 (1, height, width, channels), 0 to 255
    image_result("a.png", predictor, predictor.predict(image))

`mlaas4hep.images.decode` decodes the files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.images.decode import decode
from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.models.predictor import Predictor
from mlaas4hep.serving.models.rows import Matrix
from mlaas4hep.serving.models.tensor import Array, Tensor

_BEST = 5  # labels in a result


def read_image(file: BinaryIO, input_tensor: Tensor, largest: int = DEFAULTS.image_pixels) -> Array:
    """Decode an image of up to `largest` pixels to the size and channels that a model takes.

    Returns:
        float32 (1, height, width, channels), 0 to 255.

    Raises:
        ConfigError: the file is not a PNG or JPEG image, is damaged or too large, or the model takes no images.
    """
    if not input_tensor.is_image:
        raise ConfigError("the model takes rows of values, not images", hint="send rows to POST /json")
    height, width, channels = input_tensor.shape
    return decode(file, height, width, channels or 3, largest).astype(np.float32)[None]


def image_result(filename: str, predictor: Predictor, scores: Matrix) -> Any:
    """Return the result for an image in the form of TFaaS.

    Args:
        filename: name of the image that the client sent.
        predictor: the model.
        scores: float32 (1, k).

    Returns:
        The five labels with the highest scores; the list of scores for a SavedModel, or if labels and scores differ in
        number.
    """
    row = [float(str(score)) if math.isfinite(score) else None for score in scores[0]]
    if predictor.platform == "tensorflow_savedmodel" or len(predictor.labels) != len(row):
        return row
    return {"filename": filename, "labels": _best(predictor.labels, row)}


def _best(labels: Sequence[str], row: Sequence[float | None]) -> list[dict[str, Any]]:
    pairs = sorted(zip(labels, row, strict=True), key=lambda pair: -math.inf if pair[1] is None else pair[1])
    return [{"label": label, "probability": probability} for label, probability in pairs[: -_BEST - 1 : -1]]
