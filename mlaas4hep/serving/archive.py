"""Bundles: tar archives, gzip-compressed or not, from people we do not know.

    name = inspect(stream)            # every member is checked, nothing is written
    unpack(stream, folder / name)     # only files and folders, only beneath the folder

What the files mean is the store's business.
"""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mlaas4hep.errors import ConfigError, MLaaS4HEPError

GZIP_MAGIC = b"\x1f\x8b"
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_LARGEST_READ = 1 << 20  # bytes; tarfile copies files in smaller pieces
_LARGEST_HEADER = 64_000  # bytes, of a name or of a member's attributes
_LONGEST_PATH = 1000  # bytes; the folder of models comes in front, and Linux takes 4,096 in all
_LONGEST_NAME = 255  # bytes
_DEEPEST = 32  # levels of folders
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, ArithmeticError, LookupError, RecursionError, zlib.error)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        members: files and folders, counting folders that are only named as part of a path.
    """

    members: int = 10_000
    size: int = 4_000_000_000  # bytes


def inspect(stream: BinaryIO, limits: Limits | None = None) -> str:
    """Check every member of an archive.

    Returns:
        The archive's one top folder: the model's name.

    Raises:
        ConfigError: it is no tar archive, or is not safe to unpack.
    """
    limits = limits or Limits()
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    count = size = 0
    with _open(stream, limits, headers_only=True) as archive:
        for member in _members(archive):
            count, size = count + 1, size + max(member.size, 0)
            if size > limits.size:
                raise _too_large(limits)
            parts = _safe_parts(member)
            folders.update(parts[:depth] for depth in range(1, len(parts)))
            if parts and member.isdir():
                folders.add(parts)
            elif parts in files:
                raise ConfigError(f"the archive has {member.name!r} twice")
            elif parts:
                files.add(parts)
            if max(count, len(files) + len(folders)) > limits.members:
                raise ConfigError(f"the archive has more than {limits.members} members")
    _check_distinct(files, folders)
    return _only_top_folder(files, folders)


def unpack(stream: BinaryIO, folder: Path, limits: Limits | None = None) -> None:
    """Write the content of the top folder of an archive that `inspect` accepted into `folder`, which exists.

    Raises:
        ConfigError: the disk does not take the names, or two of them are one to it.
    """
    with _open(stream, limits or Limits()) as archive:
        for member in _members(archive):
            parts = _safe_parts(member)[1:]
            try:
                _write(archive, member, folder.joinpath(*parts), is_top=not parts)
            except OSError as error:
                if error.errno not in _IN_THE_WAY:
                    raise
                raise ConfigError(f"cannot unpack {_shown(member)}: {error.strerror}") from error


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, is_top: bool) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    elif not is_top:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None  # only plain files reach this line
        with target.open("xb") as file:
            shutil.copyfileobj(source, file)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members one at a time; tarfile would keep all of them, with their headers."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


@contextmanager
def _open(stream: BinaryIO, limits: Limits, *, headers_only: bool = False) -> Iterator[tarfile.TarFile]:
    """Open an archive; with `headers_only`, what is read of it is bounded by what headers need."""
    stream.seek(0)
    compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    content = gzip.GzipFile(fileobj=stream) if compressed else stream
    try:
        with tarfile.open(fileobj=_Bounded(content, limits, headers_only), mode="r:") as archive:  # type: ignore[call-overload]
            yield archive
        while content.read(_LARGEST_READ):  # what comes behind the last member has the checksum in it
            pass
    except MLaaS4HEPError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the archive's
        raise ConfigError("the upload is no tar or tar.gz archive, or is damaged") from error


class _Bounded:
    """The part of a file that tarfile uses, with an end to what can be unpacked and what is read at once."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, limits: Limits, headers_only: bool) -> None:
        headers = 2048 * (limits.members + 10)  # bytes; padding included
        self._stream = stream
        self._limits = limits
        self._end = limits.size + headers
        self._largest = _LARGEST_HEADER if headers_only else _LARGEST_READ
        self._left = headers if headers_only else None
        self.tell = stream.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self._largest:
            raise ConfigError(f"the archive has a header of more than {_LARGEST_HEADER / 1e3:.0f} kB")
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise ConfigError("the archive's headers are too large")
        if self._stream.tell() + count > self._end:
            raise _too_large(self._limits)
        return self._stream.read(count)

    def seek(self, position: int) -> int:
        if position > self._end:
            raise _too_large(self._limits)
        return self._stream.seek(position)


def _too_large(limits: Limits) -> ConfigError:
    return ConfigError(f"the archive unpacks to more than {limits.size / 1e6:,.0f} MB")


def _safe_parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """Return the components of a member's path, () for the archive's root."""
    name = _shown(member)
    if member.type not in _PLAIN_TYPES or member.issparse():
        raise ConfigError(f"the archive holds {name}, which is neither a file nor a folder")
    if member.size < 0:
        raise ConfigError(f"the archive holds {name} with a negative size")
    path = PurePosixPath(member.name)
    if any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise ConfigError(f"the archive holds a name of more than {_LONGEST_NAME} bytes: {name}")
    if len(member.name.encode()) > _LONGEST_PATH or len(path.parts) > _DEEPEST:
        raise ConfigError(f"the archive holds a path of more than {_LONGEST_PATH:,} bytes or {_DEEPEST} levels: {name}")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not member.name.isprintable():
        raise ConfigError(f"the archive holds {name}, which does not stay in its own folder")
    return path.parts


def _shown(member: tarfile.TarInfo) -> str:
    return repr(member.name[:40]) + "..." * (len(member.name) > 40)


def _check_distinct(files: set[tuple[str, ...]], folders: set[tuple[str, ...]]) -> None:
    """Check that no two paths are the same, also on file systems that ignore case or normalise names."""
    for parts in files & folders:
        raise ConfigError(f"the archive has {'/'.join(parts)!r} as a file and as a folder")
    seen: dict[str, tuple[str, ...]] = {}
    for parts in files | folders:
        other = seen.setdefault(unicodedata.normalize("NFC", "/".join(parts)).casefold(), parts)
        if other != parts:
            one, two = sorted("/".join(each) for each in (parts, other))
            raise ConfigError(f"the archive has {one!r} and {two!r}, which are the same on some disks")


def _only_top_folder(files: set[tuple[str, ...]], folders: set[tuple[str, ...]]) -> str:
    loose = sorted(parts[0] for parts in files if len(parts) == 1)
    tops = sorted({parts[0] for parts in folders})
    hint = "pack the model's folder itself: tar czf NAME.tar.gz NAME"
    if loose:
        raise ConfigError(f"the archive has {loose[0]!r} outside of a folder", hint=hint)
    if len(tops) != 1:
        held = ", ".join(repr(top) for top in tops[:5]) or "nothing"
        raise ConfigError(f"the archive must hold one folder, and holds {held}", hint=hint)
    return tops[0]
