"""Files that appear complete or not at all.

    write_json("specs.json", {"jdim": {}})
    with new_directory("bundle") as path:
        (path / "labels.txt").write_text("ggH\\nVBF\\n")

Everything is written under a temporary name beside its destination and renamed when it is whole, so that a crash
or a full disk leaves what was there before.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mlaas4hep.errors import ConfigError, FileUnreadable

_SYNCING = 16
"""Files that are forced to the disk at a time: it takes as long for many as for one."""

UTF_8 = "if it is one, save it as UTF-8"
"""What to do with a file that is no text."""


@contextmanager
def new_file(path: str | os.PathLike[str], alone: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` when the block ends without an error.

    Args:
        alone: nobody else writes this file at the same time: the temporary name is always the same, so that what a
            killed process leaves of it is gone with the next time.

    Raises:
        FileUnreadable: the folder cannot be made or written.
    """
    path = _destination(path)
    if path.exists() and not path.is_file():
        raise FileUnreadable(f"cannot write {path}: it is no plain file")
    with _explain_os_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if alone:
            temporary = unfinished(path)
            temporary.touch(mode=0o600)
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


def unfinished(path: Path) -> Path:
    """Return where a file or directory that nobody else writes is made."""
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def new_directory(path: str | os.PathLike[str], alone: bool = False) -> Iterator[Path]:
    """Give a temporary directory to fill; it becomes `path`, replacing what was there, when the block ends well.

    Args:
        alone: as of `new_file`.

    Raises:
        FileUnreadable: the parent folder cannot be made or written.
    """
    path = _destination(path)
    with _explain_os_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if alone:
            workplace = unfinished(path)
            _recover(workplace, path)
            workplace.mkdir(mode=0o700)
        else:
            workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        content = workplace / "new"
        content.mkdir()
        with _explain_full_disk(path):
            yield content
        with ThreadPoolExecutor(_SYNCING) as pool:
            list(pool.map(_sync, filter(Path.is_file, content.rglob("*"))))
        with _explain_os_error("write", path):
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


@contextmanager
def only_one(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a file or folder that is to be written, for the block; a process that dies lets it go.

    Raises:
        FileUnreadable: another process, or another thread, holds it; or its folder cannot be made or written.
    """
    path = _destination(path)
    lock = path.with_name(f".{path.name}.lock")
    with _explain_os_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    if file is None:
        raise FileUnreadable(f"another run is writing {path}", hint="wait for it, or name another place")
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON that every parser reads (no NaN, no Infinity), indented by one."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FileUnreadable: there is no such file, or it cannot be read.
        ConfigError: its text is not JSON; the message names line and column.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; numbers of thousands of digits
        raise ConfigError(f"{path} is JSON that cannot be read: {error}") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file (UTF-8).

    Raises:
        FileUnreadable: there is no such file, it cannot be read, or it is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnreadable(f"{path} is not a text file", hint=UTF_8) from error
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a text file without blank ones, `#` comments and surrounding space."""
    return content_lines(read_text(path))


def content_lines(text: str) -> list[str]:
    """Return the lines of a text without blank ones, `#` comments and surrounding space."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


@contextmanager
def _explain_os_error(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileUnreadable(f"cannot {verb} {path}: {error.strerror}") from error


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


def _locked(path: Path) -> IO[str] | None:
    """Return a file that is open, and locked where the file system can; None if another has it."""
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            return file
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        file.close()  # who had it before has just deleted it


def _recover(workplace: Path, path: Path) -> None:
    """Delete where a directory was made, and put back the one that it was to replace."""
    if (workplace / "old").exists() and not path.exists():
        (workplace / "old").rename(path)
    shutil.rmtree(workplace, ignore_errors=True)


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
