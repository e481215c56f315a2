"""Hostile and honest archives: what is refused is refused before a file is written."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import Limits
from mlaas4hep.serving.store.archive import inspect, unpack


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), link
    return info, content


def make(*members: tuple, compressed: bool = False) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return io.BytesIO(gzip.compress(stream.getvalue())) if compressed else stream


PARAMS = member("m/params.json", b"{}")
HOSTILE = {
    "a path that leaves the folder": (
        make(PARAMS, member("m/../../evil", b"x")),
        "is not a plain path inside its folder",
    ),
    "a path that begins with dots": (make(PARAMS, member("../evil", b"x")), "is not a plain path inside its folder"),
    "an absolute path": (make(PARAMS, member("/tmp/evil", b"x")), "is not a plain path inside its folder"),
    "a backslash": (make(PARAMS, member("m\\..\\evil", b"x")), "is not a plain path inside its folder"),
    "a control character": (make(PARAMS, member("m/a\nb", b"x")), "is not a plain path inside its folder"),
    "a symbolic link": (make(PARAMS, member("m/l", kind=tarfile.SYMTYPE, link="/etc")), "neither a file nor"),
    "a hard link": (make(PARAMS, member("m/l", kind=tarfile.LNKTYPE, link="m/params.json")), "neither a file nor"),
    "a device": (make(PARAMS, member("m/d", kind=tarfile.CHRTYPE)), "neither a file nor"),
    "a pipe": (make(PARAMS, member("m/p", kind=tarfile.FIFOTYPE)), "neither a file nor"),
    "the same file twice": (make(PARAMS, PARAMS), "twice"),
    "a file that is a folder": (make(PARAMS, member("m/params.json/x", b"x")), "as a file and as a folder"),
    "two folders": (make(PARAMS, member("n/params.json", b"{}")), "must have one top folder, and has 'm', 'n'"),
    "no folder": (make(member("params.json", b"{}")), "outside of a folder"),
    "nothing": (make(), "has nothing"),
    "a name that no disk takes": (make(PARAMS, member("m/" + "a" * 300, b"x")), "more than 255 bytes"),
    "a path that no disk takes": (make(PARAMS, member("m/" + "a/" * 3000 + "a", b"x")), "1,000 bytes or 32 levels"),
    "a long path of long names": (
        make(PARAMS, member("m/" + "/".join(["b" * 200] * 30), b"x")),
        "1,000 bytes or 32 levels",
    ),
    "a folder beyond the longest path": (
        make(PARAMS, member("m/" + "a/" * 3000, kind=tarfile.DIRTYPE)),
        "1,000 bytes or 32 levels",
    ),
    "names that differ in case": (
        make(PARAMS, member("m/PARAMS.json", b"x")),
        "are the same name on some file systems",
    ),
    "folders that differ in case": (
        make(PARAMS, member("m/A/x", b"x"), member("m/a/y", b"x")),
        "are the same name on some file systems",
    ),
    "names that differ in their composition": (
        make(member("m/\u00e4", b"x"), member("m/a\u0308", b"x")),
        "are the same name on some file systems",
    ),
    "no archive": (io.BytesIO(b"<html>" * 500), "not a tar or tar.gz"),
    "no bytes": (io.BytesIO(), "not a tar or tar.gz"),
    "half an archive": (io.BytesIO(make(PARAMS, member("m/model", bytes(5000))).getvalue()[:2600]), "or is damaged"),
    "half a gzip file": (io.BytesIO(make(PARAMS, compressed=True).getvalue()[:60]), "or is damaged"),
}


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-4], lambda packed: packed[:-8] + bytes(8), lambda packed: packed + b"junk"]
)
def test_the_checksum_after_the_last_member_is_also_checked(damage) -> None:
    packed = make(PARAMS, member("m/model", bytes(range(256)) * 40), compressed=True).getvalue()
    inspect(io.BytesIO(packed))
    with pytest.raises(ConfigError, match="or is damaged"):
        inspect(io.BytesIO(damage(packed)))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_or_broken_archive_is_refused_with_its_reason(what: str) -> None:
    stream, reason = HOSTILE[what]
    with pytest.raises(ConfigError, match=reason):
        inspect(stream)


def test_too_many_members_are_refused() -> None:
    stream = make(*(member(f"m/{number}") for number in range(12)))
    with pytest.raises(ConfigError, match="more than 10 members"):
        inspect(stream, Limits(archive_members=10))


def test_folders_that_are_only_part_of_a_path_count_too() -> None:
    stream = make(*(member(f"m/{number}/a/b/c/x") for number in range(3)))
    with pytest.raises(ConfigError, match="more than 10 members"):
        inspect(stream, Limits(archive_members=10))


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 10 + b"\xfc\x00", b"\x80" + b"\xff" * 11])
def test_absurd_sizes_are_refused(size: bytes) -> None:
    block = bytearray(tarfile.TarInfo("m/x").tobuf())
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(ConfigError):
        inspect(io.BytesIO(bytes(block) * 3 + bytes(1024)))


def pax_members(count: int, size: int) -> io.BytesIO:
    """Return a compressed archive of members with attributes of some size."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(count):
            info = tarfile.TarInfo(f"m/{number}")
            info.pax_headers = {"comment": chr(97 + number % 26) * size}
            archive.addfile(info)
    return io.BytesIO(gzip.compress(stream.getvalue(), 1))


