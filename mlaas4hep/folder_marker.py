"""Marker files, which show that MLaaS4HEP created a folder and may delete it.

    CACHE = FolderMarker(".mlaas4hep-cache", "This folder is a cache.")
    CACHE.ensure(path)         # creates the folder with the marker, or checks that an existing folder has it
    CACHE.is_on(path)

A folder and its marker are created atomically. A folder without the marker is never changed.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FolderMarker:
    """A marker file.

    Attributes:
        name: name of the file in the folder.
        text: content of the file, which explains to users what the folder is.
    """

    name: str
    text: str

    def is_on(self, path: Path) -> bool:
        """Return whether `path` is a folder with the marker; symbolic links are not followed.

        The owner is not checked, since network file systems may not show the user who created the folder.
        """
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                return False
            descriptor = os.open(path / self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                expected = self.text.encode()
                return stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(expected) + 1) == expected
        except OSError:
            return False

    def write(self, path: Path) -> None:
        """Write the marker into a folder; raise OSError if that fails."""
        (path / self.name).write_text(self.text, encoding="utf-8")

    def ensure(self, path: Path) -> None:
        """Create a folder with the marker, unless it already exists.

        Raises:
            FileExistsError: the path exists and is not a folder with the marker.
            OSError: the folder cannot be created.
        """
        if self.is_on(path):
            return
        if not os.path.lexists(path):
            new = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=path.parent))
            try:
                self.write(new)
                with suppress(OSError):  # another process has just created it
                    new.rename(path)
                    return
            finally:
                with suppress(OSError):
                    (new / self.name).unlink()
                    new.rmdir()
        if not self.is_on(path):
            raise FileExistsError(f"{path} exists and was not created by MLaaS4HEP")
