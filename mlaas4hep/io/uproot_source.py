"""uproot on top of our bytes.

    open_root_file(open_ranges(["data.root"], Patience()))["Events"]

So every byte of a ROOT file, its metadata too, comes by one way, with its timeouts, retries and replicas.
"""

from __future__ import annotations

from queue import Queue
from typing import Any

import uproot
from uproot.source.chunk import Chunk, Source
from uproot.source.futures import TrivialFuture

from mlaas4hep.errors import FileUnreadable, first_line
from mlaas4hep.io.byte_ranges import ByteRanges


def open_root_file(ranges: ByteRanges) -> Any:
    """Return uproot's file.

    Raises:
        FileUnreadable: it is no ROOT file, or damaged.
    """
    try:
        return uproot.open({ranges.location: None}, handler=RangesSource, ranges=ranges)
    except FileUnreadable:
        raise
    except Exception as error:
        raise FileUnreadable(f"cannot open {ranges.location} as a ROOT file: {first_line(error)}") from error


class RangesSource(Source):  # type: ignore[misc]
    """What uproot reads a file through; the file is closed by whoever opened it."""

    def __init__(self, file_path: str, ranges: ByteRanges, **options: object) -> None:
        """Take uproot's arguments, of which the options are of no use here."""
        super().__init__()
        self._file_path = file_path
        self._ranges = ranges
        self._num_bytes = ranges.size

    def chunk(self, start: int, stop: int) -> Chunk:
        """Read the bytes start <= i < stop."""
        return self.chunks([(start, stop)], Queue())[0]

    def chunks(self, ranges: list[tuple[int, int]], notifications: Queue[Chunk]) -> list[Chunk]:
        """Read several stretches of bytes; those that go beyond the end of the file are shorter."""
        places = [(start, max(min(stop, self._num_bytes) - start, 0)) for start, stop in ranges]
        memory = self._ranges.read(set(places))
        chunks = []
        for (start, stop), place in zip(ranges, places, strict=True):
            chunk = Chunk(self, start, stop, TrivialFuture(memory[place]))
            chunks.append(chunk)
            notifications.put(chunk)
        return chunks

    @property
    def closed(self) -> bool:
        """Return False: as long as uproot is asked, the file is open."""
        return False

    def __enter__(self) -> RangesSource:
        return self

    def __exit__(self, *_: object) -> None:
        pass
