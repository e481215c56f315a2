"""One file at several places: whichever can be read gives the bytes, and when it fails the next one does.

    ranges = open_ranges(["root://a//store/x.root", "root://b//store/x.root"], Patience(timeout=60, retries=4))
    ranges.read([(0, 1_000)])

Replicas of a file have the same bytes, so nobody above notices a change of place: no event is lost, none comes twice. A
place whose file has another length or beginning than the first that was opened is not believed.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, FileUnreadable, Unreachable, said
from mlaas4hep.io.byte_ranges import ByteRanges, LocalRanges, Place
from mlaas4hep.io.location import ROOT_MAGIC, is_url, shown
from mlaas4hep.io.remote import Refused, open_remote

Result = TypeVar("Result")

HEAD = 4096
"""Bytes at the beginning of a file that replicas are compared by."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for servers.

    Attributes:
        timeout: seconds that a server may take to answer one request, of at most 4 MB.
        retries: how often all places are tried again, after pauses of 1, 2, 4, ... seconds, before a file is given up.
    """

    timeout: float = 60.0
    retries: int = 4

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ConfigError(f"timeout is {self.timeout}; it is a number of seconds above 0")
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}; it is 0 or how often to try again")

    def pauses(self) -> Iterable[float]:
        """Return the seconds to wait before each new attempt."""
        return (float(2**attempt) for attempt in range(self.retries))


PATIENCE = Patience()
"""What is waited where nothing else is asked."""


def open_ranges(places: Sequence[str], patience: Patience) -> ByteRanges:
    """Open a file at the first of its places that can be read: paths on disk, or URLs.

    Raises:
        FileUnreadable: no place gives it; the message says what each of them said.
    """
    if len(places) == 1 and not is_url(places[0]):
        return LocalRanges(places[0])
    return Replicas(places, patience)


def read_believed(ranges: ByteRanges, work: Callable[[], Result]) -> Result:
    """Do something with a file's bytes, again with those of the next place when they turn out to make no sense.

    Raises:
        FileUnreadable: what `work` raised over the last place that there is.
    """
    while True:
        location = ranges.location
        try:
            return work()
        except Unreachable:
            raise
        except FileUnreadable as error:
            if not ranges.refuse(location, error.what):
                raise


class Replicas:
    """A file that lies at several places; see the module's docstring, and `ByteRanges`."""

    def __init__(self, places: Sequence[str], patience: Patience) -> None:
        """Open it at the first place that answers."""
        self._places = list(places)
        self._patience = patience
        self._reasons: dict[str, str] = {}
        self._opened: ByteRanges | None = None
        self._lock = Lock()
        self._head: bytes | None = None
        self.size = 0
        self._attempt(lambda _: None)

    @property
    def location(self) -> str:
        """The place that is read at present, or would be."""
        return shown(self._places[0])

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """See `ByteRanges`.

        Raises:
            Unreachable: no place gives the bytes, after all attempts.
        """
        wanted = list(places)
        for start, length in wanted:
            if start + length > self.size:
                raise OSError(f"the file ends at byte {self.size}, before byte {start + length}")
        return self._attempt(lambda ranges: ranges.read(wanted))

    def refuse(self, location: str, reason: str) -> bool:
        """Leave a place for good, if there is another one that can be read; see `ByteRanges`."""
        with self._lock:
            if len(self._places) == 1:
                return False
            if self.location != location:  # another thread has left it already
                return True
            place = self._places.pop(0)
            self._reasons[place] = reason
            self._disconnect()
        try:
            self._attempt(lambda _: None, patient=False)
        except Unreachable:
            with self._lock:
                self._places.insert(0, place)
            return False
        return True

    def close(self) -> None:
        """See `ByteRanges`."""
        with self._lock:
            self._disconnect()

    def _attempt(self, work: Callable[[ByteRanges], Result], patient: bool = True) -> Result:
        """Do something with an open place, with the next one if that fails, with all of them again after a pause."""
        pauses = iter(self._patience.pauses() if patient else ())
        failed: set[str] = set()
        while True:
            with self._lock:
                place = next((place for place in self._places if place not in failed), None)
            if place is None:
                pause = next(pauses, None) if self._places else None
                if pause is None:
                    raise self._unreachable()
                console.notice(f"{self._explain()}; trying again in {pause:.0f} s")
                time.sleep(pause)
                failed.clear()
                continue
            opened = None
            try:
                opened = self._open(place)
                return work(opened)
            except OSError as error:
                self._fail(place, opened, error)
                failed.add(place)

    def _open(self, place: str) -> ByteRanges:
        """Return the open file at a place, which becomes the present one."""
        with self._lock:
            if self._opened is not None and self._places[0] == place:
                return self._opened
            opened = open_remote(place, self._patience.timeout) if is_url(place) else LocalRanges(place)
            try:
                self._check(opened)
            except BaseException:
                opened.close()
                raise
            self._disconnect()
            if self._reasons:
                console.notice(f"{self._explain()}; going on with {shown(place)}")
            self._opened = opened
            self._reasons.clear()
            self._places = [place, *(other for other in self._places if other != place)]
            return opened

    def _check(self, opened: ByteRanges) -> None:
        """Raise `Refused` unless this is the file that was opened first, and whole."""
        head_place = (0, min(HEAD, opened.size))
        head = bytes(opened.read([head_place])[head_place])
        if not _is_whole(opened, head):
            raise Refused(f"its file is cut off after {opened.size} bytes")
        if self._head is None:
            self._head, self.size = head, opened.size
        elif opened.size != self.size:
            raise Refused(f"its file has {opened.size} bytes, not {self.size}")
        elif head != self._head:
            raise Refused("its file is another one")

    def _fail(self, place: str, opened: ByteRanges | None, error: OSError) -> None:
        with self._lock:
            self._reasons[place] = said(error)
            if isinstance(error, Refused) and place in self._places:
                self._places.remove(place)
            if opened is not None and self._opened is opened:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _explain(self) -> str:
        reasons = {shown(place): reason for place, reason in self._reasons.items()}
        return "; ".join(f"{place}: {reason}" for place, reason in reasons.items())

    def _unreachable(self) -> Unreachable:
        hint = "" if not self._places else "is the server up? --timeout and --retries say how long to wait"
        return Unreachable(f"cannot read {self._explain()}", hint=hint)


def _is_whole(opened: ByteRanges, head: bytes) -> bool:
    """Tell whether a file has the end that its beginning promises, as far as its format does so."""
    for magic in (b"PAR1", b"ARROW1"):
        if head.startswith(magic):
            end = (opened.size - len(magic), len(magic))
            return opened.size >= 2 * len(magic) and bytes(opened.read([end])[end]) == magic
    if head.startswith(ROOT_MAGIC) and len(head) >= 20:
        is_large = int.from_bytes(head[4:8], "big") >= 1_000_000
        (end_of_file,) = struct.unpack_from(">q" if is_large else ">i", head, 12)  # fEND of TFile's header
        return opened.size >= int(end_of_file)
    return True
