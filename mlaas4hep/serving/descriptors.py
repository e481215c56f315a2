"""The limit of open files: a server that has reached it says so once a minute, however many clients it turns away.

    loop.set_exception_handler(descriptors.handle_loop_error)
    descriptors.check()                    # every second or so

uvloop closes the connections that it cannot take and tells nobody, so `check` tries whether a file can be opened;
asyncio's own loop reports each failure.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from typing import Any

from mlaas4hep.serving.repeated_warning import RepeatedWarning

_warning = RepeatedWarning(
    logging.getLogger(__name__),
    "no more files or connections can be opened, clients are turned away: the limit is %s (ulimit -n)",
    "clients are still turned away (%d failures): the limit of open files is %s (ulimit -n)",
)


def is_shortage(error: BaseException | None) -> bool:
    """Say whether an error is about the limit of open files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def note_shortage() -> None:
    """Log that the limit was reached, unless that was said within the last minute."""
    _warning.note(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def check() -> None:
    """Log that the limit is reached, if it is."""
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
