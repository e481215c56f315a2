#!/usr/bin/env python3
"""Rate and latency of predictions, start-up time and memory of the server.

    python benchmarks/bench_serving.py                     # all of it: about a quarter of an hour
    python benchmarks/bench_serving.py --only=rows         # one part
    python benchmarks/bench_serving.py --trial             # smoke test: one second each

The parts, for the network of the published TFaaS benchmark (42x128x128x128x64x64x1):

    floor       requests/s of uvicorn alone, which reads the same body and returns a constant response
    single      requests/s and latency of one event in JSON, 100 connections, one worker and two
    rows        rows/s with 4,096 events per request, binary Open Inference Protocol
    grpc        the same over gRPC, and requests/s of one event, with a client in Python on the same cores
    start       seconds from the start of the process to the first response
    memory      after 10,000 requests, 10 uploads and deletes, and after 1,000,000 and 1,000

wrk (apt-get install wrk) generates the load on the same machine. Each result is immediately appended to --out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import requests
from onnx import TensorProto, helper, numpy_helper

import mlaas4hep

ROOT = Path(__file__).resolve().parents[1]
SIZES = [42, 128, 128, 128, 64, 64, 1]
CONNECTIONS = 100
ROWS = 4096
ROUNDS = 5
FLOOR = """
async def app(scope, receive, send):
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"7")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"[0.123]"})
"""


@dataclass(frozen=True)
class Bench:
    """Folders, durations and the output file of the benchmark."""

    folder: Path
    out: Path
    trial: bool

    @property
    def seconds(self) -> int:
        """Seconds of a measurement."""
        return 1 if self.trial else 10

    @property
    def rounds(self) -> int:
        """Number of runs of each measurement."""
        return 1 if self.trial else ROUNDS

    @property
    def models(self) -> Path:
        """The models directory."""
        return self.folder / "models"

    def add(self, part: str, text: str, **values: object) -> None:
        """Print a result, and append it to the file as JSON."""
        print(f"  {text}", flush=True)
        line = {"part": part, **values, "mlaas4hep": mlaas4hep.__version__, "cores": os.cpu_count()}
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **({"trial": True} if self.trial else {})}) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parts = {"floor": floor, "single": single, "rows": rows, "grpc": over_grpc, "start": start, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts, help="one part (default: all)")
    parser.add_argument("--trial", action="store_true", help="smoke test: one second each")
    parser.add_argument(
        "--out", default="bench_serving.jsonl", help="results are appended to it (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if shutil.which("wrk") is None:
        parser.error("there is no wrk here: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as folder:
        bench = Bench(Path(folder), Path(args.out), args.trial)
        write_model(bench.models / "published", "published")
        write_requests(bench.folder)
        for name, part in parts.items():
            if args.only in (None, name):
                print(name, flush=True)
                part(bench)
    return 0


def write_model(folder: Path, name: str, seed: int = 0) -> None:
    """Write the published network with arbitrary weights as a bundle."""
    rng, nodes, weights, values = np.random.default_rng(seed), [], [], "inputs"
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(SIZES)):
        last = layer == len(SIZES) - 2
        matrix = rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{layer}"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{layer}"),
        ]
        nodes.append(helper.make_node("Gemm", [values, f"w{layer}", f"b{layer}"], [f"sum{layer}"]))
        values = "scores" if last else f"out{layer}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"sum{layer}"], [values]))
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", size])
        for end, size in (("inputs", 42), ("scores", 1))
    ]
    graph = helper.make_graph(nodes, "published", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    keys = [f"x{index}" for index in range(42)]
    branches = {key: [index, 1, "flat"] for index, key in enumerate(keys)}
    helper.set_model_props(model, {"mlaas4hep.keys": json.dumps(keys), "mlaas4hep.branches": json.dumps(branches)})
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "model.onnx"))
    params = {"name": name, "model": "model.onnx", "labels": "", "input_name": "inputs", "output_name": "scores"}
    (folder / "params.json").write_text(json.dumps(params))


def write_requests(folder: Path) -> None:
    """Write the request bodies for wrk: one event in JSON, and many in binary."""
    rng = np.random.default_rng(1)
    event = {"keys": [f"x{index}" for index in range(42)], "values": rng.normal(size=42).round(4).tolist()}
    (folder / "one.body").write_text(json.dumps({**event, "model": "published"}))
    many = rng.normal(size=(ROWS, 42)).astype("<f4").tobytes()
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [ROWS, 42], "parameters": {"binary_data_size": len(many)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    (folder / "many.body").write_bytes(head + many)
    for name, header in (("one", ""), ("many", f'wrk.headers["Inference-Header-Content-Length"] = "{len(head)}"')):
        (folder / f"{name}.lua").write_text(
            f'wrk.method = "POST"\n{header}\nlocal file = io.open("{folder}/{name}.body", "rb")\n'
            'wrk.body = file:read("*a")\nfile:close()\n'
        )


@contextlib.contextmanager
def server(bench: Bench, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server; yield its URL and process."""
    command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={bench.models}", "--port=0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = next(found for line in process.stderr if (found := re.search(r"ready: (http\S+)", line)))
    try:
        yield found[1], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stderr.close()


