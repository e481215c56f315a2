"""Tiny ONNX models in the form that the training layer writes, and a real server on loopback.

from serving_fixtures import bundle_fixture, server_fixture, shared_server_fixture, url_fixture  # noqa: F401
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
for package in ("onnxruntime", "starlette", "uvicorn"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ROOT = Path(__file__).parents[1]
KEYS = ["MET_phi", "MET_pt", "Muon_pt_0", "Muon_pt_1", "Muon_pt_2"]
BRANCHES = {"MET_phi": [0, 1, "flat"], "MET_pt": [1, 1, "flat"], "Muon_pt": [2, 3, "jagged"]}
WEIGHTS = [1.0, 10.0, 100.0, 1000.0, 10000.0]
MET = {"keys": ["MET_pt", "MET_phi", "Muon_pt"], "values": [2.0, 1.0, [3.0, 4.0]]}
MET_SCORE = 1.0 + 20.0 + 300.0 + 4000.0  # a missing value counts as 0


def onnx_model(
    weights: Sequence[float] = WEIGHTS, outputs: int = 1, metadata: dict[str, Any] | None = None, batch: str | int = "n"
) -> bytes:
    """Return a graph whose score is the weighted sum of its inputs, NaN as 0, times 1, 2, ... for each output."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    matrix = np.outer(weights, np.arange(1, outputs + 1)).astype(np.float32)
    nodes = [
        helper.make_node("IsNaN", ["inputs"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "inputs"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("inputs", real, [batch, len(weights)])],
        [helper.make_tensor_value_info("scores", real, [batch, outputs])],
        [
            onnx.numpy_helper.from_array(matrix, "weights"),
            onnx.numpy_helper.from_array(np.zeros((), np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in (metadata or {}).items()})
    return bytes(model.SerializeToString())


def trained_model(**changes: Any) -> bytes:
    """Return a graph with the metadata that the training layer writes."""
    return onnx_model(metadata={"mlaas4hep.keys": KEYS, "mlaas4hep.branches": BRANCHES}, **changes)


def params(name: str = "htautau", model: str = "model.onnx", **changes: Any) -> dict[str, Any]:
    """Return a params.json as the training layer writes it."""
    return {
        "name": name,
        "model": model,
        "labels": "labels.txt",
        "description": "ggH or VBF",
        "timestamp": "2025-01-02T03:04:05+00:00",
        "input_name": "inputs",
        "output_name": "scores",
        "input_node": "inputs",
        "output_node": "scores",
        "options": [],
        "op": "",
        "img_channels": 0,
        **changes,
    }


def write_bundle(folder: Path, name: str = "htautau", graph: bytes | None = None, **changes: Any) -> Path:
    """Write a bundle's directory; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    description = params(name, **changes)
    (folder / description["model"]).write_bytes(trained_model() if graph is None else graph)
    (folder / "labels.txt").write_text("ggH\nVBF\n")
    (folder / "params.json").write_text(json.dumps(description))
    spec = {"model": description["model"], "labels": "labels.txt", "name": name, "params": "params.json"}
    (folder / "upload.json").write_text(json.dumps(spec))
    return folder


def write_archive(path: Path, bundle: Path, name: str = "htautau") -> Path:
    """Pack a bundle's directory under the model's name, gzip-compressed where the path ends in gz."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        archive.add(bundle, arcname=name)
    return path


@pytest.fixture(name="bundle")
def bundle_fixture(tmp_path: Path) -> Path:
    """The directory of a small trained model called htautau."""
    return write_bundle(tmp_path / "bundle")


@dataclass
class Server:
    """A `tfaas_server.py` that runs as a person starts it."""

    process: subprocess.Popen[str]
    models_dir: Path
    url: str = ""
    startup: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, models_dir: Path, *options: str, sitecustomize: Path | None = None) -> Server:
        """Start a server; the folder `sitecustomize` may hold a module that Python runs first."""
        command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={models_dir}", "--port=0", *options]
        path = {"PYTHONPATH": os.pathsep.join(map(str, filter(None, [sitecustomize, ROOT])))}
        env = environment(**path)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        server = cls(process, models_dir)
        assert process.stderr is not None
        for line in process.stderr:
            server.startup.append(line)
            if found := re.search(r"ready: (https?://\S+)", line):
                server.url = found[1]
                return server
        server.stop()
        raise AssertionError("".join(server.startup))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout=20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module", name="shared_server")
def shared_server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a module; some of their models have infinite scores."""
    server = Server.start(tmp_path_factory.mktemp("store") / "models", "--max-upload=2", "--allow-nan")
    yield server
    server.stop()


@pytest.fixture(name="server")
def server_fixture(shared_server: Server) -> Iterator[Server]:
    """The module's server, empty."""
    yield shared_server
    for name in names_in(shared_server.models_dir):
        shutil.rmtree(shared_server.models_dir / name)


@pytest.fixture(name="url")
def url_fixture(server: Server) -> str:
    """The URL of the module's server."""
    return server.url


OWN_FILES = ("lock", "default", "made-by-mlaas4hep")


def names_in(models_dir: Path) -> set[str]:
    """Return what lies in a models directory, but for the store's own folder, which must be tidy."""
    work = [path.name for path in (models_dir / ".tfaas").iterdir() if path.name not in OWN_FILES]
    assert work == []
    return {path.name for path in models_dir.iterdir() if path.name != ".tfaas"}


def environment(**changes: str) -> dict[str, str]:
    """Return the environment for scripts: this tree's package, no settings of the person who runs the tests."""
    mine = ("TFAAS_URL", "X509_USER_PROXY", "X509_CERT_DIR", "BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR",
            "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")  # fmt: skip
    kept = {key: value for key, value in os.environ.items() if key not in mine}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def run_client(*options: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run tfaas_client.py as a person does."""
    command = [sys.executable, ROOT / "tfaas_client.py", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment(**env))


def connect(server: Server) -> socket.socket:
    """Open a connection to a server that speaks HTTP or HTTPS."""
    host, _, port = server.url.rpartition("//")[2].partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def until_closed(connection: socket.socket) -> bytes:
    """Return everything that arrives until the other side closes or resets the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received
