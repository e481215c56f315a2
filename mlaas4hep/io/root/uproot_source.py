"""Let uproot read files through `ByteRanges`.

    open_root_file(open_ranges(["data.root"], RetryPolicy()))["Events"]

Timeouts, retries and replicas therefore apply to all reads of a ROOT file, including its metadata.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from queue import Queue
from typing import Any

import numpy as np
import uproot
import uproot.compression
import uproot.reading
from uproot.source.chunk import Chunk, Source
from uproot.source.futures import TrivialFuture

from mlaas4hep.errors import FileUnreadable, error_summary
from mlaas4hep.io.root.compression import OLD_ZLIB, decompress
from mlaas4hep.io.root.recovery import Header, check_end, recover
from mlaas4hep.io.storage.byte_ranges import ByteRanges

_SHORTEST_KEY = 29
"""Bytes of a key with empty strings."""


def open_root_file(ranges: ByteRanges) -> Any:
    """Open a file with uproot. Recover it if it was not closed.

    Raises:
        FileUnreadable: the file is not a ROOT file, is damaged, or is truncated.
    """
    try:
        file = _open(ranges)
    except FileUnreadable:
        raise
    except Exception as error:
        if ranges.size >= 100:
            check_end(ranges.location, ranges.size, Header.read(ranges).end)
        raise FileUnreadable(f"cannot open {ranges.location} as a ROOT file: {error_summary(error)}") from error
    check_end(ranges.location, ranges.size, file.file.fEND)
    if file.keys(recursive=False):
        return file
    recovered = recover(ranges, Header.read(ranges))
    if recovered is not None:
        return _open(recovered)
    if file.fSeekKeys > file.file.fBEGIN:  # the file was closed, and is empty
        return file
    raise FileUnreadable(
        f"{ranges.location} was not closed by its writer, and no tree can be recovered from it",
        hint="write it again; of a job that is killed, only trees saved with TTree::AutoSave can be recovered",
    )


def _open(ranges: ByteRanges) -> Any:
    return uproot.open({ranges.location: None}, handler=RangesSource, ranges=ranges)


class RangesSource(Source):  # type: ignore[misc]
    """An uproot source on top of `ByteRanges`, which the caller closes."""

    def __init__(self, file_path: str, ranges: ByteRanges, **options: object) -> None:
        """Accept uproot's arguments. The options are ignored."""
        super().__init__()
        self._file_path = file_path
        self._ranges = ranges
        self._num_bytes = ranges.size

    def chunk(self, start: int, stop: int) -> Chunk:
        """Read the bytes start <= i < stop."""
        return self.chunks([(start, stop)], Queue())[0]

    def chunks(self, ranges: list[tuple[int, int]], notifications: Queue[Chunk]) -> list[Chunk]:
        """Read several byte ranges. Those that extend past the end of the file are shorter."""
        spans = [(start, max(min(stop, self._num_bytes) - start, 0)) for start, stop in ranges]
        memory = self._ranges.read(set(spans))
        chunks = []
        for (start, stop), span in zip(ranges, spans, strict=True):
            chunk = Chunk(self, start, stop, TrivialFuture(memory[span]))
            chunks.append(chunk)
            notifications.put(chunk)
        return chunks

    @property
    def closed(self) -> bool:
        """Return False, because the caller closes the file."""
        return False

    def __enter__(self) -> RangesSource:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _with_old_zlib(original: Callable[..., Chunk]) -> Callable[..., Chunk]:
    """Add the algorithm that ROOT used until 2003 to uproot's decompression, for files opened by this module."""

    @functools.wraps(original)
    def decompressed(
        chunk: Chunk, cursor: Any, context: Any, size: int, length: int, *more: Any, **options: Any
    ) -> Chunk:
        is_ours = isinstance(chunk.source, RangesSource)
        if not is_ours or cursor.copy().bytes(chunk, len(OLD_ZLIB), context).tobytes() != OLD_ZLIB:
            return original(chunk, cursor, context, size, length, *more, **options)
        record = memoryview(cursor.bytes(chunk, size, context))
        return Chunk.wrap(chunk.source, np.frombuffer(decompress(record, length), np.uint8))

    return decompressed


def _check_keys(directory: Any, **found: Any) -> None:
    """Raise ValueError if a directory claims more keys than its bytes can hold, which uproot would read for hours."""
    chunk, count = found["keys_chunk"], found["num_keys"]
    if count * _SHORTEST_KEY > chunk.stop - chunk.start:
        raise ValueError(f"a directory claims to have {count} keys")


uproot.compression.decompress = _with_old_zlib(uproot.compression.decompress)
uproot.reading.ReadOnlyDirectory.hook_before_keys = _check_keys
