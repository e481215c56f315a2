"""Files that appear complete or not at all.

    write_json("specs.json", {"jdim": {}})
    with new_directory("bundle") as path:
        (path / "labels.txt").write_text("ggH\\nVBF\\n")

Everything is written under a temporary name beside its destination and renamed when it is whole, so that a crash
or a full disk leaves what was there before. Nothing is deleted that we did not create: temporary folders and lock files
carry a mark, and `check_replaceable` looks at what is to be replaced.
"""

from __future__ import annotations

import ctypes
import errno
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
from mlaas4hep.marked import Marker

_SYNCING = 16
"""Files that are forced to the disk at a time: it takes as long for many as for one."""

_UNFINISHED = Marker(".mlaas4hep-unfinished", "This folder is temporary: MLaaS4HEP writes a file or folder in it.\n")
_LOCK_MARK = b"MLaaS4HEP locks what is written here\n"


@contextmanager
def new_file(path: str | os.PathLike[str], alone: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends without an error.

    Args:
        alone: no other process writes this file at the same time. The temporary name is then always the same, so that
            the next call removes what a killed process left behind.

    Raises:
        FileUnreadable: the folder cannot be made or written.
    """
    path = _destination(path)
    if path.exists() and not path.is_file():
        raise FileUnreadable(f"cannot write {path}: it is no plain file")
    with _explain_os_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if alone:
            temporary = _new_workplace(path) / f"new{path.suffix}"
        else:
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
    try:
        with _explain_full_disk(path):
            yield temporary
        with _explain_os_error("write", path):
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if alone:
            _recover(temporary.parent, path)


def remove_unfinished(path: Path) -> None:
    """Remove what a killed process left of a file or folder that it wrote with `alone`."""
    _recover(_unfinished(path), path)


def check_unfinished(path: Path) -> None:
    """Check that the temporary name of a file or folder that is written with `alone` is free, or ours.

    Raises:
        FileUnreadable: something else has this name.
    """
    workplace = _unfinished(path)
    if os.path.lexists(workplace) and not _UNFINISHED.is_on(workplace):
        raise FileUnreadable(f"{workplace} exists and was not created by MLaaS4HEP", hint="move it")


@contextmanager
def new_directory(
    path: str | os.PathLike[str], alone: bool = False, is_ours: Callable[[Path], bool] = lambda folder: True
) -> Iterator[Path]:
    """Yield a temporary directory to fill; it becomes `path`, replacing what was there, when the block ends well.

    Args:
        alone: see `new_file`.
        is_ours: whether a folder that is to be replaced may be deleted. If not, it is kept as `path.old`, since it may
            have changed while the new one was made.

    Raises:
        FileUnreadable: the parent folder cannot be made or written.
    """
    path = _destination(path)
    with _explain_os_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = _new_workplace(path, alone)
    try:
        content = workplace / "new"
        content.mkdir()
        with _explain_full_disk(path):
            yield content
        with ThreadPoolExecutor(_SYNCING) as pool:
            list(pool.map(_sync, filter(Path.is_file, content.rglob("*"))))
        with _explain_os_error("write", path):
            if path.exists() and not is_ours(path):
                path.rename(_free_name(path))
            if not path.exists():
                content.rename(path)
            elif not _exchange(content, path):
                path.rename(workplace / "old")
                content.rename(path)
    finally:
        _recover(workplace, path)


def check_destination(path: str | os.PathLike[str]) -> None:
    """Raise where a file could not be written, before work is done for it; what is there stays.

    Raises:
        FileUnreadable: its folder cannot be made or written, or something that is no file is in the way.
    """
    path = _destination(path)
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if path.exists() and not path.is_file():
        raise FileUnreadable(f"cannot write {path}: it is no plain file")
    with _explain_os_error("write", path), tempfile.TemporaryFile(dir=folder):
        pass


def check_replaceable(path: str | os.PathLike[str], is_ours: Callable[[Path], bool], what: str, hint: str) -> None:
    """Raise if a file exists that is not of the kind that is to be written there.

    Args:
        is_ours: whether an existing file is of that kind.
        what: the kind, for the message, as "specs".

    Raises:
        ConfigError: there is such a file.
    """
    path = _destination(path)
    if os.path.lexists(path) and not (path.is_file() and is_ours(path)):
        raise ConfigError(f"{path} exists and does not hold {what}", hint=hint)


def mentions_us(path: Path) -> bool:
    """Return whether the name of this package is in a file: PDF, HTML and ROOT files of ours say who wrote them."""
    with suppress(OSError), path.open("rb") as file:
        if path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(b"MLaaS4HEP") >= 0
    return False


@contextmanager
def only_one(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a file or folder that is to be written, for the block; a process that dies lets it go.

    Raises:
        FileUnreadable: another process, or another thread, holds it; its folder cannot be made or written; or something
            else has the name of the lock file.
    """
    path = _destination(path)
    lock = path.with_name(f".{path.name}.lock")
    with _explain_os_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    if file is None:
        raise FileUnreadable(f"another run is writing {path}", hint="wait for it, or name another place")
    with file:
        content = file.read(len(_LOCK_MARK) + 1)
        if content not in (b"", _LOCK_MARK):
            raise FileUnreadable(f"{lock} exists and is not a lock of MLaaS4HEP", hint="move it, or name another place")
        try:
            yield
        finally:
            if content:
                lock.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON that every parser reads (no NaN, no Infinity), indented by one."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _explain_os_error(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileUnreadable(f"cannot {verb} {path}: {error.strerror or error}") from error


@contextmanager
def _explain_full_disk(path: Path) -> Iterator[None]:
    """Explain errors of whoever fills a file or folder; others of theirs pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise FileUnreadable(f"cannot write {path}: {error.strerror}") from error


def _destination(path: str | os.PathLike[str]) -> Path:
    """Return where a path leads: a link stays, and what it points to is written."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def _locked(path: Path) -> IO[bytes] | None:
    """Return a lock file, open and locked if the file system supports that; None if another process holds it.

    A new file gets our mark; of an existing one the content is for the caller to check.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.pwrite(descriptor, _LOCK_MARK, 0)
        except FileExistsError:
            try:
                descriptor = os.open(path, flags)
            except FileNotFoundError:  # the process that held it has just deleted it
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
        file.close()  # the process that held it has just deleted it


def _unfinished(path: Path) -> Path:
    """Return where a file or directory is made that no other process writes."""
    return path.with_name(f".{path.name}.unfinished")


def _new_workplace(path: Path, alone: bool = True) -> Path:
    """Create a marked folder beside `path`, in which its content is made."""
    if not alone:
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    workplace = _unfinished(path)
    _recover(workplace, path)
    _UNFINISHED.ensure(workplace)
    return workplace


def _recover(workplace: Path, path: Path) -> None:
    """Delete a workplace of ours, and put back the directory that was to be replaced."""
    if workplace == _unfinished(path) and not _UNFINISHED.is_on(workplace):
        return
    if (workplace / "old").exists() and not path.exists():
        (workplace / "old").rename(path)
    shutil.rmtree(workplace, ignore_errors=True)


def _free_name(path: Path) -> Path:
    """Return a name beside `path` that is free: `path.old`, or with a number."""
    names = (path.with_name(f"{path.name}.old{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, where the system can (Linux); return whether it did."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
