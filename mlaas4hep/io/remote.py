"""Files on servers as bytes.

    open_remote("root://host//path/file.root", timeout=60).read([(0, 1_000)])

XRootD is spoken through its own Python client, everything else (https, s3, hdfs, ...) through fsspec. What went wrong
is told apart here, once: `Refused` is for good (no such file, no permission), any other `OSError` may pass.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from mlaas4hep.errors import first_line, require
from mlaas4hep.io.byte_ranges import SHORT, ByteRanges, Place, Stretch, cut, join
from mlaas4hep.io.grid_proxy import advice
from mlaas4hep.io.location import shown

GRACE = 5.0
"""Seconds beyond its timeout after which a request is given up although its library says nothing."""

SETUP = 60.0
"""Seconds that a library may take to make its client, on a machine that is busy; no server is asked."""

PERMANENT_ANSWERS = {3000: "it is no valid name", 3010: "permission denied", 3011: "no such file",
                     3016: "it is a folder"}  # fmt: skip
"""What XRootD's servers answer (kXR_ArgInvalid, NotAuthorized, NotFound, isDirectory in XProtocol.hh) when asking again
is no use."""

PERMANENT_STATES = (101, 203)
"""What XRootD's client says when asking again is no use (errInvalidAddr, errLoginFailed in XrdClStatus.hh)."""

AUTHENTICATION_ANSWER, AUTHENTICATION_STATE = 3030, 204
"""What XRootD's servers answer (kXR_AuthFailed), and its client says (errAuthFailed), when they do not know who we
are."""

ERROR_RESPONSE = 400
"""XRootD's client: the server answered with an error (errErrorResponse)."""

XROOTD_DEFAULTS = {
    "XRD_CONNECTIONWINDOW": "{timeout}", "XRD_REQUESTTIMEOUT": "{timeout}", "XRD_STREAMTIMEOUT": "{timeout}",
    "XRD_CONNECTIONRETRY": "1", "XRD_STREAMERRORWINDOW": "0", "XRD_TIMEOUTRESOLUTION": "1",
}  # fmt: skip
"""What XRootD's client reads when it is loaded: give up in time, since others try again; the environment goes first."""

PACKAGES = {"s3": ("s3fs", "s3"), "hdfs": ("pyarrow", "formats")}
"""Which package a scheme needs, and the extra that brings it."""

HADOOP = (
    "set JAVA_HOME, HADOOP_HOME (or ARROW_LIBHDFS_DIR, the folder of libhdfs.so), and CLASSPATH to what"
    " `hadoop classpath --glob` prints"
)
"""What is needed for hdfs://."""

Result = TypeVar("Result")


class Refused(OSError):
    """A server will not give these bytes, however often it is asked."""


