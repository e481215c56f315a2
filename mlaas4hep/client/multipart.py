"""multipart/form-data bodies whose files are read from disk while they are sent.

    body = Multipart({"name": "htautau"}, {"model": FilePart("model.onnx", Path("out/model.onnx"))})
    session.post(url, data=body, headers={"Content-Type": body.content_type})

The length is known in advance (`len(body)`), since some servers do not accept chunked requests. Format: RFC 7578.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mlaas4hep.client.bodies import FileVersion, file_version, opened, read_chunks


class FilePart(NamedTuple):
    """A file of a form: the name sent to the server, and the path on disk (None for an empty file)."""

    filename: str
    path: Path | None
    in_base64: bool = False


class Multipart:
    """A form; it can be iterated again for a retry.

    Args:
        fields: text by field name.
        files: file by field name.

    Raises:
        FileUnreadable: a file cannot be read.
    """

    def __init__(self, fields: Mapping[str, str], files: Mapping[str, FilePart]) -> None:
        self._boundary = secrets.token_hex(16)
        self._fields = [(self._header(name), text.encode()) for name, text in fields.items()]
        self._files = [(self._header(name, file.filename), file, _version(file.path)) for name, file in files.items()]
        self._end = f"--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        """The value of the header Content-Type."""
        return f"multipart/form-data; boundary={self._boundary}"

    def __len__(self) -> int:
        fields = sum(len(header) + len(text) + 2 for header, text in self._fields)
        files = sum(
            len(header) + (-(-version.size // 3) * 4 if file.in_base64 else version.size) + 2
            for header, file, version in self._files
        )
        return fields + files + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for header, text in self._fields:
            yield header + text + b"\r\n"
        for header, file, version in self._files:
            yield header
            if file.path is not None:
                with file.path.open("rb") as content:
                    chunks = read_chunks(content, version)
                    yield from map(base64.b64encode, chunks) if file.in_base64 else chunks
            yield b"\r\n"
        yield self._end

    def _header(self, name: str, filename: str | None = None) -> bytes:
        header = f'--{self._boundary}\r\nContent-Disposition: form-data; name="{_quote(name)}"'
        if filename is not None:
            header += f'; filename="{_quote(filename)}"\r\nContent-Type: application/octet-stream'
        return f"{header}\r\n\r\n".encode()


def _quote(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _version(path: Path | None) -> FileVersion:
    if path is None:
        return FileVersion(0, 0, 0)
    with opened(path) as file:
        return file_version(file)
