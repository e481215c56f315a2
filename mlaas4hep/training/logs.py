"""What happens in training, as it happens, for other programs: a table of epochs, and TensorBoard's event files.

log = EpochLog(Path("model.epochs.csv"), tensorboard="runs")
log.add(epoch, fold=0)
log.text()                      # "fold,epoch,train_loss,loss,..."
"""

from __future__ import annotations

import csv
import io
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlaas4hep import console
from mlaas4hep.errors import require
from mlaas4hep.files import check_destination, new_file, remove_unfinished
from mlaas4hep.training.loop import Epoch, flat

_FIRST_COLUMNS = b"fold,epoch,"


class EpochLog:
    """Every epoch of a run; the table is written anew after each, once a second at most."""

    def __init__(self, path: Path, tensorboard: str = "") -> None:
        """Log to a CSV file, and to a folder of TensorBoard's, unless that is "".

        Raises:
            PackageMissing: TensorBoard is not installed.
            FileUnreadable: its folder cannot be written.
        """
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._written = float("-inf")
        self._failed = False
        self._folder = tensorboard
        self._writers: dict[int, Any] = {}
        if tensorboard:
            require("tensorboard.summary", "tensorboard", "writing event files")
            check_destination(Path(tensorboard, "events"))

    def add(self, epoch: Epoch, fold: int = 0, known: bool = False) -> None:
        """Log an epoch; one that is `known` was logged by the run that this one goes on with."""
        self._rows.append({"fold": fold, **flat(epoch)})
        if time.monotonic() - self._written > 1:  # trees have many rounds a second
            self._write()
            self._written = time.monotonic()
        if self._folder and not known:
            self._to_tensorboard(epoch, fold)

    def _write(self) -> None:
        try:
            with new_file(self.path, alone=True) as temporary:
                temporary.write_text(self.text(), encoding="utf-8")
        except OSError as error:  # the bundle will have it
            if not self._failed:
                console.notice(f"training goes on without a table of epochs: {error}")
            self._failed = True

    def text(self) -> str:
        """Return the table as CSV, a line an epoch."""
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
        values |= {f"{name}/validation": value for name, value in epoch.figures.items()}
        for name, value in values.items():
            writer.add_scalar(name, float(value), epoch.epoch)
        writer.flush()

    def close(self) -> None:
        """Close TensorBoard's files."""
        for writer in self._writers.values():
            writer.close()

    def remove(self) -> None:
        """Delete the table; a bundle has it."""
        self.path.unlink(missing_ok=True)
        remove_unfinished(self.path)


def is_epoch_table(path: Path) -> bool:
    """Return whether a file looks like a table of epochs."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_FIRST_COLUMNS)) == _FIRST_COLUMNS
    return False
