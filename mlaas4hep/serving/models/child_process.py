"""Processes that work for a server, which sends them tasks through a socket.

    process = ChildProcess("mlaas4hep.serving.http.parsers_child", "4000000000")

They exit with the server, even if it is killed; see `frames`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import weakref


class ChildProcess:
    """A process that runs a module; it is killed when the object is garbage-collected.

    Args:
        module: name of the module.
        arguments: its command line, after the descriptor of its socket.
        quiet: discard what it writes to stderr.
        environment: additional environment variables.
    """

    def __init__(self, module: str, *arguments: str, quiet: bool = False, **environment: str) -> None:
        self._connection, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, sys.path))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if quiet else None,
                cwd="/",
                env={**os.environ, "PYTHONPATH": path, **environment},
                start_new_session=True,  # Ctrl-C must reach only the server, which finishes pending requests
            )
        self._end = weakref.finalize(self, _end, self._process, self._connection)

    @property
    def alive(self) -> bool:
        """Whether the process can take a task."""
        return self._end.alive and self._process.poll() is None

    def end(self) -> None:
        """Kill the process; it has nothing to save."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process, close its socket, and wait until it has exited."""
        self._end()


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
