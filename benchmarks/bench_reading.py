#!/usr/bin/env python3
"""How fast are events converted to vectors, compared with uproot reading the same branches and discarding them?

    python benchmarks/bench_reading.py                                   # all of it: about half an hour
    python benchmarks/bench_reading.py --only=steps --runs=3             # one part
    python benchmarks/bench_reading.py --only=steps --file=data.root     # with your own file

The parts:

    steps     first pass, matrix, 20 branches, relative to uproot and to decompression only
    codecs    files compressed with LZ4, ZSTD and LZMA, relative to uproot
    parquet   a Parquet file with the same events, relative to pyarrow decoding it
    memory    peak memory of first pass and matrix with 2 workers, 600,000 and 60,000 events
    info      `reader.py --info --nevts=2000`, the whole process
    xrootd    root:// on this machine (a real server), relative to the same file on disk

`make_nanoaod.py` of the test data resamples a real NanoAOD file; the results are kept in the system's temporary folder.
Prints one table per part, then one JSON line. Ratios are medians of the ratios of
single rounds, in which all steps alternate; files are in the page cache.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uproot

import mlaas4hep
from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.root.baskets import basket_layout_of
from mlaas4hep.io.root.compression import decompress
from mlaas4hep.reader import DataReader

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MLAAS4HEP_TESTDATA", ROOT.parent / "shared" / "data"))
ORIGINAL = "nanoAOD_2015_CMS_Open_Data_ttbar.root"
TREE = "Events"
PEER = "uproot.TTree.iterate, arrays thrown away"
FEW = 20
PEAK = """
import sys
from mlaas4hep.reader import DataReader
events = sum(map(len, DataReader(sys.argv[1], workers=int(sys.argv[2]))))
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(round(int(peak) / 1e3))
"""

Steps = dict[str, Callable[[], object]]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parts = {"steps": steps, "codecs": codecs, "parquet": parquet, "memory": memory, "info": info, "xrootd": xrootd}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts, help="one part (default: all)")
    parser.add_argument("--file", help="a ROOT file with a tree Events, for steps (default: 240,000 events, zlib)")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    args = parser.parse_args(argv)
    results: dict[str, object] = {}
    for name, part in parts.items():
        if args.only in (None, name):
            results[name] = part(args)
            print(flush=True)
    print(json.dumps({
        **results, "compiled": bool(KERNEL), "cores": os.cpu_count(), "python": platform.python_version(),
        "mlaas4hep": mlaas4hep.__version__, "uproot": uproot.__version__,
    }))  # fmt: skip
    return 0


def nanoaod(events: int, codec: str = "zlib") -> str:
    """Return a NanoAOD file with `events` events. Create it if it does not exist."""
    folder = Path(tempfile.gettempdir()) / "mlaas4hep-benchmarks"
    folder.mkdir(exist_ok=True)
    path = folder / f"nanoaod_{events}_{codec}.root"
    if not path.exists():
        maker, original = DATA.parent / "bench" / "make_nanoaod.py", DATA / "cms" / ORIGINAL
        temporary = path.with_suffix(".part")
        command = [sys.executable, str(maker), str(original), str(temporary), str(events), f"--codec={codec}"]
        print(f"making {path}", file=sys.stderr)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        temporary.rename(path)
    return str(path)


def nanoaod_parquet(events: int) -> str:
    """Return a Parquet file with the events of `nanoaod`, in row groups of 10,000. Create it if it does not exist."""
    import awkward as ak
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    original = Path(nanoaod(events))
    path = original.with_suffix(".parquet")
    if not path.exists():
        temporary, writer = path.with_suffix(".part"), None
        print(f"making {path}", file=sys.stderr)
        with uproot.open(original) as opened:
            for arrays in opened[TREE].iterate(step_size=10_000, how=dict):
                columns = {
                    name: ak.to_arrow(array, extensionarray=False, list_to32=True)
                    if array.ndim > 1
                    else array.to_numpy()
                    for name, array in arrays.items()
                }
                rows = pa.table(columns)
                writer = writer or ParquetWriter(temporary, rows.schema, compression="zstd")
                writer.write_table(rows, row_group_size=10_000)
        if writer is not None:
            writer.close()
        temporary.rename(path)
    return str(path)


def alternate(work: Steps, runs: int) -> dict[str, list[float]]:
    """Run all steps in each round; return the seconds of each step."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, step in work.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(title: str, seconds: dict[str, list[float]], events: int, peer: Callable[[str], str]) -> dict[str, object]:
    """Print events/s of each step, and its ratio to its baseline; return both."""
    print(title)
    found = {}
    for name, values in seconds.items():
        rate = events / statistics.median(values)
        ratio = statistics.median(one / other for one, other in zip(seconds[peer(name)], values, strict=True))
        print(f"{name:60s} {rate:12,.0f} events/s  {ratio:5.2f} x")
        found[name] = {"events_per_s": round(rate), "ratio": round(ratio, 2)}
    return {**found}


