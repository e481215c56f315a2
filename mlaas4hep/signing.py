"""Signatures in ONNX files: who wrote a model, so that a server may trust it.

    sign("model.onnx", read_private_key("key.pem"))
    TrustedKeys.read("public.pem").read_if_signed(Path("model.onnx"))    # its content, None where it is not signed

Keys are those of Ed25519, as `openssl genpkey -algorithm ed25519` makes them. A signature is a last entry of the
metadata, `mlaas4hep.signature`: ONNX files are protobuf messages, which may be continued by appending to them. It
covers every byte before it, so that it is verified without parsing anything.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from hashlib import sha512
from pathlib import Path
from typing import Any, BinaryIO

from mlaas4hep.errors import ConfigError, FileUnreadable, require
from mlaas4hep.files import new_file

KEY = b"mlaas4hep.signature"
_CONTEXT = b"mlaas4hep signed ONNX 1\0"
_SIZE = 88  # characters of base64 for the 64 bytes of a signature
_ENTRY = b"\x0a%c%s\x12%c" % (len(KEY), KEY, _SIZE)  # StringStringEntryProto: key, value
_HEAD = b"\x72%c%s" % (len(_ENTRY) + _SIZE, _ENTRY)  # ModelProto.metadata_props
_TRAILER = len(_HEAD) + _SIZE
_LOCATION = b"\x0a\x08location"  # of data in another file
_FOR = "signed models"


def read_private_key(path: str) -> Any:
    """Return the key of a PEM file.

    Raises:
        FileUnreadable: it cannot be read.
        ConfigError: it holds no private Ed25519 key without a password.
        PackageMissing: the package cryptography is not installed.
    """
    serialization = require("cryptography.hazmat.primitives.serialization", "sign", _FOR)
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "sign", _FOR)
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError):  # TypeError: it has a password
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        hint = "make one: openssl genpkey -algorithm ed25519 -out key.pem"
        raise ConfigError(f"{path} is not a private Ed25519 key without a password", hint=hint)
    return key


def sign(path: Path, key: Any) -> None:
    """Append a signature to an ONNX file; one that is there already is replaced.

    Raises:
        ConfigError: part of the graph is in other files, which a signature does not cover.
    """
    content = path.read_bytes()
    if content[-_TRAILER:].startswith(_HEAD):
        content = content[:-_TRAILER]
    if _LOCATION in content:
        raise ConfigError(f"{path.name} has data in other files, and cannot be signed")
    signature = base64.b64encode(key.sign(_digest(io.BytesIO(content), len(content))))
    with new_file(path) as target:
        target.write_bytes(content + _HEAD + signature)


class TrustedKeys:
    """Public keys; without any, nothing is trusted.

    Args:
        keys: those of Ed25519.
    """

    def __init__(self, keys: Sequence[Any] = ()) -> None:
        self._keys = list(keys)

    @classmethod
    def read(cls, paths: str) -> TrustedKeys:
        """Read the keys of PEM files, whose names are separated by commas.

        Raises:
            FileUnreadable: one cannot be read.
            ConfigError: one holds no public Ed25519 key.
            PackageMissing: the package cryptography is not installed.
        """
        return cls([_read_public_key(path.strip()) for path in paths.split(",") if path.strip()])

    def __bool__(self) -> bool:
        return bool(self._keys)

    def read_if_signed(self, path: Path) -> bytes | None:
        """Return the content of an ONNX file if one of the keys signed it, and nothing of it is in other files."""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - _TRAILER
            file.seek(max(0, size))
            trailer = file.read()
            if size < 0 or not trailer.startswith(_HEAD):
                return None
            file.seek(0)
            digest = _digest(file, size)
            if not any(_verifies(key, trailer[-_SIZE:], digest) for key in self._keys):
                return None
            file.seek(0)  # only now, since a file may be larger than memory
            content = file.read()
        return None if _LOCATION in content else content


def _verifies(key: Any, signature: bytes, digest: bytes) -> bool:
    exceptions = require("cryptography.exceptions", "server", _FOR)
    try:
        decoded = base64.b64decode(signature, validate=True)
        key.verify(decoded, digest)
    except (exceptions.InvalidSignature, ValueError):
        return False
    return base64.b64encode(decoded) == signature


def _read_public_key(path: str) -> Any:
    serialization = require("cryptography.hazmat.primitives.serialization", "server", _FOR)
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "server", _FOR)
    content = _read(path)
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        hint = f"make it of the private one: openssl pkey -in key.pem -pubout -out {Path(path).name}"
        raise ConfigError(f"{path} is not a public Ed25519 key", hint=hint)
    return key


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileUnreadable(f"cannot read the key {path}: {error.strerror}") from error


def _digest(file: BinaryIO, size: int) -> bytes:
    """Return what is signed in place of so many bytes."""
    digest = sha512()
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    return _CONTEXT + digest.digest()
