"""A disk of a few megabytes that tests fill, mounted as a tmpfs.

from small_disk import disk_fixture, small_fixture  # noqa: F401

disk.fill(free=8_000)       # leave 8 kB
disk.free_all()
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SIZE = "5m"


@dataclass(frozen=True)
class SmallDisk:
    """The folder where the disk is mounted."""

    path: Path

    def fill(self, free=0):
        """Write a file until about `free` bytes are left; tmpfs counts in pages of 4 kB."""
        status = os.statvfs(self.path)
        with (self.path / "filler").open("ab") as file:
            file.write(bytes(max(status.f_bavail * status.f_frsize - free, 0)))

    def free_all(self):
        """Remove the file of `fill`."""
        (self.path / "filler").unlink(missing_ok=True)

    def clear(self):
        """Remove everything."""
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def small_disk(path):
    """Mount a disk at a folder, as root or by sudo, and yield it; skip the test if that is not possible."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={SIZE},mode=0777"
    command = [*sudo, "mount", "-t", "tmpfs", "-o", options, "mlaas4hep-test", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs {error.filename} to mount a small file system")
    if done.returncode:
        pytest.skip(f"needs root, or sudo without a password, to mount a small file system: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run([*sudo, "umount", "-l", str(path)], check=False)


@pytest.fixture(name="small", scope="module")
def small_fixture(tmp_path_factory):
    """The disk of a module."""
    yield from small_disk(tmp_path_factory.mktemp("small"))


@pytest.fixture(name="disk")
def disk_fixture(small):
    """The disk of the module, empty."""
    yield small
    small.clear()
