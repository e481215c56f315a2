"""Read files on servers by byte ranges.

    open_remote("root://host//path/file.root", timeout=60).read([(0, 1_000)])

root:// uses XRootD's Python client, all other schemes (https, s3, hdfs, ...) use fsspec. Errors are classified here: a
`PermanentFailure` (no such file, no permission) is not retried, any other `OSError` is.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from mlaas4hep.errors import error_summary, require
from mlaas4hep.io.storage.byte_ranges import MAX_REMOTE, MergedSpan, SingleLocation, Span, merge_spans, split_content
from mlaas4hep.io.storage.grid_proxy import proxy_problem
from mlaas4hep.io.storage.location import redacted

GRACE = 5.0
"""Seconds after the timeout at which a request is abandoned if its library has not reported the timeout itself."""

SETUP = 60.0
"""Timeout in seconds for a library to create its client. This may be slow on a busy machine."""

PERMANENT_ERRORS = {3000: "invalid name", 3010: "permission denied", 3011: "no such file", 3016: "it is a folder"}
"""Error codes of XRootD servers that are not retried (kXR_ArgInvalid, NotAuthorized, NotFound, isDirectory in
XProtocol.hh)."""

PERMANENT_CLIENT_ERRORS = (101, 203)
"""Error codes of XRootD's client that are not retried (errInvalidAddr, errLoginFailed in XrdClStatus.hh)."""

AUTHENTICATION_ERROR, AUTHENTICATION_CLIENT_ERROR = 3030, 204
"""Error codes of XRootD servers (kXR_AuthFailed) and of its client (errAuthFailed) for a failed authentication."""

ERROR_RESPONSE = 400
"""Code of XRootD's client for an error response of the server (errErrorResponse)."""

XROOTD_DEFAULTS = {
    "XRD_CONNECTIONWINDOW": "{timeout}", "XRD_REQUESTTIMEOUT": "{timeout}", "XRD_STREAMTIMEOUT": "{timeout}",
    "XRD_CONNECTIONRETRY": "1", "XRD_STREAMERRORWINDOW": "0", "XRD_TIMEOUTRESOLUTION": "1",
}  # fmt: skip
"""Default environment of XRootD's client. It reports failures soon, because `replicas` retries."""

PACKAGES = {"s3": ("s3fs", "s3"), "hdfs": ("pyarrow", "formats")}
"""Package that a scheme needs, and the extra that installs it."""

HADOOP = (
    "set JAVA_HOME, HADOOP_HOME (or ARROW_LIBHDFS_DIR, the folder of libhdfs.so), and CLASSPATH to the output of"
    " `hadoop classpath --glob`"
)
"""Hint for hdfs://."""

Result = TypeVar("Result")


class PermanentFailure(OSError):
    """A failure that a retry cannot solve."""


def open_remote(url: str, timeout: float) -> XRootDRanges | FsspecRanges:
    """Open a file on a server; `timeout` is that of a request, in seconds.

    Raises:
        PermanentFailure: the file does not exist, or access is denied.
        OSError: the server cannot be reached, or does not respond.
        PackageMissing: the client library for this scheme is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme in ("root", "xroot", "roots", "xroots"):
        return XRootDRanges(url, timeout)
    if scheme in PACKAGES:
        require(*PACKAGES[scheme], f"{scheme}://")
    return {"s3": S3Ranges, "hdfs": HdfsRanges}.get(scheme, FsspecRanges)(url, timeout)


class XRootDRanges(SingleLocation):
    """A file on an XRootD server. XRootD's client reads X509_USER_PROXY and its other environment variables."""

    def __init__(self, url: str, timeout: float) -> None:
        """Open the file, and request its size."""
        self.location = redacted(url)
        self._timeout = max(round(timeout), 1)
        client = _xrootd_client(self._timeout)
        self._file = client.File()
        try:
            self._call(self._file.open, url, client.flags.OpenFlags.READ)
            self.size = int(self._call(self._file.stat).size)
        except BaseException:
            self.close()
            raise

    def read(self, spans: Iterable[Span]) -> Mapping[Span, memoryview]:
        """See `ByteRanges`. All requests are sent before the first response is read."""
        contents: dict[Span, memoryview] = {}
        pending: list[tuple[list[MergedSpan], SimpleQueue[Any]]] = []
        for vector in _vectors(merge_spans(spans, self.size, limit=MAX_REMOTE)):
            if len(vector) == 1 and vector[0][1] > VECTOR_ITEM:
                pending.append((vector, self._send(self._file.read, *vector[0][:2])))
            else:
                pending.append((vector, self._send(self._file.vector_read, [item[:2] for item in vector])))
        for vector, queue in pending:
            response = self._receive(queue)
            buffers = [response] if isinstance(response, bytes) else [chunk.buffer for chunk in response.chunks]
            for (start, length, members), content in zip(vector, buffers, strict=True):
                contents.update(split_content(content, start, length, members))
        return contents

    def close(self) -> None:
        """See `ByteRanges`."""
        if self._file.is_open():
            self._file.close(timeout=self._timeout, callback=lambda *_: None)  # do not wait for the response

    def _call(self, request: Any, *args: Any) -> Any:
        return self._receive(self._send(request, *args))

    def _send(self, request: Any, *args: Any) -> SimpleQueue[Any]:
        queue: SimpleQueue[Any] = SimpleQueue()
        try:
            status = request(*args, timeout=self._timeout, callback=lambda *reply: queue.put(reply[:2]))
        except ValueError as error:  # another thread closed the file after an error
            raise OSError(str(error)) from error
        self._check(status)
        return queue

    def _receive(self, queue: SimpleQueue[Any]) -> Any:
        try:
            status, response = queue.get(timeout=self._timeout + GRACE)
        except Empty:
            raise OSError(f"no response within {self._timeout} s") from None
        self._check(status)
        return response

    def _check(self, status: Any) -> None:
        if status.ok:
            return
        code = status.errno if status.code == ERROR_RESPONSE else None
        if code == AUTHENTICATION_ERROR or status.code == AUTHENTICATION_CLIENT_ERROR:
            raise PermanentFailure(f"the server requires authentication: {proxy_problem()}")
        if code in PERMANENT_ERRORS:
            raise PermanentFailure(PERMANENT_ERRORS[code])
        message = status.message.replace("[ERROR]", "").replace("[FATAL]", "").strip()
        message = "no response within the timeout" if message == "Operation expired" else message
        raise (PermanentFailure if status.code in PERMANENT_CLIENT_ERRORS else OSError)(message)


