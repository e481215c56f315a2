"""Checkpoints: the state of a training on disk, from which a stopped or killed run continues to the same result.

    checkpoint = Checkpoint(Path("model.checkpoint"), key)
    checkpoint.save(TrainingState(epoch=3), state, best)
    training_state, state, best = checkpoint.load()

A checkpoint is one file (an uncompressed zip archive), which atomically replaces the previous one. It contains no
pickles. Its key identifies the events, the parameters and the model file; a run with another key cannot load it.
"""

from __future__ import annotations

import json
import random
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.files import new_file, remove_unfinished
from mlaas4hep.training.history import Epoch

_STATE_MEMBER = "standing.json"
"""First member of the archive."""


@dataclass
class TrainingState:
    """Progress of a training.

    Attributes:
        epoch: index of the current epoch, from 0.
        batches: number of batches of the current epoch that were trained on.
        loss, weight: sums over these batches: of the weighted losses, and of the signed weights.
        events: number of events in these batches.
        seconds, waiting: duration of these batches, and the part of it that training waited for data.
        epochs: completed epochs.
        best: index of the best of them.
        slowed: index of the last epoch after which the learning rate was lowered.
        finished: whether training is complete.
    """

    epoch: int = 0
    batches: int = 0
    loss: float = 0.0
    weight: float = 0.0
    events: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    slowed: int = 0
    finished: bool = False


class Checkpoint:
    """The checkpoint file of a training; see the module's docstring."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key
        self._failed = False

    def save(self, training_state: TrainingState, state: bytes, best: bytes) -> bool:
        """Write the checkpoint.

        Args:
            state: state of the model and its optimizer.
            best: weights of the best epoch so far.

        Returns:
            Whether it was written; the first failure is reported.
        """
        content = asdict(training_state)
        for epoch in content["epochs"]:
            epoch["figures"] = epoch.pop("metrics")
        head = {"format": 1, "key": self._key, "standing": content, "random": _random_state()}
        try:
            with new_file(self.path, exclusive=True) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr(_STATE_MEMBER, json.dumps(head))
                archive.writestr("state", state)
                archive.writestr("best", best)
        except OSError as error:
            if not self._failed:
                console.notice(f"training continues without a new checkpoint: {error}")
            self._failed = True
            return False
        return True

    def load(self) -> tuple[TrainingState, bytes, bytes] | None:
        """Return the arguments of the last `save`, None without a checkpoint; restore the random number generators.

        Raises:
            ConfigError: another run has written the checkpoint.
            FileUnreadable: the checkpoint is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                head = json.loads(archive.read(_STATE_MEMBER))
                state, best = archive.read("state"), archive.read("best")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            what = f"cannot read the checkpoint {self.path}: {error}"
            raise FileUnreadable(what, hint="delete it to start again") from error
        if head["key"] != self._key:
            raise ConfigError(
                f"the checkpoint {self.path} belongs to a run with other files, labels,"
                " preprocessing, parameters or model file",
                hint="use those of that run, or start again without --resume",
            )
        _set_random_state(head["random"])
        content = head["standing"]
        content["epochs"] = [Epoch(metrics=epoch.pop("figures"), **epoch) for epoch in content["epochs"]]
        return TrainingState(**content), state, best

    def remove(self) -> None:
        """Delete the file, and temporary files that a killed process has left."""
        self.path.unlink(missing_ok=True)
        remove_unfinished(self.path)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file starts like a checkpoint; the rest of it may be damaged."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(64)
        return head.startswith(b"PK\x03\x04") and _STATE_MEMBER.encode() in head
    return False


def _random_state() -> dict[str, Any]:
    """Return the state of the global random number generators of Python and NumPy, which model files may use."""
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = state
    return {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
