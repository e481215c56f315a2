"""Labels of events: classes, multilabel flags or regression targets.

    labels = labels_by_file(["ggH", "VBF"], ["a.root", "b.root"])
    labels.encode(file=1, events=3, columns={})        # array([1, 1, 1])

In a classification, the class of an event is the label of its file (a list, a comma-separated list, a file with one
label per line), the value of a branch, or the one of several branches (`label_*`) that is not 0. Without labels, the
model learns to separate the events from shuffled copies of them (`shuffled_copies`). Classes are sorted, numbers by
value and names alphabetically; classes that are branches keep the order of the file.

In a multilabel task, an event may have several labels, each of which is a branch. The targets of a regression are
branches too, or one number per file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep.comma_lists import abbreviated, split_list
from mlaas4hep.config import TaskName
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.expressions.cut import training_only_cut
from mlaas4hep.expressions.grammar import as_expression
from mlaas4hep.input_files import FOLDER, check_is_file, read_lines, special_kind
from mlaas4hep.io.formats.row_files import is_number
from mlaas4hep.io.storage.location import output_stems
from mlaas4hep.specs.specs import FLOAT32_MAX

MAX_CLASSES = 1000


@dataclass(frozen=True)
class Labels:
    """The source of the labels, and their encoding as y.

    Attributes:
        classes: names of the classes, of the flags of a multilabel task, or of the targets.
        by_file: class of each file, or None.
        by_number: target of each file, or None.
        branches: the branch that holds the class; or one branch per class, exactly one of which is not 0; or one branch
            per flag or target. If files have no labels either, the first class is shuffled copies.
        values: sorted value of each class, if one branch holds the class.
        task: whether y is a class, flags or targets.
        centre, spread: mean and standard deviation of each target of a regression.
        are_files: whether the events have no labels, and the classes are the files.
    """

    classes: tuple[str, ...]
    by_file: tuple[int, ...] | None = None
    by_number: tuple[float, ...] | None = None
    branches: tuple[str, ...] = ()
    values: np.ndarray | None = None
    task: TaskName = "classification"
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    are_files: bool = False

    @property
    def uses_shuffled_copies(self) -> bool:
        """Whether there are no labels, and the first class is shuffled copies of the events."""
        return self.by_file is None and self.by_number is None and not self.branches

    def encode(self, file: int, events: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return y of some events of a file, given the label branches, (events,) each.

        Returns:
            int64 (events,) in a classification, else float32 (events, classes).

        Raises:
            ConfigError: a label branch has an unknown class or a value that is not finite, or an event does not belong
                to exactly one class.
        """
        if self.task != "classification":
            return self._flags_or_targets(file, events, columns)
        if self.by_file is not None:
            return np.full(events, self.by_file[file], np.int64)
        if not self.branches:
            return np.ones(events, np.int64)
        if self.values is None:
            for name in self.branches:
                check_not_nan(name, columns[name])
            return self._class_of_flags([columns[name] != 0 for name in self.branches])
        column = columns[self.branches[0]]
        index = np.minimum(np.searchsorted(self.values, column), len(self.values) - 1)
        unknown = self.values[index] != column
        if unknown.any():
            value = column[unknown][0]
            raise ConfigError(
                f"label branch '{self.branches[0]}' has the value {value}; the classes are {abbreviated(self.classes)}",
                hint="the file has changed since it was first read: run again",
            )
        return index.astype(np.int64)

    def _flags_or_targets(self, file: int, events: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.by_number is not None:
            return np.full((events, 1), self.by_number[file], np.float32)
        for name in self.branches:
            invalid = ~(np.abs(columns[name]) <= FLOAT32_MAX)
            if invalid.any():
                raise ConfigError(
                    f"label branch '{name}' has the value {columns[name][invalid][0]}, which is not a finite float32"
                    " number",
                    hint=_removal(f"abs({as_expression(name)}) < 1e38"),
                )
        y = np.stack([columns[name] for name in self.branches], axis=1)
        return (y != 0 if self.task == "multilabel" else y).astype(np.float32)

    def _class_of_flags(self, flags: Sequence[np.ndarray]) -> np.ndarray:
        one_hot = np.stack(flags, axis=1)
        count = one_hot.sum(axis=1)
        if (count != 1).any():
            wrong = int(count[count != 1][0])
            raise ConfigError(
                f"an event has {wrong} of the labels {', '.join(self.branches)} instead of 1",
                hint="set 'task' to 'multilabel' in the params, or "
                + _removal(f"{' + '.join(map(as_expression, self.branches))} == 1"),
            )
        return np.asarray(one_hot.argmax(axis=1))


def check_not_nan(branch: str, values: np.ndarray) -> None:
    """Raise ConfigError if a label branch has NaN."""
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ConfigError(
            f"label branch '{branch}' is NaN for some events",
            hint=_removal(f"{as_expression(branch)} == {as_expression(branch)}"),
        )


def _removal(condition: str) -> str:
    """Return the hint to keep only events that fulfil a condition in training."""
    return f"remove such events in training, with --preproc: {training_only_cut(condition)}"


SHUFFLED_COPIES = Labels(("shuffled", "event"))


def read_labels(text: str) -> list[str] | str:
    """Parse `--labels`: return one label per file, or the name or pattern of branches.

    Raise FileUnreadable if the text looks like the path of a file that does not exist.
    """
    if os.path.isfile(text):
        return read_lines(text)
    looks_like_file = "/" in text or text.endswith((".txt", ".list", ".csv"))
    if looks_like_file or special_kind(text) != FOLDER:  # a branch may have the name of a folder
        check_is_file(text)
    labels = split_list(text)
    if len(labels) == 1 and text.lstrip().startswith('"'):  # a name with a comma
        return labels[0]
    if "," in text and labels != [text]:
        return labels
    if is_pattern(text):
        return text
    if looks_like_file:
        raise FileUnreadable(
            f"file not found: {text}", hint="--labels takes a file, a comma-separated list or a branch"
        )
    return text


def label_branches(wanted: str | Sequence[object] | None, task: TaskName) -> tuple[str, ...]:
    """Return names or patterns of the label branches; none if each file has one label, or there are no labels."""
    if wanted is None:
        return ()
    if isinstance(wanted, str):
        return (wanted,)
    names = [str(label) for label in wanted]
    if task == "multilabel" or (task == "regression" and not any(map(is_number, names))):
        return tuple(names)
    return ()


def is_pattern(text: str) -> bool:
    """Return whether a text is a glob or a /regular expression/ of branches."""
    return any(sign in text for sign in "*?[") or (len(text) > 2 and text[0] == text[-1] == "/")


def labels_by_file(labels: Sequence[object], files: Sequence[str]) -> Labels:
    """Return labels that give each file a class.

    Raise ConfigError if the numbers of labels and files differ, or all labels are equal.
    """
    _check_count(labels, files)
    names = [str(label) for label in labels]
    classes = sorted_classes(names)
    _check_classes(classes, "all files have the label")
    return Labels(classes, by_file=tuple(classes.index(name) for name in names))


def labels_of_files(files: Sequence[str]) -> Labels:
    """Return labels whose classes are the files, in their order; raise ConfigError if there is only one file."""
    stems = output_stems(files)
    names = [stem if stems.count(stem) == 1 else f"{stem} {number}" for number, stem in enumerate(stems, 1)]
    if len(names) < 2:
        raise ConfigError("'labels' is 'files', but there is only one file", hint="give two files, or set --labels")
    return Labels(tuple(names), by_file=tuple(range(len(names))), are_files=True)


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels: numbers first, sorted by value, then names, sorted alphabetically."""
    return tuple(sorted(set(labels), key=_sort_key))


def labels_by_branch(branch: str, values: np.ndarray) -> Labels:
    """Return labels whose classes are the sorted distinct values of a branch.

    Raises:
        ConfigError: the values are not integers, or there is only one, or more than MAX_CLASSES.
    """
    check_not_nan(branch, values)
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.round(values))).all():
        raise ConfigError(
            f"label branch '{branch}' has values that are not integers",
            hint="classes are integers; to estimate a number, set 'task' to 'regression' in the params",
        )
    if len(values) > MAX_CLASSES:
        raise ConfigError(
            f"label branch '{branch}' has {len(values)} distinct values, more than {MAX_CLASSES}",
            hint="to estimate a number, set 'task' to 'regression' in the params; or define classes with --preproc",
        )
    classes = tuple(str(int(value)) for value in values)
    _check_classes(classes, f"all events have '{branch}' =")
    return Labels(classes, branches=(branch,), values=values)


def labels_by_branches(branches: Sequence[str]) -> Labels:
    """Return labels with one branch of flags per class; raise ConfigError if there is only one."""
    _check_classes(branches, "there is one label branch,")
    return Labels(tuple(branches), branches=tuple(branches))


def targets_by_file(labels: Sequence[object], files: Sequence[str], events: Sequence[int]) -> Labels:
    """Return a regression target that has one value per file, given the number of events of each file.

    Raises:
        ConfigError: the numbers of labels and files differ, a label is not a finite number, or all are equal.
    """
    _check_count(labels, files)
    try:
        values = np.array([float(str(label)) for label in labels])
    except ValueError as error:
        raise ConfigError(
            f"the labels of a regression must be numbers: {error}",
            hint="give one number per file, or names of branches",
        ) from error
    for label, value in zip(labels, values, strict=True):
        if not abs(value) <= FLOAT32_MAX:
            raise ConfigError(
                f"the labels of a regression must be finite float32 numbers, not '{label}'",
                hint="give one number per file, or names of branches",
            )
    weight = np.maximum(np.array(events, np.float64), 1e-9)
    centre = float(np.average(values, weights=weight))
    spread = float(np.sqrt(np.average((values - centre) ** 2, weights=weight)))
    _check_spread(["target"], [spread])
    numbers = tuple(values.tolist())
    return Labels(("target",), by_number=numbers, task="regression", centre=(centre,), spread=(spread,))


def targets_by_branches(branches: Sequence[str], centre: Sequence[float], spread: Sequence[float]) -> Labels:
    """Return regression targets that are branches, given mean and standard deviation of each.

    Raise ConfigError if a target has the same value in all events.
    """
    _check_spread(branches, spread)
    names = tuple(branches)
    return Labels(names, branches=names, task="regression", centre=tuple(centre), spread=tuple(spread))


def _check_spread(names: Sequence[str], spread: Sequence[float]) -> None:
    for name, value in zip(names, spread, strict=True):
        if not value > 0 or not np.isfinite(value):
            raise ConfigError(
                f"target '{name}' has the same value in all events",
                hint="remove it from --labels, or give files in which it differs",
            )


def _check_count(labels: Sequence[object], files: Sequence[str]) -> None:
    if len(labels) != len(files):
        raise ConfigError(
            f"there are {len(labels)} labels for {len(files)} files", hint="give one label per file, in the same order"
        )


def _check_classes(classes: Sequence[str], what: str) -> None:
    if len(classes) < 2:
        only = classes[0] if classes else "nothing"
        raise ConfigError(f"{what} {only}: a classification needs two classes", hint="give two classes, or no labels")


def _sort_key(name: str) -> tuple[bool, float, str]:
    number = float(name) if is_number(name) else math.nan
    return (True, 0.0, name) if math.isnan(number) else (False, number, name)
