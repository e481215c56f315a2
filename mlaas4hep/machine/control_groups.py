"""The control groups of this process, in which containers and batch jobs limit memory and CPU time.

for folder, version in control_groups("memory"):
    print(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
"""File that lists the control groups of this process."""


def control_groups(controller: str, root: Path = CGROUPS, own: Path = OWN) -> Iterator[tuple[Path, int]]:
    """Yield the folder of each control group of this process, from its own to the outermost, and the version (1 or 2).

    Args:
        controller: name of the controller in version 1, such as "memory" or "cpu".
        root, own: see CGROUPS and OWN.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base, version = root, 2
        elif controller in controllers.split(","):
            base, version = root / controller, 1
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder, version
            if folder == base:
                break
