#!/usr/bin/env python3
"""How fast are duplicate events found, compared with reading the three columns that identify events?

    python benchmarks/bench_duplicates.py
    python benchmarks/bench_duplicates.py --events=20_000_000 --runs=3

Writes 5 files (zlib) with `run`, `luminosityBlock` and `event` to the temporary folder; 10 % of the events of the last
one are those of the first. Prints a table and one JSON line. Ratios are medians of single rounds, in which all steps
alternate.
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
from pathlib import Path

import numpy as np
import uproot

FILES = 5
SMALL_MEMORY = 100_000_000
FLOOR = """
for path in sys.argv[1:]:
    with DataReader(path, exclude_branches=["*"], require_features=False) as reader:
        for block in reader.blocks(200_000):
            reader.read_block(*block, features=False)
"""
SEARCH = """
found = find_duplicates(Fileset.of_names(sys.argv[1:]), FilesParams(workers={workers}), memory={memory})
assert found.repeated == {repeated}
"""
STEP = """
import sys, time
from mlaas4hep.config import FilesParams
from mlaas4hep.duplicates.search import MEMORY, find_duplicates
from mlaas4hep.reader import DataReader
from mlaas4hep.samples.fileset import Fileset
start = time.perf_counter()
{step}
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - start, int(peak) // 1000)
"""


def write_files(folder: Path, events: int) -> tuple[list[str], int]:
    """Write the files; return their paths and the number of events that occur twice."""
    rng = np.random.default_rng(0)
    per_file = events // FILES
    numbers = [rng.permutation(per_file).astype(np.uint64) + np.uint64(index * 10**10) for index in range(FILES)]
    copied = per_file // 10
    numbers[-1][:copied] = numbers[0][:copied]
    paths = []
    for index, event in enumerate(numbers):
        columns = {
            "run": (event // 10_000_000_000 + 300_000).astype(np.uint32),
            "luminosityBlock": (event // 1000 % 2000).astype(np.uint32),
            "event": event,
        }
        paths.append(str(folder / f"{index}.root"))
        with uproot.recreate(paths[-1]) as file:
            tree = file.mktree("Events", {name: values.dtype for name, values in columns.items()})
            for start in range(0, per_file, 50_000):
                tree.extend({name: values[start : start + 50_000] for name, values in columns.items()})
    return paths, copied


def measure(step: str, paths: list[str]) -> tuple[float, int]:
    """Run a step in a process of its own; return its seconds, and the peak memory of the process in MB."""
    command = [sys.executable, "-c", STEP.format(step=step), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="number of events (default: 10,000,000)")
    parser.add_argument("--runs", type=int, default=5, help="number of rounds (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths, repeated = write_files(Path(folder), options.events)
        steps = {"reading the three columns": FLOOR}
        for name, workers, memory in (
            ("duplicates, default memory", 1, "MEMORY"),
            ("duplicates, default memory, 2 workers", 2, "MEMORY"),
            ("duplicates, 100 MB", 1, SMALL_MEMORY),
        ):
            steps[name] = SEARCH.format(workers=workers, memory=memory, repeated=repeated)
        rounds = [{name: measure(step, paths) for name, step in steps.items()} for _ in range(options.runs)]
    floor = next(iter(steps))
    results = {}
    for name in steps:
        rate = options.events / statistics.median(one[name][0] for one in rounds)
        ratio = statistics.median(one[floor][0] / one[name][0] for one in rounds)
        peak = statistics.median(one[name][1] for one in rounds)
        results[name] = {"events_per_s": round(rate), "relative": round(ratio, 2), "peak_mb": peak}
        print(f"{name:40} {rate:12,.0f} events/s {ratio:6.2f} {peak:6.0f} MB")
    print(json.dumps({"events": options.events, "python": platform.python_version(), "numpy": np.__version__,
                      "cores": os.cpu_count(), "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()
