"""A warning, at most once a minute, when the limit of open files prevents new connections.

    loop.set_exception_handler(descriptors.handle_loop_error)
    descriptors.check()                    # about every second

uvloop silently closes the connections that it cannot accept, so `check` tests whether a file can be opened. The event
loop of asyncio reports each failure.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from typing import Any

from mlaas4hep.serving.http.repeated_warning import RepeatedWarning

_warning = RepeatedWarning(
    logging.getLogger(__name__),
    "no more files or connections can be opened, clients are turned away: the limit is %s (ulimit -n)",
    "clients are still turned away (%d failures): the limit of open files is %s (ulimit -n)",
)


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error was caused by the limit of open files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def note_shortage() -> None:
    """Log that the limit was reached, at most once a minute."""
    _warning.note(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def check() -> None:
    """Log a warning if no more files can be opened."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if is_shortage(error):
            note_shortage()
    _warning.flush()


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that the event loop reports; see `loop.set_exception_handler`."""
    if is_shortage(context.get("exception")):
        note_shortage()
    else:
        loop.default_exception_handler(context)
