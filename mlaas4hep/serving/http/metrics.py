"""Metrics of a server in the format of Prometheus.

    metrics = Metrics()
    metrics.request("/json", "POST", 200, 0.0021)
    metrics.text()                               # b"# HELP mlaas4hep_requests_total ..."

If there are several worker processes, each one writes to files in $PROMETHEUS_MULTIPROC_DIR; each can return the sums.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import prometheus_client
import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from mlaas4hep.errors import FileUnreadable, ServiceError, error_summary

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_BUFFERED = 256  # requests
_RESERVED = 1 << 20  # bytes of a file of counters; each label takes about 150
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


_log = logging.getLogger(__name__)


class ModelCounters(NamedTuple):
    """Numbers of requests, events and runs of a model, and the seconds of all runs."""

    requests: int
    rows: int
    runs: int
    seconds: float


class Metrics:
    """The metrics of one server process.

    Raises:
        FileUnreadable: the folder that $PROMETHEUS_MULTIPROC_DIR names cannot be written.
    """

    def __init__(self) -> None:
        _prepare_shared()
        self._own = own = CollectorRegistry()
        labels = ["route", "method", "status"]
        self._requests = Counter("mlaas4hep_requests", "Requests that were answered", labels, registry=own)
        self._seconds = Histogram(
            "mlaas4hep_request_seconds", "Seconds from a request's headers to its answer", ["route"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._rows = Counter("mlaas4hep_rows", "Events that were scored", ["model"], registry=own)
        self._undefined = Counter(
            "mlaas4hep_undefined_rows", "Events whose scores are not finite", ["model"], registry=own
        )
        self._cut = Counter("mlaas4hep_cut_rows", "Events that fail the cuts of the model", ["model"], registry=own)
        model = ["model"]
        self._predictions = Counter("mlaas4hep_predictions", "Requests that were scored", model, registry=own)
        self._runs = Counter("mlaas4hep_runs", "Runs of the model", model, registry=own)
        self._run_seconds = Counter("mlaas4hep_run_seconds", "Seconds of the runs of the model", model, registry=own)
        self._batches = Histogram("mlaas4hep_batch_rows", "Events in one run of a model", buckets=_ROWS, registry=own)
        self._pending: list[tuple[str, str, int, float]] = []
        self._counter = lru_cache(1000)(self._requests.labels)
        self._clock = lru_cache(100)(self._seconds.labels)
        self._of_prediction = lru_cache(1000)(self._prediction_counters)
        self._of_run = lru_cache(1000)(self._run_counters)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Record a request that was answered."""
        self._pending.append((route, method, status, seconds))
        if len(self._pending) >= _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Update the counters for the recorded requests; must run in the thread that records them.

        Updating them for many requests together takes less than half the time.
        """
        pending, self._pending = self._pending, []
        for (route, method, status), count in Counts(one[:3] for one in pending).items():
            self._counter(route, method, str(status)).inc(count)
        for route, _, _, seconds in pending:
            self._clock(route).observe(seconds)

    def scored(self, model: str, rows: int) -> None:
        """Count a request and its events, which were scored."""
        requests, events = self._of_prediction(model)
        requests.inc()
        events.inc(rows)

    def _prediction_counters(self, model: str) -> tuple[Counter, Counter]:
        return self._predictions.labels(model), self._rows.labels(model)

    def undefined_rows(self, model: str, count: int) -> None:
        """Count events whose scores are not finite."""
        self._undefined.labels(model).inc(count)

    def cut_rows(self, model: str, count: int) -> None:
        """Count events that fail the cuts of the model."""
        self._cut.labels(model).inc(count)

    def run(self, model: str, rows: int, seconds: float) -> None:
        """Record a run of a model."""
        runs, run_seconds = self._of_run(model)
        runs.inc()
        run_seconds.inc(seconds)
        self._batches.observe(rows)

    def _run_counters(self, model: str) -> tuple[Counter, Counter]:
        return self._runs.labels(model), self._run_seconds.labels(model)

    def of_model(self, model: str) -> ModelCounters:
        """Return the counters of a model, of all workers.

        Raises:
            ServiceError: see `text`.
        """
        with _explain_shared():
            families = list(self._registry().collect())
        values = {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels == {"model": model}
        }
        names = ("predictions", "rows", "runs", "run_seconds")
        requests, rows, runs, seconds = (values.get(f"mlaas4hep_{name}_total", 0.0) for name in names)
        return ModelCounters(int(requests), int(rows), int(runs), seconds)

    def forget(self, model: str) -> None:
        """Remove the counters of a deleted model, so that names do not accumulate."""
        if SHARED not in os.environ:  # counters in the files of several workers cannot be removed
            for counter in (
                *(self._rows, self._undefined, self._cut),
                *(self._predictions, self._runs, self._run_seconds),
            ):
                with suppress(KeyError):
                    counter.remove(model)
            self._of_prediction.cache_clear()
            self._of_run.cache_clear()

    def answered(self, method: str) -> int:
        """Return the number of requests with a method that all workers answered.

        Raises:
            ServiceError: see `text`.
        """
        with _explain_shared():
            families = [family for family in self._registry().collect() if family.name == "mlaas4hep_requests"]
        samples = [s for family in families for s in family.samples if s.name.endswith("_total")]
        return int(sum(s.value for s in samples if s.labels.get("method") == method))

    def text(self) -> bytes:
        """Return the metrics of all workers as text.

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


def _prepare_shared() -> None:
    """Check that the folder of the workers is writable, and reserve disk space for this worker's files.

    prometheus_client maps sparse files into memory: on a full disk, writing to them would kill the process by SIGBUS.
    If there is no space, this process keeps its counters to itself.
    """
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
    try:
        for kind in ("counter", "histogram"):
            _reserve(Path(folder, f"{kind}_{os.getpid()}.db"))
    except OSError as error:
        what = "the metrics of the server do not include those of this worker"
        _log.warning("cannot write %s: %s; %s", folder, error.strerror, what)
        del os.environ[SHARED]
        prometheus_client.values.ValueClass = prometheus_client.values.MutexValue


def _reserve(path: Path) -> None:
    """Create a file of zeros; prometheus_client keeps its size."""
    try:
        with path.open("xb") as file:
            file.write(bytes(_RESERVED))
    except FileExistsError:  # left by an earlier process with the same ID
        return
    except OSError:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _explain_shared() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # prometheus_client raises many kinds for damaged files
        if SHARED not in os.environ:
            raise
        raise ServiceError(f"the counters in ${SHARED} cannot be read: {error_summary(error)}") from error
