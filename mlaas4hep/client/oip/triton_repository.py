"""A bundle as a model in the model repository of a Triton server.

    add_to_repository(Path("bundle"), Path("repository"))     # repository/htautau/1

The graph is not changed. config.pbtxt describes its inputs and outputs, in the text format of `inference.ModelConfig`
(Triton's model_config.proto). A model of the same name gets a new version; its configuration is not changed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlaas4hep.client.packing import folder_params
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.files import new_directory, write_lock
from mlaas4hep.input_files import check_is_file, content_lines, read_text
from mlaas4hep.protocol.class_names import class_names
from mlaas4hep.protocol.params import plain_filename

CONFIG, LABELS, GRAPH = "config.pbtxt", "labels.txt", "model.onnx"
MAX_BATCH_SIZE = 1024
"""Largest number of events of one run; Triton refuses requests with more."""

_TYPES = {
    "FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16", "STRING": "STRING",
    **{name: name for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")},
}  # fmt: skip
"""Names of element types in ONNX and in Triton."""


def add_to_repository(bundle: Path, repository: Path) -> Path:
    """Add the ONNX graph of a bundle to a model repository; return the folder of its version.

    Raises:
        ConfigError: the folder is not the bundle of an ONNX graph that Triton can run, or the repository has another
            model of this name.
        FileUnreadable: a file cannot be read or written.
    """
    params = folder_params(bundle)
    name = str(params["name"])
    graph = bundle / plain_filename(str(params.get("model") or "-"))
    if graph.suffix != ".onnx":
        raise ConfigError(
            f"the model in {bundle} is {graph.name}, not an ONNX graph", hint="use a bundle of workflow.py"
        )
    check_is_file(graph)
    file = params.get("labels")
    labels = content_lines(read_text(bundle / plain_filename(file))) if file else []
    config, label_text = _describe(name, graph, str(params.get("output_name") or ""), labels)
    folder = repository / name
    with write_lock(folder):
        if os.path.lexists(folder):
            _check_same(folder, config, label_text)
            version = _next_version(folder)
            with new_directory(folder / str(version)) as new:
                shutil.copyfile(graph, new / GRAPH)
            return folder / str(version)
        with new_directory(folder) as new:
            (new / "1").mkdir()
            shutil.copyfile(graph, new / "1" / GRAPH)
            (new / CONFIG).write_text(config, encoding="utf-8")
            if label_text:
                (new / LABELS).write_text(label_text, encoding="utf-8")
        return folder / "1"


def _next_version(folder: Path) -> int:
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


def _check_same(folder: Path, config: str, label_text: str) -> None:
    """Check that a model of the repository has the same inputs, outputs and labels; other settings may differ."""
    hint = "choose another repository, or another name in params.json"
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} exists, and has no {CONFIG}", hint=hint)
    existing = read_text(folder / CONFIG)
    for block in _blocks(config):
        if "".join(block.split()) not in "".join(existing.split()):
            raise ConfigError(f"{folder / CONFIG} does not describe the inputs and outputs of this model", hint=hint)
    if label_text and (not (folder / LABELS).is_file() or read_text(folder / LABELS) != label_text):
        raise ConfigError(f"{folder / LABELS} has other labels than this model", hint=hint)


def _blocks(config: str) -> Iterable[str]:
    """Return the entries of a configuration that describe an input or an output, and the batch size if it is 0."""
    for line in config.splitlines():
        if line.startswith(("input ", "output ", "max_batch_size: 0")):
            yield line


def _describe(name: str, graph: Path, output: str, labels: Sequence[str]) -> tuple[str, str]:
    """Return the configuration of a graph, and the text of its label file, which may be empty."""
    onnx = require("onnx", "server", "describing an ONNX graph")
    try:
        content = onnx.load(str(graph), load_external_data=False).graph
    except Exception as error:  # protobuf's errors have no common base class
        raise ConfigError(f"{graph} is not an ONNX graph") from error
    constants = {one.name for one in content.initializer}
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in content.initializer):
        raise ConfigError(f"{graph} keeps its weights in other files, which is not supported")
    types = {number: type_name for type_name, number in onnx.TensorProto.DataType.items()}
    inputs = [one for one in content.input if one.name not in constants]
    outputs = [one for one in content.output if one.type.HasField("tensor_type")]
    if not inputs or not outputs:
        raise ConfigError(f"{graph} has no input or no output that is a tensor")
    labelled = next((one.name for one in outputs if one.name == output), outputs[0].name)
    shapes = {one.name: _shape(one) for one in (*inputs, *outputs)}
    is_batched = all(shape and shape[0] == -1 for shape in shapes.values())
    names = _label_names(labels, shapes[labelled])
    lines = [f"name: {_quoted(name)}", 'platform: "onnxruntime_onnx"']
    lines.append(f"max_batch_size: {MAX_BATCH_SIZE if is_batched else 0}")
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for one in tensors:
            label_file = LABELS if names and kind == "output" and one.name == labelled else ""
            lines.append(f"{kind} {{ {_tensor(one, types, shapes[one.name], is_batched, label_file)} }}")
    if is_batched:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n", "".join(f"{label}\n" for label in names)


def _label_names(labels: Sequence[str], shape: Sequence[int]) -> Sequence[str]:
    outputs = shape[-1] if len(shape) > 1 else 1
    return class_names(labels, len(labels) if outputs < 0 else outputs) if labels else ()


def _shape(tensor: Any) -> list[int]:
    """Return the shape of an input or output, -1 for unknown sizes."""
    return [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.type.tensor_type.shape.dim]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _tensor(tensor: Any, types: dict[int, str], shape: Sequence[int], is_batched: bool, label_file: str) -> str:
    """Return the description of an input or output; with batches, `dims` are without the first dimension."""
    datatype = _TYPES.get(types.get(tensor.type.tensor_type.elem_type, ""))
    if datatype is None:
        raise ConfigError(f"Triton does not support the datatype of '{tensor.name}'")
    dims = list(shape[1:] if is_batched else shape)
    fields = [f"name: {_quoted(tensor.name)}", f"data_type: TYPE_{datatype}", f"dims: {dims or [1]}"]
    if not dims:
        fields.append("reshape { shape: [ ] }")
    if label_file:
        fields.append(f"label_filename: {_quoted(label_file)}")
    return " ".join(fields)
