"""A middleman that knows how much a server sends."""

import socket
from contextlib import suppress
from threading import Thread


class CountingProxy:
    """Passes bytes between clients and a server, and counts those that the server sends."""

    def __init__(self, port):
        self.received = 0
        self._target = port
        self._listener = socket.create_server(("localhost", 0))
        self.port = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("localhost", self._target))
            Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
            Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source, target, count):
        with source, suppress(OSError):  # whoever closes first
            while data := source.recv(65536):
                self.received += len(data) * count
                target.sendall(data)
        target.close()

    def close(self):
        self._listener.close()
