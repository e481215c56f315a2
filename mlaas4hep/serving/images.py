"""Images that clients send, as the array that a model takes; and the answer for one.

    image = read_image(file, predictor.input)                   # float32 (1, height, width, channels), 0 to 255
    answer("a.png", predictor, predictor.predict(image))

What is decoded, and how, is in `mlaas4hep.images.decode`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.images.decode import decode
from mlaas4hep.serving.predictor import Predictor
from mlaas4hep.serving.rows import Matrix
from mlaas4hep.serving.tensor import Array, Tensor

_BEST = 5


def read_image(file: BinaryIO, takes: Tensor) -> Array:
    """Decode an image in the size and with the channels that a model takes.

    Returns:
        float32 (1, height, width, channels), 0 to 255.

    Raises:
        ConfigError: it is no PNG or JPEG image, is damaged or too large, or the model takes no images.
    """
    if not takes.is_image:
        raise ConfigError("the model takes rows of values, not images", hint="send them to POST /json")
    height, width, channels = takes.shape
    return decode(file, height, width, channels or 3).astype(np.float32)[None]


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
