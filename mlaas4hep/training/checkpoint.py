"""Where a run stands, on disk, so that a run that was killed goes on to the same end.

    checkpoint = Checkpoint(Path("model.checkpoint"), key)
    checkpoint.save(Standing(epoch=3), state, best)
    standing, state, best = checkpoint.load()

A checkpoint is one file (a zip archive without compression) that replaces the one before in a single step; nothing in
it is pickled. Its key names the events, the parameters and the model file: with others it is refused.
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

_STANDING = "standing.json"
"""The first member of the archive that a checkpoint is."""


@dataclass
class Standing:
    """How far a run has come.

    Attributes:
        epoch: number of the epoch under way, from 0.
        batches: of that epoch, which were trained on.
        loss, weight: sums over these batches: of the signed terms of the loss, and of weights.
        events: of these batches.
        seconds, waiting: of these batches, in all and of waiting for data.
        epochs: what is known of the epochs before, as `Epoch` has it.
        best: index of the best of them.
        slowed: index of the last one after which the learning rate was lowered.
        finished: whether nothing is left to do.
    """

    epoch: int = 0
    batches: int = 0
    loss: float = 0.0
    weight: float = 0.0
    events: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    slowed: int = 0
    finished: bool = False


class Checkpoint:
    """A file that holds where a run stands; see the module's docstring."""

    def __init__(self, path: Path, key: str) -> None:
        """Use a path, for the run of a key."""
        self.path = path
        self._key = key
        self._failed = False

    def save(self, standing: Standing, state: bytes, best: bytes) -> bool:
        """Write where the run stands, with the state of model and optimizer, and the best weights so far.

        Returns:
            Whether it could be written; where not, that is said once.
        """
        head = {"format": 1, "key": self._key, "standing": asdict(standing), "random": _random_state()}
        try:
            with new_file(self.path, alone=True) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr(_STANDING, json.dumps(head))
                archive.writestr("state", state)
                archive.writestr("best", best)
        except OSError as error:
            if not self._failed:
                console.notice(f"training goes on without a new checkpoint: {error}")
            self._failed = True
            return False
        return True

    def load(self) -> tuple[Standing, bytes, bytes] | None:
        """Return what was saved, None where there is nothing; random numbers go on from there.

        Raises:
            ConfigError: it was saved by another run.
            FileUnreadable: it is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                head = json.loads(archive.read(_STANDING))
                state, best = archive.read("state"), archive.read("best")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise FileUnreadable(
                f"the checkpoint {self.path} cannot be read: {error}", hint="delete it and begin anew"
            ) from error
        if head["key"] != self._key:
            raise ConfigError(
                f"the checkpoint {self.path} belongs to a run with other files, labels,"
                " preprocessing, parameters or model file",
                hint="give what that run was given, or leave out --resume to begin anew",
            )
        _set_random_state(head["random"])
        return Standing(**head["standing"]), state, best

    def remove(self) -> None:
        """Delete the file, and what a killed process may have left of another."""
        self.path.unlink(missing_ok=True)
        remove_unfinished(self.path)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file begins like a checkpoint; the rest of it may be damaged."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(64)
        return head.startswith(b"PK\x03\x04") and _STANDING.encode() in head
    return False


def _random_state() -> dict[str, Any]:
    """Return the global random numbers of Python and NumPy, which model files may draw from."""
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = state
    return {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
