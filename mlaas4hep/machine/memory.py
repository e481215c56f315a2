"""The memory that this process may still allocate.

    available_memory()        # 12_400_000_000

This is the minimum of the available memory of the machine, of the remaining memory of the control groups (containers,
batch jobs), and of the remaining address space (`ulimit -v`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlaas4hep.machine.control_groups import CGROUPS, OWN, control_groups


def available_memory(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Return the available memory in bytes. `own` is the file that lists the control groups of this process."""
    import psutil

    available = [int(psutil.virtual_memory().available), *_available_in_cgroups(cgroups, own)]
    try:
        import resource
    except ImportError:  # Windows
        return min(available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        available.append(limit - int(psutil.Process().memory_info().vms))
    return max(min(available), 0)


def _available_in_cgroups(root: Path, own: Path) -> Iterator[int]:
    """Yield the remaining memory of each control group of this process, from its own to the outermost."""
    for folder, version in control_groups("memory", root, own):
        names = ("memory.max", "memory.current")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        available = _available_in_cgroup(folder, *names)
        if available is not None:
            yield available


def _available_in_cgroup(folder: Path, limit: str, usage: str) -> int | None:
    """Return the remaining memory of a group, including reclaimable file caches; None if it has no limit."""
    try:
        maximum, used = (int((folder / name).read_text()) for name in (limit, usage))
    except (OSError, ValueError):  # the limit is "max"
        return None
    return maximum - used + _file_cache(folder)


def _file_cache(folder: Path) -> int:
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0
