"""Callbacks of a training, and how SIGTERM and Ctrl-C stop it.

    callbacks = Callbacks(on_epoch_end=lambda epoch, best, fold: print(epoch.loss))
    with callbacks.stop_on_signals():
        train_model(..., callbacks=callbacks)

A script creates one `Callbacks` per run; all folds share it. `run` calls on_train_begin, `loop` calls on_epoch_end. A
signal sets `stop_training`. The effect depends on the code that is running:

* Stepwise training checks `stop_training` after every batch of training and validation. It saves a checkpoint and
  raises Stopped.
* One-shot training checks it for every batch that the model reads and after every round. If neither happens within
  GRACE_SECONDS, the signal handler raises Interrupted. There is no checkpoint, but completed folds are kept.
* In all other code the signal handler raises Interrupted (a KeyboardInterrupt) immediately, so that context managers
  can delete their temporary files.

A second Ctrl-C also interrupts training. A second SIGTERM is ignored.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlaas4hep.backends.protocol import Backend
from mlaas4hep.errors import MLaaS4HEPError
from mlaas4hep.training.history import Epoch, History
from mlaas4hep.training.logs import EpochLog

GRACE_SECONDS = 2.0
"""Time in which a one-shot model must read a batch or report a round; otherwise it is interrupted."""

REPEAT_SECONDS = 10.0
"""Time until code that ignores an interruption is interrupted again."""

START_AGAIN = "run the same command to start again"
CONTINUE_FROM_CHECKPOINT = "run the same command with --resume to continue from the last checkpoint"

SIGNAL_MESSAGES = {signal.SIGTERM: "stopped by SIGTERM", signal.SIGINT: "interrupted by Ctrl-C"}


class Stopped(MLaaS4HEPError):
    """The run was stopped. The message says how to continue; the exit code is 128 plus the number of the signal."""

    exit_code = 128 + signal.SIGTERM


class Interrupted(KeyboardInterrupt):
    """Raised by the signal handler. It is not an `Exception`, so that libraries do not catch it."""


@dataclass
class Callbacks:
    """Functions that are called during training, and the flag that stops it.

    Attributes:
        on_train_begin: called with the sample, the model and the index of the fold, before each model is trained.
        on_epoch_end: called after every epoch, with the epoch, whether it is the best so far, and the index of the
            fold. A resumed run also calls it for the epochs before the checkpoint.
        stop_training: set it to True to stop training after the current batch.
        log: table of the epochs of all folds; set by the run.
    """

    on_train_begin: Callable[[Any, Backend, int], None] | None = None
    on_epoch_end: Callable[[Epoch, bool, int], None] | None = None
    stop_training: bool = False
    log: EpochLog | None = None
    _grace: float = 0.0
    _signal: signal.Signals = signal.SIGTERM

    def end_epoch(self, epoch: Epoch, best: bool, fold: int, restored: bool = False) -> None:
        """Add an epoch to the log and call `on_epoch_end`; one that was `restored` is from a checkpoint."""
        if self.log:
            self.log.add(epoch, fold, restored)
        if self.on_epoch_end:
            self.on_epoch_end(epoch, best, fold)

    def restore_epochs(self, history: History, fold: int) -> None:
        """Report the epochs of a checkpoint."""
        lowest = math.inf
        for epoch in history.epochs:
            self.end_epoch(epoch, epoch.loss < lowest, fold, restored=True)
            lowest = min(lowest, epoch.loss)

    @contextmanager
    def interrupt_after(self, seconds: float = math.inf) -> Iterator[None]:
        """Delay interruptions by this many seconds in a block that checks `stop_training` itself."""
        before, self._grace = self._grace, seconds
        try:
            yield
        finally:
            self._grace = before
        if self.stop_training:  # set after the last check of the block
            raise Interrupted

    @contextmanager
    def explain_stop(self, hint: Callable[[], str]) -> Iterator[None]:
        """Raise Stopped with a hint if the block was stopped, also in place of errors that libraries raise then."""
        try:
            yield
        except (Interrupted, Exception) as error:
            stopped = error if isinstance(error, Stopped) else Stopped(SIGNAL_MESSAGES[self._signal])
            stopped.exit_code = 128 + self._signal
            if not self.stop_training or stopped.hint:
                raise
            stopped.hint = hint()
            raise stopped from (None if error is stopped else error)

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT (Ctrl-C) stop the block, which then raises Stopped."""
        numbers = (*SIGNAL_MESSAGES, signal.SIGALRM)
        before = {number: signal.signal(number, self._handle_signal) for number in numbers}
        try:
            with self.explain_stop(lambda: START_AGAIN):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle_signal(self, number: int, _: object) -> None:
        if number in SIGNAL_MESSAGES and not (self.stop_training and number == signal.SIGINT):
            if self.stop_training:  # already stopping
                return
            self.stop_training, self._signal = True, signal.Signals(number)
            if math.isfinite(self._grace):
                signal.setitimer(signal.ITIMER_REAL, self._grace or REPEAT_SECONDS, REPEAT_SECONDS)
            if self._grace:
                return
        raise Interrupted