def open_remote(url: str, timeout: float) -> ByteRanges:
    """Open a file on a server.

    Args:
        timeout: seconds that a server may take to answer a request.

    Raises:
        Refused: it is not there, or not for us.
        OSError: the server cannot be reached, or does not answer.
        PackageMissing: what speaks to such a server is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme in ("root", "xroot", "roots", "xroots"):
        return XRootDRanges(url, timeout)
    if scheme in PACKAGES:
        require(*PACKAGES[scheme], f"{scheme}://")
    return {"s3": S3Ranges, "hdfs": HdfsRanges}.get(scheme, FsspecRanges)(url, timeout)


class XRootDRanges:
    """A file on an XRootD server; X509_USER_PROXY and the like reach it through its client."""

    def __init__(self, url: str, timeout: float) -> None:
        """Open it, and ask for its length."""
        self.location = shown(url)
        self._timeout = max(round(timeout), 1)
        client = _xrootd_client(self._timeout)
        self._file = client.File()
        try:
            self._ask(self._file.open, url, client.flags.OpenFlags.READ)
            self.size = int(self._ask(self._file.stat).size)
        except BaseException:
            self.close()
            raise

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """See `ByteRanges`; all requests are on their way at once."""
        found: dict[Place, memoryview] = {}
        waiting: list[tuple[list[Stretch], SimpleQueue[Any]]] = []
        for vector in _vectors(join(places, self.size, longest=SHORT)):
            if len(vector) == 1 and vector[0][1] > VECTOR_ITEM:
                waiting.append((vector, self._send(self._file.read, *vector[0][:2])))
            else:
                waiting.append((vector, self._send(self._file.vector_read, [item[:2] for item in vector])))
        for vector, answer in waiting:
            response = self._receive(answer)
            contents = [response] if isinstance(response, bytes) else [chunk.buffer for chunk in response.chunks]
            for (start, length, members), content in zip(vector, contents, strict=True):
                found.update(cut(content, start, length, members))
        return found

    def refuse(self, location: str, reason: str) -> bool:
        """Return False: this is one file."""
        return False

    def close(self) -> None:
        """See `ByteRanges`."""
        if self._file.is_open():
            self._file.close(timeout=self._timeout, callback=_forget)  # whether it answers matters to nobody

    def _ask(self, request: Any, *args: Any) -> Any:
        return self._receive(self._send(request, *args))

    def _send(self, request: Any, *args: Any) -> SimpleQueue[Any]:
        answer: SimpleQueue[Any] = SimpleQueue()
        try:
            status = request(
                *args, timeout=self._timeout, callback=lambda status, response, _: answer.put((status, response))
            )
        except ValueError as error:  # closed by another thread, which found it broken
            raise OSError(str(error)) from error
        self._check(status)
        return answer

    def _receive(self, answer: SimpleQueue[Any]) -> Any:
        try:
            status, response = answer.get(timeout=self._timeout + GRACE)
        except Empty:
            raise OSError(f"no answer in {self._timeout} s") from None
        self._check(status)
        return response

    def _check(self, status: Any) -> None:
        if status.ok:
            return
        answer = status.errno if status.code == ERROR_RESPONSE else None
        if answer == AUTHENTICATION_ANSWER or status.code == AUTHENTICATION_STATE:
            raise Refused(f"it asks who we are, and {advice()}")
        if answer in PERMANENT_ANSWERS:
            raise Refused(PERMANENT_ANSWERS[answer])
        message = status.message.replace("[ERROR]", "").replace("[FATAL]", "").strip()
        message = "no answer in time" if message == "Operation expired" else message
        raise (Refused if status.code in PERMANENT_STATES else OSError)(message)


def _xrootd_client(timeout: int) -> Any:
    """Import XRootD's client, with our defaults.

    TensorFlow lets everybody see the BoringSSL that it is linked with; an XRootD that is loaded afterwards would call
    that in place of its own OpenSSL, and crash. So its libraries look among themselves first (RTLD_DEEPBIND).
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
"""Bytes that servers give for one item of a vector read (2,097,136 by default)."""

VECTOR_ITEMS = 512
"""Items of a vector read; servers take 1,024."""


