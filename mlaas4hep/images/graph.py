"""A bundle's ONNX graph, run on batches of images.

scored = run_graph(open_session(Path("models/model.onnx")), stream.batches("test", shuffle=False), task)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlaas4hep.images.stream import IMAGES
from mlaas4hep.stream import Batch
from mlaas4hep.training.loop import Scored
from mlaas4hep.training.task import Task


def run_graph(session: Any, batches: Iterable[Batch], task: Task) -> Scored:
    """Return the scores of an ONNX graph for all images of some batches."""
    y, scores = [], []
    for batch in batches:
        y.append(batch.y)
        scores.append(session.run(["scores"], {"inputs": batch.inputs[IMAGES].astype(np.float32)})[0])
    every = np.concatenate(y)
    return Scored(every, np.concatenate(scores), np.ones(len(every), np.float32), task)
