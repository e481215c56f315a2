"""The files of an uploaded form, written into an empty folder.

write(folder / "model.onnx", stream)
write_decoded(folder / "model.onnx", base64_text)
"""

from __future__ import annotations

import base64
import binascii
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from mlaas4hep.errors import ConfigError

_PIECE = 1 << 20  # bytes


def write(path: Path, content: BinaryIO) -> None:
    """Write a new file.

    Raises:
        ConfigError: a file of this name exists.
    """
    try:
        with path.open("xb") as file:
            shutil.copyfileobj(content, file)
    except FileExistsError:
        raise ConfigError(f"two files of the upload have the name {path.name!r}") from None


def write_decoded(path: Path, content: BinaryIO) -> None:
    """Decode base64 text piece by piece into a new file.

    Raises:
        ConfigError: the content is not base64 text, or a file of this name exists.
    """
    with tempfile.TemporaryFile(dir=path.parent) as decoded:
        rest = b""
        try:
            while piece := content.read(_PIECE):
                text = rest + b"".join(piece.split())
                whole = len(text) - len(text) % 4
                decoded.write(base64.b64decode(text[:whole], validate=True))
                rest = text[whole:]
            decoded.write(base64.b64decode(rest, validate=True))
        except binascii.Error as error:
            raise ConfigError("the request says Content-Encoding: base64, but the model is not base64 text") from error
        decoded.seek(0)
        write(path, decoded)
