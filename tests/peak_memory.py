"""The peak of the resident memory of this process, on Linux.

before = reset_peak_memory()
allocate()
added = peak_memory() - before

`resource.getrusage` has a peak that cannot be reset, and that Linux passes on from parent to child.
"""

from __future__ import annotations

import re
from pathlib import Path


def reset_peak_memory() -> int:
    """Lower the peak to the memory in use; return it in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> int:
    """Return the peak since the start of the process, or since the last reset, in bytes."""
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return 1024 * int(kibibytes)