def _xrootd_client(timeout: int) -> Any:
    """Import XRootD's client with XROOTD_DEFAULTS.

    TensorFlow exports the symbols of its BoringSSL. An XRootD that is loaded afterwards would use them instead of its
    OpenSSL, and crash. RTLD_DEEPBIND makes its libraries prefer their own symbols.
    """
    for variable, value in XROOTD_DEFAULTS.items():
        os.environ.setdefault(variable, value.format(timeout=timeout))
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        return require("XRootD.client", "xrootd", "root://")
    finally:
        sys.setdlopenflags(flags)


VECTOR_ITEM = 2_000_000
"""Maximum bytes of an item of a vector read; the default limit of servers is 2,097,136."""

VECTOR_ITEMS = 512
"""Maximum number of items of a vector read; the limit of servers is 1,024."""


def _vectors(spans: Iterable[MergedSpan]) -> Iterator[list[MergedSpan]]:
    """Group spans into vector reads. A large span is a group of its own."""
    vector: list[MergedSpan] = []
    size = 0
    for span in spans:
        length = span[1]
        if vector and (length > VECTOR_ITEM or size + length > MAX_REMOTE or len(vector) == VECTOR_ITEMS):
            yield vector
            vector, size = [], 0
        if length > VECTOR_ITEM:
            yield [span]
            continue
        vector.append(span)
        size += length
    if vector:
        yield vector


class FsspecRanges(SingleLocation):
    """A file that fsspec reads."""

    denied = "permission denied"

    def __init__(self, url: str, timeout: float) -> None:
        """Find the file, and request its size."""
        self.location = redacted(url)
        self._timeout = timeout
        with _translate_errors(self):
            info = self._find(url)
        if info.get("type") == "directory":
            raise PermanentFailure("it is a folder")
        if info.get("size") is None:
            raise PermanentFailure("the server does not support partial reads (it reports no size); copy the file")
        self.size = int(info["size"])

    def _find(self, url: str, **options: Any) -> dict[str, Any]:
        """Return fsspec's description of the file. `options` are passed to fsspec's file system."""
        from fsspec.asyn import sync
        from fsspec.core import url_to_fs

        self._system, self._path = _call_with_timeout(lambda: url_to_fs(url, **options), max(self._timeout, SETUP))
        if hasattr(self._system, "set_session"):  # otherwise the first request creates it, within its timeout
            sync(self._system.loop, self._system.set_session, timeout=SETUP)
        return dict(self._call("info", self._path))

    def read(self, spans: Iterable[Span]) -> Mapping[Span, memoryview]:
        """See `ByteRanges`. Requests are concurrent if the library supports this."""
        merged = list(merge_spans(spans, self.size, limit=MAX_REMOTE))
        starts = [start for start, _, _ in merged]
        ends = [start + length for start, length, _ in merged]
        with _translate_errors(self):
            responses = self._call("cat_ranges", [self._path] * len(merged), starts, ends) if merged else []
        contents: dict[Span, memoryview] = {}
        for (start, length, members), content in zip(merged, responses, strict=True):
            if isinstance(content, Exception):
                with _translate_errors(self):
                    raise content
            if len(content) == self.size > length:
                raise PermanentFailure(
                    "the server does not support partial reads (it sends the whole file); copy the file"
                )
            contents.update(split_content(content, start, length, members))
        return contents

    def _call(self, method: str, *args: Any) -> Any:
        """Call a method of the file system, in another thread if the library does not support a timeout."""
        from fsspec.asyn import sync

        if self._system.async_impl:
            return sync(self._system.loop, getattr(self._system, "_" + method), *args, timeout=self._timeout)
        return _call_with_timeout(lambda: getattr(self._system, method)(*args), self._timeout)

    def close(self) -> None:
        """See `ByteRanges`."""


