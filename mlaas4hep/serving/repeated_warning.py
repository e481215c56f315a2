"""Warnings that clients can cause any number of: a first line at once, then at most one line a minute.

stalled = RepeatedWarning(log, "lost %s", "lost %d more, the last of them %s")
stalled.note("127.0.0.1")
stalled.flush()                 # now and then
"""

from __future__ import annotations

import logging
import time


class RepeatedWarning:
    """One kind of warning.

    Args:
        log: where it goes.
        first: the text of one occurrence, with a %s for its detail.
        further: the text of those that follow within `seconds`, with a %d for their number and a %s for the last one.
        seconds: the least time between two lines.
    """

    def __init__(self, log: logging.Logger, first: str, further: str, seconds: float = 60.0) -> None:
        self._log, self._first, self._further, self._seconds = log, first, further, seconds
        self._until = time.monotonic()
        self._count, self._detail = 0, ""

    def note(self, detail: str) -> None:
        """Log an occurrence, or count it."""
        self.flush()
        if time.monotonic() < self._until:
            self._count, self._detail = self._count + 1, detail
            return
        self._until = time.monotonic() + self._seconds
        self._log.warning(self._first, detail)

    def flush(self) -> None:
        """Log how many were counted, if it is time."""
        if self._count and time.monotonic() >= self._until:
            self._log.warning(self._further, self._count, self._detail)
            self._until, self._count = time.monotonic() + self._seconds, 0
