#!/usr/bin/env python3
"""Is training faster if waiting threads sleep (as our scripts set it) or if they spin (the default of OpenMP)?

    python benchmarks/bench_threads.py
    python benchmarks/bench_threads.py --threads=4 --runs=3

A small PyTorch network is trained for 300 steps of 1024 events with both settings, alone and beside as many other
busy processes as there are threads. All measurements alternate. Prints a table and one JSON line: medians of wall
time and CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack

import torch

SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
TRAINING = """
import resource, time, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(300, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
optimizer = torch.optim.AdamW(net.parameters())
x, y = torch.randn(1024, 300), torch.rand(1024, 1).round()
def steps(count):
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x), y).backward()
        optimizer.step()
steps(20)
start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
steps(300)
used = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime)
"""


def measure(threads: int, sleeping: bool, others: int) -> tuple[float, float]:
    """Return wall time and CPU time, in seconds, of the training beside some busy processes."""
    environment = {name: value for name, value in os.environ.items() if name not in SLEEPING}
    environment |= {"OMP_NUM_THREADS": str(threads), **(SLEEPING if sleeping else {})}
    with ExitStack() as stack:
        for _ in range(others):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        command = [sys.executable, "-c", TRAINING]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wall, used = map(float, done.stdout.split())
    return wall, used


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="number of rounds (default: %(default)s)")
    args = parser.parse_args()
    cases = [(sleeping, others) for others in (0, args.threads) for sleeping in (False, True)]
    rounds = [[measure(args.threads, *case) for case in cases] for _ in range(args.runs)]
    rows = {}
    for (sleeping, others), found in zip(cases, zip(*rounds, strict=True), strict=True):
        wall, used = (statistics.median(column) for column in zip(*found, strict=True))
        name = f"{'sleeping' if sleeping else 'spinning'}, {others} other busy processes"
        rows[name] = {"wall_s": round(wall, 2), "cpu_s": round(used, 2)}
        print(f"{name:40}  {wall:6.2f} s  {used:6.2f} s of CPU time")
    about = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    print(json.dumps({"threads": args.threads, **rows, **about}))


if __name__ == "__main__":
    main()
