"""What the model learns to tell apart.

    labels = resolve_labels("labels.txt", files)

Labels are one a file (a list, a comma list, a file with one a line), or the values of a branch, or which of several
branches is not 0 (`label_*`), or none: then the model learns to tell the events from copies of themselves (`contrast`).
Classes are numbered in sorted order, numbers by value and names by alphabet; of branches as in the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
        branches: the branch that holds the class, or one for each class, of which one is 1 and the others are 0; with
            neither, events are told from shuffled copies.
        values: the one branch's value for each class, sorted.
    """

    classes: tuple[str, ...]
    by_file: tuple[int, ...] | None = None
    branches: tuple[str, ...] = ()
    values: np.ndarray | None = None

    @property
    def contrast(self) -> bool:
        """Whether there are no labels, and shuffled copies stand in for a second class."""
        return self.by_file is None and not self.branches

    def of(self, file: int, events: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return y of some events of a file, int64 (events,).

        Args:
            columns: the label branches, (events,) each.

        Raises:
            ConfigError: a label branch has a value that was not seen before, or an event is of no class, or of two.
        """
        if self.by_file is not None:
            return np.full(events, self.by_file[file], np.int64)
        if not self.branches:
            return np.ones(events, np.int64)
        if self.values is None:
            return self._only_one([columns[name] != 0 for name in self.branches])
        column = columns[self.branches[0]]
        index = np.minimum(np.searchsorted(self.values, column), len(self.values) - 1)
        strange = self.values[index] != column
        if strange.any():
            value = column[strange][0]
            raise ConfigError(f"label branch '{self.branches[0]}' has the value {value}, which is no class")
        return index.astype(np.int64)

    def _only_one(self, flags: Sequence[np.ndarray]) -> np.ndarray:
        one_hot = np.stack(flags, axis=1)
        count = one_hot.sum(axis=1)
        if (count != 1).any():
            found = int(count[count != 1][0])
            raise ConfigError(
                f"an event has {found} of the labels {', '.join(self.branches)}, not 1",
                hint="cut such events away with --preproc, or name other branches",
            )
        chosen: np.ndarray = one_hot.argmax(axis=1)
        return chosen


CONTRAST = Labels(("shuffled", "event"))


def read_labels(text: str) -> list[str] | str:
    """Return what `--labels` means: a label a file, or the name of a branch, or a pattern of several.

    Raises:
        FileUnreadable: it looks like a file and is none.
    """
    if os.path.isfile(text):
        return read_lines(text)
    if "," in text:
        return [label.strip() for label in text.split(",") if label.strip()]
    if is_pattern(text):
        return text
    if "/" in text or text.endswith((".txt", ".list", ".csv")):
        raise FileUnreadable(f"there is no file {text}", hint="--labels takes a file, a comma list or a branch")
    return text


def is_pattern(text: str) -> bool:
    """Whether it is a glob or /regular expression/ of branches."""
    return any(sign in text for sign in "*?[") or (len(text) > 2 and text[0] == text[-1] == "/")


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
    return Labels(classes, branches=(branch,), values=values)


def labels_by_branches(branches: Sequence[str]) -> Labels:
    """Return labels that are flags, a branch for each class.

    Raises:
        ConfigError: there is only one.
    """
    _check_classes(branches, "there is one label branch,")
    return Labels(tuple(branches), branches=tuple(branches))


def _check_classes(classes: Sequence[str], what: str) -> None:
    if len(classes) < 2:
        only = classes[0] if classes else "nothing"
        raise ConfigError(f"{what} {only}: there is nothing to tell apart", hint="give two classes, or no labels")


def _sort_key(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name