def wrk(bench: Bench, url: str, body: str, connections: int, seconds: int | None = None) -> dict[str, float]:
    """Return requests/s, the latencies of half and of 99 % of them in ms, how many failed, and what the host took.

    The last is the share of the cores' time in which they had work, and a virtual machine's host gave them to others.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds or bench.seconds}s", "--latency", "--timeout=20s"]
    before = cpu_times()
    text = subprocess.run(
        [*command, "-s", bench.folder / f"{body}.lua", url], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    stolen, *spent = (after - start for after, start in zip(cpu_times(), before, strict=True))
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    found = {share: re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", text) for share in ("50", "99")}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate, text
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    lost = re.search(r"Socket errors: (.*)", text)
    return {
        "rate": float(rate[1]),
        **{f"p{share}": float(one[1]) * units[one[2]] for share, one in found.items() if one},
        "failed": float(failed[1]) if failed else 0.0,
        "stolen": stolen / sum((stolen, *spent)),
        **({"lost": lost[1]} if lost else {}),  # type: ignore[dict-item]
    }


def cpu_times() -> tuple[float, ...]:
    """Return the steal time and the busy time of the cores in seconds."""
    times = psutil.cpu_times()
    return times.steal, times.user, times.nice, times.system, times.irq, times.softirq


def floor(bench: Bench) -> None:
    """Measure the HTTP server alone."""
    (bench.folder / "floor.py").write_text(FLOOR)
    port = "8199"
    command = [sys.executable, "-m", "uvicorn", "floor:app", "--port", port, "--no-access-log", "--log-level=error"]
    with subprocess.Popen(command, cwd=bench.folder) as process:
        url = f"http://127.0.0.1:{port}/json"
        wait_for_answer(url)
        found = [wrk(bench, url, "one", CONNECTIONS) for _ in range(bench.rounds)]
        process.terminate()
    note(bench, "floor", "uvicorn alone", found)


def single(bench: Bench) -> None:
    """Measure requests/s of one event, alternating one and two workers."""
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(bench.rounds):
        for workers, results in found.items():
            with server(bench, f"--workers={workers}") as (url, process):
                wrk(bench, f"{url}/json", "one", CONNECTIONS, 1)  # loads the model
                before = cpu_seconds(process)
                result = wrk(bench, f"{url}/json", "one", CONNECTIONS)
                result["cpu"] = 1e6 * (cpu_seconds(process) - before) / (result["rate"] * bench.seconds)
                results.append(result)
    for workers, results in found.items():
        cpu = statistics.median(one["cpu"] for one in results)
        note(bench, "single", f"workers: {workers}, {cpu:.1f} us of CPU per request", results, workers=workers)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a server and its workers have used."""
    times = [one.cpu_times() for one in (process, *process.children())]
    return sum(one.user + one.system for one in times)


def rows(bench: Bench) -> None:
    """Measure rows/s with many events per request."""
    for connections in (1, 4):
        with server(bench) as (url, _):
            infer = f"{url}/v2/models/published/infer"
            wrk(bench, infer, "many", connections, 1)
            found = [wrk(bench, infer, "many", connections) for _ in range(bench.rounds)]
        rate = ROWS * statistics.median(one["rate"] for one in found)
        failed = sum(one["failed"] for one in found)
        bench.add(
            "rows", f"connections: {connections}  {rate:9,.0f} rows/s, {failed:.0f} failed", rate=rate, runs=found
        )


