"""What a report says of scores: are those of training and test events alike, and do they mean what they say?

    scores(train, test, ["VBF", "ggH"]), confusion(test, classes), calibration_of(test, classes)

Each function returns HTML; `report` puts it into its page. A label is judged as two classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mlaas4hep.training import plots
from mlaas4hep.training.loop import Scored
from mlaas4hep.training.metrics import (
    Calibration,
    all_classes,
    calibration,
    confusion_matrix,
    effective_events,
    kolmogorov_smirnov,
)
from mlaas4hep.training.page import details, number, paragraph, table, total
from mlaas4hep.training.task import Task

MOST_CELLS, MOST_SCORES, MOST_CONFUSIONS = 20, 6, 20
"""Classes whose confusion matrix, and whose scores, are drawn; confusions that are listed instead."""

BINS = "Points: ten bins of the test part, with 68 % binomial intervals for effective numbers of events."

CHANCE, FAR = 0.01, 3
"""p-value below which, and standard errors beyond which, a difference is called one."""


def scores(train: Scored, test: Scored, classes: Sequence[str]) -> str:
    """Show how the scores of each class are distributed, and say whether training and test part differ."""
    caption = "Filled: training part, points: test part with statistical errors; with event weights, each of area 1."
    drawings = []
    for one in [1] if len(classes) == 2 else range(min(len(classes), MOST_SCORES)):
        groups = [(name, [index]) for index, name in enumerate(classes)]
        if len(classes) > 2:
            groups = [groups[one], ("others", [index for index in range(len(classes)) if index != one])]
        drawings.append((partial(plots.scores, train, test, one, groups, classes[one]), caption))
    return plots.draw(drawings, _overtraining(train, test, classes))


def scores_of_labels(train: Scored, test: Scored) -> str:
    """For each label, do for events with and without it what `scores` does for two classes."""
    names = test.task.classes
    caption = "Events with and without the label. Filled: training part, points: test part; each of area 1."
    drawings, texts = [], []
    for index, name in enumerate(names):
        parts, classes = (_of_label(train, index), _of_label(test, index)), (f"without {name}", f"with {name}")
        groups = [(classes[0], [0]), (classes[1], [1])]
        drawings.append((partial(plots.scores, *parts, 1, groups, name), caption))
        texts.append(details(name, _overtraining(*parts, classes, len(names)), opened=index < MOST_SCORES))
    return plots.draw(drawings[:MOST_SCORES], "".join(texts), aside=False)


def calibration_of_labels(test: Scored) -> str:
    """Compare the probability of each label with the share of events that have it."""
    drawings, texts = [], []
    for index, name in enumerate(test.task.classes):
        one = _of_label(test, index)
        found = calibration(one.y == 1, one.scores[:, 0], one.weight)
        drawings.append((partial(plots.reliability, found, f"of {name}"), f"{name}: {BINS}"))
        texts.append(details(name, _calibrated(found, f"of {name}"), opened=index < MOST_SCORES))
    return plots.draw(drawings[:MOST_SCORES], "".join(texts), aside=False)


def _of_label(scored: Scored, index: int) -> Scored:
    """Return one label as two classes: events without it and events with it."""
    y, scores = scored.members(index).astype(np.int64), scored.scores[:, index : index + 1]
    return Scored(y, scores, scored.weight, Task.classification(2))


def _overtraining(train: Scored, test: Scored, classes: Sequence[str], among: int = 1) -> str:
    """Say whether the scores of training and test events of a class are of one distribution.

    Args:
        among: how many of these statements there are.
    """
    rows, differ, known, limit = [], [], False, CHANCE / len(classes) / among
    for index, name in enumerate(classes):
        column = 1 if len(classes) == 2 else index
        (first, first_weight), (second, second_weight) = (
            (all_classes(part.scores)[part.y == index, column], part.weight[part.y == index]) for part in (train, test)
        )
        distance, p = kolmogorov_smirnov(first, second, first_weight, second_weight)
        known |= bool(np.isfinite(p))
        if p < limit:
            differ.append(name)
        sizes = [f"{effective_events(weight):,.0f}" for weight in (first_weight, second_weight)]
        rows.append([name, number(distance), f"{p:.2g}" if np.isfinite(p) else "", *sizes])
    scores = (
        f"The scores of training and test events differ by more than chance for {_classes(differ)} (p < {limit:.2g})."
        if differ
        else f"The scores of training and test events differ no more than chance lets them (p > {limit:.2g})."
    )
    gap, far = _gap(train, test, classes)
    if not known:
        scores = "There are too few events to compare the scores."
    verdict = "Overtraining." if differ or far else "No sign of overtraining." if known else ""
    head = ["class", "distance", "p-value", "training events", "test events"]
    caption = "Kolmogorov-Smirnov test of each class's score, training against test; events are effective numbers."
    return paragraph(" ".join((verdict, scores, gap)).strip()) + table(caption, head, rows, 1)


def _classes(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f"class{'es' if len(names) > 1 else ''} {shown}"


def _gap(train: Scored, test: Scored, classes: Sequence[str]) -> tuple[str, bool]:
    """Say how much higher the AUC of the training part is, and whether that is more than chance."""
    gap = train.figures()["auc"] - test.figures()["auc"]
    if not np.isfinite(gap):
        return "", False
    words = f"The AUC of the training part is {abs(gap):.4f} {'higher' if gap >= 0 else 'lower'}"
    if len(classes) > 2:
        return f"{words}.", False
    errors = [plots.one_against_others(part, classes)[0].uncertainty for part in (train, test)]
    error = float(np.linalg.norm(errors))
    far = gap > FAR * error
    by = f", {abs(gap) / error:.1f} standard errors" if error else ""
    return f"{words}{by}{': more than chance' if far else ''}.", far


def confusion(test: Scored, classes: Sequence[str]) -> str:
    """Show what events of each class are taken for."""
    sums = confusion_matrix(test.y, test.scores, test.weight)
    whole = sums.sum(axis=1, keepdims=True)
    shares = np.divide(sums, whole, out=np.full_like(sums, np.nan), where=whole != 0)
    if len(classes) > MOST_CELLS:
        wrong = np.where(np.eye(len(classes), dtype=bool), -np.inf, np.nan_to_num(shares, nan=-np.inf))
        pairs = [divmod(int(cell), len(classes)) for cell in np.argsort(-wrong, axis=None)[:MOST_CONFUSIONS]]
        rows = [[classes[true], classes[taken], f"{shares[true, taken]:.4f}"] for true, taken in pairs]
        caption = f"The most frequent confusions of {len(classes)} classes, test part, with event weights."
        return table(caption, ["class", "taken for", "share"], rows, 2)
    rows = [[name, *map(total, row)] for name, row in zip(classes, sums.tolist(), strict=True)]
    return plots.draw(
        [(partial(plots.confusion, shares, classes), "Share of each true class, test part, with event weights.")],
        table("Sums of weights: true classes down, most probable ones across.", ["", *classes], rows, 1),
    )


def calibration_of(test: Scored, classes: Sequence[str]) -> str:
    """Compare predicted probabilities with the share of events that are so."""
    probabilities = all_classes(test.scores)
    if len(classes) == 2:
        found, of = calibration(test.y == 1, probabilities[:, 1], test.weight), f"of {classes[1]}"
    else:
        taken = probabilities.argmax(axis=1)
        found, of = calibration(taken == test.y, probabilities.max(axis=1), test.weight), "of the most probable class"
    return plots.draw([(partial(plots.reliability, found, of), BINS)], _calibrated(found, of))


def _calibrated(found: Calibration, of: str) -> str:
    rows = [
        [number(value) for value in row]
        for row in zip(found.predicted, found.observed, found.low, found.high, found.share, strict=True)
    ]
    head = ["predicted", "observed", "from", "to", "share of events"]
    words = (
        f"Expected calibration error: {found.expected_error:.4f}. By so much the predicted probability {of} differs,"
        " on average over the test part, from the share of events that are so."
    )
    return paragraph(words) + table("The same in numbers.", head, rows, 0)
