#!/usr/bin/env python3
"""Latency of predictions while many models are uploaded and loaded at once.

    python benchmarks/bench_uploads.py                     # 0, 24 and 40 uploads, three rounds: some minutes
    python benchmarks/bench_uploads.py --uploads=24 --rounds=1

One client sends a prediction for one event to a signed model every 10 ms. Meanwhile other clients, all at once, upload
models that are not signed, and request a first prediction from each. Of eight models, five are networks of different
weights, and three are hostile: a graph that computes a constant of 3.6 GB, a graph that multiplies large matrices, and
an archive of 10,000 small files. A latency counts from the time at which the request was due, so it includes waiting
for the response to the previous one. With 0 uploads, the result is the lower limit on this machine.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import multiprocessing
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import requests
from bench_serving import Bench, packed, server, write_model
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.signing import sign

INTERVAL = 0.01  # seconds between two predictions
IDLE_SECONDS = 10  # of a measurement without uploads
EVENT = {"values": [0.5] * 42, "model": "published"}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", default="0,24,40", help="numbers of uploads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: %(default)s)")
    parser.add_argument(
        "--out", default="bench_uploads.jsonl", help="results are appended to it (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as folder:
        bench = Bench(Path(folder), Path(args.out), trial=False)
        write_model(bench.models / "published", "published")
        key = Ed25519PrivateKey.generate()
        sign(bench.models / "published" / "model.onnx", key)
        trusted = Path(folder, "public.pem")
        trusted.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        for _ in range(args.rounds):
            for count in map(int, args.uploads.split(",")):
                measure(bench, trusted, [archive(bench.folder, index) for index in range(count)])
    return 0


def measure(bench: Bench, trusted: Path, archives: list[bytes]) -> None:
    """Record the latencies of one client while these archives are uploaded."""
    receiver, sender = multiprocessing.Pipe(duplex=True)
    with server(bench, f"--trust={trusted}") as (url, process):
        requests.post(f"{url}/json", json=EVENT, timeout=60).raise_for_status()
        client = multiprocessing.get_context("spawn").Process(target=send_predictions, args=(url, sender))
        client.start()
        receiver.recv()  # it has begun
        began = time.perf_counter()
        if archives:
            with ThreadPoolExecutor(len(archives)) as pool:
                statuses = Counter(pool.map(upload_and_predict, [url] * len(archives), range(len(archives)), archives))
        else:
            time.sleep(IDLE_SECONDS)
            statuses = Counter()
        seconds = time.perf_counter() - began
        receiver.send("stop")
        found = sorted(receiver.recv())
        client.join()
        cpu = process.cpu_times()
        for index in range(len(archives)):
            requests.delete(f"{url}/delete/model{index}", timeout=60)
    half, most, longest = 1e3 * statistics.median(found), 1e3 * found[int(0.99 * len(found))], 1e3 * found[-1]
    load = os.getloadavg()[0]
    text = (
        f"{len(archives):2d} uploads in {seconds:5.1f} s: half within {half:.1f} ms, 99 % within {most:.1f} ms, "
        f"all within {longest:.1f} ms, {sum(one > 0.1 for one in found)} of {len(found)} above 100 ms (load {load:.1f})"
    )
    bench.add(
        "uploads", text, uploads=len(archives), seconds=seconds, p50=half, p99=most, longest=longest, load=load,
        statuses={str(status): count for status, count in statuses.items()}, server_cpu=cpu.user + cpu.system,
    )  # fmt: skip


def send_predictions(url: str, pipe: Connection) -> None:
    """Send a prediction every `INTERVAL` until something is received; then send the latencies in seconds."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    body, latencies, due = json.dumps(EVENT), [], time.perf_counter()
    pipe.send("begun")
    while not pipe.poll():
        time.sleep(max(0.0, due - time.perf_counter()))
        connection.request("POST", "/json", body)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        latencies.append(time.perf_counter() - due)
        due += INTERVAL
    pipe.recv()
    pipe.send(latencies)


def upload_and_predict(url: str, index: int, content: bytes) -> tuple[int, int]:
    """Upload a model and request a prediction; return the status codes of both."""
    uploaded = requests.post(f"{url}/upload", data=content, timeout=600).status_code
    event = {**EVENT, "model": f"model{index}"}
    return uploaded, requests.post(f"{url}/json", json=event, timeout=600).status_code


def archive(folder: Path, index: int) -> bytes:
    """Return one of the models."""
    model = f"model{index}"
    if index % 8 == 5:
        return packed_graph(model, large_constant(index))
    if index % 8 == 6:
        return packed_graph(model, large_matrices(index))
    if index % 8 == 7:
        return many_files(model)
    place = folder / "uploads" / model
    if not place.exists():
        write_model(place, model, seed=index)
    return packed(place, model)


def large_constant(index: int) -> list[onnx.NodeProto]:
    """Return a graph that computes a constant of 3.6 GB."""
    size = numpy_helper.from_array(np.array([30_000 + index, 30_000]), "")
    return [
        helper.make_node("Constant", [], ["size"], value=size),
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["inputs", "sum"], ["scores"]),
    ]


def large_matrices(index: int) -> list[onnx.NodeProto]:
    """Return a graph that multiplies constant matrices for hours."""
    size = numpy_helper.from_array(np.array([2048 + index, 2048 + index]), "")
    return [
        helper.make_node("Constant", [], ["size"], value=size),
        helper.make_node("ConstantOfShape", ["size"], ["matrix0"]),
        *(helper.make_node("MatMul", [f"matrix{step}", "matrix0"], [f"matrix{step + 1}"]) for step in range(400)),
        helper.make_node("ReduceSum", ["matrix400"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["inputs", "sum"], ["scores"]),
    ]


def packed_graph(name: str, nodes: list[onnx.NodeProto]) -> bytes:
    """Return a model with this graph as an archive."""
    inputs = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["n", 42])
    outputs = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, name, [inputs], [outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return packed_files(name, {"model.onnx": model.SerializeToString()})


def many_files(name: str) -> bytes:
    """Return an archive of 10,000 files, as many as the server accepts."""
    return packed_files(name, {"model.onnx": b"", **{f"file{number}": b"x" for number in range(9_990)}})


def packed_files(name: str, files: dict[str, bytes]) -> bytes:
    """Return an archive of a params.json and these files."""
    params = {"name": name, "model": "model.onnx", "labels": "", "input_name": "inputs", "output_name": "scores"}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packing:
        for file, text in {"params.json": json.dumps(params).encode(), **files}.items():
            info = tarfile.TarInfo(f"{name}/{file}")
            info.size = len(text)
            packing.addfile(info, io.BytesIO(text))
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
