"""What people see in a terminal: errors, notices, progress, sizes.

    sys.exit(run(command, args))

Results go to stdout, everything here to stderr; in a pipe and with NO_COLOR there is neither colour nor animation.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NoReturn, Protocol

from mlaas4hep.errors import MLaaS4HEPError, printable

EACH = 0.5
"""Seconds for which the text behind a bar stays: to make it may hold up the work, as to fetch a loss from a GPU."""


def run(command: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a script's command and turn what may go wrong into an exit code.

    Returns:
        0, or what the command returned; 1 after an `MLaaS4HEPError`, whose message is printed (and its traceback
        with `--verbose`), or the `exit_code` of its kind; 130 after Ctrl-C.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  until the end
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    try:
        code = command(args) or 0
        sys.stdout.flush()  # or a full disk would be noticed too late to be said
        return code
    except MLaaS4HEPError as error:
        if getattr(args, "verbose", 0):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError as error:
        print(f"error: not enough memory: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mlaas4hep"):
            raise
        print(
            f"error: the package '{error.name}' is not installed; in a clone: make demo, then"
            " . .venv/bin/activate; elsewhere: pip install 'mlaas4hep[all]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: cannot write: {error.strerror}", file=sys.stderr)
        return 1


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are, like all others, one line and exit code 1.

    An empty value is one of them, as of a variable that is not set; an option for which it means something has the
    type `str`.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.register("type", None, _filled)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        self.exit(1, f"error: {message}; all options: {self.prog} --help\n")


def _filled(text: str) -> str:
    """Return the value of an option that is not empty; argparse says which one it is if it is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def add_verbose(parser: argparse.ArgumentParser, levels: str) -> None:
    """Give a script the option `--verbose`, a number that is 1 where none is written; `levels` says what they do."""
    parser.add_argument(
        "--verbose", type=int, nargs="?", const=1, default=0, metavar="LEVEL", help=f"{levels} (default: 0)"
    )


def say(text: str) -> None:
    """Print a result; when nobody reads any more, work goes on all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def notice(text: str) -> None:
    """Say something that the user should know and need not act on."""
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def shortened(text: str, room: int) -> str:
    """Return a text in at most `room` characters, the last an ellipsis where it was cut."""
    return text if len(text) <= room else text[: room - 1] + "…"


class Progress(Protocol):
    """What work reports to while it is under way."""

    def advance(self, amount: int, text: Callable[[], str] | None = None) -> None:
        """Say that `amount` more units are done; what `text` returns, if it is drawn, stands behind the bar."""


@contextmanager
def progress(title: str, total: int, unit: str = "events", delay: float = 2.0) -> Iterator[Progress]:
    """Show a bar with rate and time left on stderr while the block runs.

    Nothing is drawn when stderr is no terminal, nor before `delay` seconds have passed; from then on it is drawn every
    second, however long a unit takes.
    """
    from tqdm import tqdm

    ended = Event()

    with tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        unit_scale=True,
        delay=delay,
        leave=False,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    ) as bar:
        clock = Thread(target=_tick, args=(bar, ended), name="progress", daemon=True)
        if not bar.disable:
            clock.start()
        try:
            yield _Bar(bar.update, None if bar.disable else bar.set_postfix_str)
        finally:
            ended.set()
            if clock.ident is not None:
                clock.join()


def _tick(bar: Any, ended: Event) -> None:
    if ended.wait(bar.delay):
        return
    bar.delay = 0  # or what is drawn here would stay when it has ended
    while not ended.is_set():
        bar.refresh()
        ended.wait(1)


class _Bar:
    def __init__(self, update: Callable[[int], object], postfix: Callable[[str, bool], object] | None) -> None:
        self._update = update
        self._postfix = postfix
        self._next = 0.0

    def advance(self, amount: int, text: Callable[[], str] | None = None) -> None:
        if text is not None and self._postfix and time.monotonic() >= self._next:
            self._postfix(text(), False)
            self._next = time.monotonic() + EACH
        self._update(amount)


@contextmanager
def filtered_stderr(chatter: str) -> Iterator[None]:
    """Hold back what the block writes to stderr, from C or Python, and let lines that do not match `chatter` pass."""
    sys.stderr.flush()
    keep = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(keep, 2)
            os.close(keep)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not re.match(chatter, line):
                    print(line, file=sys.stderr)


def memory() -> tuple[float, float]:
    """Return the resident and the swapped-out memory of this process, in MB (10^6 bytes)."""
    import psutil

    process = psutil.Process()
    try:
        swap = process.memory_full_info().swap
    except (AttributeError, psutil.Error):  # no swap figure on this system
        swap = 0
    return process.memory_info().rss / 1e6, swap / 1e6
