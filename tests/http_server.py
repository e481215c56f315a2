"""A web server of files in memory, which knows ranges of bytes or does not, and counts what it sends."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread


class WebServer:
    """Serves `files`, by name, as http://127.0.0.1:PORT/NAME."""

    def __init__(self, files: dict[str, bytes], knows_ranges: bool = True) -> None:
        self.sent = self.requests = 0
        self.asked: list[range] = []  # bytes, in the order of the requests
        self._asking = Condition()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self._answer(False)

            def do_GET(self):
                self._answer(True)

            def _answer(self, with_content):
                content = files.get(self.path.partition("?")[0].lstrip("/"))
                wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if content is None:
                    self.send_response(404)
                    content = b""
                elif wanted and knows_ranges:
                    start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
                    with server._asking:
                        server.asked.append(range(start, stop))
                        server._asking.notify_all()
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
                    content = content[start:stop]
                else:
                    self.send_response(200)
                    if knows_ranges:
                        self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_content:
                    server.requests += 1
                    server.sent += len(content)
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def was_asked_for(self, place: int) -> bool:
        """Whether any request was for the byte at `place`."""
        return any(place in piece for piece in self.asked)

    def wait_for(self, place: int) -> bool:
        """Wait until a request is for the byte at `place`; return whether one was, within a minute."""
        with self._asking:
            return self._asking.wait_for(lambda: self.was_asked_for(place), timeout=60)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
