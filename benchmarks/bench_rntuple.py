#!/usr/bin/env python3
"""How fast are RNTuples converted to vectors, compared with the same events as a TTree, with uproot, and with ROOT?

    python benchmarks/bench_rntuple.py                                    # about ten minutes
    python benchmarks/bench_rntuple.py --root=/opt/root/bin/python        # a Python with ROOT 6.36 or newer
    python benchmarks/bench_rntuple.py --only=memory --runs=3             # one part

The parts:

    steps     matrix, relative to a TTree with zlib, and to the decompression of the pages alone
    uproot    all columns as arrays, relative to uproot (20,000 events)
    root      all columns as arrays, relative to ROOT's RDataFrame in C++ with two threads, which sums every column
    opening   metadata of 947 columns, relative to uproot
    memory    peak memory of the matrix with 2 workers, 60,000 and 240,000 events

ROOT's importer writes the RNTuples, from the TTree of `bench_reading.py`; without ROOT, uproot writes them, and `root`
is skipped. Ratios are medians of the ratios of single rounds, in which all steps alternate; files are in the page
cache. Prints one table per part, then one JSON line with the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import uproot
from bench_reading import PEAK, Steps, alternate, nanoaod, share_of_rate, table

import mlaas4hep
from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.root.compression import decompress
from mlaas4hep.reader import DataReader

TREE = "Events"
EVENTS = 240_000
CODECS = {"zlib": 101, "zstd": 505}
"""ROOT's compression settings."""

IMPORT = """
import sys, ROOT
tree, path, compression, cluster = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
importer = ROOT.Experimental.RNTupleImporter.Create(tree, "Events", path)
options = importer.GetWriteOptions()
options.SetCompression(compression)
options.SetApproxZippedClusterSize(cluster)
options.SetMaxUnzippedClusterSize(max(8 * cluster, 2_000_000_000))
importer.SetWriteOptions(options)
importer.SetIsQuiet(True)
importer.Import()
"""

EVENT_LOOP = """
import sys, ROOT
ROOT.EnableImplicitMT(2)
for line in ("#include <ROOT/RLogger.hxx>", "#include <ROOT/RDF/Utils.hxx>",
             "ROOT::Detail::RDF::RDFLogChannel().SetVerbosity(ROOT::ELogLevel::kInfo);"):
    ROOT.gInterpreter.ProcessLine(line)
frame = ROOT.RDataFrame("Events", sys.argv[1])
names = [str(name) for name in frame.GetColumnNames() if not str(name).startswith("R_rdf_sizeof")]
sums = [frame.Sum(name) for name in names if "string" not in frame.GetColumnType(name)]
sums[0].GetValue()
"""
"""Sums every column; the log of ROOT says how long the event loop took, without the compilation before it."""

CLUSTER_BYTES = {"clusters": 20_000_000, "one cluster": 900_000_000}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parts = {"steps": steps, "uproot": against_uproot, "root": against_root, "opening": opening, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts, help="one part (default: all)")
    parser.add_argument("--root", default=sys.executable, help="a Python with ROOT (default: this one)")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    args = parser.parse_args(argv)
    command = [args.root, "-c", "import ROOT"]
    args.has_root = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not args.has_root:
        print(f"{args.root} has no ROOT: uproot writes the RNTuples, and RDataFrame is skipped", file=sys.stderr)
    results: dict[str, object] = {"load before": os.getloadavg()}
    for name, part in parts.items():
        if args.only in (None, name):
            results[name] = part(args)
            print(flush=True)
    print(json.dumps({
        **results, "load after": os.getloadavg(), "written by": "ROOT" if args.has_root else "uproot",
        "compiled": bool(KERNEL), "cores": os.cpu_count(), "python": platform.python_version(),
        "mlaas4hep": mlaas4hep.__version__, "uproot": uproot.__version__,
    }))  # fmt: skip
    return 0


