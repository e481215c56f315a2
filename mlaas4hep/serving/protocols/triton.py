"""Extensions of Triton to the Open Inference Protocol: the configuration and the counters of a model.

    model_config(model, limits)["max_batch_size"]        # 1024

Field names and types are those of Triton's `model_config.proto` and of its statistics extension, in JSON.
"""

from __future__ import annotations

from typing import Any

from mlaas4hep.protocol.limits import Limits
from mlaas4hep.serving.http.metrics import ModelCounters
from mlaas4hep.serving.models.predictor import Model
from mlaas4hep.serving.models.tensor import Tensor, flattened

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]
"""Extensions of the protocol that the server supports."""

_BACKENDS = {"onnxruntime_onnx": "onnxruntime", "keras": "keras"}


def model_config(model: Model, limits: Limits) -> dict[str, Any]:
    """Return the configuration of a model; `dims` are without the batch dimension, -1 for unknown sizes."""
    predictor = model.predictor
    config: dict[str, Any] = {
        "name": model.name,
        "platform": predictor.platform,
        "backend": _BACKENDS.get(predictor.platform, "tensorflow"),
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": min(predictor.most_rows or limits.run_rows, limits.run_rows),
        "input": [_tensor(predictor.input)],
        "output": [_tensor(Tensor(predictor.output.name, flattened(predictor.output.shape)))],
    }
    if predictor.rows_independent:
        config["dynamic_batching"] = {}
    return config


def _tensor(tensor: Tensor) -> dict[str, Any]:
    dims = [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "data_type": "TYPE_FP32", "dims": dims}


def model_statistics(model: Model, counters: ModelCounters) -> dict[str, Any]:
    """Return the counters of a model; durations that the server does not measure are left out."""
    runs = {"count": counters.runs, "ns": round(counters.seconds * 1e9)}
    return {
        "name": model.name,
        "version": model.version,
        "inference_count": counters.rows,
        "execution_count": counters.runs,
        "inference_stats": {"success": {"count": counters.requests}, "compute_infer": runs},
    }
