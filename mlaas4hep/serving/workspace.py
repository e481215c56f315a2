"""The store's own folder `.tfaas`, beside the models: the lock, the default model, and what is being uploaded.

    workspace = Workspace(models_dir)
    with workspace.work_folder() as folder: ...

A models directory may hold other people's things, even a `.tfaas` of something else. So the folder has a marker file
that only we write; without it, and with anything in it that is not ours, it is left alone. Of the folders in it, those
with the file that `work_folder` writes first are removed after a crash.
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
from mlaas4hep.serving.model_folder import is_managed
from mlaas4hep.serving.plain_files import read_plain
from mlaas4hep.serving.store_lock import SIZE, Lock, NoLock

OWN = ".tfaas"
DEFAULT = "default"
_LOCK, _MARKER, _WORK, _OWNER = "lock", "made-by-mlaas4hep", "work-", "owner"
_TEXT = b"This folder belongs to tfaas_server.py of mlaas4hep.\n"
_NEW, _OLD = "new", "old"
_WORK_ENTRIES = {_OWNER, _NEW, _OLD, "deleted", "replaced"}
_log = logging.getLogger(__name__)


class Workspace:
    """The folder `.tfaas` of a models directory.

    Attributes:
        folder: where it is.
        lock: to be held while models are moved or looked for.

    Raises:
        FileUnreadable: there is a folder of that name that is not ours.
        OSError: it cannot be made, read or written.
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

    def read_default(self) -> str:
        """Return the name of the default model, "" where none was chosen."""
        try:
            return (read_plain(self.folder / DEFAULT, 1000) or b"").decode()
        except ValueError:  # also ConfigError
            return ""

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Give a folder to work in, and remove it afterwards; while this process lives nobody else does."""
        with self.lock:
            folder = Path(tempfile.mkdtemp(prefix=_WORK, dir=self.folder))
            owner = (folder / _OWNER).open("wb")
            fcntl.flock(owner, fcntl.LOCK_EX)
            owner.write(_TEXT)
            owner.flush()
        try:
            yield folder
        finally:
            self._clear(folder)
            owner.close()

    def swap(self, work_folder: Path, name: str) -> None:
        """Make the folder "new" of a work folder the model `name`; `_clear` repairs what a crash interrupts."""
        place, old = self._models_dir / name, work_folder / _OLD
        old.mkdir()
        if os.path.lexists(place):
            place.rename(old / name)
        (work_folder / _NEW).rename(place)
        self.lock.note_change()
        old.rename(work_folder / "replaced")

    def _clear(self, work_folder: Path) -> None:
        """Remove a work folder; a model that was not replaced after all goes back to its place."""
        with self.lock:
            for old in work_folder.glob(f"{_OLD}/*"):
                place = self._models_dir / old.name
                if not os.path.lexists(place):
                    old.rename(place)
                elif not is_managed(old):
                    _log.error("%s was moved here from %s, and stays: the server did not make it", old, place)
                    return
        shutil.rmtree(work_folder, ignore_errors=True)

    def _claim(self) -> None:
        """Make the folder, or take what is ours; a models directory that was removed is not made again."""
        self.folder.mkdir(exist_ok=True)
        state = self._state()
        if state == "foreign":
            raise FileUnreadable(
                f"{self.folder} was not made by tfaas_server.py, which needs a folder of that name",
                hint="rename it, or choose another folder with --models-dir",
            )
        if state == "unmarked":
            (self.folder / _MARKER).write_bytes(_TEXT)

    def _state(self) -> str:
        """Return "ours", "foreign", or "unmarked": there is nothing in it but what an older server left."""
        try:
            if not stat.S_ISDIR(os.lstat(self.folder).st_mode):
                return "foreign"
            if _holds_text(self.folder / _MARKER):
                return "ours"
            with os.scandir(self.folder) as entries:
                return "unmarked" if all(map(_is_known, entries)) else "foreign"
        except FileNotFoundError:
            return "unmarked"


def _holds_text(path: Path) -> bool:
    try:
        return read_plain(path, len(_TEXT)) == _TEXT
    except ConfigError:
        return False


def _is_known(entry: os.DirEntry[str]) -> bool:
    """Return whether this is something that a server writes into its folder."""
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return entry.name.startswith(_WORK) and (not os.listdir(entry.path) or _is_work_folder(Path(entry.path)))
    if entry.name == _LOCK:
        return stat.S_ISREG(status.st_mode) and status.st_size in (0, SIZE)
    if entry.name == _MARKER:
        return stat.S_ISREG(status.st_mode) and not status.st_size  # another server is about to write it
    return stat.S_ISREG(status.st_mode) and (entry.name == DEFAULT or entry.name.startswith(f".{DEFAULT}-"))


def _is_work_folder(path: Path) -> bool:
    """Return whether a folder was made by `work_folder`, or by that of an older server, whose mark is empty."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode) or not _WORK_ENTRIES.issuperset(os.listdir(path)):
            return False
        return read_plain(path / _OWNER, len(_TEXT)) in (_TEXT, b"")
    except (OSError, ConfigError):
        return False


def _is_in_use(work_folder: Path) -> bool:
    """Return whether the process that made a work folder is alive."""
    try:
        with (work_folder / _OWNER).open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
