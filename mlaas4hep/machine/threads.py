"""The number of threads of numerical libraries: the number of available CPUs, or the number that the user sets.

available_cpus()            # 4, in a batch job with 4 of the 128 CPUs of a machine
limit_threads(2)            # before the libraries are imported
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mlaas4hep.machine.control_groups import CGROUPS, OWN, control_groups

_COUNTS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip
"""Environment variables that libraries (OpenMP, OpenBLAS, MKL, TensorFlow) read when they are loaded."""

_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""With these variables, the threads of OpenMP sleep while they wait, and leave the CPU to other processes."""


def available_cpus(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Return the number of CPUs that this process may use, at least 1.

    This is the minimum of the number of CPUs in its affinity and of the quotas of its control groups (`cpu.max`),
    rounded down.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(cgroups, own)])))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield the CPU quotas of the control groups of this process, in CPUs."""
    for folder, version in control_groups("cpu", cgroups, own):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # -1: no limit, in version 1
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no file, or no limit ("max")
            continue


def thread_count(threads: int = 0) -> int:
    """Return the number of threads for a library; for 0, the value of `OMP_NUM_THREADS` or `available_cpus`."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return threads or (int(given) if given.isdigit() and int(given) else available_cpus())


def limit_threads(threads: int = 0) -> None:
    """Set the number of threads of libraries that are imported later; waiting threads will not use CPU time.

    Args:
        threads: number of threads; 0: the values of the environment variables or, if not set, `available_cpus`.
    """
    count = str(thread_count(threads))
    for name in _COUNTS:
        if threads or not os.environ.get(name):
            os.environ[name] = count
    for name, value in _PASSIVE.items():
        os.environ.setdefault(name, value)
