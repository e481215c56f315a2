"""A stand-in for a server of the Open Inference Protocol v2, as Triton is one, with its extensions or without.

    with OIPServer(models={"m": {"keys": ["a", "b"]}}) as server: TFaaSClient(server.url, protocol="v2")

The score of a row is the sum over its columns of value times 1, 10, 100, ..., NaN as 0. It also answers POST /json with
lists of rows, as our server does.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from stand_in import StandIn

TYPES = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}


class OIPServer(StandIn):
    """Serves on loopback until the block ends.

    Attributes:
        models: name -> what differs from the default: inputs, keys, refuses (a value that makes the model fail),
            metadata ("empty" or "missing").
        requests: "METHOD path" of each request, in order.
        rows: number of rows of each prediction.
        binary: whether tensors of the last prediction came as binary data.
        tensors: inputs of the last prediction, by name.
        rename: new names of outputs.
    """

    def __init__(self, models: dict[str, dict[str, Any]], binary: bool = True, ready: bool = True) -> None:
        self.models = models
        self.rows: list[int] = []
        self.binary = False
        self.tensors: dict[str, np.ndarray] = {}
        self.rename: dict[str, str] = {}
        self._extensions = ["model_repository", *(["binary_tensor_data"] if binary else [])]
        self._ready = ready
        super().__init__()

    def respond(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer."""
        try:
            answer, header_size = self.answer(method, path, headers, body)
        except KeyError as error:
            return 404, {}, json.dumps({"error": f"Request for unknown model: {error}"}).encode()
        except ValueError as error:
            return 400, {}, json.dumps({"error": str(error)}).encode()
        return 200, {} if header_size is None else {"Inference-Header-Content-Length": str(header_size)}, answer

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[bytes, int | None]:
        """Return the body of the answer, and the length of its JSON if binary data follow."""
        if path == "/v2":
            return json.dumps({"name": "triton", "version": "2.50", "extensions": self._extensions}).encode(), None
        if path == "/v2/health/ready":
            if not self._ready:
                raise ValueError("not ready")
            return b"", None
        if path == "/v2/repository/index":
            assert method == "POST"
            found = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in self.models]
            return json.dumps(found).encode(), None
        if path == "/json":
            return self._predict_rows(json.loads(body)), None
        name, _, verb = path.removeprefix("/v2/models/").partition("/")
        model = self.models[name]
        if verb != "infer":
            return json.dumps(self._metadata(name, model)).encode(), None
        return self._infer(name, model, headers, body)

    def _metadata(self, name: str, model: dict[str, Any]) -> dict[str, Any]:
        if "metadata" not in model:
            return {"name": name, "platform": "onnx", "versions": ["1"], **self._described(model)}
        if model["metadata"] == "missing":
            raise KeyError(name)
        return {"name": name, "platform": "", "versions": [], "inputs": [], "outputs": []}

    def _described(self, model: dict[str, Any]) -> dict[str, Any]:
        keys = model.get("keys")
        width = len(keys) if keys else -1
        inputs = model.get("inputs", [{"name": "x", "datatype": "FP32", "shape": [-1, width]}])
        outputs = [
            {"name": "class", "datatype": "INT64", "shape": [-1]},
            {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "attention", "datatype": "FP32", "shape": [-1, 1]},
        ]
        outputs = model.get("outputs", outputs)
        more = {"parameters": {"keys": keys}} if keys else {}
        return {"inputs": inputs, "outputs": outputs, **more}

    def _infer(self, name: str, model: dict[str, Any], headers: Any, body: bytes) -> tuple[bytes, int | None]:
        size = int(headers.get("Inference-Header-Content-Length", len(body)))
        request = json.loads(body[:size])
        self.tensors = {}
        offset = size
        for tensor, known in zip(request["inputs"], self._described(model)["inputs"], strict=True):
            if (tensor["name"], tensor["datatype"]) != (known["name"], known["datatype"]):
                raise ValueError(f"unexpected inference input {tensor['name']} {tensor['datatype']}")
            dtype = TYPES[tensor["datatype"]]
            self.binary = "data" not in tensor
            if self.binary:
                end = offset + tensor["parameters"]["binary_data_size"]
                array = np.frombuffer(body[offset:end], dtype)
                offset = end
            else:
                array = np.array([np.nan if value is None else value for value in tensor["data"]], dtype)
            self.tensors[tensor["name"]] = array.reshape(tensor["shape"])
        assert offset == len(body) or not self.binary
        matrix = np.column_stack([*self.tensors.values()]).astype(TYPES[request["inputs"][0]["datatype"]])
        scores = self._scores(matrix, model)
        every = {"class": np.full(len(matrix), 7, "<i8"), "attention": scores[:, :1] + 5, "y": scores}
        every = {self.rename.get(output, output): values for output, values in every.items()}
        asked = {one["name"]: one.get("parameters", {}) for one in request.get("outputs", [])}
        if unknown := asked.keys() - every.keys():
            raise ValueError(f"unexpected inference output {unknown}")
        described, binaries = [], []
        for output, values in every.items():  # the order is not that of the metadata
            if asked and output not in asked:
                continue
            one = {"name": output, "datatype": {"<i8": "INT64", "<f4": "FP32"}[values.dtype.str]}
            one["shape"] = list(values.shape)
            if asked.get(output, {}).get("binary_data"):
                one["parameters"] = {"binary_data_size": values.nbytes}
                binaries.append(values.tobytes())
            else:
                one["data"] = values.ravel().tolist()
            described.append(one)
        header = json.dumps({"model_name": name, "outputs": described}).encode()
        return header + b"".join(binaries), len(header) if binaries else None

    def _predict_rows(self, request: dict[str, Any]) -> bytes:
        rows = request["values"] if isinstance(request["values"][0], list) else [request["values"]]
        matrix = np.array([[np.nan if value is None else value for value in row] for row in rows], "<f4")
        scores = self._scores(matrix, self.models[request["model"]]).astype(float).tolist()
        return json.dumps(scores if isinstance(request["values"][0], list) else scores[0]).encode()

    def _scores(self, matrix: np.ndarray, model: dict[str, Any]) -> np.ndarray:
        if np.any(matrix == model.get("refuses", np.inf)) or len(matrix) > model.get("most", 1_000_000):
            raise ValueError("model failed")
        self.rows.append(len(matrix))
        return (np.nan_to_num(matrix) @ np.outer(10.0 ** np.arange(matrix.shape[1]), [1, 2])).astype("<f4")