def _call_with_timeout(work: Callable[[], Result], timeout: float) -> Result:
    """Call a function in another thread, where it continues after a TimeoutError."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    if not wait([future], timeout).done:
        raise TimeoutError
    return future.result()


class HdfsRanges(FsspecRanges):
    """A file in HDFS, which pyarrow reads with Hadoop's library (libhdfs) and Java."""

    def _find(self, url: str, **options: Any) -> dict[str, Any]:
        """Find the file. Raise PermanentFailure if Hadoop's library is not set up."""
        try:
            return super()._find(url, **options)
        except OSError as error:
            if re.search("libhdfs|libjvm", str(error)):
                raise PermanentFailure(f"Hadoop's library (libhdfs) cannot be loaded: {HADOOP}") from error
            if "CLASSPATH" not in os.environ and not isinstance(error, (FileNotFoundError, TimeoutError)):
                raise PermanentFailure(f"Hadoop's library finds no Java classes: {HADOOP}") from error
            raise


class S3Ranges(FsspecRanges):
    """An object in an S3 store. The S3 client reads AWS_ENDPOINT_URL, AWS_PROFILE and its other environment variables.

    Without credentials, requests are anonymous, which is sufficient for public buckets.
    """

    denied = "permission denied for the credentials of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or of AWS_PROFILE"
    denied_anonymous = (
        "permission denied without credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )

    def _find(self, url: str, **options: Any) -> dict[str, Any]:
        """Find the file. The client makes one attempt per request, because `replicas` retries."""
        from botocore.exceptions import NoCredentialsError

        timeout = self._timeout + GRACE
        config = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        try:
            try:
                return super()._find(url, config_kwargs=config)
            except NoCredentialsError:
                self.denied = self.denied_anonymous
                return super()._find(url, config_kwargs=config, anon=True)
        except OSError:
            self._system.clear_instance_cache()  # so that the next attempt looks for credentials again
            raise


RETRYABLE_STATUSES = (408, 425, 429)
"""HTTP status codes between 400 and 499 that are retried."""

PERMANENT_S3_ERRORS = {"NoRegionError", "ParamValidationError", "PartialCredentialsError", "ProfileNotFound"}
"""Names of exceptions of the S3 client that are not retried."""


@contextmanager
def _translate_errors(ranges: FsspecRanges) -> Iterator[None]:
    """Turn exceptions of fsspec's libraries into OSError or `PermanentFailure`."""
    try:
        yield
    except PermanentFailure:
        raise
    except Exception as error:
        raise _translated(error, ranges.denied) from error


def _translated(error: Exception, denied: str) -> OSError:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec's HTTP raises FileNotFoundError for any error
    status, code = _response_of(error)
    if code == "NoSuchBucket":
        return PermanentFailure("no such bucket")
    if isinstance(error, FileNotFoundError) or status == 404:
        return PermanentFailure("no such file")
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermanentFailure(denied)
    if isinstance(error, TimeoutError):
        return OSError("no response within the timeout")
    if status is not None and 400 <= status < 500 and status not in RETRYABLE_STATUSES:
        hint = "; have the credentials expired?" if code and status == 400 else ""  # S3's status for these
        return PermanentFailure(error_summary(error) + hint)
    if isinstance(error, (ImportError, TypeError, ValueError)) or type(error).__name__ in PERMANENT_S3_ERRORS:
        return PermanentFailure(error_summary(error))
    return OSError(error_summary(error))


def _response_of(error: BaseException) -> tuple[int | None, str]:
    """Return the HTTP status of a response, None if there was none, and the error code of S3, "" if there is none."""
    for origin in (error, error.__cause__):
        response = getattr(origin, "response", None)
        if isinstance(response, dict):  # the S3 client
            return response["ResponseMetadata"].get("HTTPStatusCode"), response["Error"].get("Code", "")
    return getattr(error, "status", None), ""
