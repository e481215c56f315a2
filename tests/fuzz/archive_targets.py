"""What uploads hold: tar archives, Keras models, images."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from contextlib import ExitStack
from pathlib import Path

from fuzz.checks import Fault, Parse, Target
from mlaas4hep.errors import ConfigError
from mlaas4hep.images.decode import decode
from mlaas4hep.protocol.limits import Limits
from mlaas4hep.serving.frameworks.keras_archive import checked_archive
from mlaas4hep.serving.store import archive

CORPUS = Path(__file__).parents[1] / "corpus"
_BLOCK = 512
_LIMITS, _LARGEST = Limits(archive_members=100), 2_000_000


def _tar(folder: Path, stack: ExitStack) -> Parse:
    """The input is the archive; it is tried a second time with correct checksums of its headers."""
    target = folder / "in" / "model"

    def parse(data: bytes) -> None:
        for content in (data, with_checksums(data)):
            try:
                archive.inspect(io.BytesIO(content), _LIMITS, _LARGEST)
            except ConfigError:
                continue
            target.mkdir(parents=True)
            archive.unpack(io.BytesIO(content), target, _LIMITS, _LARGEST)
            unpacked = [Path(parent) / name for parent, _, names in os.walk(target) for name in names]
            if any(path.is_symlink() for path in unpacked) or sum(path.stat().st_size for path in unpacked) > _LARGEST:
                raise Fault("more was unpacked than allowed")
            if os.listdir(folder) != ["in"] or os.listdir(folder / "in") != ["model"]:
                raise Fault("a file was written outside of the folder")
            shutil.rmtree(target)

    return parse


def with_checksums(data: bytes) -> bytes:
    """Return a plain tar archive in which the checksum of every header is correct."""
    content = bytearray(data)
    for start in range(0, len(content) - _BLOCK + 1, _BLOCK):
        header = content[start : start + _BLOCK]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(content)


def _keras(folder: Path, stack: ExitStack) -> Parse:
    """The input is the weights (HDF5) if it begins as these do, else the configuration (JSON)."""
    path = folder / "model.keras"
    valid_weights = (CORPUS / "keras" / "seed-weights").read_bytes()

    def parse(data: bytes) -> None:
        is_weights = data[:4] == b"\x89HDF"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("metadata.json", "{}")
            file.writestr("config.json", "{}" if is_weights else data)
            file.writestr("model.weights.h5", data if is_weights else valid_weights)
        with checked_archive(path):
            pass

    return parse


def _image(folder: Path, stack: ExitStack) -> Parse:
    def parse(data: bytes) -> None:
        decode(io.BytesIO(data), 8, 8, 3)
        decode(io.BytesIO(data), None, None, 1)

    return parse


TARGETS = [Target("tar", _tar, 16_384), Target("keras", _keras, variants=100), Target("image", _image, 4096)]
