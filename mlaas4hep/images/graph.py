"""Run a bundle's ONNX graph on batches of images.

predictions = run_graph(open_session(Path("models/model.onnx")), stream.batches("test", shuffle=False), task)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlaas4hep.backends.task import Task
from mlaas4hep.images.stream import IMAGES
from mlaas4hep.stream import Batch
from mlaas4hep.training.loop import Predictions


def run_graph(session: Any, batches: Iterable[Batch], task: Task) -> Predictions:
    """Return labels and scores of all images in the batches."""
    y, scores = [], []
    for batch in batches:
        y.append(batch.y)
        scores.append(session.run(["scores"], {"inputs": batch.inputs[IMAGES].astype(np.float32)})[0])
    labels = np.concatenate(y)
    return Predictions(labels, np.concatenate(scores), np.ones(len(labels), np.float32), task)
