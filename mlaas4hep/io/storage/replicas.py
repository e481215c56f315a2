"""Read a file that has several locations: if one location fails, the next one is used.

    ranges = open_ranges(["root://a//store/x.root", "root://b//store/x.root"], RetryPolicy(timeout=60, retries=4))
    ranges.read([(0, 1_000)])

Replicas of a file have the same bytes, so that callers do not notice a change of the location: no event is lost or
repeated. A replica is rejected if its length or its first bytes differ from those of the first one that was opened.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, FileUnreadable, Unreachable, error_text
from mlaas4hep.io.storage.byte_ranges import ByteRanges, LocalRanges, Span
from mlaas4hep.io.storage.location import format_of, is_url, redacted
from mlaas4hep.io.storage.remote import PermanentFailure, open_remote

Result = TypeVar("Result")

HEAD = 4096
"""Number of bytes at the beginning of a file that replicas are compared by."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Timeout and number of retries for servers.

    Attributes:
        timeout: timeout in seconds of a request, which reads up to 4 MB.
        retries: number of times that all locations are tried again, after pauses of 1, 2, 4, ... seconds.
    """

    timeout: float = 60.0
    retries: int = 4

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ConfigError(f"invalid timeout {self.timeout}: it must be a positive number of seconds")
        if self.retries < 0:
            raise ConfigError(f"invalid number of retries {self.retries}: it must be 0 or positive")

    def pauses(self) -> Iterable[float]:
        """Return the pause in seconds before each retry."""
        return (float(2**attempt) for attempt in range(self.retries))


DEFAULT_RETRY_POLICY = RetryPolicy()


def open_ranges(locations: Sequence[str], retry_policy: RetryPolicy) -> ByteRanges:
    """Open a file at the first location that can be read. Locations are paths or URLs.

    Raises:
        FileUnreadable: no location can be read; the message gives the reason for each.
    """
    if len(locations) == 1 and not is_url(locations[0]):
        return LocalRanges(locations[0])
    return Replicas(locations, retry_policy)


def read_with_fallback(ranges: ByteRanges, work: Callable[[], Result]) -> Result:
    """Call a function that reads a file. If the file is damaged, call it again with the next location, if any."""
    while True:
        location = ranges.location
        try:
            return work()
        except Unreachable:
            raise
        except FileUnreadable as error:
            if not ranges.reject(location, error.what):
                raise


class Replicas:
    """A file that has several locations; see the module's docstring, and `ByteRanges`."""

    def __init__(self, locations: Sequence[str], retry_policy: RetryPolicy) -> None:
        """Open the file at the first location that can be read."""
        self._locations = list(locations)
        self._retry_policy = retry_policy
        self._reasons: dict[str, str] = {}
        self._opened: ByteRanges | None = None
        self._lock = Lock()
        self._head: bytes | None = None
        self.size = 0
        self._attempt(lambda _: None)

    @property
    def location(self) -> str:
        """The current location, without credentials."""
        return redacted(self._locations[0])

    def read(self, spans: Iterable[Span]) -> Mapping[Span, memoryview]:
        """See `ByteRanges`; raise Unreachable if no location can be read, after all retries."""
        wanted = list(spans)
        for start, length in wanted:
            if start + length > self.size:
                raise OSError(f"the file ends at byte {self.size}, before byte {start + length}")
        return self._attempt(lambda ranges: ranges.read(wanted))

    def reject(self, location: str, reason: str) -> bool:
        """Stop using a location if another one can be read; see `ByteRanges`."""
        with self._lock:
            if len(self._locations) == 1:
                return False
            if self.location != location:  # another thread has rejected it already
                return True
            rejected = self._locations.pop(0)
            self._reasons[rejected] = reason
            self._disconnect()
        try:
            self._attempt(lambda _: None, retry=False)
        except Unreachable:
            with self._lock:
                self._locations.insert(0, rejected)
            return False
        return True

    def close(self) -> None:
        """See `ByteRanges`."""
        with self._lock:
            self._disconnect()

    def _attempt(self, work: Callable[[ByteRanges], Result], retry: bool = True) -> Result:
        """Call a function with the open file. Try all locations; then pause and try again, as the retry policy says."""
        pauses = iter(self._retry_policy.pauses() if retry else ())
        failed: set[str] = set()
        while True:
            with self._lock:
                location = next((location for location in self._locations if location not in failed), None)
            if location is None:
                pause = next(pauses, None) if self._locations else None
                if pause is None:
                    raise self._unreachable()
                console.notice(f"{self._explain()}; trying again in {pause:.0f} s")
                time.sleep(pause)
                failed.clear()
                continue
            opened = None
            try:
                opened = self._open(location)
                return work(opened)
            except OSError as error:
                self._fail(location, opened, error)
                failed.add(location)

    def _open(self, location: str) -> ByteRanges:
        """Return the open file at a location, which becomes the current one."""
        with self._lock:
            if self._opened is not None and self._locations[0] == location:
                return self._opened
            opened = open_remote(location, self._retry_policy.timeout) if is_url(location) else LocalRanges(location)
            try:
                self._check(opened)
            except BaseException:
                opened.close()
                raise
            self._disconnect()
            if self._reasons:
                console.notice(f"{self._explain()}; continuing with {redacted(location)}")
            self._opened = opened
            self._reasons.clear()
            self._locations = [location, *(other for other in self._locations if other != location)]
            return opened

    def _check(self, opened: ByteRanges) -> None:
        """Raise `PermanentFailure` if the file is truncated, or differs from the one that was opened first."""
        head_span = (0, min(HEAD, opened.size))
        head = bytes(opened.read([head_span])[head_span])
        if not _is_complete(opened, head):
            raise PermanentFailure(f"the file is truncated after {opened.size} bytes")
        if self._head is None:
            self._head, self.size = head, opened.size
        elif opened.size != self.size:
            raise PermanentFailure(f"the file has {opened.size} bytes instead of {self.size}")
        elif head != self._head:
            raise PermanentFailure("the content of the file differs from the first replica")

    def _fail(self, location: str, opened: ByteRanges | None, error: OSError) -> None:
        with self._lock:
            self._reasons[location] = error_text(error)
            if isinstance(error, PermanentFailure) and location in self._locations:
                self._locations.remove(location)
            if opened is not None and self._opened is opened:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _explain(self) -> str:
        reasons = {redacted(location): reason for location, reason in self._reasons.items()}
        return "; ".join(f"{location}: {reason}" for location, reason in reasons.items())

    def _unreachable(self) -> Unreachable:
        hint = "" if not self._locations else "check that the server is running, or increase --timeout or --retries"
        return Unreachable(f"cannot read {self._explain()}", hint=hint)


def _is_complete(opened: ByteRanges, head: bytes) -> bool:
    """Return whether a file is complete; True if its format does not show this."""
    for magic in (b"PAR1", b"ARROW1"):
        if head.startswith(magic):
            end = (opened.size - len(magic), len(magic))
            return opened.size >= 2 * len(magic) and bytes(opened.read([end])[end]) == magic
    if format_of(head) == "ROOT" and len(head) >= 20:
        is_large = int.from_bytes(head[4:8], "big", signed=True) >= 1_000_000
        (end_of_file,) = struct.unpack_from(">q" if is_large else ">i", head, 12)  # fEND of TFile's header
        return opened.size >= int(end_of_file)
    return True
