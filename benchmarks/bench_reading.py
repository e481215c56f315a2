#!/usr/bin/env python3
"""How fast do events become vectors, beside uproot reading the same branches and throwing them away?

    python benchmarks/bench_reading.py                    # examples/htautau/ggH.root
    python benchmarks/bench_reading.py nanoaod.root --runs=5

Prints a table, then one JSON line. Medians of alternating runs, files in the page cache; the floor is the first row.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uproot

import mlaas4hep
from mlaas4hep.io import Kind, open_source
from mlaas4hep.reader import DataReader

DEFAULT = Path(__file__).resolve().parents[1] / "examples" / "htautau" / "ggH.root"


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
    report(args.file, args.branch, {name: statistics.median(values) for name, values in seconds.items()})
    return 0


def make_steps(file: str, tree: str) -> dict[str, Callable[[], None]]:
    """Return what is measured; the first is what the others are compared with."""
    with open_source(file, tree) as source:
        names = [column.name for column in source.columns.values() if column.kind is not Kind.OTHER]
    specs = DataReader(file, tree).specs

    def iterate() -> None:
        with uproot.open(file) as opened:
            for _ in opened[tree].iterate(filter_name=names):
                pass

    def first_pass() -> None:
        with DataReader(file, tree) as reader:
            reader.first_pass()

    def matrix() -> None:
        with DataReader(file, tree, specs=specs) as reader:
            for chunk in reader:
                np.asarray(chunk.x)

    return {"uproot.TTree.iterate, arrays thrown away": iterate, "first pass": first_pass,
            "events to normalised float32 matrix and mask": matrix}  # fmt: skip


def report(file: str, tree: str, medians: dict[str, float]) -> None:
    """Print the table and the JSON line."""
    with open_source(file, tree) as source:
        events, branches = source.num_entries, len(source.columns)
    rates = {name: events / seconds for name, seconds in medians.items()}
    floor = next(iter(rates.values()))
    print(f"{Path(file).name}: {events} events, {branches} branches, {os.path.getsize(file) / 1e6:.1f} MB")
    for name, rate in rates.items():
        print(f"{name:46s} {rate:10,.0f} events/s  {rate / floor:5.2f} x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({
        "file": Path(file).name, "events": events, "branches": branches, "events_per_s": rates, "peak_MB": round(peak),
        "cores": os.cpu_count(), "python": platform.python_version(), "mlaas4hep": mlaas4hep.__version__,
        "uproot": uproot.__version__, "numpy": np.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