def rntuple(args: argparse.Namespace, events: int, codec: str = "zlib", kind: str = "clusters") -> str:
    """Return an RNTuple with the events of `nanoaod`. Create it if it does not exist."""
    writer = "ROOT" if args.has_root else "uproot"
    path = Path(nanoaod(events)).with_name(f"rntuple_{events}_{codec}_{kind.replace(' ', '_')}_{writer}.root")
    if not path.exists():
        temporary = path.with_suffix(".part")
        temporary.unlink(missing_ok=True)
        print(f"making {path}", file=sys.stderr)
        if args.has_root:
            script = [args.root, "-W", "ignore", "-c", IMPORT]
            settings = [str(CODECS[codec]), str(CLUSTER_BYTES[kind])]
            subprocess.run([*script, nanoaod(events), str(temporary), *settings], check=True, capture_output=True)
        else:
            write_with_uproot(temporary, events, codec)
        temporary.rename(path)
    return str(path)


def write_with_uproot(path: Path, events: int, codec: str) -> None:
    """Write the events of `nanoaod` as an RNTuple with clusters of 12,000 events."""
    compression = uproot.ZLIB(1) if codec == "zlib" else uproot.ZSTD(5)
    with uproot.open(nanoaod(events)) as opened, uproot.recreate(path, compression=compression) as file:
        ntuple = None
        for arrays in opened[TREE].iterate(step_size=12_000):
            if ntuple is None:
                ntuple = file.mkrntuple(TREE, arrays)
            else:
                ntuple.extend(arrays)


def matrix(file: str, specs: object, workers: int) -> None:
    """Convert all events to the normalised matrix and its mask."""
    with DataReader(file, specs=specs, workers=workers) as reader:
        for _ in reader:
            pass


