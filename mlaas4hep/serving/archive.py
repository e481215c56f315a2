"""Bundles: tar archives, gzip-compressed or not, from people we do not know.

    name = inspect(stream)            # every member is checked, nothing is written
    unpack(stream, folder / name)     # only files and folders, only beneath the folder

What the files mean is the store's business.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mlaas4hep.errors import ConfigError, MLaaS4HEPError

GZIP_MAGIC = b"\x1f\x8b"
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_LARGEST_READ = 1 << 20  # tarfile copies files in smaller pieces; only an absurd header is read in a larger one
_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, ArithmeticError, LookupError, RecursionError, zlib.error)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to."""

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
    with _open(stream, limits) as archive:
        for member in archive:
            count, size = count + 1, size + member.size
            if count > limits.members:
                raise ConfigError(f"the archive has more than {limits.members} members")
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
    _check_no_file_is_a_folder(files, folders)
    return _only_top_folder(files, folders)


def unpack(stream: BinaryIO, folder: Path, limits: Limits | None = None) -> None:
    """Write the content of the top folder of an archive that `inspect` accepted into `folder`, which exists."""
    with _open(stream, limits or Limits()) as archive:
        for member in archive:
            parts = _safe_parts(member)[1:]
            target = folder.joinpath(*parts)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None  # only plain files reach this line
                with target.open("xb") as file:
                    shutil.copyfileobj(source, file)


@contextmanager
def _open(stream: BinaryIO, limits: Limits) -> Iterator[tarfile.TarFile]:
    stream.seek(0)
    compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    content = gzip.GzipFile(fileobj=stream) if compressed else stream
    try:
        with tarfile.open(fileobj=_Bounded(content, limits), mode="r:") as archive:  # type: ignore[call-overload]
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

    def __init__(self, stream: BinaryIO | gzip.GzipFile, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._end = limits.size + 2048 * (limits.members + 10)  # content, headers, padding
        self.tell = stream.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _LARGEST_READ:
            raise ConfigError("the archive has a header of more than 1 MB")
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
    if member.type not in _PLAIN_TYPES or member.issparse():
        raise ConfigError(f"the archive holds {member.name!r}, which is neither a file nor a folder")
    path = PurePosixPath(member.name)
    if any(len(part.encode()) > 255 for part in path.parts):
        raise ConfigError(f"the archive holds a name of more than 255 bytes: {member.name[:40]!r}...")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not member.name.isprintable():
        raise ConfigError(f"the archive holds {member.name!r}, which does not stay in its own folder")
    return path.parts


def _check_no_file_is_a_folder(files: set[tuple[str, ...]], folders: set[tuple[str, ...]]) -> None:
    for parts in files & folders:
        raise ConfigError(f"the archive has {'/'.join(parts)!r} as a file and as a folder")


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
