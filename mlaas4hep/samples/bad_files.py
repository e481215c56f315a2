"""Files that cannot be read, and are left out of a sample if the options allow it.

check_max_bad(["b.root is empty"], files=1000, max_bad=0.01)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlaas4hep.comma_lists import first_few
from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError
from mlaas4hep.io.storage.location import redacted


@dataclass(frozen=True)
class BadFile:
    """The error of a file that cannot be read."""

    error: MLaaS4HEPError

    @property
    def reason(self) -> str:
        """The error in one line, without the hint."""
        return self.error.what


@dataclass(frozen=True)
class LeftOutFile:
    """A file that is not part of the sample.

    Attributes:
        index: its index in the list of files that the user gave.
        name: path, URL or LFN.
        reason: why it was left out.
    """

    index: int
    name: str
    reason: str


def allowed_bad_files(max_bad: float, files: int) -> int:
    """Return how many of `files` files may be left out; see `max_bad` of `FilesParams`."""
    if max_bad >= 1:
        return int(max_bad)
    return max(int(max_bad * files), 1) if max_bad else 0


def check_max_bad(reasons: Sequence[str], files: int, max_bad: float) -> None:
    """Raise FileUnreadable if more of `files` files than allowed, or all of them, cannot be read for these reasons."""
    allowed = allowed_bad_files(max_bad, files)
    if len(reasons) <= min(allowed, files - 1):
        return
    listed = first_few(reasons, separator="; ")
    if len(reasons) == files:
        raise FileUnreadable(f"none of the {files} files can be read: {listed}")
    raise FileUnreadable(
        f"{len(reasons)} of {files} files cannot be read, and 'max_bad' allows {allowed}: {listed}",
        hint="repair or remove them, or set a larger 'max_bad'",
    )


def left_out_notices(files: Sequence[LeftOutFile]) -> list[str]:
    """Return a notice about each file that was left out, and one with their number if there are several."""
    lines = [f"left out {redacted(file.name)}: {file.reason}" for file in files]
    return [*lines, f"{len(files)} files were left out"] if len(files) > 1 else lines
