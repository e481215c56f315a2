"""What a server counts, in the form that Prometheus collects.

    metrics = Metrics()
    metrics.request("/json", "POST", 200, 0.0021)
    metrics.text()                               # b"# HELP mlaas4hep_requests_total ..."

Of several worker processes each writes to files in $PROMETHEUS_MULTIPROC_DIR, and any of them tells the sums.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from mlaas4hep.errors import FileUnreadable, ServiceError, first_line

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_AT_ONCE = 256  # requests
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class Metrics:
    """The counters of one application, or of one worker.

    Raises:
        FileUnreadable: the folder that $PROMETHEUS_MULTIPROC_DIR names cannot be written.
    """

    def __init__(self) -> None:
        _check_shared()
        self._own = own = CollectorRegistry()
        self._requests = Counter(
            "mlaas4hep_requests", "Requests that were answered", ["route", "method", "status"], registry=own
        )
        self._seconds = Histogram(
            "mlaas4hep_request_seconds", "Seconds from a request's headers to its answer", ["route"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._rows = Counter("mlaas4hep_rows", "Events that were scored", ["model"], registry=own)
        self._batches = Histogram("mlaas4hep_batch_rows", "Events in one run of a model", buckets=_ROWS, registry=own)
        self._noted: list[tuple[str, str, int, float]] = []
        self._counter = lru_cache(1000)(self._requests.labels)
        self._clock = lru_cache(100)(self._seconds.labels)
        self._scored = lru_cache(1000)(self._rows.labels)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note a request that was answered."""
        self._noted.append((route, method, status, seconds))
        if len(self._noted) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Count the requests that were noted: many at once take half the time. To be called where they are noted."""
        noted, self._noted = self._noted, []
        for route, method, status, seconds in noted:
            self._counter(route, method, str(status)).inc()
            self._clock(route).observe(seconds)

    def rows(self, model: str, count: int) -> None:
        """Note events that were scored."""
        self._scored(model).inc(count)

    def batch(self, rows: int) -> None:
        """Note a run of a model."""
        self._batches.observe(rows)

    def forget(self, model: str) -> None:
        """Drop what was counted of a model that was deleted, so that names do not pile up."""
        if SHARED not in os.environ:  # files of several workers only grow
            with suppress(KeyError):
                self._rows.remove(model)
            self._scored.cache_clear()

    def answered(self, method: str) -> int:
        """Return how many requests of a method were answered, by all workers.

        Raises:
            ServiceError: see `text`.
        """
        with _explain_shared():
            samples = [
                sample for family in self._registry().collect() if family.name == "mlaas4hep_requests"
                for sample in family.samples
            ]  # fmt: skip
        return int(
            sum(one.value for one in samples if one.name.endswith("_total") and one.labels.get("method") == method)
        )

    def text(self) -> bytes:
        """Return all of it, of all workers.

        Raises:
            ServiceError: the files of several workers cannot be read.
        """
        with _explain_shared():
            return prometheus_client.generate_latest(self._registry())

    def _registry(self) -> Any:
        if SHARED not in os.environ:
            return self._own
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def _check_shared() -> None:
    """Check that the folder of several workers can be written, before prometheus_client does so."""
    folder = os.environ.get(SHARED)
    if folder is None:
        return
    hint = "unset it, or name a folder that exists and is writable"
    if not folder:  # prometheus_client would write to the current folder
        raise FileUnreadable(f"{SHARED} is empty", hint=hint)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileUnreadable(f"cannot write to {folder}, which {SHARED} names: {error.strerror}", hint=hint) from error


@contextmanager
def _explain_shared() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        if SHARED not in os.environ:
            raise
        raise ServiceError(f"the counters in ${SHARED} cannot be read: {first_line(error)}") from error