def _vectors(stretches: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Put stretches together that one request may ask for; a large one stands alone."""
    vector: list[Stretch] = []
    size = 0
    for stretch in stretches:
        length = stretch[1]
        if vector and (length > VECTOR_ITEM or size + length > SHORT or len(vector) == VECTOR_ITEMS):
            yield vector
            vector, size = [], 0
        if length > VECTOR_ITEM:
            yield [stretch]
            continue
        vector.append(stretch)
        size += length
    if vector:
        yield vector


def _forget(*_: Any) -> None:
    """Take an answer that nobody waits for."""


class FsspecRanges:
    """A file that fsspec knows how to reach."""

    denied = "permission denied"

    def __init__(self, url: str, timeout: float) -> None:
        """Find it, and ask for its length."""
        self.location = shown(url)
        self._timeout = timeout
        with _Explained(self):
            info = self._find(url)
        if info.get("type") == "directory":
            raise Refused("it is a folder")
        if info.get("size") is None:
            raise Refused("its server does not tell how long it is, and cannot be read in parts; copy the file")
        self.size = int(info["size"])

    def _find(self, url: str, **options: Any) -> dict[str, Any]:
        """Return what the server tells about the file; `options` are those of fsspec's file system."""
        from fsspec.asyn import sync
        from fsspec.core import url_to_fs

        self._system, self._path = _in_time(lambda: url_to_fs(url, **options), max(self._timeout, SETUP))
        if hasattr(self._system, "set_session"):  # else made by the first request, whose time it would take
            sync(self._system.loop, self._system.set_session, timeout=SETUP)
        return dict(self._call("info", self._path))

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """See `ByteRanges`; requests go out together where the server's library can do that."""
        stretches = list(join(places, self.size, longest=SHORT))
        starts = [start for start, _, _ in stretches]
        ends = [start + length for start, length, _ in stretches]
        with _Explained(self):
            contents = self._call("cat_ranges", [self._path] * len(stretches), starts, ends) if stretches else []
        found: dict[Place, memoryview] = {}
        for (start, length, members), content in zip(stretches, contents, strict=True):
            if isinstance(content, Exception):
                with _Explained(self):
                    raise content
            if len(content) == self.size > length:
                raise Refused("its server sends the whole file for every part of it; copy the file")
            found.update(cut(content, start, length, members))
        return found

    def _call(self, method: str, *args: Any) -> Any:
        """Call a method, in a thread of its own where the library knows no timeout."""
        from fsspec.asyn import sync

        if self._system.async_impl:
            return sync(self._system.loop, getattr(self._system, "_" + method), *args, timeout=self._timeout)
        return _in_time(lambda: getattr(self._system, method)(*args), self._timeout)

    def refuse(self, location: str, reason: str) -> bool:
        """Return False: this is one file."""
        return False

    def close(self) -> None:
        """See `ByteRanges`."""


def _in_time(work: Callable[[], Result], timeout: float) -> Result:
    """Return what work returns, or raise what it raises; what is not done in time is left alone, and ends with us."""
    answer: SimpleQueue[Future[Result]] = SimpleQueue()

    def run() -> None:
        future: Future[Result] = Future()
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        answer.put(future)

    Thread(target=run, daemon=True).start()
    try:
        return answer.get(timeout=timeout).result()
    except Empty:
        raise TimeoutError from None


class HdfsRanges(FsspecRanges):
    """A file in HDFS, which pyarrow reaches through Hadoop's own library, and that through Java."""

    def _find(self, url: str, **options: Any) -> dict[str, Any]:
        """Find it, or say what Hadoop's library lacks, which no second attempt will bring."""
        try:
            return super()._find(url, **options)
        except OSError as error:
            if re.search("libhdfs|libjvm", str(error)):
                raise Refused(f"Hadoop's library (libhdfs) cannot be loaded: {HADOOP}") from error
            if "CLASSPATH" not in os.environ and not isinstance(error, (FileNotFoundError, TimeoutError)):
                raise Refused(f"Hadoop's library finds no Java classes: {HADOOP}") from error
            raise


class S3Ranges(FsspecRanges):
    """An object in an S3 store; AWS_ENDPOINT_URL, AWS_PROFILE and the like reach it through its client.

    Whoever has no credentials asks as nobody, as public buckets allow.
    """

    denied = "permission denied to the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or of AWS_PROFILE"
    denied_to_nobody = (
        "permission denied without credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )

    def _find(self, url: str, **options: Any) -> dict[str, Any]:
        """Find it with one attempt a request, since others try again, and with our timeout before the client's own."""
        from botocore.exceptions import NoCredentialsError

        patience = self._timeout + GRACE
        config = {"connect_timeout": patience, "read_timeout": patience, "retries": {"total_max_attempts": 1}}
        try:
            try:
                return super()._find(url, config_kwargs=config)
            except NoCredentialsError:
                self.denied = self.denied_to_nobody
                return super()._find(url, config_kwargs=config, anon=True)
        except OSError:
            self._system.clear_instance_cache()  # so that other credentials are found next time
            raise


PASSING = (408, 425, 429)
"""The statuses of HTTP between 400 and 499 that may be others next time."""

CLIENT_REFUSALS = {"NoRegionError", "ParamValidationError", "PartialCredentialsError", "ProfileNotFound"}
"""What S3's client finds wrong itself, by the names of its exceptions."""


class _Explained:
    """Turn whatever fsspec's libraries raise into an OSError that says it, or into `Refused`."""

    def __init__(self, ranges: FsspecRanges) -> None:
        self._ranges = ranges

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, Refused):
            return
        if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # which fsspec's HTTP says of whatever went wrong
        status, code = _answer_of(error)
        if code == "NoSuchBucket":
            raise Refused("no such bucket") from error
        if isinstance(error, FileNotFoundError) or status == 404:
            raise Refused("no such file") from error
        if isinstance(error, PermissionError) or status in (401, 403):
            raise Refused(self._ranges.denied) from error
        if isinstance(error, TimeoutError):
            raise OSError("no answer in time") from error
        if status is not None and 400 <= status < 500 and status not in PASSING:
            hint = "; have the credentials expired?" if code and status == 400 else ""  # which S3 answers then
            raise Refused(first_line(error) + hint) from error
        if isinstance(error, (ImportError, TypeError, ValueError)) or type(error).__name__ in CLIENT_REFUSALS:
            raise Refused(first_line(error)) from error
        raise OSError(first_line(error)) from error


def _answer_of(error: BaseException) -> tuple[int | None, str]:
    """Return the status that a server answered with, None if it did not, and S3's code for what went wrong."""
    for origin in (error, error.__cause__):
        response = getattr(origin, "response", None)
        if isinstance(response, dict):  # S3's client
            return response["ResponseMetadata"].get("HTTPStatusCode"), response["Error"].get("Code", "")
    return getattr(error, "status", None), ""
