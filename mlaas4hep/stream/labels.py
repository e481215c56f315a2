"""What the model learns to tell apart.

    labels = resolve_labels("labels.txt", files)

Labels are one a file (a list, a comma list, a file with one a line), or the values of a branch, or which of several
branches is not 0 (`label_*`), or none: then the model learns to tell the events from copies of themselves (`contrast`).
Classes are numbered in sorted order, numbers by value and names by alphabet; of branches as in the file.

Events of several labels at the same time (multilabel) have one branch for each. Numbers to be estimated (regression)
are branches too, or one number a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep.config import TaskName
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.input_files import FOLDER, check_is_file, read_lines, special_kind
from mlaas4hep.lists import some, split_list
from mlaas4hep.reader.specs import FLOAT32_MAX

MAX_CLASSES = 1000


@dataclass(frozen=True)
class Labels:
    """What the model learns to tell apart.

    Attributes:
        classes: names of the classes, y counts them from 0; of the labels that an event may have; or of the targets.
        by_file: the class of each file, or None.
        by_number: the target of each file, or None.
        branches: the branch that holds the class, or one for each class, of which one is 1 and the others are 0; or one
            for each label or target. With neither, events are told from shuffled copies.
        values: the one branch's value for each class, sorted.
        task: whether y is a class, labels or targets.
        centre, spread: of regression, mean and standard deviation of each target in the sample.
    """

    classes: tuple[str, ...]
    by_file: tuple[int, ...] | None = None
    by_number: tuple[float, ...] | None = None
    branches: tuple[str, ...] = ()
    values: np.ndarray | None = None
    task: TaskName = "classification"
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def contrast(self) -> bool:
        """Whether there are no labels, and shuffled copies stand in for a second class."""
        return self.by_file is None and self.by_number is None and not self.branches

    def of(self, file: int, events: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return y of some events of a file: int64 (events,), or float32 (events, classes) of labels and targets.

        Args:
            columns: the label branches, (events,) each.

        Raises:
            ConfigError: a label branch has a value that was not seen before, or that is no number, or an event is of no
                class, or of two.
        """
        if self.task != "classification":
            return self._numbers(file, events, columns)
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
            raise ConfigError(
                f"label branch '{self.branches[0]}' has the value {value}, which is no class of {some(self.classes)}",
                hint="the file was changed after it was first read: run again",
            )
        return index.astype(np.int64)

    def _numbers(self, file: int, events: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.by_number is not None:
            return np.full((events, 1), self.by_number[file], np.float32)
        for name in self.branches:
            if not (np.abs(columns[name]) <= FLOAT32_MAX).all():
                raise ConfigError(
                    f"label branch '{name}' of an event is no finite number (of float32)",
                    hint="cut such events away with --preproc",
                )
        y = np.stack([columns[name] for name in self.branches], axis=1)
        return (y != 0 if self.task == "multilabel" else y).astype(np.float32)

    def _only_one(self, flags: Sequence[np.ndarray]) -> np.ndarray:
        one_hot = np.stack(flags, axis=1)
        count = one_hot.sum(axis=1)
        if (count != 1).any():
            found = int(count[count != 1][0])
            raise ConfigError(
                f"an event has {found} of the labels {', '.join(self.branches)}, not 1",
                hint="cut such events away with --preproc, or set 'task' to 'multilabel' in the params",
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
    looks_like_file = "/" in text or text.endswith((".txt", ".list", ".csv"))
    if looks_like_file or special_kind(text) != FOLDER:  # a branch may have the name of a folder
        check_is_file(text)
    labels = split_list(text)
    if "," in text and labels != [text]:
        return labels
    if is_pattern(text):
        return text
    if looks_like_file:
        raise FileUnreadable(f"there is no file {text}", hint="--labels takes a file, a comma list or a branch")
    return text


def label_branches(wanted: str | Sequence[object] | None, task: TaskName) -> tuple[str, ...]:
    """Return which branches hold the labels, as names or patterns; none if files have labels, or nothing has."""
    if wanted is None:
        return ()
    if isinstance(wanted, str):
        return (wanted,)
    names = [str(label) for label in wanted]
    if task == "multilabel" or (task == "regression" and not any(map(_is_number, names))):
        return tuple(names)
    return ()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_pattern(text: str) -> bool:
    """Whether it is a glob or /regular expression/ of branches."""
    return any(sign in text for sign in "*?[") or (len(text) > 2 and text[0] == text[-1] == "/")


def labels_by_file(labels: Sequence[object], files: Sequence[str]) -> Labels:
    """Return labels of which each file has one.

    Raises:
        ConfigError: there are more or fewer than files, or all are the same.
    """
    _check_count(labels, files)
    names = [str(label) for label in labels]
    classes = sorted_classes(names)
    _check_classes(classes, "all files have the label")
    return Labels(classes, by_file=tuple(classes.index(name) for name in names))


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the different ones of some labels, numbers first and by value, names by alphabet."""
    return tuple(sorted(set(labels), key=_sort_key))


def labels_by_branch(branch: str, values: np.ndarray) -> Labels:
    """Return labels that a branch holds, given all its different values, sorted.

    Raises:
        ConfigError: its values are no classes: not whole numbers, only one, or more than MAX_CLASSES.
    """
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.round(values))).all():
        raise ConfigError(
            f"label branch '{branch}' holds numbers that are not whole",
            hint="classes are whole numbers; to estimate a number set 'task' to 'regression' in the params",
        )
    if len(values) > MAX_CLASSES:
        raise ConfigError(
            f"label branch '{branch}' has {len(values)} different values, more than {MAX_CLASSES}",
            hint="to estimate a number set 'task' to 'regression' in the params; or make classes of it with --preproc",
        )
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


def flags_by_branches(branches: Sequence[str]) -> Labels:
    """Return labels of which an event may have any number, a branch for each."""
    return Labels(tuple(branches), branches=tuple(branches), task="multilabel")


def targets_by_file(labels: Sequence[object], files: Sequence[str], events: Sequence[int]) -> Labels:
    """Return a target of which each file has one value.

    Args:
        events: of each file.

    Raises:
        ConfigError: there are more or fewer than files, one is no number, or all are the same.
    """
    _check_count(labels, files)
    try:
        values = np.array([float(str(label)) for label in labels])
    except ValueError as error:
        raise ConfigError(
            f"the labels of a regression are numbers: {error}", hint="give one number a file, or names of branches"
        ) from error
    for label, value in zip(labels, values, strict=True):
        if not abs(value) <= FLOAT32_MAX:
            raise ConfigError(
                f"the labels of a regression are numbers, and '{label}' is no finite one (of float32)",
                hint="give one number a file, or names of branches",
            )
    weight = np.maximum(np.array(events, np.float64), 1e-9)
    centre = float(np.average(values, weights=weight))
    spread = float(np.sqrt(np.average((values - centre) ** 2, weights=weight)))
    _check_spread(["target"], [spread])
    numbers = tuple(values.tolist())
    return Labels(("target",), by_number=numbers, task="regression", centre=(centre,), spread=(spread,))


def targets_by_branches(branches: Sequence[str], centre: Sequence[float], spread: Sequence[float]) -> Labels:
    """Return targets that branches hold, given mean and standard deviation of each.

    Raises:
        ConfigError: one is the same in all events.
    """
    _check_spread(branches, spread)
    names = tuple(branches)
    return Labels(names, branches=names, task="regression", centre=tuple(centre), spread=tuple(spread))


def _check_spread(names: Sequence[str], spread: Sequence[float]) -> None:
    for name, value in zip(names, spread, strict=True):
        if not value > 0 or not np.isfinite(value):
            raise ConfigError(
                f"'{name}' is the same in all events: there is nothing to estimate",
                hint="leave it out of --labels, or give files in which it differs",
            )


def _check_count(labels: Sequence[object], files: Sequence[str]) -> None:
    if len(labels) != len(files):
        raise ConfigError(
            f"there are {len(labels)} labels for {len(files)} files", hint="give one label a file, in the same order"
        )


def _check_classes(classes: Sequence[str], what: str) -> None:
    if len(classes) < 2:
        only = classes[0] if classes else "nothing"
        raise ConfigError(f"{what} {only}: there is nothing to tell apart", hint="give two classes, or no labels")


def _sort_key(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (True, 0.0, name) if math.isnan(number) else (False, number, name)
