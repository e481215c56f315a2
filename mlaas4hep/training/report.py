"""The run for people: one self-contained HTML file.

    write_report(Path("report.html"), trained, training)

It puts together what `metrics`, `importance` and `plots` make. Plots need the extra `plot`; without it the report has
the tables alone, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import first_line
from mlaas4hep.stream import PARTS, Batch, DataGenerator
from mlaas4hep.stream.contrast import with_shuffled_copies
from mlaas4hep.training import plots
from mlaas4hep.training.importance import EVENTS, Importance, permutation_importance
from mlaas4hep.training.loop import History, Scored
from mlaas4hep.training.metrics import (
    Calibration,
    all_classes,
    calibration,
    confusion_matrix,
    effective_events,
    kolmogorov_smirnov,
)
from mlaas4hep.training.page import details, figures, number, page, paragraph, table, text
from mlaas4hep.training.plots import Roc
from mlaas4hep.training.task import Task

if TYPE_CHECKING:
    from mlaas4hep.training.bundle import Trained

WORDS = {"train": "training", "valid": "validation", "test": "test"}

EFFICIENCIES = (0.3, 0.5, 0.7, 0.9)
"""Of the class, for which the background rejection is listed."""

MOST_CELLS, MOST_SCORES, MOST_CONFUSIONS = 20, 6, 20
"""Classes whose confusion matrix, and whose scores, are drawn; confusions that are listed instead."""

BINS = "Points: ten bins of the test part, with 68 % binomial intervals for effective numbers of events."

CHANCE, FAR = 0.01, 3
"""p-value below which, and standard errors beyond which, a difference is called one."""


def write_report(path: Path, trained: Trained, training: Mapping[str, Any]) -> None:
    """Write the report of a run.

    Args:
        training: the content of training.json.
    """
    generator, first = trained.generator, trained.fits[0]
    parts = {"training": first.train, "validation": first.valid, "test": first.test}
    classes = generator.classes
    lead = (
        f"{training['framework']} model of {training['model_file']}, {training['size']}, trained {training['created']}"
    )
    sections: list[tuple[str, Callable[[], str]]] = [
        ("Result", lambda: _result(trained, parts)),
        ("Sample", lambda: _sample(generator, parts) + _files(training)),
        ("Features", lambda: _features(first.generator)),
        ("Training", lambda: _epochs(first.history)),
    ]
    task = trained.test.task.name
    if task == "regression":
        sections.append(("Residuals", lambda: _residuals(first.train, first.test)))
    else:
        sections.append(("ROC", lambda: _roc(trained.test, classes)))
    if task == "classification":
        sections += [
            ("Scores", lambda: _scores(first.train, first.test, classes)),
            ("Confusion", lambda: _confusion(trained.test, classes)),
            ("Calibration", lambda: _calibration(trained.test, classes)),
        ]
    if task == "multilabel":
        sections += [
            ("Scores", lambda: _scores_of_labels(first.train, first.test)),
            ("Calibration", lambda: _calibration_of_labels(trained.test)),
        ]
    sections += [
        ("Importance", lambda: _importance(trained)),
        ("Parameters", lambda: _pairs("What the run was told.", training["params"])),
        ("Versions", lambda: _pairs("What it ran with.", training["versions"])),
    ]
    made = [(name, _guarded(name, make)) for name, make in sections]
    path.write_text(page(trained.name, lead, made), encoding="utf-8")


def _guarded(name: str, make: Callable[[], str]) -> str:
    """Return a section; one that fails, of whatever reason, must not lose the trained model."""
    try:
        return make()
    except Exception as error:
        console.notice(f"the report lacks the section '{name}': {first_line(error)}")
        return paragraph(f"This section could not be made: {first_line(error)}", note=True)


def _draw(drawings: Sequence[tuple[Callable[[], str], str]], more: str, aside: bool = True) -> str:
    """Return plots with captions, and what is said of them; that alone where nothing can be drawn.

    Args:
        aside: whether it may stand beside a plot that is the only one.
    """
    drawn = [(draw(), caption) for draw, caption in drawings] if plots.available() else []
    return figures(drawn, more if aside else "") + ("" if aside else more)


def _pairs(caption: str, values: Mapping[str, Any]) -> str:
    shown = {key: value if isinstance(value, str) and value else repr(value) for key, value in values.items()}
    return table(caption, ["key", "value"], list(map(list, shown.items())))


def _result(trained: Trained, parts: Mapping[str, Scored]) -> str:
    test = trained.metrics()["test"]
    names = [name for name in trained.test.figures() if name != "loss"]
    uncertainty = f" ± {test['auc_uncertainty']:.4f}" if test.get("auc_uncertainty") else ""
    rows = []
    every = {**parts, "all folds": trained.test} if trained.folds else parts
    for part, scored in every.items():
        found = scored.figures()
        rows.append([part, *(number(found[name]) for name in ("loss", *names))])
    notes = []
    if trained.generator.sample.labels.contrast:
        notes.append(
            "There were no labels: the model tells events from copies of themselves whose columns were shuffled"
            " independently, so the AUC says how much the columns know of each other."
        )
    if trained.folds:
        notes.append(
            f"There are {len(trained.fits)} models, of which each never saw one part of the sample. ROC, confusion,"
            " calibration and the figures on top are of every event, scored by the model that did not see it; all else"
            " is of the first model, and its test part is the first fold."
        )
    if not plots.available():
        notes.append("The plots are missing: they need matplotlib and mplhep, pip install 'mlaas4hep[plot]'.")
    own = [[name, number(value)] for name, value in trained.more.items()]
    first = next((name for name in names if name == "auc"), (names or ["loss"])[0])
    rest = ", ".join(f"{text(_shown(name))} {number(test[name])}" for name in (*names, "loss") if name != first)
    return (
        f"<p><span class=big>{text(_shown(first))} {number(test[first])}{uncertainty}</span><br>"
        f"{rest} on {'all' if trained.folds else 'the'} {test['events']:,} events"
        f"{', each scored by the model that did not see it' if trained.folds else ' of the test part'}</p>"
        + "".join(paragraph(note, note=True) for note in notes)
        + table("By the weights of the epoch that was kept.", ["part", "loss", *map(_shown, names)], rows, 1)
        + (table("The model file's own metrics, on the test part.", ["metric", "value"], own, 1) if own else "")
    )


def _sample(generator: DataGenerator, parts: Mapping[str, Scored]) -> str:
    weights = np.concatenate([scored.weight for scored in parts.values()])
    noun = {"classification": "class", "multilabel": "label", "regression": ""}[generator.params.task]
    columns, caption = ["events"], f"Events by {noun and f'{noun} and '}part; all have weight 1."
    if (weights != 1).any():
        columns += ["Σw", "effective"]
        caption = (
            f"Events by {noun and f'{noun} and '}part, sum of their weights w, and how many events of weight 1 have the"
            " same relative error: (Σw)² / Σw²."
        )
    rows = []
    classes = () if generator.params.task == "regression" else generator.classes
    for index, name in [*enumerate(classes), (None, "all")]:
        row = [name]
        for scored in parts.values():
            mine = scored.weight if index is None else scored.weight[_members(scored, index)]
            row += [f"{len(mine):,}", _total(float(mine.sum(dtype=float))), f"{effective_events(mine):,.0f}"][
                : len(columns)
            ]
        rows.append(row)
    head = [noun, *(f"{part} {column}" for part in parts for column in columns)]
    return _negative(weights) + table(caption, head, rows, 1) + paragraph(_split(generator))


def _members(scored: Scored, index: int) -> np.ndarray:
    """Return which events are of a class, or have a label, bool (events,)."""
    found: np.ndarray = scored.y == index if scored.y.ndim == 1 else scored.y[:, index] > 0
    return found


def _shown(name: str) -> str:
    return "AUC" if name == "auc" else name


def _total(weights: float) -> str:
    return f"{weights:,.0f}" if weights == round(weights) else number(weights)


def _negative(weights: np.ndarray) -> str:
    share = float((weights < 0).mean())
    return paragraph(
        f"{share:.2%} of the events have a negative weight. They keep their sign in all figures: efficiencies and bins"
        " are sums of signed weights, so a curve may turn back and a bin lie below 0."
        if share
        else "",
        note=True,
    )


def _split(generator: DataGenerator) -> str:
    split = generator.sample.split
    if split.expressions:
        return "; ".join(f"{WORDS[part]}: {text}" for part, text in split.expressions.items()) + "; training: the rest."
    train, test = split.share_of_training, 1 / split.folds if split.folds else split.shares[-1]
    parts = zip(PARTS, (train, 1 - train - test, test), strict=True)
    shares = ", ".join(f"{share:.0%} {WORDS[part]}" for part, share in parts)
    shares = f"For each of the {split.folds} models {shares}" if split.folds else shares
    identity = ", ".join(generator.sample.identifier)
    return f"{shares}, by a hash of the event's identity" + (f" ({identity})." if identity else ".")


def _files(training: Mapping[str, Any]) -> str:
    labelled = any("label" in file for file in training["files"])
    rows = [
        [file["name"], *([file["label"]] if labelled else []), f"{file['entries']:,}"] for file in training["files"]
    ]
    return details(
        f"{len(rows)} file{'s' * (len(rows) > 1)}",
        table("Before cuts.", ["file", *(["label"] if labelled else []), "events"], rows, 1 + labelled),
        opened=len(rows) <= 20,
    )


def _features(generator: DataGenerator) -> str:
    rows = []
    for name, branch in generator.specs.branches.items():
        moments = [number(value) for value in (branch.minimum, branch.maximum, branch.mean, branch.std)]
        rows.append([name, branch.kind.value, str(branch.dim), *moments, f"{branch.nan:,}", f"{branch.inf:,}"])
    head = ["branch", "kind", "dim", "min", "max", "mean", "std", "NaN", "inf"]
    shapes = ", ".join(f"{name} ({' × '.join(map(str, shape))})" for name, shape in generator.shapes.items())
    return paragraph(
        f"{len(rows)} branches as {generator.layout.width} columns; the model is given {shapes}, normalised:"
        f" {generator.sample.options.normalise}."
    ) + details("Every branch", table("Over all events, before normalisation.", head, rows, 2))


def _epochs(history: History) -> str:
    timed = any(epoch.waiting for epoch in history.epochs)
    names = [name for name in history.epochs[0].figures if name != "loss"]
    rows = []
    for epoch in history.epochs:
        row = [f"{epoch.epoch}\N{NO-BREAK SPACE}(kept)" if epoch.epoch == history.best else str(epoch.epoch)]
        row += [number(value) for value in (epoch.train_loss, epoch.loss, *(epoch.figures[name] for name in names))]
        row += [f"{epoch.seconds:.1f}", *([f"{epoch.waiting:.1f}"] if timed else [])]
        rows.append([*row, f"{epoch.events / max(epoch.seconds, 1e-9):,.0f}"])
    head = ["epoch", "training loss", "validation loss", *map(_shown, names), "seconds"]
    head += [*(["of them waiting"] if timed else []), "events/s"]
    caption = "Seconds and events/s are of training, without validation."
    return _draw(
        [
            (partial(plots.loss_curves, history), "Loss; that of training is taken while the weights still move."),
            *([(partial(plots.metric_curves, history, names), "Figures of the validation part.")] if names else []),
        ],
        paragraph(_timing(history)) + details("Every epoch", table(caption, head, rows, 1), opened=len(rows) <= 30),
    )


def _timing(history: History) -> str:
    seconds, events, waiting = (
        sum(getattr(epoch, name) for epoch in history.epochs) for name in ("seconds", "events", "waiting")
    )
    rate = f"{len(history.epochs)} epochs in {seconds:,.1f} s, {events / max(seconds, 1e-9):,.0f} events/s"
    if not waiting:
        return f"{rate}, validation not counted."
    return (
        f"{rate}, validation not counted: {seconds - waiting:,.1f} s of training, and {waiting:,.1f} s"
        f" ({waiting / max(seconds, 1e-9):.0%}) of waiting for data."
    )


def _roc(test: Scored, classes: Sequence[str]) -> str:
    curves = plots.one_against_others(test, classes)
    if not curves:
        return paragraph("There is no curve: all events of the test part are of one class.")
    whose = "" if len(curves) == 1 else " Each class against all others."
    if test.task.name == "multilabel":
        whose = " Events with a label against those without."
    if len(classes) > len(plots.COLOURS):
        whose += f" These are the first {len(plots.COLOURS)} of {len(classes)} classes."
    rows = [
        [roc.label, f"{roc.area:.4f} ± {roc.uncertainty:.4f}", *(_rejection(roc, at) for at in EFFICIENCIES)]
        for roc in curves
    ]
    head = ["class", "AUC", *(f"at {at:.0%}" for at in EFFICIENCIES)]
    caption = "1 / background efficiency at some efficiencies of the class; empty where fewer than 4 events are left."
    return _draw(
        [
            (partial(plots.roc_curves, curves), f"ROC on the test part, with event weights.{whose}"),
            (partial(plots.rejection_curves, curves), f"Rejection, down to a background of 4 effective events.{whose}"),
        ],
        table(caption, head, rows, 1),
    )


def _rejection(roc: Roc, efficiency: float) -> str:
    found = roc.rejection_at(efficiency)
    return f"{found:,.3g}" if found < 1000 else f"{found:,.0f}" if np.isfinite(found) else ""


def _residuals(train: Scored, test: Scored) -> str:
    names = test.task.classes
    rows = []
    for index, name in enumerate(names):
        error = test.scores[:, index].astype(np.float64) - test.y[:, index]
        weight = test.weight / test.weight.sum(dtype=np.float64)
        edges = [number(float(value)) for value in np.quantile(error, (0.16, 0.5, 0.84))]
        rows.append(
            [name, number(float((weight * error).sum())), number(float(np.sqrt((weight * error**2).sum()))), *edges]
        )
    head = ["target", "mean", "root mean square", "16 %", "median", "84 %"]
    drawings: list[tuple[Callable[[], str], str]] = []
    for index, name in enumerate(names[:MOST_SCORES]):
        drawings += [
            (
                partial(plots.residuals, train, test, index, name),
                "Estimate minus truth; filled: training, points: test.",
            ),
            (
                partial(plots.truth, test, index, name),
                "Mean and spread of the estimate in bins of the truth, test part.",
            ),
        ]
    return _draw(drawings, table("Estimate minus truth, test part; quantiles without weights.", head, rows, 1))


def _scores(train: Scored, test: Scored, classes: Sequence[str]) -> str:
    caption = "Filled: training part, points: test part with statistical errors; with event weights, each of area 1."
    drawings = []
    for one in [1] if len(classes) == 2 else range(min(len(classes), MOST_SCORES)):
        groups = [(name, [index]) for index, name in enumerate(classes)]
        if len(classes) > 2:
            groups = [groups[one], ("others", [index for index in range(len(classes)) if index != one])]
        drawings.append((partial(plots.scores, train, test, one, groups, classes[one]), caption))
    return _draw(drawings, _overtraining(train, test, classes))


def _scores_of_labels(train: Scored, test: Scored) -> str:
    """For each label, do for events with and without it what `_scores` does for two classes."""
    names = test.task.classes
    caption = "Events with and without the label. Filled: training part, points: test part; each of area 1."
    drawings, texts = [], []
    for index, name in enumerate(names):
        parts, classes = (_of_label(train, index), _of_label(test, index)), (f"without {name}", f"with {name}")
        groups = [(classes[0], [0]), (classes[1], [1])]
        drawings.append((partial(plots.scores, *parts, 1, groups, name), caption))
        texts.append(details(name, _overtraining(*parts, classes, len(names)), opened=index < MOST_SCORES))
    return _draw(drawings[:MOST_SCORES], "".join(texts), aside=False)


def _calibration_of_labels(test: Scored) -> str:
    drawings, texts = [], []
    for index, name in enumerate(test.task.classes):
        one = _of_label(test, index)
        found = calibration(one.y == 1, one.scores[:, 0], one.weight)
        drawings.append((partial(plots.reliability, found, f"of {name}"), f"{name}: {BINS}"))
        texts.append(details(name, _calibrated(found, f"of {name}"), opened=index < MOST_SCORES))
    return _draw(drawings[:MOST_SCORES], "".join(texts), aside=False)


def _of_label(scored: Scored, index: int) -> Scored:
    """Return one label as two classes: events without it and events with it."""
    y, scores = _members(scored, index).astype(np.int64), scored.scores[:, index : index + 1]
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


def _confusion(test: Scored, classes: Sequence[str]) -> str:
    sums = confusion_matrix(test.y, test.scores, test.weight)
    total = sums.sum(axis=1, keepdims=True)
    shares = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total != 0)
    if len(classes) > MOST_CELLS:
        wrong = np.where(np.eye(len(classes), dtype=bool), -np.inf, np.nan_to_num(shares, nan=-np.inf))
        pairs = [divmod(int(cell), len(classes)) for cell in np.argsort(-wrong, axis=None)[:MOST_CONFUSIONS]]
        rows = [[classes[true], classes[taken], f"{shares[true, taken]:.4f}"] for true, taken in pairs]
        caption = f"The most frequent confusions of {len(classes)} classes, test part, with event weights."
        return table(caption, ["class", "taken for", "share"], rows, 2)
    rows = [[name, *map(_total, row)] for name, row in zip(classes, sums.tolist(), strict=True)]
    return _draw(
        [(partial(plots.confusion, shares, classes), "Share of each true class, test part, with event weights.")],
        table("Sums of weights: true classes down, most probable ones across.", ["", *classes], rows, 1),
    )


def _calibration(test: Scored, classes: Sequence[str]) -> str:
    probabilities = all_classes(test.scores)
    if len(classes) == 2:
        found, of = calibration(test.y == 1, probabilities[:, 1], test.weight), f"of {classes[1]}"
    else:
        taken = probabilities.argmax(axis=1)
        found, of = calibration(taken == test.y, probabilities.max(axis=1), test.weight), "of the most probable class"
    return _draw([(partial(plots.reliability, found, of), BINS)], _calibrated(found, of))


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


def _importance(trained: Trained) -> str:
    generator = trained.fits[0].generator
    events = _some_events(generator)
    if len(events) < 2:
        return paragraph("Not known: there are no events of the test part at the beginning of the files.")
    found = permutation_importance(
        trained.backend, events, generator.sample.inputs, trained.test.task, generator.params.seed
    )
    rows = [[drop.branch, f"{drop.value:.5f}", f"{drop.uncertainty:.5f}"] for drop in found.drops]
    what = "drop of the AUC" if found.measure == "AUC" else "rise of the loss"
    return _draw(
        [(partial(plots.importance, found), f"The {len(rows)} most important branches.")],
        paragraph(_tried(found))
        + details("In numbers", table("Most important first.", ["branch", what, "±"], rows, 1)),
    )


def _some_events(generator: DataGenerator) -> Batch:
    events = generator.examples(EVENTS)
    if generator.sample.labels.contrast:
        return with_shuffled_copies(events, np.random.default_rng(generator.params.seed))
    return events


def _tried(found: Importance) -> str:
    figure = "the AUC drops" if found.measure == "AUC" else "the loss rises"
    tried = f"all {found.tried}" if found.tried == found.branches else f"{found.tried} of {found.branches}"
    return (
        f"By how much {figure} when the values of a branch are dealt out to other events: {found.events:,} events of"
        f" the test part, {found.repeats} times. A first look at fewer events, of {tried} branches, chose these."
        " The errors say by how much a branch that tells nothing scatters around 0. Of branches that tell the same,"
        " each may look unimportant."
    )
