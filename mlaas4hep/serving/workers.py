"""Several server processes that share one listening socket, and their supervisor.

    run_workers(settings, listening, "ready")    # returns after SIGTERM or SIGINT

A worker that dies is replaced. A socket pair connects each worker to the supervisor: the worker exits when the
supervisor exits, even after kill -9. The workers share state only on disk: the models, and the counters of `metrics`.
"""

from __future__ import annotations

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
from dataclasses import dataclass

from mlaas4hep.errors import ServiceError
from mlaas4hep.serving.http.metrics import SHARED
from mlaas4hep.serving.process import run
from mlaas4hep.serving.settings import Settings

_KILL = 0.97  # fraction of the stop time after which workers are killed; they normally exit a little earlier


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    ready: bool = False


def run_workers(settings: Settings, listening: socket.socket, ready: str) -> None:
    """Start the workers, print `ready` once all are, and replace those that die, until SIGTERM or SIGINT.

    Raises:
        ServiceError: a worker exited before all were ready.
    """
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-metrics-") as shared, _signals() as stop:
        selector = selectors.DefaultSelector()
        selector.register(stop, selectors.EVENT_READ)
        workers = [_start(settings, listening, shared, selector) for _ in range(settings.workers)]
        announced = False
        try:
            while True:
                events = [key.fileobj for key, _ in selector.select()]
                if stop in events:
                    return
                for worker in [worker for worker in workers if worker.connection in events]:
                    if worker.connection.recv(1):
                        worker.ready = True
                        continue
                    workers.remove(worker)
                    code = _remove(worker, shared, selector)
                    if not announced:
                        what = f"a worker exited during startup, with exit code {code}"
                        raise ServiceError(what, hint="see its messages above")
                    workers.append(_start(settings, listening, shared, selector))
                    print(f"a worker exited with code {code} and was replaced", file=sys.stderr)
                if not announced and all(worker.ready for worker in workers):
                    announced = True
                    print(ready, file=sys.stderr, flush=True)
        finally:
            _stop(workers, _KILL * settings.limits.stop_time)


def _start(settings: Settings, listening: socket.socket, shared: str, selector: selectors.BaseSelector) -> _Worker:
    ours, theirs = socket.socketpair()
    command = [
        sys.executable, "-m", "mlaas4hep.serving.workers", str(listening.fileno()), str(theirs.fileno()),
        settings.to_json(),
    ]  # fmt: skip
    with theirs:
        process = subprocess.Popen(
            command,
            pass_fds=(listening.fileno(), theirs.fileno()),
            env={**os.environ, SHARED: shared},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the workers
        )
    selector.register(ours, selectors.EVENT_READ)
    return _Worker(process, ours)


def _remove(worker: _Worker, shared: str, selector: selectors.BaseSelector) -> int:
    """Release the resources of a worker that has exited; return its exit code."""
    from prometheus_client.multiprocess import mark_process_dead

    selector.unregister(worker.connection)
    worker.connection.close()
    code = worker.process.wait()
    mark_process_dead(worker.process.pid, shared)  # type: ignore[no-untyped-call]
    return code


def _stop(workers: list[_Worker], seconds: float) -> None:
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + seconds
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable after SIGTERM or SIGINT."""
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


def _main(listening_fd: int, supervisor_fd: int, settings: Settings) -> None:
    """Entry point of a worker process."""
    supervisor = socket.socket(fileno=supervisor_fd)
    threading.Thread(target=_terminate_after, args=(supervisor,), daemon=True).start()
    run(settings, socket.socket(fileno=listening_fd), lambda: supervisor.sendall(b"r"))


def _terminate_after(supervisor: socket.socket) -> None:
    supervisor.recv(1)  # the supervisor never sends anything: this returns when it has exited
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Settings.from_json(sys.argv[3]))
