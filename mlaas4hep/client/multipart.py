"""multipart/form-data bodies that are read from disk while they are sent.

    body = Multipart({"name": "htautau"}, {"model": FilePart("model.onnx", Path("out/model.onnx"))})
    session.post(url, data=body, headers={"Content-Type": body.content_type})

The length is known beforehand (`len(body)`), so that no server needs to take chunked requests. Format: RFC 7578.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mlaas4hep.client.bodies import Stamp, pieces, stamp_of
from mlaas4hep.errors import FileUnreadable
from mlaas4hep.input_files import check_is_file


class FilePart(NamedTuple):
    """A file of a form: the name that the server is told, and where it is read; no path: it is empty."""

    filename: str
    path: Path | None
    in_base64: bool = False


class Multipart:
    """A form; may be iterated more than once.

    Args:
        fields: name -> text.
        files: name -> file.

    Raises:
        FileUnreadable: a file cannot be read.
    """

    def __init__(self, fields: Mapping[str, str], files: Mapping[str, FilePart]) -> None:
        self._boundary = secrets.token_hex(16)
        self._parts = [(self._header(name), text.encode()) for name, text in fields.items()]
        self._files = [(self._header(name, file.filename), file, _stamp(file.path)) for name, file in files.items()]
        self._end = f"--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        """The request's header of that name."""
        return f"multipart/form-data; boundary={self._boundary}"

    def __len__(self) -> int:
        fields = sum(len(header) + len(text) + 2 for header, text in self._parts)
        files = sum(
            len(header) + (-(-stamp.size // 3) * 4 if file.in_base64 else stamp.size) + 2
            for header, file, stamp in self._files
        )
        return fields + files + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for header, text in self._parts:
            yield header + text + b"\r\n"
        for header, file, stamp in self._files:
            yield header
            if file.path is not None:
                yield from _read(file.path, stamp, file.in_base64)
            yield b"\r\n"
        yield self._end

    def _header(self, name: str, filename: str | None = None) -> bytes:
        header = f'--{self._boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"'
        if filename is not None:
            header += f'; filename="{_quoted(filename)}"\r\nContent-Type: application/octet-stream'
        return f"{header}\r\n\r\n".encode()


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _stamp(path: Path | None) -> Stamp:
    if path is None:
        return Stamp(0, 0, 0)
    check_is_file(path)
    try:
        with path.open("rb") as file:
            return stamp_of(file)
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error


def _read(path: Path, stamp: Stamp, in_base64: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        for piece in pieces(file, stamp):  # each but the last is a multiple of 3, as plain files are read
            yield base64.b64encode(piece) if in_base64 else piece
