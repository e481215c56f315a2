"""Logs of the epochs, written during training: a CSV table, and event files for TensorBoard.

log = EpochLog(Path("model.epochs.csv"), tensorboard="runs")
log.add(epoch, fold=0)
log.text()                      # "fold,epoch,train_loss,loss,..."
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlaas4hep import console
from mlaas4hep.errors import error_text, require
from mlaas4hep.files import check_writable, new_file, remove_unfinished
from mlaas4hep.training.history import Epoch

_FIRST_COLUMNS = b"fold,epoch,"


class EpochLog:
    """The epochs of a run. The table is rewritten after each epoch, but at most once per second."""

    def __init__(self, path: Path, tensorboard: str = "") -> None:
        """Create a log.

        Args:
            path: path of the CSV file.
            tensorboard: folder of event files for TensorBoard; "": none are written.

        Raises:
            PackageMissing: TensorBoard is not installed.
            FileUnreadable: the folder cannot be written.
        """
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._last_write = float("-inf")
        self._failed = False
        self._folder = tensorboard
        self._writers: dict[int, Any] = {}
        if tensorboard:
            require("tensorboard.summary", "tensorboard", "writing event files")
            check_writable(Path(tensorboard, "events"))

    def add(self, epoch: Epoch, fold: int = 0, restored: bool = False) -> None:
        """Log an epoch; one that was `restored` from a checkpoint is in the event files already."""
        self._rows.append({"fold": fold, **epoch.to_json()})
        if time.monotonic() - self._last_write > 1:  # boosted trees have many rounds per second
            self._write()
            self._last_write = time.monotonic()
        if self._folder and not restored:
            with self._explain_tensorboard():
                self._to_tensorboard(epoch, fold)

    def _write(self) -> None:
        try:
            with new_file(self.path, exclusive=True) as temporary:
                temporary.write_text(self.text(), encoding="utf-8")
        except OSError as error:  # the bundle contains the table in any case
            if not self._failed:
                console.notice(f"training continues without a table of epochs: {error}")
            self._failed = True

    def text(self) -> str:
        """Return the table as CSV, one line per epoch."""
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        return text.getvalue()

    def _to_tensorboard(self, epoch: Epoch, fold: int) -> None:
        if fold not in self._writers:
            summary = require("tensorboard.summary", "tensorboard", "writing event files")
            self._writers[fold] = summary.Writer(str(Path(self._folder, f"fold{fold}") if fold else self._folder))
        writer = self._writers[fold]
        values = {"loss/training": epoch.train_loss, "seconds": epoch.seconds, "waiting": epoch.waiting}
        values |= {f"{name}/validation": value for name, value in epoch.metrics.items()}
        for name, value in values.items():
            writer.add_scalar(name, float(value), epoch.epoch)
        writer.flush()

    @contextmanager
    def _explain_tensorboard(self) -> Iterator[None]:
        """Continue without event files if they cannot be written; TensorFlow raises its own types of errors."""
        try:
            yield
        except Exception as error:
            reason = f"cannot write {self._folder}: {error_text(error)}"
            console.notice(f"training continues without event files for TensorBoard: {reason}")
            self._folder = ""
            self._writers.clear()

    def close(self) -> None:
        """Close the event files."""
        with self._explain_tensorboard():
            for writer in self._writers.values():
                writer.close()

    def remove(self) -> None:
        """Delete the table, of which the bundle has a copy."""
        self.path.unlink(missing_ok=True)
        remove_unfinished(self.path)


def is_epoch_table(path: Path) -> bool:
    """Return whether a file looks like a table of epochs."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_FIRST_COLUMNS)) == _FIRST_COLUMNS
    return False
