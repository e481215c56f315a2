"""What the model learns to tell apart.

    labels = resolve_labels("labels.txt", files)

Labels are one a file (a list, a comma list, a file with one a line), or the values of a branch, or none: then the
model learns to tell the events from copies of themselves (`contrast`). Classes are numbered in sorted order: numbers by
value, names by alphabet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.files import read_lines

MAX_CLASSES = 1000


@dataclass(frozen=True)
class Labels:
    """What the model learns to tell apart.

    Attributes:
        classes: names of the classes; y counts them from 0.
        by_file: the class of each file, or None.
        branch: the branch that holds the class, or None; with neither, events are told from shuffled copies.
        values: the branch's value for each class, sorted.
    """

    classes: tuple[str, ...]
    by_file: tuple[int, ...] | None = None
    branch: str | None = None
    values: np.ndarray | None = None

    @property
    def contrast(self) -> bool:
        """Whether there are no labels, and shuffled copies stand in for a second class."""
        return self.by_file is None and self.branch is None

    def of(self, file: int, events: int, column: np.ndarray | None) -> np.ndarray:
        """Return y of some events of a file, int64 (events,).

        Raises:
            ConfigError: the label branch has a value that was not seen before.
        """
        if self.by_file is not None:
            return np.full(events, self.by_file[file], np.int64)
        if self.values is None or column is None:
            return np.ones(events, np.int64)
        index = np.minimum(np.searchsorted(self.values, column), len(self.values) - 1)
        strange = self.values[index] != column
        if strange.any():
            raise ConfigError(f"label branch '{self.branch}' has the value {column[strange][0]}, which is no class")
        return index.astype(np.int64)


CONTRAST = Labels(("shuffled", "event"))


def read_labels(text: str) -> list[str] | str:
    """Return what `--labels` means: a label a file, or the name of a branch.

    Raises:
        FileUnreadable: it looks like a file and is none.
    """
    if os.path.isfile(text):
        return read_lines(text)
    if "," in text:
        return [label.strip() for label in text.split(",") if label.strip()]
    if "/" in text or text.endswith((".txt", ".list", ".csv")):
        raise FileUnreadable(f"there is no file {text}", hint="--labels takes a file, a comma list or a branch")
    return text


def labels_by_file(labels: Sequence[object], files: Sequence[str]) -> Labels:
    """Return labels of which each file has one.

    Raises:
        ConfigError: there are more or fewer than files, or all are the same.
    """
    if len(labels) != len(files):
        raise ConfigError(
            f"there are {len(labels)} labels for {len(files)} files", hint="give one label a file, in the same order"
        )
    names = [str(label) for label in labels]
    classes = tuple(sorted(set(names), key=_sort_key))
    _check_classes(classes, "all files have the label")
    return Labels(classes, by_file=tuple(classes.index(name) for name in names))


def labels_by_branch(branch: str, values: np.ndarray) -> Labels:
    """Return labels that a branch holds, given all its different values, sorted.

    Raises:
        ConfigError: its values are no classes: not whole numbers, only one, or more than MAX_CLASSES.
    """
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.round(values))).all():
        raise ConfigError(
            f"label branch '{branch}' holds numbers that are not whole",
            hint="classes are whole numbers; make some with --preproc",
        )
    if len(values) > MAX_CLASSES:
        raise ConfigError(f"label branch '{branch}' has {len(values)} different values, more than {MAX_CLASSES}")
    classes = tuple(str(int(value)) for value in values)
    _check_classes(classes, f"all events have '{branch}' =")
    return Labels(classes, branch=branch, values=values)


def _check_classes(classes: Sequence[str], what: str) -> None:
    if len(classes) < 2:
        only = classes[0] if classes else "nothing"
        raise ConfigError(f"{what} {only}: there is nothing to tell apart", hint="give two classes, or no labels")


def _sort_key(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name
