"""Folders that carry a marker file, by which we recognise later that we created them and may delete them.

    CACHE = Marker(".mlaas4hep-cache", "This folder is a cache.")
    CACHE.ensure(path)         # creates the folder with its marker, or checks that it carries the marker
    CACHE.is_on(path)

A folder and its marker appear in one step, also if the process is killed. A folder without the marker is never changed.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Marker:
    """A marker file.

    Attributes:
        name: of the file within the folder.
        text: the content of the file, which tells people what the folder is.
    """

    name: str
    text: str

    def is_on(self, path: Path) -> bool:
        """Return whether `path` is a folder of this user that carries the marker; symbolic links are not followed."""
        try:
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                return False
            descriptor = os.open(path / self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                expected = self.text.encode()
                return stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(expected) + 1) == expected
        except OSError:
            return False

    def ensure(self, path: Path) -> None:
        """Create a folder that carries the marker, unless it exists already and does.

        Raises:
            FileExistsError: something else has this name.
            OSError: the folder cannot be created.
        """
        if self.is_on(path):
            return
        if not os.path.lexists(path):
            new = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=path.parent))
            try:
                (new / self.name).write_text(self.text, encoding="utf-8")
                with suppress(OSError):  # another process was faster
                    new.rename(path)
                    return
            finally:
                with suppress(OSError):
                    (new / self.name).unlink()
                    new.rmdir()
        if not self.is_on(path):
            raise FileExistsError(f"{path} exists and was not created by MLaaS4HEP for this user")