def over_grpc(bench: Bench) -> None:
    """Measure requests/s over gRPC: 4,096 events with 1 and 4 requests at a time, and one event with 100."""
    for events, requests_at_once in ((ROWS, 1), (ROWS, 4), (1, CONNECTIONS)):
        with server(bench, "--grpc-port=0") as (url, process):
            (port,) = {one.laddr.port for one in process.net_connections() if one.status == "LISTEN"} - {url_port(url)}
            asyncio.run(grpc_rate(port, events, requests_at_once, 1))
            seconds = bench.seconds
            found = [asyncio.run(grpc_rate(port, events, requests_at_once, seconds)) for _ in range(bench.rounds)]
        rate = statistics.median(found)
        text = (
            f"events: {events:,}, at a time: {requests_at_once}  {rate:9,.0f} requests/s, {rate * events:9,.0f} rows/s"
        )
        bench.add("grpc", text, events=events, at_once=requests_at_once, rate=rate, runs=found)


def url_port(url: str) -> int:
    """Return the port in the URL of a server."""
    return int(url.rpartition(":")[2])


async def grpc_rate(port: int, events: int, at_once: int, seconds: int) -> float:
    """Return the requests/s of a client that sends so many requests at a time."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    matrix = np.random.default_rng(1).normal(size=(events, 42)).astype("<f4")
    given = {"name": "inputs", "datatype": "FP32", "shape": matrix.shape}
    request = service_pb2.ModelInferRequest(
        model_name="published", inputs=[given], raw_input_contents=[matrix.tobytes()]
    )
    count, end = 0, time.perf_counter() + seconds
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def send() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await infer(request)
                count += 1

        await asyncio.gather(*(send() for _ in range(at_once)))
    return count / seconds


def start(bench: Bench) -> None:
    """Measure seconds from the start to the first response."""
    found = []
    for _ in range(2 if bench.trial else 7):
        began = time.perf_counter()
        command = [sys.executable, ROOT / "tfaas_server.py", f"--models-dir={bench.models}", "--port=8198"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait_for_answer("http://127.0.0.1:8198/json", (bench.folder / "one.body").read_bytes())
            found.append(time.perf_counter() - began)
            process.terminate()
    bench.add("start", f"first answer after {statistics.median(found):.2f} s", seconds=found)


def memory(bench: Bench) -> None:
    """Measure resident memory after some requests, uploads and deletes, and after a hundred times as many."""
    requested, uploaded, sizes = 0, 0, {}
    with server(bench) as (url, process), requests.Session() as session:
        for aim, uploads in ((1_000, 1), (5_000, 10)) if bench.trial else ((10_000, 10), (1_000_000, 1_000)):
            while uploaded < uploads:
                archive = packed(bench.models / "published", f"other{uploaded % 7}")
                session.post(f"{url}/upload", data=archive, timeout=20).raise_for_status()
                event = {"values": [0.5] * 42, "model": f"other{uploaded % 7}"}
                session.post(f"{url}/json", json=event, timeout=20).raise_for_status()
                session.delete(f"{url}/delete/other{uploaded % 7}", timeout=20).raise_for_status()
                uploaded, requested = uploaded + 1, requested + 3
            while requested < aim:
                requested += int(wrk(bench, f"{url}/json", "one", CONNECTIONS, 2)["rate"] * 2)
            sizes[aim] = process.memory_info().rss / 1e6
            bench.add(
                "memory", f"{sizes[aim]:6.1f} MB after {requested:,} requests and {uploaded:,} uploads and deletes",
                mb=sizes[aim], requests=requested, uploads=uploaded,
            )  # fmt: skip
    first, last = sizes.values()
    bench.add("memory", f"{last / first - 1:+.1%}", growth=last / first - 1)


def packed(folder: Path, name: str) -> bytes:
    """Return the folder of a model as an archive, with another name."""
    content = io.BytesIO()
    params = {**json.loads((folder / "params.json").read_text()), "name": name}
    text = json.dumps(params).encode()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder / "model.onnx", f"{name}/model.onnx")
        info = tarfile.TarInfo(f"{name}/params.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    return content.getvalue()


def note(bench: Bench, part: str, what: str, found: list[dict[str, float]], **values: object) -> None:
    """Record medians of several runs."""
    rate, half, most, stolen = (
        statistics.median(one[key] for one in found) for key in ("rate", "p50", "p99", "stolen")
    )
    failed = sum(one["failed"] for one in found)
    text = (
        f"{what:14s} {rate:7,.0f} requests/s, half within {half:.1f} ms, 99 % within {most:.1f} ms, {failed:.0f} failed"
        f" (the host took {stolen:.0%} of the cores)"
    )
    bench.add(part, text, rate=rate, p50=half, p99=most, runs=found, **values)


def wait_for_answer(url: str, body: bytes = b"{}") -> None:
    """Send requests until the server responds."""
    while True:
        try:
            requests.post(url, data=body, timeout=20).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