def steps(args: argparse.Namespace) -> dict[str, object]:
    """Measure the matrix, and decompression alone."""
    files = {"TTree, zlib": nanoaod(EVENTS)}
    files |= {f"RNTuple, {codec}": rntuple(args, EVENTS, codec) for codec in CODECS}
    if args.has_root:
        files["RNTuple, zstd, one cluster"] = rntuple(args, EVENTS, "zstd", "one cluster")
    specs = {name: DataReader(file).specs for name, file in files.items()}
    pages = {codec: stored_pages(files[f"RNTuple, {codec}"]) for codec in CODECS}
    work: Steps = {}
    for workers in (1, 2):
        for name, file in files.items():
            work[f"matrix of {name}, {workers}"] = lambda file=file, name=name, workers=workers: matrix(
                file, specs[name], workers
            )
        for codec in CODECS:
            work[f"decompressing pages alone, {codec}, {workers}"] = lambda codec=codec, workers=workers: inflate(
                pages[codec], workers
            )
    cpu: dict[str, list[float]] = {name: [] for name in work}

    def timed(name: str, step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            step()
            cpu[name].append(time.process_time() - start)

        return run

    seconds = alternate({name: timed(name, step) for name, step in work.items()}, args.runs)
    found = table(f"{EVENTS} events, 947 columns", seconds, EVENTS, lambda name: f"matrix of TTree, zlib, {name[-1]}")
    print("CPU time of all threads, which depends less on the load of the machine:")
    for name, values in cpu.items():
        peer = cpu[f"matrix of TTree, zlib, {name[-1]}"]
        ratio = statistics.median(one / other for one, other in zip(peer, values, strict=True))
        print(f"{name:60s} {statistics.median(values):12.2f} s  {ratio:15.2f} x")
        found[f"CPU, {name}"] = {"s": round(statistics.median(values), 2), "ratio": round(ratio, 2)}
    for workers in (1, 2):
        for codec in CODECS:
            name = f"matrix of RNTuple, {codec}, {workers}"
            floor = seconds[f"decompressing pages alone, {codec}, {workers}"]
            found[f"share of decompression, {codec}, {workers}"] = share_of_rate(name, floor, seconds[name])
    return found


def stored_pages(file: str) -> list[tuple[memoryview, int]]:
    """Return the stored bytes of each page of a number, and its decompressed length, as ROOT's importer has them."""
    content, pages = memoryview(Path(file).read_bytes()), []
    with open_source(file) as source:
        clusters, columns = source._pages._clusters, source._pages._columns  # type: ignore[attr-defined]
        for cluster in range(len(source.boundaries) - 1):
            found = clusters.pages(cluster, cluster + 1)
            bits = np.repeat([column.encoding.bits if column.encoding else 8 for column in columns], found.counts[0])
            lengths = (found.elements * bits + 7) // 8
            for seek, size, length in zip(*(part.tolist() for part in (found.seek, found.size, lengths)), strict=True):
                pages.append((content[seek : seek + size], length))
    return pages


def inflate(pages: list[tuple[memoryview, int]], threads: int) -> None:
    """Decompress pages with several threads."""

    def work(offset: int) -> None:
        for page, length in pages[offset::threads]:
            decompress(page, length)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def arrays_of(file: str, stop: int, workers: int = 1) -> None:
    """Read all columns of numbers, cluster by cluster, and throw them away."""
    with open_source(file) as source:
        names = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
        edges = [edge for edge in source.boundaries if edge < stop] + [stop]
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(lambda span: len(source.read(names, *span)), pairwise(edges)):
                pass


def against_uproot(args: argparse.Namespace) -> dict[str, object]:
    """Compare with uproot reading the same columns."""
    file, stop = rntuple(args, EVENTS), 20_000

    def peer() -> None:
        with uproot.open(file) as opened:
            opened[TREE].arrays(entry_stop=stop)

    work: Steps = {"uproot.RNTuple.arrays": peer}
    for workers in (1, 2):
        work[f"Source.read, {workers}"] = lambda workers=workers: arrays_of(file, stop, workers)
    seconds = alternate(work, max(args.runs // 2, 1))
    return table(f"{stop} events, opening included", seconds, stop, lambda _: "uproot.RNTuple.arrays")


def against_root(args: argparse.Namespace) -> dict[str, object]:
    """Compare with ROOT's RDataFrame."""
    if not args.has_root:
        print("RDataFrame: skipped, because ROOT is not installed")
        return {"skipped": "no ROOT"}
    file, loops, ours = rntuple(args, EVENTS, "zstd"), [], []
    for _ in range(max(args.runs // 2, 1)):
        command = [args.root, "-W", "ignore", "-c", EVENT_LOOP, file]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
        times = [line.split("Finished event loop number")[1] for line in done.stderr.splitlines() if "Finished" in line]
        loops.append(float(times[-1].split("CPU,")[1].split("s elapsed")[0]))
        start = time.perf_counter()
        arrays_of(file, EVENTS, 2)
        ours.append(time.perf_counter() - start)
    ratio = statistics.median(loop / own for loop, own in zip(loops, ours, strict=True))
    print(f"RDataFrame, C++, 2 threads, event loop alone: {EVENTS / statistics.median(loops):12,.0f} events/s")
    print(f"Source.read, 2 threads: {EVENTS / statistics.median(ours):12,.0f} events/s  {ratio:5.2f} x")
    return {"RDataFrame, s": loops, "Source.read, s": ours, "ratio": round(ratio, 2)}


def opening(args: argparse.Namespace) -> dict[str, object]:
    """Compare opening with uproot, which describes its columns with awkward."""
    file = rntuple(args, EVENTS)

    def ours() -> None:
        with open_source(file) as source:
            list(source.columns.items())

    def peer() -> None:
        with uproot.open(file) as opened:
            opened[TREE].to_akform()
            list(opened[TREE].page_link_list)

    seconds = alternate({"open_source": ours, "uproot": peer}, max(args.runs // 2, 1))
    found = {name: round(1000 * statistics.median(values), 1) for name, values in seconds.items()}
    print(f"opening 947 columns: {found['open_source']} ms; uproot: {found['uproot']} ms")
    return {**found}


def memory(args: argparse.Namespace) -> dict[str, object]:
    """Measure the peak memory of whole processes, in MB (10^6 bytes)."""
    results: dict[str, object] = {}
    files = {f"{events} events": rntuple(args, events, "zstd") for events in (EVENTS // 4, EVENTS)}
    if args.has_root:
        files[f"{EVENTS} events in one cluster"] = rntuple(args, EVENTS, "zstd", "one cluster")
    for name, file in files.items():
        command = [sys.executable, "-c", PEAK, file, "2"]
        runs = range(max(args.runs // 2, 1))
        peaks = [int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in runs]
        print(f"peak memory, {name}, 2 workers: {statistics.median(peaks):.0f} MB ({min(peaks)} to {max(peaks)})")
        results[f"{name}, MB"] = peaks
    return results


if __name__ == "__main__":
    sys.exit(main())