def iterate(file: str, branches: list[str] | None = None) -> None:
    """Read a file with uproot, the baseline."""
    with uproot.open(file) as opened:
        for _ in opened[TREE].iterate(filter_name=branches):
            pass


def first_pass(file: str, workers: int = 1) -> None:
    """Compute the specs."""
    with DataReader(file, workers=workers) as reader:
        reader.first_pass()


def steps(args: argparse.Namespace) -> dict[str, object]:
    """Measure each step of reading on its own."""
    file = args.file or nanoaod(240_000)
    with open_source(file) as source:
        names = [column.name for column in source.columns.values() if column.kind is not Kind.OTHER]
        events, branches = source.num_entries, len(source.columns)
    few = names[:: max(len(names) // FEW, 1)][:FEW]
    specs = DataReader(file).specs
    few_specs = DataReader(file, TREE, few, identifier=()).specs
    records = compressed_records(file, names)

    def inflate(threads: int) -> None:
        def work(offset: int) -> None:
            for record, length in records[offset::threads]:
                decompress(record, length)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))

    def matrix(workers: int) -> None:
        with DataReader(file, specs=specs, workers=workers) as reader:
            for _ in reader:
                pass

    def few_matrix() -> None:
        with DataReader(file, TREE, few, identifier=(), specs=few_specs) as reader:
            for _ in reader:
                pass

    work: Steps = {PEER: lambda: iterate(file, names)}
    for workers in (1, 2):
        work[f"inflating alone, {workers}"] = lambda workers=workers: inflate(workers)
        work[f"first pass, {workers}"] = lambda workers=workers: first_pass(file, workers)
        work[f"events to normalised matrix and mask, {workers}"] = lambda workers=workers: matrix(workers)
    if len(names) > 2 * FEW:
        work[f"{PEER}, {FEW} branches"] = lambda: iterate(file, few)
        work[f"events to normalised matrix and mask, 1, {FEW} branches"] = few_matrix
    seconds = alternate(work, args.runs)
    title = f"{Path(file).name}: {events} events, {branches} branches, {os.path.getsize(file) / 1e6:.1f} MB"
    found = table(
        title, seconds, events, lambda name: f"{PEER}, {FEW} branches" if name.endswith(" branches") else PEER
    )
    for workers in (1, 2):
        whole = seconds[f"events to normalised matrix and mask, {workers}"]
        share = share_of_rate(f"matrix, {workers}", seconds[f"inflating alone, {workers}"], whole)
        found[f"share of inflating, {workers}"] = share
    return found


def share_of_rate(name: str, floor: Sequence[float], whole: Sequence[float]) -> float:
    """Print and return the rate of a step as a share of that of decompression only; seconds of alternating runs."""
    share = statistics.median(one / other for one, other in zip(floor, whole, strict=True))
    print(f"{name}: {share:.0%} of the rate of decompression only")
    return round(share, 3)


