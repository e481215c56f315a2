"""Signatures in ONNX files, by which servers recognise models from trusted authors.

    sign(Path("model.onnx"), read_private_key("key.pem"))
    TrustedKeys.read("public.pem").read_if_signed(Path("model.onnx"))    # its content, None if it is not signed

Keys are Ed25519 keys, as created by `openssl genpkey -algorithm ed25519`. A signature is the last metadata entry of the
file, `mlaas4hep.signature`. It can be appended, since ONNX files are protobuf messages. It covers every byte before
it, so that it can be verified without parsing the file.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
import shlex
from collections.abc import Sequence
from hashlib import sha512
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlaas4hep.errors import ConfigError, FileUnreadable, require
from mlaas4hep.files import new_file

KEY = b"mlaas4hep.signature"
_CONTEXT = b"mlaas4hep signed ONNX 1\0"
_SIZE = 88  # length of a signature, 64 bytes, in base64
_ENTRY = b"\x0a%c%s\x12%c" % (len(KEY), KEY, _SIZE)  # StringStringEntryProto: key, value
_HEAD = b"\x72%c%s" % (len(_ENTRY) + _SIZE, _ENTRY)  # ModelProto.metadata_props
_TRAILER = len(_HEAD) + _SIZE
_LOCATION = b"\x0a\x08location"  # marks data in another file
_PURPOSE = "signed models"
_PRIVATE = b"PRIVATE KEY-----"  # in the first line of the PEM files of all kinds of private keys
_HINT = "see 'Where models run' in docs/inference.md"


def read_private_key(path: str) -> Any:
    """Return the private key in a PEM file.

    Raises:
        FileUnreadable: the file cannot be read.
        ConfigError: the file does not contain a private Ed25519 key, or the key has a password.
        PackageMissing: the package cryptography is not installed.
    """
    key = _parse_key(_read(path), "private", "sign")
    if key is None:
        hint = f"make one: openssl genpkey -algorithm ed25519 -out {_unused_file(Path('key.pem'))}"
        raise ConfigError(f"{path} is not a private Ed25519 key without a password", hint=hint)
    return key


def sign(path: Path, key: Any) -> bool:
    """Append a signature to an ONNX file, or replace the existing one.

    Returns:
        Whether the file was changed; it is not if it already has this signature.

    Raises:
        ConfigError: part of the graph is in other files, which the signature would not cover.
    """
    before = content = path.read_bytes()
    if content[-_TRAILER:].startswith(_HEAD):
        content = content[:-_TRAILER]
    if _LOCATION in content:
        raise ConfigError(f"{path.name} has data in other files, so it cannot be signed")
    signature = base64.b64encode(key.sign(_digest(io.BytesIO(content), len(content))))
    signed = content + _HEAD + signature
    if signed == before:
        return False
    with new_file(path) as target:
        target.write_bytes(signed)
    return True


class TrustedKeys:
    """Ed25519 public keys of trusted authors; without any, no file is trusted."""

    def __init__(self, keys: Sequence[Any] = ()) -> None:
        self._keys = list(keys)

    @classmethod
    def read(cls, paths: str) -> TrustedKeys:
        """Read the keys in PEM files, whose paths are separated by commas.

        Raises:
            FileUnreadable: a file cannot be read.
            ConfigError: a file does not contain a public Ed25519 key.
            PackageMissing: the package cryptography is not installed.
        """
        return cls([_read_public_key(path.strip()) for path in paths.split(",") if path.strip()])

    def __bool__(self) -> bool:
        return bool(self._keys)

    def read_if_signed(self, path: Path) -> bytes | None:
        """Return the content of an ONNX file if one of the keys signed it and it has no data in other files."""
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
            file.seek(0)  # the content is read only now, since an untrusted file may be larger than the memory
            content = file.read()
        return None if _LOCATION in content else content


def _verifies(key: Any, signature: bytes, digest: bytes) -> bool:
    exceptions = require("cryptography.exceptions", "server", _PURPOSE)
    try:
        decoded = base64.b64decode(signature, validate=True)
        key.verify(decoded, digest)
    except (exceptions.InvalidSignature, ValueError):
        return False
    return base64.b64encode(decoded) == signature


def _read_public_key(path: str) -> Any:
    content = _read(path)
    key = _parse_key(content, "public", "server")
    if key is None:
        raise _not_a_public_key(path, content)
    return key


def _parse_key(content: bytes, kind: Literal["private", "public"], extra: str) -> Any:
    """Return the Ed25519 key of a kind in a PEM file; None if there is none. `extra` installs cryptography."""
    serialization = require("cryptography.hazmat.primitives.serialization", extra, _PURPOSE)
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", extra, _PURPOSE)
    load_private, load_public = serialization.load_pem_private_key, serialization.load_pem_public_key
    try:
        key = load_private(content, None) if kind == "private" else load_public(content)
    except (ValueError, TypeError):  # TypeError: the key has a password
        return None
    expected = ed25519.Ed25519PrivateKey if kind == "private" else ed25519.Ed25519PublicKey
    return key if isinstance(key, expected) else None


def _not_a_public_key(path: str, content: bytes) -> ConfigError:
    """Return the error for a file without a public key; for a private Ed25519 key, its hint is a command."""
    if _PRIVATE not in content:
        return ConfigError(f"{path} is not a public Ed25519 key", hint=_HINT)
    if _parse_key(content, "private", "server") is None:
        return ConfigError(f"{path} is a private key, and the public key of an Ed25519 pair is needed", hint=_HINT)
    target = _unused_file(Path(path).with_name("public.pem"))
    command = f"openssl pkey -in {shlex.quote(path)} -pubout -out {shlex.quote(str(target))}"
    return ConfigError(
        f"{path} is a private key, and the public key is needed",
        hint=f"name the file of the public key instead, or make a file of the public key: {command}",
    )


def _unused_file(path: Path) -> Path:
    """Return the path, with a number if the file exists, so that no command that we print overwrites a file."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not os.path.lexists(one))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileUnreadable(f"cannot read the key {path}: {error.strerror}") from error


def _digest(file: BinaryIO, size: int) -> bytes:
    """Return the message to sign: a hash of the first `size` bytes of a file, with a prefix."""
    digest = sha512()
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    return _CONTEXT + digest.digest()
