"""Warnings that clients can cause repeatedly: the first one is logged at once, further ones at most once a minute.

stalled = RepeatedWarning(log, "lost %s", "lost %d more, the last of them %s")
stalled.note("127.0.0.1")
stalled.flush()                 # call it regularly
"""

from __future__ import annotations

import logging
import time


class RepeatedWarning:
    """One kind of warning.

    Args:
        log: the logger.
        first: message for one occurrence, with a %s for its detail.
        further: message for the occurrences within `seconds`, with a %d for their number and a %s for the last detail.
        seconds: minimum time between two messages.
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
        """Log the number of counted occurrences if `seconds` have passed."""
        if self._count and time.monotonic() >= self._until:
            self._log.warning(self._further, self._count, self._detail)
            self._until, self._count = time.monotonic() + self._seconds, 0
