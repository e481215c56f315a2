#!/usr/bin/env python3
"""How fast do events become vectors, beside uproot reading the same branches and throwing them away?

    python benchmarks/bench_reading.py                    # examples/htautau/ggH.root
    python benchmarks/bench_reading.py nanoaod.root --runs=5

Prints a table, then one JSON line. Medians of alternating runs, files in the page cache. `uproot` is the peer that the
ratios are against; `inflating alone`, every basket decompressed and thrown away, is the floor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uproot

import mlaas4hep
from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.baskets import plan_of
from mlaas4hep.io.compression import decompress
from mlaas4hep.reader import DataReader

DEFAULT = Path(__file__).resolve().parents[1] / "examples" / "htautau" / "ggH.root"
PEER = "uproot.TTree.iterate, arrays thrown away"
FEW = 20
PEAK = """
import sys
from mlaas4hep.reader import DataReader
events = sum(map(len, DataReader(sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))))
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(round(int(peak) / 1e3))
"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default=str(DEFAULT), help="ROOT file (default: examples/htautau/ggH.root)")
    parser.add_argument("--branch", default="Events", help="name of the tree (default: Events)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each step (default: 5)")
    args = parser.parse_args(argv)
    steps = make_steps(args.file, args.branch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.runs):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    report(args.file, args.branch, seconds)
    return 0


def make_steps(file: str, tree: str) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    with open_source(file, tree) as source:
        names = [column.name for column in source.columns.values() if column.kind is not Kind.OTHER]
    few = names[:: max(len(names) // FEW, 1)][:FEW]
    specs = DataReader(file, tree).specs
    few_specs = DataReader(file, tree, few, identifier=()).specs
    records = compressed_records(file, tree, names)

    def iterate(branches: list[str]) -> None:
        with uproot.open(file) as opened:
            for _ in opened[tree].iterate(filter_name=branches):
                pass

    def inflate(threads: int) -> None:
        def work(offset: int) -> None:
            for record, length in records[offset::threads]:
                decompress(record, length)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))

    def first_pass(workers: int) -> None:
        with DataReader(file, tree, workers=workers) as reader:
            reader.first_pass()

    def matrix(workers: int) -> None:
        with DataReader(file, tree, specs=specs, workers=workers) as reader:
            for _ in reader:
                pass

    def few_matrix() -> None:
        with DataReader(file, tree, few, identifier=(), specs=few_specs) as reader:
            for _ in reader:
                pass

    steps: dict[str, Callable[[], object]] = {PEER: lambda: iterate(names)}
    for workers in (1, 2):
        steps[f"inflating alone, {workers}"] = lambda workers=workers: inflate(workers)
        steps[f"first pass, {workers}"] = lambda workers=workers: first_pass(workers)
        steps[f"events to normalised matrix and mask, {workers}"] = lambda workers=workers: matrix(workers)
    if len(names) > 2 * FEW:
        steps[f"{PEER}, {FEW} branches"] = lambda: iterate(few)
        steps[f"events to normalised matrix and mask, 1, {FEW} branches"] = few_matrix
    return steps


def compressed_records(file: str, tree: str, names: list[str]) -> list[tuple[memoryview, int]]:
    """Return the compressed content of every basket, and its length when inflated."""
    content = memoryview(Path(file).read_bytes())
    records = []
    with uproot.open(file) as opened:
        for name in names:
            plan = plan_of(opened[tree][name])
            for index in range(len(plan.seek) if plan else 0):
                start, length = plan.place(index)
                basket = content[start : start + length]
                key = int.from_bytes(basket[14:16], "big")
                records.append((basket[key:], int.from_bytes(basket[6:10], "big")))
    return records


def report(file: str, tree: str, seconds: dict[str, list[float]]) -> None:
    """Print the table and the JSON line."""
    with open_source(file, tree) as source:
        events, branches = source.num_entries, len(source.columns)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{Path(file).name}: {events} events, {branches} branches, {os.path.getsize(file) / 1e6:.1f} MB")
    for name, median in medians.items():
        peer = f"{PEER}, {FEW} branches" if name.endswith(" branches") else PEER
        ratio = statistics.median(one / other for one, other in zip(seconds[peer], seconds[name], strict=True))
        print(f"{name:58s} {events / median:12,.0f} events/s  {ratio:5.2f} x")
    peaks = {}
    for workers in (1, 2):
        command = [sys.executable, "-c", PEAK, file, tree, str(workers)]
        peaks[workers] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"peak memory of first pass and matrix, {workers}: {peaks[workers]} MB")
    print(json.dumps({
        "file": Path(file).name, "events": events, "branches": branches, "peak_MB": peaks, "compiled": bool(KERNEL),
        "events_per_s": {name: round(events / median) for name, median in medians.items()},
        "cores": os.cpu_count(), "python": platform.python_version(), "mlaas4hep": mlaas4hep.__version__,
        "uproot": uproot.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
