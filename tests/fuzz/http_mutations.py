"""Variants of HTTP responses whose framing still fits their body.

mutate_response(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}", random.Random(1))
"""

from __future__ import annotations

import random
import zlib

from fuzz.json_mutations import mutate_json

_STATUSES = [b"100", b"200", b"200", b"204", b"206", b"301", b"307", b"401", b"404", b"413", b"429", b"500", b"503"]
_HEADERS = [
    *(b"Content-Type: application/json; charset=utf-16", b"Content-Type: text/html", b"Content-Type: ;;=", b"A" * 300),
    *(b"Content-Encoding: identity", b"Content-Encoding: br", b"Content-Encoding: gzip, gzip"),
    *(b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip", b"Content-Length: 5", b"Content-Length: -1"),
    *(b"Content-Length: 99999999999999999999", b"Retry-After: 1e9", b"Retry-After: Wed, 21 Oct 2099 07:28:00 GMT"),
    *(b"Retry-After: \xff", b"Location: /", b"Location: http://[", b"Location: //x:99999/"),
    *(b"Set-Cookie: a=b; domain=.", b"WWW-Authenticate: Bearer", b"Inference-Header-Content-Length: 9"),
    *(b"Inference-Header-Content-Length: -1", b"Inference-Header-Content-Length: 1e3", b" folded: x", b": x", b"X: \0"),
    *(b"Content-Range: bytes 0-9/20", b"Content-Range: bytes */20", b"Accept-Ranges: bytes", b"Connection: keep-alive"),
]  # fmt: skip
_FRAMING = (b"content-length:", b"transfer-encoding:", b"content-encoding:")


def mutate_response(data: bytes, rng: random.Random) -> bytes | None:
    """Return a variant; None if the input is not a response with a head."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    first, *lines = head.split(b"\r\n")
    encoded = b"gzip" in head.lower()
    body = _plain(body, lines, encoded)
    lines = [line for line in lines if not line.lower().startswith(_FRAMING)]
    if rng.random() < 0.3:
        first = b"HTTP/1.1 " + rng.choice(_STATUSES) + b" X"
    if rng.random() < 0.3:
        lines.append(rng.choice(_HEADERS))
    if rng.random() < 0.6:
        body = mutate_json(body, rng) or body
    return b"\r\n".join([first, *lines]) + _framed(body, rng)


def _plain(body: bytes, lines: list[bytes], encoded: bool) -> bytes:
    """Return the body without chunks and compression, as far as it can be read."""
    if any(b"chunked" in line.lower() for line in lines):
        pieces, rest = [], body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            try:
                length = int(size.partition(b";")[0], 16)
            except ValueError:
                break
            pieces.append(rest[:length])
            rest = rest[length + 2 :]
        body = b"".join(pieces)
    if encoded:
        try:
            return zlib.decompressobj(wbits=47).decompress(body, 1 << 16)
        except zlib.error:
            return body
    return body


def _framed(body: bytes, rng: random.Random) -> bytes:
    """Return the last headers, and the body with the length, chunks or compression that they announce."""
    head = b""
    if rng.random() < 0.2:
        wbits, name = rng.choice([(31, b"gzip"), (15, b"deflate"), (-15, b"deflate")])
        body = zlib.compress(body, wbits=wbits)
        if rng.random() < 0.3:
            body = body[: rng.randrange(len(body))]
        head += b"\r\nContent-Encoding: " + name
    kind = rng.randrange(6)
    if kind < 4:
        return head + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    if kind == 4:
        at = rng.randrange(len(body) + 1)
        extension = rng.choice([b"", b"", b";a=b", b";" + b"x" * 5000])
        trailer = rng.choice([b"", b"X: y\r\n", b"X: y\r\n" * 300])
        chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in (body[:at], body[at:]) if part)
        return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"
    return head + b"\r\nConnection: close\r\n\r\n" + body
