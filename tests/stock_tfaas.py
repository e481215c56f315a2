"""A stand-in for a stock TFaaS server: what its Go code does with requests, as TFAAS's documentation and source say.

    with StockTFaaS() as server: TFaaSClient(server.url)

It runs no networks: the score of a row is the sum of its values. What is uploaded is unpacked into memory.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from email import message_from_bytes
from typing import Any

from stand_in import StandIn


class StockTFaaS(StandIn):
    """Serves on loopback until the block ends.

    Attributes:
        files: what was uploaded, "model/file" -> bytes.
        requests: "METHOD path" of each request, in order.
        failures: statuses, with headers, that the next requests are answered with instead.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        super().__init__()

    def respond(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer."""
        self.headers.append(dict(headers))
        more: dict[str, str] = {}
        if self.failures:
            status, more = self.failures.pop(0)
            answer = b"Limit exceeded\n"
        else:
            try:
                status, answer = self.answer(method, path, headers, body)
            except Exception as error:
                status, answer = 500, json.dumps({"error": str(error)}).encode()
        return status, {**more, "Content-Type": "text/plain; charset=utf-8"}, answer  # it sets the status line first

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        """Return status and body, or raise what becomes a 500."""
        kind = headers.get("Content-Type", "")
        if (method, path) == ("POST", "/upload"):
            if kind.startswith("multipart/form-data"):
                self._store(parts_of(kind, body), headers.get("Content-Encoding") == "base64")
            else:
                self._unpack(body, headers.get("Content-Encoding") == "gzip")
            return 200, b""
        if (method, path) == ("GET", "/models"):
            found = [json.loads(text) for name, text in self.files.items() if name.endswith("/params.json")]
            return 200, json.dumps(found or None).encode()
        if method == "GET" and path.startswith("/params/"):
            return 200, self.files[f"{path.rpartition('/')[2]}/params.json"]
        if method == "DELETE":
            name = parts_of(kind, body)["model"][1].decode()
            self.files = {file: content for file, content in self.files.items() if not file.startswith(f"{name}/")}
            return 200, b""
        if (method, path) == ("POST", "/json"):
            return 200, json.dumps([sum(go_floats(json.loads(body)["values"]))]).encode()
        if (method, path) == ("POST", "/image"):
            return 200, self._classify(parts_of(kind, body))
        return 404, b"404 page not found\n"

    def _store(self, parts: dict[str, tuple[str | None, bytes]], in_base64: bool) -> None:
        name = parts["name"][1].decode()
        params = parts["params"][1]
        if json.loads(params)["name"] != name:
            raise ValueError("mismatch of name in params and form")
        self.files[f"{name}/params.json"] = params
        for part in ("model", "labels", "op"):
            if part not in parts:
                raise ValueError(f"request does not provide {part}")
            filename, content = parts[part]
            if part == "model" and in_base64:
                content = base64.b64decode(content, validate=True)
            self.files[f"{name}/{filename}"] = content

    def _unpack(self, body: bytes, is_gzip: bool) -> None:
        folders = set()
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz" if is_gzip else "r:") as archive:
            for member in archive:
                parent = member.name.rpartition("/")[0]
                if parent and parent not in folders:
                    raise FileNotFoundError(f"open {member.name}: no such file or directory")
                if member.isdir():
                    folders.add(member.name)
                else:
                    source = archive.extractfile(member)
                    assert source is not None
                    self.files[member.name] = source.read()

    @staticmethod
    def _classify(parts: dict[str, tuple[str | None, bytes]]) -> bytes:
        filename, content = parts["image"]
        magic = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff"}.get(str(filename).rpartition(".")[2])
        if magic is None or not content.startswith(magic):
            raise ValueError("unrecognized image format")
        if parts["model"][1] == b"numbers":
            return b"[0.75,0.25]"
        if parts["model"][1] == b"odd":
            return b'{"labels": [{"label": "\\u001b[2J", "probability": null}, {"label": "other", "probability": 1}]}'
        labels = [{"label": "top", "probability": 0.7512345678}, {"label": "QCD", "probability": 0.25}]
        return json.dumps({"filename": filename, "labels": labels}).encode()


def parts_of(kind: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """Return the parts of a form, name -> file name and content, as another library than ours reads them."""
    message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    found = {}
    for part in message.get_payload():
        content = part.get_payload(decode=True)
        found[part.get_param("name", header="content-disposition")] = (part.get_filename(), content)
    return found


def go_floats(values: Any) -> list[float]:
    """Return what Go's decoder makes of a list for []float32: null leaves a zero, lists are an error."""
    for value in values:
        if isinstance(value, (list, str)):
            kind = "array" if isinstance(value, list) else "string"
            raise TypeError(f"json: cannot unmarshal {kind} into Go struct field Row.values of type float32")
    return [value or 0.0 for value in values]