def test_many_headers_that_would_fill_the_memory_are_refused() -> None:
    stream = pax_members(1000, 60_000)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="headers are too large"):
        inspect(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_long_name_in_an_old_header_is_refused() -> None:
    block = tarfile.TarInfo("././@LongLink")
    block.type, block.size = tarfile.GNUTYPE_LONGNAME, 10_000_000
    with pytest.raises(ConfigError, match="header of more than 64 kB"):
        inspect(io.BytesIO(block.tobuf() + bytes(10_000_896)))


def test_names_that_the_disk_refuses_are_the_archives_fault(tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 3500:
        folder = folder / ("d" * 200)
    folder.mkdir(parents=True)
    stream = make(member("m/" + "/".join(["b" * 190] * 5), b"x"))
    assert inspect(stream) == "m"
    with pytest.raises(ConfigError, match=r"cannot unpack .*: File name too long"):
        unpack(stream, folder)


def test_a_sparse_file_is_refused() -> None:
    info, content = member("m/model", b"0\n")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**15)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ConfigError):
        inspect(stream)


def test_a_gzip_bomb_is_refused_without_being_inflated() -> None:
    bomb = make(PARAMS, member("m/model", bytes(50_000_000)), compressed=True)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="unpacks to more than 10 MB"):
        inspect(bomb, largest=10_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_header_that_would_fill_the_memory_is_refused() -> None:
    info = tarfile.TarInfo("m/x")
    info.pax_headers = {"comment": "x" * 30_000_000}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="header of more than 64 kB"):
        inspect(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_thousands_of_nested_headers_are_refused() -> None:
    block = tarfile.TarInfo("x")
    block.type, block.size = tarfile.XHDTYPE, 0
    stream = io.BytesIO(block.tobuf() * 5000)
    with pytest.raises(ConfigError):
        inspect(stream)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_honest_archive_is_unpacked_as_it_is(tmp_path: Path, compressed: bool) -> None:
    files = [PARAMS, member("m/variables", kind=tarfile.DIRTYPE), member("m/variables/data", b"123")]
    stream = make(*files, compressed=compressed)
    assert inspect(stream) == "m"
    unpack(stream, tmp_path)
    assert (tmp_path / "params.json").read_bytes() == b"{}"
    assert (tmp_path / "variables/data").read_bytes() == b"123"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_an_archive_of_a_dotted_path_is_accepted(tmp_path: Path) -> None:
    stream = make(member("./", kind=tarfile.DIRTYPE), member("./m/params.json", b"{}"))
    assert inspect(stream) == "m"
    unpack(stream, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.json"]


def test_owner_and_mode_of_archive_members_are_ignored(tmp_path: Path) -> None:
    info, content = member("m/run", b"x")
    info.mode, info.uid = 0o6777, 12345
    unpack(make((info, content)), tmp_path)
    status = (tmp_path / "run").stat()
    assert status.st_mode & 0o6111 == 0
    assert status.st_uid != 12345
