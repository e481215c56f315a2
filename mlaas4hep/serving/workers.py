"""Several processes that answer at one socket, and the one that looks after them.

    run_workers(settings, listening, "ready")    # returns when it was told to stop

A worker that dies is replaced; when this process dies, be it by kill -9, the workers end too, since each holds the
other end of a pipe to it. What they have in common is on disk: the models, and the counters of `metrics`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving.metrics import SHARED
from mlaas4hep.serving.settings import Settings

_FINISH = 9.7  # seconds that workers may take to end; they end themselves a little earlier


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    line: socket.socket
    ready: bool = False


def run_workers(settings: Settings, listening: socket.socket, ready: str) -> None:
    """Start the workers, say that they are ready, and replace those that die, until SIGTERM or SIGINT.

    Raises:
        ServiceError: a worker cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-metrics-") as shared, _signals() as stop:
        selector = selectors.DefaultSelector()
        selector.register(stop, selectors.EVENT_READ)
        workers = [_start(settings, listening, shared, selector) for _ in range(settings.workers)]
        said = False
        try:
            while True:
                events = [key.fileobj for key, _ in selector.select()]
                if stop in events:
                    return
                for worker in [worker for worker in workers if worker.line in events]:
                    if worker.line.recv(1):
                        worker.ready = True
                        continue
                    workers.remove(worker)
                    code = _bury(worker, shared, selector)
                    if not said:
                        raise ServiceError(
                            f"a worker ends as soon as it starts, with exit code {code}", hint="see what it says above"
                        )
                    workers.append(_start(settings, listening, shared, selector))
                    print(f"a worker ended with exit code {code}, and another one has its place", file=sys.stderr)
                if not said and all(worker.ready for worker in workers):
                    said = True
                    print(ready, file=sys.stderr, flush=True)
        finally:
            _end(workers)


def _start(settings: Settings, listening: socket.socket, shared: str, selector: selectors.BaseSelector) -> _Worker:
    ours, theirs = socket.socketpair()
    command = [
        sys.executable, "-m", "mlaas4hep.serving.workers", str(listening.fileno()), str(theirs.fileno()),
        json.dumps(asdict(settings)),
    ]  # fmt: skip
    with theirs:
        process = subprocess.Popen(
            command,
            pass_fds=(listening.fileno(), theirs.fileno()),
            env={**os.environ, SHARED: shared},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which tells the workers
        )
    selector.register(ours, selectors.EVENT_READ)
    return _Worker(process, ours)


def _bury(worker: _Worker, shared: str, selector: selectors.BaseSelector) -> int:
    """Clear up after a worker that has ended; return its exit code."""
    from prometheus_client.multiprocess import mark_process_dead

    selector.unregister(worker.line)
    worker.line.close()
    code = worker.process.wait()
    mark_process_dead(worker.process.pid, shared)  # type: ignore[no-untyped-call]
    return code


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + _FINISH
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Give a socket that can be read when SIGTERM or SIGINT has come."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.set_wakeup_fd(sender.fileno())
    try:
        yield receiver
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        receiver.close()
        sender.close()


def _main(listening_fd: int, line_fd: int, settings: Settings) -> None:
    """Be a worker."""
    from mlaas4hep.serving.server import run

    line = socket.socket(fileno=line_fd)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    run(settings, socket.socket(fileno=listening_fd), lambda: line.sendall(b"r"))


def _end_with(line: socket.socket) -> None:
    line.recv(1)  # nothing is ever sent: it returns when the other end is gone
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Settings(**json.loads(sys.argv[3])))
