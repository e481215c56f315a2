"""What counts as a fault: an unexpected exception, an error 500, too much processor time, too much memory.

    find_fault(target, b"...")      # None, or the fault as text

A crash or a hang ends the process instead; the process that started it notices (see `fuzz_parsers.py`).
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from peak_memory import peak_memory, reset_peak_memory

from mlaas4hep.errors import MLaaS4HEPError

Parse = Callable[[bytes], None]
"""Feeds one input to a parser; raises `MLaaS4HEPError` if the parser rejects it, anything else is a fault."""

Mutate = Callable[[bytes, random.Random], bytes | None]
"""Returns a variant of an input that keeps its structure; None if the input has no such structure."""

SECONDS = 5.0
"""Processor time that one input may take; with coverage instrumentation, and on any machine."""

MEMORY = 400_000_000
"""Bytes by which one input may raise the peak memory of the process."""


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: also the name of its folder in `tests/corpus`.
        open: prepares the parser in an empty folder; what it enters on the stack is closed at the end.
        largest: bytes of an input.
        variants: how many damaged inputs `make test` tries.
        mutate: makes some of the variants; without it, bytes are changed at random.
    """

    name: str
    open: Callable[[Path, ExitStack], Parse]
    largest: int = 8192
    variants: int = 100
    mutate: Mutate | None = None


class Fault(AssertionError):
    """A parser broke one of its promises without raising an exception."""


class ErrorLog(logging.Handler):
    """Collects logged errors: the traceback of an unhandled exception in the server goes to its log only."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._records.append(record)

    def raise_first(self) -> None:
        """Raise the first error that was logged since the last call."""
        records, self._records = self._records, []
        for record in records:
            if record.exc_info and record.exc_info[1] is not None:
                raise Fault(record.getMessage()) from record.exc_info[1]
            raise Fault(record.getMessage())


def find_fault(parse: Parse, data: bytes) -> str | None:
    """Feed one input to a parser; return a description of the fault, whose first line tells faults apart."""
    began, before = time.process_time(), reset_peak_memory()
    try:
        parse(data)
    except MLaaS4HEPError as error:
        if "\n" in str(error):
            return f"error message of several lines: {type(error).__name__}\n{error}"
    except Exception as error:
        return f"{_place_of(error)}\n{traceback.format_exc()}"
    seconds, memory = time.process_time() - began, peak_memory() - before
    if seconds > SECONDS:
        return f"slow\n{seconds:.1f} s of processor time"
    if memory > MEMORY:
        return f"memory\nthe peak memory rose by {memory / 1e6:.0f} MB"
    return None


def _place_of(error: BaseException) -> str:
    """Return the type of the innermost cause, and the last line of this package that it passed through."""
    while error.__cause__ is not None and isinstance(error, Fault):
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "mlaas4hep" in frame.filename] or list(frames)
    place = f"{Path(own[-1].filename).name}:{own[-1].name}" if own else "?"
    said = f": {error}"[:80].splitlines()[0] if isinstance(error, Fault) else ""
    return f"{type(error).__name__} in {place}{said}"
