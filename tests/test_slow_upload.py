"""An upload may take many times --timeout as long as it goes on, and the server does not keep it in memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from serving_fixtures import ROOT, Server, environment, names_in, run_client, write_archive, write_bundle

PIECE = 100_000


class SlowProxy:
    """Hands on what one client sends to a server, so many bytes a second."""

    def __init__(self, port: int, rate: int) -> None:
        self._port, self._rate = port, rate
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
            threading.Thread(target=self._forward, args=(client, server, self._rate), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, 0), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, rate: int) -> None:
        with target, suppress(OSError):  # closed at the end of the test
            while piece := source.recv(PIECE):
                target.sendall(piece)
                if rate:
                    time.sleep(len(piece) / rate)

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize(
    ("megabytes", "rate"),
    [(32, 8_000_000), pytest.param(2000, 1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_an_upload_may_take_many_times_the_timeout(tmp_path: Path, megabytes: int, rate: int) -> None:
    bundle = write_bundle(tmp_path / "htautau")
    with (bundle / "more.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    archive = write_archive(tmp_path / "htautau.tar", bundle)
    with Server.start(tmp_path / "models", "--timeout=1", "--max-upload=4000") as server:
        first = run_client(f"--url={server.url}", f"--bundle={write_bundle(tmp_path / 'small', name='small')}")
        assert first.returncode == 0, first.stderr  # what is loaded with the first model is not of the upload
        process = psutil.Process(server.process.pid)
        before = most = process.memory_info().rss
        proxy = SlowProxy(int(server.url.rpartition(":")[2]), rate)
        done: list[subprocess.CompletedProcess[str]] = []

        def upload() -> None:
            command = [sys.executable, ROOT / "tfaas_client.py", f"--url={proxy.url}", f"--bundle={archive}"]
            done.append(subprocess.run(command, capture_output=True, text=True, env=environment()))

        began = time.monotonic()
        client = threading.Thread(target=upload)
        client.start()
        while client.is_alive():
            most = max(most, process.memory_info().rss)
            client.join(0.05)
        proxy.close()
        assert done[0].returncode == 0, done[0].stderr
        assert time.monotonic() - began > 3  # several times --timeout
        assert most - before < 15_000_000
        assert names_in(tmp_path / "models") == {"htautau", "small"}
        assert (tmp_path / "models/htautau/more.bin").stat().st_size == megabytes * 1_000_000
