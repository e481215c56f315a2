"""A graph that computes with 8 bits: smaller, on many machines faster, and not quite as good.

    quantise(Path("model.onnx"), Path("model_quantized.onnx"), stream)

Weights are divided into 255 steps by channel, and what flows between layers by what it is for some training images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.errors import require
from mlaas4hep.images.stream import IMAGES, ImageStream

QUANTISED = "model_quantized.onnx"
"""What a bundle calls it."""

CALIBRATION = 256
"""Training images by which the steps are chosen."""


def quantise(source: Path, target: Path, stream: ImageStream) -> None:
    """Write the graph of a model that computes with 8 bits.

    Raises:
        PackageMissing: onnxruntime is not installed.
    """
    tools = require("onnxruntime.quantization", "server", "making a model of 8 bits")

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self._pieces = _pieces(stream)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._pieces, None)

    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises to prepare the graph first, which changes nothing here
    try:
        tools.quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
    finally:
        logging.root.setLevel(before)


def _pieces(stream: ImageStream) -> Iterator[dict[str, Any]]:
    size = stream.params.batch_size
    for batch in islice(stream.batches("train", shuffle=True), -(-CALIBRATION // size)):
        yield {"inputs": batch.inputs[IMAGES].astype(np.float32)}
