"""Inputs flattened to one row per event, for estimators of scikit-learn and XGBoost.

rows = InputRows({"x": (73,)}, nan_for_missing=True)
table = rows.flatten(batch.inputs)        # float32 (events, 73), NaN for missing values
rows.onnx_graph([converted], column=1)    # from inputs and masks to the scores of a converted estimator
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep.backends.protocol import Shapes, array_shapes
from mlaas4hep.reader.inputs import mask_of

NO_NEGATIVE_WEIGHTS = "change 'weight' in the params, for example to abs(...), or train a network"
"""Hint for estimators that do not support negative weights."""


@dataclass(frozen=True)
class InputRows:
    """Converts the inputs of each event to one row: all inputs, each flattened, one after the other.

    Attributes:
        shapes: per-event shape of each input.
        nan_for_missing: whether missing values are NaN; otherwise they are 0.
    """

    shapes: Shapes
    nan_for_missing: bool

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the inputs and masks that `flatten` needs."""
        return tuple(name for one in self.shapes for name in ((one, mask_of(one)) if self.nan_for_missing else (one,)))

    @property
    def width(self) -> int:
        """Length of a row."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def flatten(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return one row per event, float32 (events, width)."""
        parts = []
        for name, shape in self.shapes.items():
            values = np.asarray(inputs[name], np.float32)
            if self.nan_for_missing:
                mask = np.asarray(inputs[mask_of(name)]) > 0
                values = np.where(mask[..., None] if len(shape) > 1 else mask, values, np.float32(np.nan))
            parts.append(values.reshape(len(values), -1))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def onnx_graph(self, models: Sequence[Any], column: int | None) -> Any:
        """Return an ONNX graph from inputs and masks to the concatenated scores of several estimators.

        Args:
            models: ONNX graphs from rows to scores, which are the last output.
            column: column of the scores to keep; None: all columns.
        """
        from onnx import TensorProto, compose, helper, numpy_helper

        constants = {"nan": np.full(1, np.nan, np.float32), "half": np.full(1, 0.5, np.float32),
                 "last": np.array([-1], np.int64), "column": np.array([column or 0], np.int64)}  # fmt: skip
        nodes, flat = [], []
        for name, shape in self.shapes.items():
            value = name
            if self.nan_for_missing:
                mask = f"{name}/present"
                nodes.append(helper.make_node("Greater", [mask_of(name), "half"], [mask]))
                if len(shape) > 1:
                    nodes.append(helper.make_node("Unsqueeze", [mask, "last"], [f"{mask}/each"]))
                    mask = f"{mask}/each"
                nodes.append(helper.make_node("Where", [mask, value, "nan"], [f"{name}/value"]))
                value = f"{name}/value"
            constants[f"{name}/shape"] = np.array([-1, math.prod(shape)], np.int64)
            nodes.append(helper.make_node("Reshape", [value, f"{name}/shape"], [f"{name}/flat"]))
            flat.append(f"{name}/flat")
        nodes.append(helper.make_node("Concat", flat, ["rows"], axis=1))
        scores = []
        arrays, imports, version = [], {"": 13}, 8
        for number, model in enumerate(models):
            part = compose.add_prefix(model, f"estimator{number}/")
            nodes.append(helper.make_node("Identity", ["rows"], [part.graph.input[0].name]))
            nodes += part.graph.node
            arrays += part.graph.initializer
            for one in part.opset_import:
                imports[one.domain] = max(one.version, imports.get(one.domain, 1))
            version = max(version, part.ir_version)
            score = part.graph.output[-1].name
            if column is not None:
                nodes.append(helper.make_node("Gather", [score, "column"], [f"{score}/wanted"], axis=1))
                score = f"{score}/wanted"
            scores.append(score)
        nodes.append(helper.make_node("Concat", scores, ["scores"], axis=1))
        used = {name for node in nodes for name in node.input}
        arrays += [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
        shapes = array_shapes(self.shapes)
        graph = helper.make_graph(
            nodes,
            "rows",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["events", *shapes[name]]) for name in self.takes],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["events", None])],
            arrays,
        )
        return helper.make_model(
            graph,
            ir_version=version,
            opset_imports=[helper.make_opsetid(domain, number) for domain, number in imports.items()],
        )
