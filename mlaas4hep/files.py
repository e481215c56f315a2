"""Atomic writing of files and folders.

    write_json("specs.json", {"jdim": {}})
    with new_directory("bundle") as path:
        (path / "labels.txt").write_text("ggH\\nVBF\\n")

Files are written under a temporary name in the same folder and renamed when they are complete, so that a crash or a
full disk does not damage existing files. Only files that MLaaS4HEP created are deleted: temporary folders and lock
files contain a marker, and `check_replaceable` checks the content of existing files.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.folder_marker import FolderMarker
from mlaas4hep.write_errors import WriteFailed, explained_writes

_SYNC_THREADS = 16
"""Number of files that are flushed to disk at a time, which takes as long as for a single file."""

_UNFINISHED = FolderMarker(
    ".mlaas4hep-unfinished", "This folder is temporary: MLaaS4HEP writes a file or folder in it.\n"
)
_LOCK_MARK = b"MLaaS4HEP locks what is written here\n"


@contextmanager
def new_file(path: str | os.PathLike[str], exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, which is renamed to `path` if the block ends without an error.

    Args:
        exclusive: whether no other process writes this file at the same time. The temporary name is then always the
            same, so that the next call removes the files of a killed process.

    Raises:
        FileUnreadable: the folder cannot be created or written.
    """
    path = _destination(path)
    _check_regular_file(path)
    with _explain_os_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if exclusive:
            temporary = _new_temporary_folder(path) / f"new{path.suffix}"
        else:
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
    try:
        with explained_writes(path):
            yield temporary
        with _explain_os_error(path):
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if exclusive:
            _clean_up(temporary.parent, path)


def remove_unfinished(path: Path) -> None:
    """Remove the temporary files of a killed process that wrote a file or folder with `exclusive`."""
    _clean_up(_unfinished(path), path)


def check_unfinished(path: Path) -> None:
    """Raise FileUnreadable if the temporary folder of `path` (written with `exclusive`) exists and is not ours."""
    folder = _unfinished(path)
    if os.path.lexists(folder) and not _UNFINISHED.is_on(folder):
        raise FileUnreadable(f"{folder} exists and was not created by MLaaS4HEP", hint="move it")


@contextmanager
def new_directory(
    path: str | os.PathLike[str], exclusive: bool = False, is_ours: Callable[[Path], bool] = lambda folder: True
) -> Iterator[Path]:
    """Yield a temporary directory to fill, which replaces `path` if the block ends without an error.

    Args:
        exclusive: see `new_file`.
        is_ours: whether an existing folder at `path` may be deleted. If not, it is renamed to `path.old`. The check
            runs at the end of the block, since the folder may change in the meantime.

    Raises:
        FileUnreadable: the parent folder cannot be created or written.
    """
    path = _destination(path)
    with _explain_os_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_temporary_folder(path, exclusive)
    try:
        content = temporary / "new"
        content.mkdir()
        with explained_writes(path):
            yield content
        with _explain_os_error(path):
            with ThreadPoolExecutor(_SYNC_THREADS) as pool:
                list(pool.map(_sync, filter(Path.is_file, content.rglob("*"))))
            if path.exists() and not is_ours(path):
                path.rename(_free_name(path))
            if not path.exists():
                content.rename(path)
            elif not _exchange(content, path):
                path.rename(temporary / "old")
                content.rename(path)
    finally:
        _clean_up(temporary, path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise FileUnreadable if a file cannot be written, before work is done for it; an existing file is not changed."""
    path = _destination(path)
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    _check_regular_file(path)
    with _explain_os_error(path), tempfile.TemporaryFile(dir=folder):
        pass


def _check_regular_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise FileUnreadable(f"cannot write {path}: it is not a regular file")


def check_replaceable(path: str | os.PathLike[str], is_ours: Callable[[Path], bool], what: str, hint: str) -> None:
    """Raise ConfigError if a file exists that does not have the kind of content that will be written to it.

    Args:
        is_ours: whether an existing file has this kind of content.
        what, hint: the kind of content, such as "specs", and how to solve the problem, for the error message.
    """
    path = _destination(path)
    if os.path.lexists(path) and not (path.is_file() and is_ours(path)):
        raise ConfigError(f"{path} exists and does not contain {what}", hint=hint)


def is_from_mlaas4hep(path: Path) -> bool:
    """Return whether a file contains the name of this package, as the PDF, HTML and ROOT files that it writes do."""
    with suppress(OSError), path.open("rb") as file:
        if path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(b"MLaaS4HEP") >= 0
    return False


@contextmanager
def write_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a file or folder during the block, so that no other run writes it; the lock ends with the process.

    Raises:
        FileUnreadable: another process or thread has the lock; the folder cannot be created or written; or the lock
            file was not created by MLaaS4HEP.
    """
    path = _destination(path)
    lock = path.with_name(f".{path.name}.lock")
    with _explain_os_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    if file is None:
        raise FileUnreadable(f"another run is writing {path}", hint="wait for it, or choose another path")
    with file:
        content = file.read(len(_LOCK_MARK) + 1)
        if content not in (b"", _LOCK_MARK):
            raise FileUnreadable(
                f"{lock} exists and is not a lock of MLaaS4HEP", hint="move it, or choose another path"
            )
        try:
            yield
        finally:
            if content:
                lock.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write standard JSON (without NaN and Infinity), indented by one space."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _explain_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        raise WriteFailed(path, error.errno, str(error)) from error


def _destination(path: str | os.PathLike[str]) -> Path:
    """Return the path with symbolic links resolved, so that the target is written and the link is kept."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def _locked(path: Path) -> IO[bytes] | None:
    """Open and lock a lock file, if the file system supports locks; return None if another process has the lock.

    A new file gets our marker. The caller checks the content of an existing file.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            _mark_lock(path, descriptor)
        except FileExistsError:
            try:
                descriptor = os.open(path, flags)
            except FileNotFoundError:  # the process with the lock has just deleted it
                continue
        file = open(descriptor, "r+b")  # noqa: SIM115  the caller closes it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # the process with the lock has just deleted it


def _mark_lock(path: Path, descriptor: int) -> None:
    try:
        os.pwrite(descriptor, _LOCK_MARK, 0)
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise


def _unfinished(path: Path) -> Path:
    """Return the temporary folder for a path that is written with `exclusive`."""
    return path.with_name(f".{path.name}.unfinished")


def _new_temporary_folder(path: Path, exclusive: bool = True) -> Path:
    """Create a temporary folder next to `path`, with a marker if `exclusive`."""
    if not exclusive:
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    folder = _unfinished(path)
    _clean_up(folder, path)
    _UNFINISHED.ensure(folder)
    return folder


def _clean_up(temporary: Path, path: Path) -> None:
    """Delete a temporary folder of ours, after restoring the directory that should have been replaced."""
    if temporary == _unfinished(path) and not _UNFINISHED.is_on(temporary):
        return
    if (temporary / "old").exists() and not path.exists():
        (temporary / "old").rename(path)
    shutil.rmtree(temporary, ignore_errors=True)


def _free_name(path: Path) -> Path:
    """Return an unused path: `path.old`, or with a number appended."""
    names = (path.with_name(f"{path.name}.old{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically, if the system supports it (Linux); return whether that succeeded."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    at_fdcwd, rename_exchange = -100, 2
    return renameat2 is not None and (
        renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0
    )


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
