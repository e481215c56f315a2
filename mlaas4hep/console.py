"""Output of the scripts: errors, notices and progress bars, and their exit codes.

    exit_with(run(command, args))

Results are written to stdout, errors, notices and progress bars to stderr. Progress bars are shown in terminals only.
"""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import re
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread
from typing import IO, Any, NoReturn, Protocol

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, printable
from mlaas4hep.machine.threads import limit_threads
from mlaas4hep.write_errors import WriteFailed, failed_write, write_errno

TEXT_INTERVAL = 0.5
"""Seconds between updates of the text behind a progress bar, which may be slow, such as to fetch a loss from a GPU."""

SIGTERM_PAUSE = 10.0
"""Seconds after a SIGTERM during which further ones are ignored."""


def run(command: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run the command of a script, and print errors.

    Returns:
        The exit code: 0, or the return value of the command; the `exit_code` of an `MLaaS4HEPError`, whose message is
        printed (after its traceback with `--verbose`); 130 after Ctrl-C; 143 after SIGTERM; 1 after other errors.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  stays open until the process ends
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding cannot represent
    try:
        with _sigterm_as_exception():
            _check_umask()
            limit_threads()
            code = command(args) or 0
            sys.stdout.flush()  # raises the error of a full disk while it can still be reported
            return code
    except MLaaS4HEPError as error:
        if getattr(args, "verbose", 0):
            traceback.print_exc()
        return _fail(f"error: {error}", error.exit_code)
    except MemoryError as error:
        return _fail("error: not enough memory" + f": {error}" * bool(str(error)))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mlaas4hep"):
            raise
        return _fail(
            f"error: the package '{error.name}' is not installed; in a clone: make demo, then"
            " . .venv/bin/activate; elsewhere: pip install 'mlaas4hep[all]'"
        )
    except _Terminated:
        return _fail("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        _discard_stdout()
        return 0
    except OSError as error:
        failure = _failed_write(error)
        if failure is None:
            raise
        _discard_stdout()
        return _fail(f"error: {failure}")


def _fail(message: str, code: int = 1) -> int:
    print(message, file=sys.stderr)
    return code


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_with(code: int) -> NoReturn:
    """Exit with a code; Ctrl-C no longer interrupts, so that it cannot disturb the exit handlers of frameworks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


class _Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Raise _Terminated in the block on SIGTERM, so that temporary files are deleted, as on Ctrl-C.

    If the process already handles or ignores the signal, nothing is changed.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    ignored_until = -math.inf

    def terminate(number: int, frame: object) -> None:
        nonlocal ignored_until
        now = time.monotonic()
        if now >= ignored_until:  # `timeout` sends the signal twice; the second must not interrupt the clean-up
            ignored_until = now + SIGTERM_PAUSE
            raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_umask() -> None:
    """Raise ConfigError if the umask denies the process access to the files that it creates."""
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & stat.S_IRWXU:
        raise ConfigError(
            f"the umask {mask:04o} denies you access to your own new files", hint="set another: umask 022"
        )


def _failed_write(error: OSError) -> WriteFailed | None:
    """Return an error that names what could not be written, standard output or a file; None if no write failed."""
    if error.filename is None and write_errno(error) and _stdout_is_full():
        return WriteFailed("to standard output", error.errno)
    if error.errno == errno.EIO:  # for example if the terminal was closed
        return WriteFailed(error.filename or "to standard output", error.errno)
    return failed_write(error)


def _stdout_is_full() -> bool:
    """Return whether writing to standard output fails, tested with buffered text, or else with no bytes (/dev/full)."""
    descriptor = sys.stdout.fileno()
    try:
        sys.stdout.flush()
        os.write(descriptor, b"")
    except OSError as error:
        return bool(write_errno(error))
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.fstatvfs(descriptor).f_bavail == 0


class Parser(argparse.ArgumentParser):
    """Argument parser that prints one line per error and exits with code 1, as for all other errors.

    Empty values are errors, since they usually come from an unset shell variable. Options that may be empty have the
    type `str`.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.register("type", None, non_empty)

    def error(self, message: str) -> NoReturn:
        """Print an error and exit."""
        self.exit(1, f"error: {message}; all options: {self.prog} --help\n")


def non_empty(text: str) -> str:
    """Return the value of an option, which must not be empty; argparse adds the name of the option to the error."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def add_verbose(parser: argparse.ArgumentParser, levels: str) -> None:
    """Add the option `--verbose[=LEVEL]` to a parser, with level 1 as default; `levels` is its help text."""
    parser.add_argument(
        "--verbose", type=int, nargs="?", const=1, default=0, metavar="LEVEL", help=f"{levels} (default: 0)"
    )


def print_line(text: str) -> None:
    """Print one line of a result; if the reading end of a pipe is closed, the process continues without output."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        _discard_stdout()


def notice(text: str) -> None:
    """Print a notice: information that requires no action by the user."""
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, with an ellipsis at the end if it was shortened."""
    return text if len(text) <= width else text[: width - 1] + "…"


class Progress(Protocol):
    """Interface of progress bars."""

    def advance(self, amount: int, text: Callable[[], str] | None = None) -> None:
        """Report `amount` more units as done; `text`, called only if needed, returns a text to show behind the bar."""


@contextmanager
def progress(title: str, total: int, unit: str = "events", delay: float = 2.0) -> Iterator[Progress]:
    """Show a progress bar with rate and remaining time on stderr during the block.

    The bar is only drawn if stderr is a terminal, and after `delay` seconds. From then on, it is updated every second,
    even if one unit takes longer.
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
        _use_monotonic_clock(bar)
        clock = Thread(target=_tick, args=(bar, ended), name="progress", daemon=True)
        if not bar.disable:
            clock.start()
        try:
            yield _Bar(bar.update, None if bar.disable else bar.set_postfix_str)
        finally:
            ended.set()
            if clock.ident is not None:
                clock.join()


def _use_monotonic_clock(bar: Any) -> None:
    """Make a tqdm bar use a clock that is never set back, for which tqdm has no option."""
    bar._time = time.monotonic
    bar.start_t = bar.last_print_t = time.monotonic()


def _tick(bar: Any, ended: Event) -> None:
    if ended.wait(bar.delay):
        return
    bar.delay = 0  # otherwise tqdm would not clear the bar at the end
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
            self._next = time.monotonic() + TEXT_INTERVAL
        self._update(amount)


@contextmanager
def filtered_stderr(chatter: str) -> Iterator[None]:
    """Capture what the block writes to stderr, from C or Python, and print the lines that do not match a pattern.

    `chatter` is a regular expression of the lines to drop, matched from their beginning.
    """
    with tempfile.TemporaryFile() as captured:
        try:
            with _redirected("stderr", 2, captured):
                yield
        finally:
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not re.match(chatter, line):
                    print(line, file=sys.stderr)


@contextmanager
def discarded_stdout() -> Iterator[None]:
    """Discard what the block writes to stdout, from C or Python."""
    with open(os.devnull, "wb") as nothing, _redirected("stdout", 1, nothing):
        yield


@contextmanager
def _redirected(name: str, descriptor: int, file: IO[bytes]) -> Iterator[None]:
    """Redirect a standard stream, given its name in `sys` and its file descriptor, to a file during the block."""
    getattr(sys, name).flush()
    original = os.dup(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        getattr(sys, name).flush()
        os.dup2(original, descriptor)
        os.close(original)


def process_memory() -> tuple[float, float]:
    """Return the resident and the swapped memory of this process, in MB (10^6 bytes)."""
    import psutil

    process = psutil.Process()
    try:
        swap = process.memory_full_info().swap
    except (AttributeError, psutil.Error):  # the system does not report swapped memory
        swap = 0
    return process.memory_info().rss / 1e6, swap / 1e6
