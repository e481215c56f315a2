"""The store's own folder `.tfaas` in the models directory: the lock, the default model, and pending uploads.

    workspace = Workspace(models_dir)
    with workspace.work_folder() as folder: ...

A models directory may contain other files, even a `.tfaas` of another program. The folder therefore has a marker file.
A folder that has unknown entries but no marker is not used. After a crash, only folders with the file "owner", which
`work_folder` writes first, are removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.folder_marker import FolderMarker
from mlaas4hep.protocol.plain_files import read_plain
from mlaas4hep.serving.store.model_folder import is_managed
from mlaas4hep.serving.store.store_lock import SIZE, Lock, NoLock

OWN = ".tfaas"
DEFAULT = "default"
_LOCK, _WORK = "lock", "work-"
_TEXT = "This folder belongs to tfaas_server.py of mlaas4hep.\n"
_MARKER, _OWNER = FolderMarker("made-by-mlaas4hep", _TEXT), FolderMarker("owner", _TEXT)  # of `.tfaas`, a work folder
_NEW, _OLD = "new", "old"
_WORK_ENTRIES = {_OWNER.name, _NEW, _OLD, "deleted", "replaced"}
_log = logging.getLogger(__name__)


class Workspace:
    """The folder `.tfaas` of a models directory.

    Attributes:
        folder: its path.
        lock: to be held while models are moved or searched for.

    Raises:
        FileUnreadable: the folder belongs to another program.
        OSError: the folder cannot be created, read or written.
    """

    def __init__(self, models_dir: Path, *, read_only: bool = False) -> None:
        self.folder = models_dir / OWN
        self._models_dir = models_dir
        self.lock: Lock | NoLock
        if read_only:
            os.listdir(models_dir)
            path = self.folder / _LOCK  # of a server that may write here
            usable = self._state() != "foreign" and os.access(path, os.W_OK)
            self.lock = Lock(path, make=None) if usable else NoLock()
            return
        models_dir.mkdir(parents=True, exist_ok=True)
        self._claim()
        self.lock = Lock(self.folder / _LOCK, self._claim)
        with self.lock:
            for path in self.folder.glob(f"{_WORK}*"):
                if _is_work_folder(path) and not _is_in_use(path):
                    self._clear(path)
            for path in self.folder.glob(f".{DEFAULT}-*"):  # written under the lock by a process that was killed
                path.unlink()

    def read_default(self) -> str:
        """Return the name of the default model; "" if none was set."""
        try:
            return (read_plain(self.folder / DEFAULT, 1000) or b"").decode()
        except ValueError:  # also ConfigError
            return ""

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Yield a temporary folder and remove it afterwards; other processes keep it while this one is alive."""
        with self.lock:
            folder = Path(tempfile.mkdtemp(prefix=_WORK, dir=self.folder))
            try:
                owner = (folder / _OWNER.name).open("wb", buffering=0)
                fcntl.flock(owner, fcntl.LOCK_EX)
                _OWNER.write(folder)
            except OSError:  # the disk is full
                shutil.rmtree(folder, ignore_errors=True)
                raise
        try:
            yield folder
        finally:
            self._clear(folder)
            owner.close()

    def swap(self, work_folder: Path, name: str) -> None:
        """Make the folder "new" of a work folder the model `name`; `_clear` repairs an interrupted swap."""
        target, old = self._models_dir / name, work_folder / _OLD
        old.mkdir()
        if os.path.lexists(target):
            target.rename(old / name)
        (work_folder / _NEW).rename(target)
        self.lock.note_change()
        old.rename(work_folder / "replaced")

    def _clear(self, work_folder: Path) -> None:
        """Remove a work folder; move a model whose replacement was interrupted back to its place."""
        with self.lock:
            for old in work_folder.glob(f"{_OLD}/*"):
                target = self._models_dir / old.name
                if not os.path.lexists(target):
                    old.rename(target)
                elif not is_managed(old):
                    _log.error("%s was moved here from %s, and is kept because it was not uploaded", old, target)
                    return
        shutil.rmtree(work_folder, ignore_errors=True)

    def _claim(self) -> None:
        """Create the folder if it is missing, and mark it. A models directory that was removed is not created again."""
        self.folder.mkdir(exist_ok=True)
        state = self._state()
        if state == "foreign":
            raise FileUnreadable(
                f"{self.folder} was not created by tfaas_server.py, which needs a folder of this name",
                hint="rename it, or choose another folder with --models-dir",
            )
        if state == "unmarked":
            _MARKER.write(self.folder)

    def _state(self) -> str:
        """Return "own", "foreign", or "unmarked" if it has at most files of an older server."""
        try:
            if not stat.S_ISDIR(os.lstat(self.folder).st_mode):
                return "foreign"
            if _MARKER.is_on(self.folder):
                return "own"
            with os.scandir(self.folder) as entries:
                return "unmarked" if all(map(_is_own_entry, entries)) else "foreign"
        except FileNotFoundError:
            return "unmarked"


def _is_own_entry(entry: os.DirEntry[str]) -> bool:
    """Return whether a server writes entries like this one into its folder."""
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return entry.name.startswith(_WORK) and (not os.listdir(entry.path) or _is_work_folder(Path(entry.path)))
    if entry.name == _LOCK:
        return stat.S_ISREG(status.st_mode) and status.st_size in (0, SIZE)
    if entry.name == _MARKER.name:
        return stat.S_ISREG(status.st_mode) and not status.st_size  # another server is about to write it
    return stat.S_ISREG(status.st_mode) and (entry.name == DEFAULT or entry.name.startswith(f".{DEFAULT}-"))


def _is_work_folder(path: Path) -> bool:
    """Return whether `work_folder` created a folder, possibly in an older server, whose marker is empty."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode) or not _WORK_ENTRIES.issuperset(os.listdir(path)):
            return False
        return _OWNER.is_on(path) or read_plain(path / _OWNER.name, 0) == b""
    except (OSError, ConfigError):
        return False


def _is_in_use(work_folder: Path) -> bool:
    """Return whether the process that created a work folder is alive."""
    try:
        with (work_folder / _OWNER.name).open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
