"""Report sections on scores: distributions with a test of overtraining, confusion matrix, calibration.

    score_distributions(train, test, ["VBF", "ggH"]), confusion(test, classes), calibration_curve(test, classes)

Each function returns HTML. A label of a multi-label task is treated as a binary classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mlaas4hep.backends.metrics import (
    Calibration,
    all_classes,
    calibration,
    confusion_matrix,
    effective_events,
    kolmogorov_smirnov,
)
from mlaas4hep.backends.task import Task
from mlaas4hep.report import plots
from mlaas4hep.report.page import details, number, paragraph, table, total
from mlaas4hep.report.roc import one_vs_rest_curves

if TYPE_CHECKING:
    from mlaas4hep.training.loop import Predictions

MAX_MATRIX_CLASSES = 20
"""Largest number of classes with a confusion matrix; for more, the most frequent confusions are listed."""

MAX_PLOTS, MAX_CONFUSIONS = 6, 20
"""Largest numbers of plots of score distributions, and of listed confusions."""

SIGNIFICANCE, MAX_STANDARD_ERRORS = 0.01, 3
"""p-value below which, and number of standard errors above which, a difference is significant."""

_CALIBRATION_CAPTION = (
    "Points: ten bins of the test set, with 68% binomial intervals for the effective number of events."
)


def score_distributions(train: Predictions, test: Predictions, classes: Sequence[str]) -> str:
    """Show the distribution of the score of each class, and compare the training and test set."""
    caption = (
        "Filled: training set, points: test set with statistical errors. Distributions are weighted and normalised to"
        " an area of 1."
    )
    drawings = []
    for label in [1] if len(classes) == 2 else range(min(len(classes), MAX_PLOTS)):
        groups = [(name, [index]) for index, name in enumerate(classes)]
        if len(classes) > 2:
            groups = [groups[label], ("others", [index for index in range(len(classes)) if index != label])]
        drawings.append((partial(plots.scores, train, test, label, groups, classes[label]), caption))
    return plots.draw(drawings, _overtraining(train, test, classes))


def label_score_distributions(train: Predictions, test: Predictions) -> str:
    """Show the score distributions of each label, for events with and without the label."""
    names = test.task.classes
    caption = (
        "Events with and without the label. Filled: training set, points: test set. Distributions are normalised to an"
        " area of 1."
    )
    drawings, texts = [], []
    for index, name in enumerate(names):
        pair = _binary_predictions(train, index), _binary_predictions(test, index)
        classes = (f"without {name}", f"with {name}")
        groups = [(classes[0], [0]), (classes[1], [1])]
        drawings.append((partial(plots.scores, *pair, 1, groups, name), caption))
        texts.append(details(name, _overtraining(*pair, classes, len(names)), opened=index < MAX_PLOTS))
    return plots.draw(drawings[:MAX_PLOTS], "".join(texts), beside=False)


def label_calibration_curves(test: Predictions) -> str:
    """Compare the predicted probability of each label with the fraction of events that have it."""
    drawings, texts = [], []
    for index, name in enumerate(test.task.classes):
        binary = _binary_predictions(test, index)
        result = calibration(binary.y == 1, binary.scores[:, 0], binary.weight)
        drawings.append((partial(plots.reliability, result, f"of {name}"), f"{name}: {_CALIBRATION_CAPTION}"))
        texts.append(details(name, _calibration_table(result, f"of {name}"), opened=index < MAX_PLOTS))
    return plots.draw(drawings[:MAX_PLOTS], "".join(texts), beside=False)


def _binary_predictions(predictions: Predictions, index: int) -> Predictions:
    """Return one label as two classes: events without it and events with it."""
    y, scores = predictions.members(index).astype(np.int64), predictions.scores[:, index : index + 1]
    return replace(predictions, y=y, scores=scores, task=Task.classification(2))


def _overtraining(train: Predictions, test: Predictions, classes: Sequence[str], num_tests: int = 1) -> str:
    """Report whether the scores of training and test events of a class have different distributions.

    The significance level is divided by `num_tests`, the number of these comparisons in the report.
    """
    rows, different, has_p_values, limit = [], [], False, SIGNIFICANCE / len(classes) / num_tests
    for index, name in enumerate(classes):
        column = 1 if len(classes) == 2 else index
        (train_scores, train_weight), (test_scores, test_weight) = (
            (all_classes(part.scores)[part.y == index, column], part.weight[part.y == index]) for part in (train, test)
        )
        distance, p = kolmogorov_smirnov(train_scores, test_scores, train_weight, test_weight)
        has_p_values |= bool(np.isfinite(p))
        if p < limit:
            different.append(name)
        sizes = [f"{effective_events(weight):,.0f}" for weight in (train_weight, test_weight)]
        rows.append([name, number(distance), f"{p:.2g}" if np.isfinite(p) else "", *sizes])
    comparison = (
        f"The scores of training and test events differ significantly for {_class_list(different)} (p < {limit:.2g})."
        if different
        else f"The scores of training and test events do not differ significantly (p > {limit:.2g})."
    )
    auc_comparison, auc_differs = _compare_auc(train, test, classes)
    if not has_p_values:
        comparison = "There are too few events to compare the scores."
    verdict = "Overtraining." if different or auc_differs else "No sign of overtraining." if has_p_values else ""
    head = ["class", "distance", "p-value", "training events", "test events"]
    caption = "Kolmogorov-Smirnov test of the score of each class: training set versus test set, effective events."
    return paragraph(" ".join((verdict, comparison, auc_comparison)).strip()) + table(caption, head, rows, 1)


def _class_list(names: Sequence[str], max_names: int = 10) -> str:
    shown = ", ".join(names[:max_names]) + (f" and {len(names) - max_names} more" if len(names) > max_names else "")
    return f"class{'es' if len(names) > 1 else ''} {shown}"


def _compare_auc(train: Predictions, test: Predictions, classes: Sequence[str]) -> tuple[str, bool]:
    """Return a sentence on the difference between the AUCs of training and test set, and whether it is significant."""
    difference = train.metrics()["auc"] - test.metrics()["auc"]
    if not np.isfinite(difference):
        return "", False
    text = f"The AUC of the training set is {abs(difference):.4f} {'higher' if difference >= 0 else 'lower'}"
    if len(classes) > 2:
        return f"{text}.", False
    errors = [one_vs_rest_curves(part, classes)[0].uncertainty for part in (train, test)]
    error = float(np.linalg.norm(errors))
    is_significant = difference > MAX_STANDARD_ERRORS * error
    ratio = f" ({abs(difference) / error:.1f} standard errors)" if error else ""
    return f"{text}{ratio}{', which is significant' if is_significant else ''}.", is_significant


def confusion(test: Predictions, classes: Sequence[str]) -> str:
    """Show the confusion matrix, or the most frequent confusions of many classes."""
    sums = confusion_matrix(test.y, test.scores, test.weight)
    class_sums = sums.sum(axis=1, keepdims=True)
    fractions = np.divide(sums, class_sums, out=np.full_like(sums, np.nan), where=class_sums != 0)
    if len(classes) > MAX_MATRIX_CLASSES:
        wrong = np.where(np.eye(len(classes), dtype=bool), -np.inf, np.nan_to_num(fractions, nan=-np.inf))
        pairs = [divmod(int(cell), len(classes)) for cell in np.argsort(-wrong, axis=None)[:MAX_CONFUSIONS]]
        rows = [[classes[true], classes[predicted], f"{fractions[true, predicted]:.4f}"] for true, predicted in pairs]
        caption = f"The most frequent confusions of {len(classes)} classes on the test set, with event weights."
        return table(caption, ["true class", "predicted class", "fraction"], rows, 2)
    rows = [[name, *map(total, row)] for name, row in zip(classes, sums.tolist(), strict=True)]
    return plots.draw(
        [(partial(plots.confusion, fractions, classes), "Fraction of each true class on the test set, with weights.")],
        table("Sums of weights. Rows: true class, columns: predicted class.", ["", *classes], rows, 1),
    )


def calibration_curve(test: Predictions, classes: Sequence[str]) -> str:
    """Compare predicted probabilities with observed fractions."""
    probabilities = all_classes(test.scores)
    if len(classes) == 2:
        result, of = calibration(test.y == 1, probabilities[:, 1], test.weight), f"of {classes[1]}"
    else:
        is_correct = probabilities.argmax(axis=1) == test.y
        result, of = calibration(is_correct, probabilities.max(axis=1), test.weight), "of the most probable class"
    drawing = partial(plots.reliability, result, of)
    return plots.draw([(drawing, _CALIBRATION_CAPTION)], _calibration_table(result, of))


def _calibration_table(result: Calibration, of: str) -> str:
    rows = [
        [number(value) for value in row]
        for row in zip(result.predicted, result.observed, result.low, result.high, result.share, strict=True)
    ]
    head = ["predicted", "observed", "68% low", "68% high", "fraction of events"]
    description = (
        f"Expected calibration error: {result.expected_error:.4f}. It is the mean of |predicted - observed| over the"
        f" events of the test set: the predicted probability {of}, and the observed fraction of events in the same bin"
        " for which it is true."
    )
    return paragraph(description) + table("Values of the calibration curve.", head, rows, 0)
