"""What SIGTERM, by which batch systems end a job, and Ctrl-C do to a run: it ends soon, and leaves nothing half done.

    stop = Stop()
    with stop.by_signals():
        train_model(..., watch=Watch(stop=stop))

Training looks by itself whether it is to stop, and keeps a checkpoint first. All else is interrupted where it stands
by a KeyboardInterrupt, so that whoever has made a temporary file deletes it. Ctrl-C once more interrupts training, too.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlaas4hep.errors import MLaaS4HEPError

PATIENCE = 2.0
"""Seconds that a model which trains itself may take until it asks for a batch, or tells of a round."""

BEGIN_ANEW = "the same command begins this anew"

AGAIN = 10.0
"""Seconds until what is interrupted, and goes on all the same, is interrupted once more."""


WORDS = {signal.SIGTERM: "stopped by SIGTERM", signal.SIGINT: "interrupted by Ctrl-C"}


class Stopped(MLaaS4HEPError):
    """The run was asked to stop; the message says how it goes on, and the exit code is 128 plus the signal's number."""

    exit_code = 128 + signal.SIGTERM


class Interrupted(KeyboardInterrupt):
    """What a signal raises, wherever the run is; whoever catches every `Exception` lets it pass."""


@dataclass
class Stop:
    """Whether a run is to stop.

    Attributes:
        asked: set it, and training stops after the batch under way.
    """

    asked: bool = False
    _patience: float = 0.0
    _signal: signal.Signals = signal.SIGTERM

    @contextmanager
    def looked_for(self, patience: float = math.inf) -> Iterator[None]:
        """Do not interrupt the block, which looks at `asked` by itself, for so many seconds."""
        before, self._patience = self._patience, patience
        try:
            yield
        finally:
            self._patience = before
        if self.asked:  # too late for the block to see it
            raise Interrupted

    @contextmanager
    def explained(self, hint: Callable[[], str]) -> Iterator[None]:
        """Say of a block that was stopped what to do; libraries may have made another error of the interruption.

        Raises:
            Stopped: the block was stopped.
        """
        try:
            yield
        except (Interrupted, Exception) as error:
            stopped = error if isinstance(error, Stopped) else Stopped(WORDS[self._signal])
            stopped.exit_code = 128 + self._signal
            if not self.asked or stopped.hint:
                raise
            stopped.hint = hint()
            raise stopped from (None if error is stopped else error)

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT (Ctrl-C) stop the block.

        Raises:
            Stopped: it did.
        """
        before = {number: signal.signal(number, self._take) for number in (*WORDS, signal.SIGALRM)}
        try:
            with self.explained(lambda: BEGIN_ANEW):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _: object) -> None:
        if number in WORDS and not (self.asked and number == signal.SIGINT):
            if self.asked:  # it is ending
                return
            self.asked, self._signal = True, signal.Signals(number)
            if math.isfinite(self._patience):
                signal.setitimer(signal.ITIMER_REAL, self._patience or AGAIN, AGAIN)
            if self._patience:
                return
        raise Interrupted