def parquet(args: argparse.Namespace) -> dict[str, object]:
    """Measure reading of Parquet, relative to pyarrow."""
    from pyarrow.parquet import ParquetFile

    events, peer = 60_000, "pyarrow.parquet.ParquetFile.iter_batches, thrown away"
    file = nanoaod_parquet(events)
    specs = DataReader(file).specs

    def batches(threads: int) -> None:
        for _ in ParquetFile(file).iter_batches(10_000, use_threads=threads > 1):
            pass

    def matrix(workers: int) -> None:
        with DataReader(file, specs=specs, workers=workers) as reader:
            for _ in reader:
                pass

    work: Steps = {}
    for workers in (1, 2):
        work[f"{peer}, {workers}"] = lambda workers=workers: batches(workers)
        work[f"first pass, {workers}"] = lambda workers=workers: first_pass(file, workers)
        work[f"events to normalised matrix and mask, {workers}"] = lambda workers=workers: matrix(workers)
    seconds = alternate(work, args.runs)
    title = f"{Path(file).name}: {events} events, {os.path.getsize(file) / 1e6:.1f} MB"
    return table(title, seconds, events, lambda name: f"{peer}, {name[-1]}")


def compressed_records(file: str, names: list[str]) -> list[tuple[memoryview, int]]:
    """Return the compressed content of each basket, and its decompressed length."""
    content = memoryview(Path(file).read_bytes())
    records = []
    with uproot.open(file) as opened:
        for name in names:
            layout = basket_layout_of(opened[TREE][name])
            for index in range(len(layout.seek) if layout else 0):
                start, length = int(layout.seek[index]), int(layout.bytes[index])
                basket = content[start : start + length]
                key = int.from_bytes(basket[14:16], "big")
                records.append((basket[key:], int.from_bytes(basket[6:10], "big")))
    return records


def codecs(args: argparse.Namespace) -> dict[str, object]:
    """Measure first pass and matrix for other compression algorithms."""
    results: dict[str, object] = {}
    for codec in ("lz4", "zstd", "lzma"):
        file = nanoaod(240_000, codec)
        specs = DataReader(file).specs
        work: Steps = {PEER: lambda file=file: iterate(file)}
        for workers in (1, 2):
            work[f"first pass, {workers}"] = lambda file=file, workers=workers: first_pass(file, workers)
            work[f"events to normalised matrix and mask, {workers}"] = lambda file=file, specs=specs, workers=workers: (
                sum(map(len, DataReader(file, specs=specs, workers=workers)))
            )
        results[codec] = table(f"{codec}: 240,000 events", alternate(work, args.runs), 240_000, lambda _: PEER)
    return results


def memory(args: argparse.Namespace) -> dict[str, object]:
    """Measure the peak memory of whole processes, in MB (10^6 bytes)."""
    peaks: dict[tuple[int, int], list[int]] = {}
    for _ in range(args.runs):
        for workers in (1, 2):
            for events in (60_000, 600_000):
                command = [sys.executable, "-c", PEAK, nanoaod(events), str(workers)]
                peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                peaks.setdefault((workers, events), []).append(peak)
    results: dict[str, object] = {}
    for (workers, events), found in peaks.items():
        median = statistics.median(found)
        print(f"peak memory, {events} events, {workers} workers: {median:.0f} MB ({min(found)} to {max(found)})")
        results[f"{events} events, {workers} workers, MB"] = found
    return results


def info(args: argparse.Namespace) -> dict[str, object]:
    """Measure `reader.py --info` as a process."""
    command = [sys.executable, str(ROOT / "reader.py"), f"--fin={nanoaod(240_000)}", "--info", "--nevts=2000"]
    run = {"info": lambda: subprocess.run(command, check=True, capture_output=True)}
    seconds = statistics.median(alternate({**run}, args.runs)["info"])
    print(f"reader.py --info --nevts=2000, 947 branches: {seconds:.2f} s")
    return {"seconds": round(seconds, 2)}


def xrootd(args: argparse.Namespace) -> dict[str, object]:
    """Compare reading through a real XRootD server on this machine with reading from disk."""
    sys.path.insert(0, str(ROOT / "tests"))
    from xrootd_server import XRootDServer

    file, server = nanoaod(240_000), XRootDServer()
    try:
        url = server.put(file, "nanoaod.root")
        server.start()
        work: Steps = {}
        for workers in (1, 2):
            work[f"on disk, first pass, {workers}"] = lambda workers=workers: first_pass(file, workers)
            work[f"root://, first pass, {workers}"] = lambda workers=workers: first_pass(url, workers)
        title = "root:// on this machine, beside the same file on disk"
        return table(title, alternate(work, args.runs), 240_000, lambda name: name.replace("root://", "on disk"))
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
