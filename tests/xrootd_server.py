"""A real XRootD server on a free port of this machine, which tests may stop, stall, kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from threading import Thread

import pytest
from grid import Grid

CONFIG = """xrd.port {port}
all.export /store r/o
oss.localroot {root}
all.adminpath {admin}
all.pidpath {admin}
"""

ASK_FOR_PROXIES = """xrootd.seclib libXrdSec.so
sec.protocol gsi -certdir:{grid.authorities} -cert:{grid.certificate} -key:{grid.key} -crl:0 -gmapopt:0 -vomsat:0
sec.protbind * only gsi
"""


class XRootDServer:
    """Serves the files that `put` gives it as root://localhost:PORT//store/NAME.

    Args:
        grid: whether it is of a `grid`, and asks for its proxies.
    """

    def __init__(self, grid: bool = False) -> None:
        if shutil.which("xrootd") is None:
            pytest.skip("there is no xrootd here: apt-get install xrootd-server")
        self.folder = Path(tempfile.mkdtemp(prefix="xrootd-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "root" / "store").mkdir(parents=True)
        (self.folder / "admin").mkdir()
        config = CONFIG.format(port=self.port, root=self.folder / "root", admin=self.folder / "admin")
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(0o777)
        if grid:
            self.grid = Grid(self.folder / "grid")
            config += ASK_FOR_PROXIES.format(grid=self.grid)
        (self.folder / "server.cfg").write_text(config)

    def put(self, source: str | Path | bytes, name: str) -> str:
        """Give it a file, by path or content; return its URL."""
        target = self.folder / "root" / "store" / name
        target.write_bytes(source if isinstance(source, bytes) else Path(source).read_bytes())
        target.chmod(0o644)
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the URL of a file that it was given."""
        return f"{self.address}//store/{name}"

    @property
    def address(self) -> str:
        return f"root://localhost:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it says that it listens."""
        user = ["-R", "nobody"] if os.getuid() == 0 else []  # it refuses to run as root
        command = ["xrootd", "-c", str(self.folder / "server.cfg"), *user]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.folder)
        log = self._process.stderr
        assert log is not None
        lines = []
        for line in log:
            lines.append(line.decode())
            if b"initialization completed" in line:
                break
        else:
            raise RuntimeError("xrootd does not start: " + "".join(lines))
        self._drain = Thread(target=log.read, daemon=True)  # so that it never waits for somebody to read
        self._drain.start()

    def stall(self) -> None:
        """Let it hold its connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._drain.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def remove(self) -> None:
        """End it, and delete what it had."""
        self.kill()
        shutil.rmtree(self.folder)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
