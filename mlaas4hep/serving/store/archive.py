"""Checking and unpacking of untrusted tar archives, gzip-compressed or not.

    name = inspect(stream)            # checks every member, writes nothing
    unpack(stream, folder / name)     # writes only files and folders, and only inside this folder

The store checks the content of the files.
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
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.input_files import GZIP_MAGIC
from mlaas4hep.protocol.limits import DEFAULTS, Limits, format_size

_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_LARGEST_READ = 1 << 20  # bytes; tarfile copies files in smaller pieces
_LONGEST_NAME = 255  # bytes
_NAME_ERRORS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, ArithmeticError, LookupError, RecursionError, zlib.error)

LARGEST = 4_000_000_000
"""Default limit of the unpacked size of an archive, in bytes."""


def inspect(stream: BinaryIO, limits: Limits = DEFAULTS, largest: int = LARGEST) -> str:
    """Check every member of an archive.

    Args:
        limits: of paths and of the number of members, including folders that occur only within paths.
        largest: limit of the unpacked size in bytes.

    Returns:
        The name of the archive's single top folder, which is the name of the model.

    Raises:
        ConfigError: the stream is not a tar archive, or is not safe to unpack.
    """
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    count = size = 0
    with _open(stream, limits, largest, headers_only=True) as archive:
        for member in _members(archive):
            count, size = count + 1, size + max(member.size, 0)
            if size > largest:
                raise _too_large(largest)
            parts = _safe_parts(member, limits)
            folders.update(parts[:depth] for depth in range(1, len(parts)))
            if parts and member.isdir():
                folders.add(parts)
            elif parts in files:
                raise ConfigError(f"the archive has {member.name!r} twice")
            elif parts:
                files.add(parts)
            if max(count, len(files) + len(folders)) > limits.archive_members:
                raise ConfigError(f"the archive has more than {limits.archive_members} members")
    _check_distinct(files, folders)
    return _only_top_folder(files, folders)


def unpack(stream: BinaryIO, folder: Path, limits: Limits = DEFAULTS, largest: int = LARGEST) -> None:
    """Write the content of the top folder of an archive that `inspect` accepted into an existing folder.

    Raises:
        ConfigError: the file system does not support a name, or treats two names as the same.
    """
    with _open(stream, limits, largest) as archive:
        for member in _members(archive):
            parts = _safe_parts(member, limits)[1:]
            try:
                _write(archive, member, folder.joinpath(*parts), is_top=not parts)
            except OSError as error:
                if error.errno not in _NAME_ERRORS:
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
    """Yield the members one by one without keeping them; tarfile would keep all headers in memory."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


@contextmanager
def _open(stream: BinaryIO, limits: Limits, largest: int, *, headers_only: bool = False) -> Iterator[tarfile.TarFile]:
    """Open an archive; with `headers_only`, limit the bytes that are read to the size of headers."""
    stream.seek(0)
    compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    content = gzip.GzipFile(fileobj=stream) if compressed else stream
    try:
        with tarfile.open(fileobj=_Bounded(content, limits, largest, headers_only), mode="r:") as archive:  # type: ignore[call-overload]
            yield archive
        while content.read(_LARGEST_READ):  # read to the end to verify the checksum of gzip
            pass
    except MLaaS4HEPError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the archive
        raise ConfigError("the upload is not a tar or tar.gz archive, or is damaged") from error


class _Bounded:
    """The file methods that tarfile uses, with limits on the unpacked size and on single reads."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, limits: Limits, largest: int, headers_only: bool) -> None:
        headers = 2048 * (limits.archive_members + 10)  # bytes; padding included
        self._stream = stream
        self._limits, self._size = limits, largest
        self._end = largest + headers
        self._largest = limits.archive_header if headers_only else _LARGEST_READ
        self._left = headers if headers_only else None
        self.tell = stream.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self._largest:
            raise ConfigError(f"the archive has a header of more than {format_size(self._limits.archive_header)}")
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise ConfigError("the archive's headers are too large")
        if self._stream.tell() + count > self._end:
            raise _too_large(self._size)
        return self._stream.read(count)

    def seek(self, position: int) -> int:
        if position > self._end:
            raise _too_large(self._size)
        return self._stream.seek(position)


def _too_large(largest: int) -> ConfigError:
    return ConfigError(f"the archive unpacks to more than {largest / 1e6:,.0f} MB")


def _safe_parts(member: tarfile.TarInfo, limits: Limits) -> tuple[str, ...]:
    """Return the components of a member's path, () for the archive's root."""
    name = _shown(member)
    if member.type not in _PLAIN_TYPES or member.issparse():
        raise ConfigError(f"the archive has {name}, which is neither a file nor a folder")
    if member.size < 0:
        raise ConfigError(f"the archive has {name} with a negative size")
    path = PurePosixPath(member.name)
    if any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise ConfigError(f"the archive has a name of more than {_LONGEST_NAME} bytes: {name}")
    if len(member.name.encode()) > limits.archive_path or len(path.parts) > limits.archive_depth:
        most = f"{limits.archive_path:,} bytes or {limits.archive_depth} levels"
        raise ConfigError(f"the archive has a path of more than {most}: {name}")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not member.name.isprintable():
        raise ConfigError(f"the archive has {name}, which is not a plain path inside its folder")
    return path.parts


def _shown(member: tarfile.TarInfo) -> str:
    return repr(member.name[:40]) + "..." * (len(member.name) > 40)


def _check_distinct(files: set[tuple[str, ...]], folders: set[tuple[str, ...]]) -> None:
    """Check that all paths differ, also on file systems that ignore case or normalise names."""
    for parts in files & folders:
        raise ConfigError(f"the archive has {'/'.join(parts)!r} as a file and as a folder")
    seen: dict[str, tuple[str, ...]] = {}
    for parts in files | folders:
        other = seen.setdefault(unicodedata.normalize("NFC", "/".join(parts)).casefold(), parts)
        if other != parts:
            one, two = sorted("/".join(each) for each in (parts, other))
            raise ConfigError(f"the archive has {one!r} and {two!r}, which are the same name on some file systems")


def _only_top_folder(files: set[tuple[str, ...]], folders: set[tuple[str, ...]]) -> str:
    loose = sorted(parts[0] for parts in files if len(parts) == 1)
    tops = sorted({parts[0] for parts in folders})
    hint = "pack the model's folder itself: tar czf NAME.tar.gz NAME"
    if loose:
        raise ConfigError(f"the archive has {loose[0]!r} outside of a folder", hint=hint)
    if len(tops) != 1:
        found = ", ".join(repr(top) for top in tops[:5]) or "nothing"
        raise ConfigError(f"the archive must have one top folder, and has {found}", hint=hint)
    return tops[0]
